"""The profile of Fast DDS: taken as it is meant, and only where the user has chosen nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cmdtrack_ros.ros.transport import profile_file, profile_variables

VARIABLES = {"FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"}
SEGMENT = 32 << 20

# A participant of its own, and the sizes of the shared memory that it maps.
PROBE = """
import re, rclpy
rclpy.init()
node = rclpy.create_node("probe")
for line in open("/proc/self/maps"):
    if found := re.match(r"(\\w+)-(\\w+) .*/dev/shm/fast(?:rtps|dds)_[0-9a-f]+$", line):
        print(int(found[2], 16) - int(found[1], 16))
node.destroy_node()
rclpy.shutdown()
"""


@pytest.mark.parametrize(
    "environment, names",
    [
        ({}, VARIABLES),
        ({"RMW_IMPLEMENTATION": ""}, VARIABLES),
        ({"RMW_IMPLEMENTATION": "rmw_fastrtps_cpp"}, VARIABLES),
        ({"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"}, set()),
        ({"FASTRTPS_DEFAULT_PROFILES_FILE": "own.xml"}, set()),
        ({"FASTDDS_DEFAULT_PROFILES_FILE": "own.xml"}, set()),
        ({"FASTDDS_BUILTIN_TRANSPORTS": "LARGE_DATA"}, set()),
    ],
)
def test_only_where_the_user_has_chosen_nothing(environment: dict[str, str], names: set[str], repository: Path) -> None:
    variables = profile_variables(environment)
    assert set(variables) == names
    assert set(variables.values()) <= {str(repository / "config" / "fastdds.xml")}


@pytest.mark.ros
def test_fast_dds_takes_the_profile() -> None:
    pytest.importorskip("rclpy", reason="rclpy is not importable: run `make test`, or source ROS 2")
    if not profile_variables({"RMW_IMPLEMENTATION": os.environ.get("RMW_IMPLEMENTATION", "")}):
        pytest.skip("the middleware is not Fast DDS")
    chosen = dict.fromkeys(VARIABLES, str(profile_file()))
    probe = subprocess.run([sys.executable, "-c", PROBE], env=os.environ | chosen, capture_output=True, text=True)
    assert probe.returncode == 0 and "XMLPARSER" not in probe.stdout + probe.stderr, probe.stdout + probe.stderr
    assert max(map(int, probe.stdout.split())) >= SEGMENT


def test_processes_side_by_side_get_domains_of_their_own() -> None:
    ask = "from cmdtrack_ros.ros.transport import free_domain; print(free_domain(), flush=True); input()"
    command = [sys.executable, "-c", ask]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(3)]
    domains = [int(process.stdout.readline()) for process in processes]
    for process in processes:
        process.communicate("\n")
    mine = int(os.environ["ROS_DOMAIN_ID"])
    assert len({*domains, mine}) == 4, domains
