"""Builds the parts of ROS 2 that the wheels lack, from checkouts of their sources, for the tests to run against.

    python scripts/real_ros.py CHECKOUTS PREFIX
    CMDTRACK_ROS_EXTRAS=PREFIX make test

CHECKOUTS is a folder with these repositories of github.com in it, each on its branch for Jazzy where it has one:
ros2/geometry2, ros2/launch, ros2/launch_ros, ros2/message_filters, ros2/rcl_interfaces, ros2/ros2cli,
ros2/rosidl_runtime_py, ros/diagnostics, ros/ros_environment, ros-perception/vision_msgs, foxglove/foxglove-sdk and
ros-event-camera/event_camera_msgs. Packages are found by their package.xml, wherever below CHECKOUTS they lie.
Needs what `make setup` made, and nothing beyond the standard library.
"""

from __future__ import annotations

import shutil
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import setup_env
from setup_env import SetupError

REQUIREMENTS = setup_env.REQUIREMENTS / "real-ros.txt"
# What colcon builds: messages, packages of Python alone, and tf2, whose C++ needs no rclcpp.
BUILT = (
    "composition_interfaces",
    "event_camera_msgs",
    "foxglove_msgs",
    "ros_environment",
    "tf2",
    "tf2_msgs",
    "tf2_py",
    "tf2_ros_py",
    "vision_msgs",
    "launch",
    "launch_ros",
    "launch_xml",
    "launch_yaml",
    "ros2cli",
    "ros2launch",
    "ros2lifecycle",
    "ros2node",
    "ros2param",
    "ros2pkg",
    "ros2run",
    "ros2service",
    "ros2topic",
    "rosidl_runtime_py",
)
# Packages whose C++ half needs rclcpp, which is no wheel, and where their Python module lies in them.
COPIED = {"message_filters": "src/message_filters", "diagnostic_updater": "diagnostic_updater"}


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    checkouts, prefix = (Path(argument).resolve() for argument in arguments)
    try:
        build(find_packages(checkouts), prefix)
    except SetupError as error:
        print(f"[real-ros] FAILED: {error}", file=sys.stderr)
        return 1
    print(f"[real-ros] done: CMDTRACK_ROS_EXTRAS={prefix} make test")
    return 0


def find_packages(checkouts: Path) -> dict[str, Path]:
    """The folder of each package that is wanted, by its name."""
    found = {}
    for manifest in checkouts.rglob("package.xml"):
        name = ElementTree.parse(manifest).findtext("name", "").strip()
        if name in (*BUILT, *COPIED):
            found[name] = manifest.parent
    missing = sorted({*BUILT, *COPIED} - set(found))
    if missing:
        raise SetupError(f"no package.xml below {checkouts} of: {', '.join(missing)} (see {Path(__file__).name})")
    return found


def build(packages: dict[str, Path], prefix: Path) -> None:
    if not setup_env.PYTHON.exists():
        raise SetupError(f"{setup_env.VENV} is not there: run `make setup` first")
    site = prefix / "lib" / setup_env.PYTHON_NAME / "site-packages"
    staged = prefix / "src"
    shutil.rmtree(staged, ignore_errors=True)
    # Copies: setuptools writes into the folder it builds from.
    for name in BUILT:
        shutil.copytree(packages[name], staged / name)
    setup_env.colcon_build(setup_env.VENV, staged, prefix / "build", prefix)
    for name, module in COPIED.items():
        shutil.copytree(packages[name] / module, site / name, dirs_exist_ok=True)
    setup_env.pip_install("--no-deps", "--upgrade", "--target", str(site), "-r", str(REQUIREMENTS))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
