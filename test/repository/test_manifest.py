"""What a build tool reads: package.xml, CMakeLists.txt, setup.py, and what they install."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cmdtrack_ros

ROOT = Path(__file__).resolve().parents[2]
NO_CATKIN_PKG = "catkin_pkg comes with ROS 2 or with `make setup`"


def test_manifest_is_valid_and_says_where_the_project_lives() -> None:
    catkin_pkg = pytest.importorskip("catkin_pkg.package", reason=NO_CATKIN_PKG)
    package = catkin_pkg.parse_package(ROOT / "package.xml")
    package.validate()
    assert {url.type for url in package.urls} == {"website", "repository", "bugtracker"}
    assert [group.name for group in package.member_of_groups] == ["rosidl_interface_packages"]


def test_headless_robot_gets_no_window_system() -> None:
    catkin_pkg = pytest.importorskip("catkin_pkg.package", reason=NO_CATKIN_PKG)
    package = catkin_pkg.parse_package(ROOT / "package.xml")
    named = {dependency.name for dependency in package.exec_depends}
    assert not named & {"rviz2", "ros2bag", "rosbag2", "rqt", "desktop"}


def test_versions_agree() -> None:
    manifest = re.search(r"<version>(.*)</version>", (ROOT / "package.xml").read_text()).group(1)
    assert re.search(r'version="(.*)"', (ROOT / "setup.py").read_text()).group(1) == manifest
    assert cmdtrack_ros.__version__ == manifest
    versions = re.findall(r"^(\d+\.\d+\.\d+) \(", (ROOT / "CHANGELOG.rst").read_text(), re.MULTILINE)
    assert versions[0] == manifest


@pytest.mark.ros
def test_installed_package_has_what_launch_and_run_look_for() -> None:
    from ament_index_python.packages import get_package_prefix, get_package_share_directory

    prefix, share = (Path(get_package_prefix("cmdtrack_ros")), Path(get_package_share_directory("cmdtrack_ros")))
    for name in (
        "launch/tracker.launch.py",
        "launch/replay.launch.py",
        "config/tracker.yaml",
        "config/thermal.yaml",
        "config/depth.yaml",
        "config/event.yaml",
        "config/rgb.yaml",
        "config/tracker.rviz",
        "msg/TrackState.msg",
        "srv/SetTarget.srv",
    ):
        assert (share / name).is_file(), name
    for name in ("tracker_node", "select_target", "cmdtrack"):
        executable = prefix / "lib" / "cmdtrack_ros" / name
        assert os.access(executable, os.X_OK), name
        # Not a path: an active virtual environment, where torch may live, must be honoured.
        assert executable.read_text().splitlines()[0] == "#!/usr/bin/env python3"


@pytest.mark.parametrize(
    "name, room", [("tracker_node", "ros/node"), ("select_target", "ros/select_target"), ("cmdtrack", "cli/app")]
)
def test_executable_outside_its_environment_names_what_is_missing(name: str, room: str, tmp_path: Path) -> None:
    module = tmp_path / "cmdtrack_ros" / f"{room}.py"
    module.parent.mkdir(parents=True)
    for folder in (module.parent, module.parent.parent):
        (folder / "__init__.py").touch()
    module.write_text("import not_installed_here")
    result = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / name)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "no module 'not_installed_here': activate the virtual environment first" in line
