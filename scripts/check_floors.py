"""Runs tests beside the oldest libraries that must work: a robot of Ubuntu 22.04 or 24.04, rebuilt from wheels.

    python3.10 scripts/check_floors.py jammy [pytest's arguments]
    python3.12 scripts/check_floors.py noble [pytest's arguments]

As on a robot, a first environment holds what apt would give (requirements/apt-*.txt, with Jazzy's wheels for ROS 2),
in which the package is built; a second one sees it and holds requirements/robot.txt beside it. Neither has torch.
Both lie below out/floors and are kept; remove the folder to start over. Standard library only.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import setup_env
from setup_env import PYTHON_NAME, REQUIREMENTS, ROOT, SetupError, run

FLOORS = ROOT / "out" / "floors"
PYTHONS = {"jammy": "python3.10", "noble": "python3.12"}  # of Ubuntu 22.04 and 24.04
TESTS = ("test/ros", "test/streams", "test/data", "test/test_modalities.py", "test/repository/test_launch.py")


def main(arguments: list[str]) -> int:
    if not arguments or PYTHONS.get(arguments[0]) != PYTHON_NAME:
        print(__doc__, file=sys.stderr)
        return 2
    release, *options = arguments
    try:
        setup_env.check_tools()
        return check(release, FLOORS / release, options or list(TESTS))
    except SetupError as error:
        print(f"[floors] FAILED: {error}", file=sys.stderr)
        return 1


def check(release: str, folder: Path, options: list[str]) -> int:
    system, robot, install = folder / "system", folder / "robot", folder / "install"
    if not (install / "share" / "cmdtrack_ros").exists():
        make_system(system, release)
        setup_env.stage(folder / "source")
        make_robot(robot, system)
        setup_env.colcon_build(system, folder / "source", folder / "build", install, "--symlink-install")
    command = [str(robot / "bin" / "python"), "-m", "pytest", "-p", "no:cacheprovider", *options]
    return subprocess.run(command, cwd=ROOT, env=sourced(system, robot, install)).returncode


def make_system(system: Path, release: str) -> None:
    """An environment with apt's releases, and ROS 2 with what builds our messages."""
    make_venv(system)
    apt, ros = REQUIREMENTS / f"apt-{release}.txt", REQUIREMENTS / "ros.txt"
    pip_install(system, "-r", str(apt), "-r", str(ros), "pytest", "pytest-timeout")
    setup_env.mend_cmake_paths(system)
    # The wheels' CMake files name NumPy 2's headers; those of NumPy 1 lie one folder beside.
    headers = site_packages(system) / "numpy" / "_core" / "include"
    headers.parent.mkdir(exist_ok=True)
    headers.symlink_to(Path("..", "core", "include"))


def make_robot(robot: Path, system: Path) -> None:
    """An environment that sees the first, as `--system-site-packages` makes one that sees apt's packages."""
    make_venv(robot)
    (site_packages(robot) / "system.pth").write_text(f"{site_packages(system)}\n")
    pip_install(robot, "-r", str(REQUIREMENTS / "robot.txt"))


def make_venv(folder: Path) -> None:
    run(sys.executable, "-m", "venv", "--clear", str(folder), hint="is python3-venv installed?")


def pip_install(venv: Path, *arguments: str) -> None:
    command = [str(venv / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    run(*command, *arguments, hint="is the package index reachable, and the disk not full?")


def site_packages(venv: Path) -> Path:
    return venv / "lib" / PYTHON_NAME / "site-packages"


def sourced(system: Path, robot: Path, install: Path) -> dict[str, str]:
    """The variables after sourcing ROS 2's set-up and the workspace's, and activating the robot's environment."""
    libraries = [install / "lib", system / "lib", *site_packages(system).glob("ros_*.libs")]
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AMENT", "COLCON", "_ROS"))},
        "AMENT_PREFIX_PATH": f"{install}:{system}",
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        "PATH": f"{robot / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:{site_packages(install)}",
        "VIRTUAL_ENV": str(robot),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
