"""What a replay tells about the node beside its answers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="rclpy is not importable: run `make test`, or source ROS 2")

from cmdtrack_ros.data.bags import AUX_TOPIC, RGB_TOPIC, Bag, write_bag
from cmdtrack_ros.ros.replay import session
from cmdtrack_ros.ros.replay.session import play_into_node
from cmdtrack_ros.ros.transport import profile_file
from synthetic import Drawn

pytestmark = pytest.mark.ros
PARAMETERS = {
    "modality": "thermal",
    "rgb_topic": RGB_TOPIC,
    "aux_topic": AUX_TOPIC,
    "initial_box": [20.0, 30.0, 24.0, 20.0],
    "device": "cpu",
    "threads": 1,
    "process_every_pair": "true",
}


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    return write_bag(Drawn(frames=20), tmp_path / "bag")


def test_playback_tells_what_the_node_took(bag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE", "RMW_IMPLEMENTATION"):
        monkeypatch.delenv(name, raising=False)
    opened: list[Path] = []
    monkeypatch.setattr(session, "Bag", lambda path: opened.append(path) or Bag(path))
    run = play_into_node(bag, PARAMETERS, [RGB_TOPIC, AUX_TOPIC], tmp_path / "node.log")
    assert len(run.tracks) == 20 and "cpu" in run.diagnostics["engine"]
    assert 0 < run.startup_seconds < 120
    assert 0.02 < run.cpu_seconds < 20, "seconds, not ticks"
    assert 50 < run.peak_memory_mb < 2000, (
        "megabytes; a first start also exports a graph where the processor lacks int8"
    )
    assert opened == [bag], "an index of hours takes long to read"
    assert os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"] == str(profile_file()), "which node and player inherit"
