"""What a build tool, an installer or another package relies on: manifest, messages, layering, set-up."""

from __future__ import annotations

import ast
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "cmdtrack_ros"
MESSAGES = sorted((ROOT / "msg").glob("*.msg"))
NO_CATKIN_PKG = "catkin_pkg comes with ROS 2 or with `make setup`"
ROS_MODULES = {"rclpy", "message_filters", "cv_bridge", "ament_index_python"}


def imports_of(path: Path) -> set[str]:
    """Full names of the modules that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def is_ros(module: str) -> bool:
    top = module.split(".")[0]
    return top in ROS_MODULES or top.endswith(("_msgs", "_interfaces"))


def sources(folder: str) -> list[Path]:
    return sorted((PACKAGE / folder).rglob("*.py"))


def below(modules: set[str], *packages: str) -> set[str]:
    """Those modules that lie in one of the packages below cmdtrack_ros."""
    prefixes = tuple(f"cmdtrack_ros.{package}" for package in packages)
    return {name for name in modules if any(name == p or name.startswith(f"{p}.") for p in prefixes)}


def test_only_the_ros_folder_imports_ros() -> None:
    offenders = {
        str(path.relative_to(ROOT)): names
        for path in PACKAGE.rglob("*.py")
        if PACKAGE / "ros" not in path.parents
        if (
            names := {
                name for name in imports_of(path) if is_ros(name) or name.startswith("cmdtrack_ros.msg")
            }
        )
    }
    assert offenders == {}


@pytest.mark.parametrize(
    "folder, forbidden",
    [
        ("models", ("tracking", "training", "evaluation", "ros", "data", "cli")),
        ("tracking", ("training", "evaluation", "ros", "cli")),
        ("data", ("training", "evaluation", "cli")),
    ],
)
def test_dependencies_point_downwards(folder: str, forbidden: tuple[str, ...]) -> None:
    assert sources(folder), folder
    offenders = {
        str(path.relative_to(ROOT)): names
        for path in sources(folder)
        if (names := below(imports_of(path), *forbidden))
    }
    assert offenders == {}


def test_tracking_imports_where_ros_is_missing() -> None:
    blocked = "import sys; sys.modules.update(dict.fromkeys(['rclpy', 'sensor_msgs', 'std_msgs']))"
    modules = ", ".join(f"cmdtrack_ros.{name}" for name in ("tracking", "data", "evaluation", "cli"))
    code = f"{blocked}; import {modules}"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_manifest_names_every_ros_package_that_is_imported() -> None:
    catkin_pkg = pytest.importorskip("catkin_pkg.package", reason=NO_CATKIN_PKG)
    package = catkin_pkg.parse_package(ROOT / "package.xml")
    package.validate()
    named = {dependency.name for dependency in package.exec_depends}
    imported = {
        name.split(".")[0] for path in PACKAGE.rglob("*.py") for name in imports_of(path) if is_ros(name)
    }
    assert {"rclpy", "sensor_msgs"} <= imported
    assert imported <= named
    assert [group.name for group in package.member_of_groups] == ["rosidl_interface_packages"]


@pytest.mark.parametrize("distribution, expected", [("humble", True), ("jazzy", False), ("lyrical", False)])
def test_torch_is_a_system_dependency_only_where_apt_has_it(distribution: str, expected: bool) -> None:
    catkin_pkg = pytest.importorskip("catkin_pkg.package", reason=NO_CATKIN_PKG)
    package = catkin_pkg.parse_package(ROOT / "package.xml")
    package.evaluate_conditions({"ROS_DISTRO": distribution})
    active = {dependency.name for dependency in package.exec_depends if dependency.evaluated_condition}
    assert ("python3-torch" in active) is expected


def test_versions_agree() -> None:
    manifest = re.search(r"<version>(.*)</version>", (ROOT / "package.xml").read_text()).group(1)
    assert re.search(r'version="(.*)"', (ROOT / "setup.py").read_text()).group(1) == manifest


def test_every_message_is_built() -> None:
    assert set(re.findall(r'"(msg/\w+\.msg)"', (ROOT / "CMakeLists.txt").read_text())) == {
        f"msg/{path.name}" for path in MESSAGES
    }


@pytest.mark.parametrize("path", MESSAGES, ids=lambda path: path.name)
def test_every_message_field_has_a_comment_above(path: Path) -> None:
    lines = path.read_text().splitlines()
    for above, line in zip(["", *lines], lines):
        if not line or line.startswith("#"):
            continue
        assert above.startswith("#"), line
        if line.startswith("float"):
            assert "[" in above, f"no unit above: {line}"


@pytest.mark.ros
def test_messages_survive_the_wire() -> None:
    from cmdtrack_ros.msg import TargetBox, TrackState
    from rclpy.serialization import deserialize_message, serialize_message

    sent = TrackState(
        state=TrackState.STATE_UNCERTAIN,
        target_id="walker",
        x=1.5,
        y=-2.25,
        width=30.0,
        height=40.0,
        score=0.5,
        weight_rgb=0.25,
        weight_aux=0.75,
        has_rgb=True,
        has_aux=True,
        pair_gap=math.nan,
        latency=0.0625,
        processing_time=0.03125,
    )
    sent.header.stamp.sec, sent.header.stamp.nanosec, sent.header.frame_id = 7, 999_999_999, "rgb_optical"
    got = deserialize_message(serialize_message(sent), TrackState)
    assert math.isnan(got.pair_gap)
    got.pair_gap = sent.pair_gap = 0.0  # NaN equals nothing
    assert got == sent
    assert [
        TrackState.STATE_IDLE,
        TrackState.STATE_TRACKING,
        TrackState.STATE_UNCERTAIN,
        TrackState.STATE_LOST,
    ] == [0, 1, 2, 3]
    box = TargetBox(target_id="walker", x=1.0, y=2.0, width=3.0, height=4.0)
    assert deserialize_message(serialize_message(box), TargetBox) == box


@pytest.mark.ros
def test_states_of_the_message_are_those_of_the_tracker() -> None:
    from cmdtrack_ros.msg import TrackState

    from cmdtrack_ros.track import TargetState

    assert {f"STATE_{state.name}": state.value for state in TargetState} == {
        name: getattr(TrackState, name) for name in dir(TrackState) if name.startswith("STATE_")
    }


@pytest.mark.ros
def test_installed_package_has_what_launch_and_run_look_for() -> None:
    from ament_index_python.packages import get_package_prefix, get_package_share_directory

    prefix, share = (
        Path(get_package_prefix("cmdtrack_ros")),
        Path(get_package_share_directory("cmdtrack_ros")),
    )
    for name in (
        "launch/tracker.launch.py",
        "launch/replay.launch.py",
        "config/thermal.yaml",
        "config/depth.yaml",
        "config/event.yaml",
        "config/tracker.rviz",
        "msg/TrackState.msg",
    ):
        assert (share / name).is_file(), name
    for name in ("tracker_node", "cmdtrack"):
        executable = prefix / "lib" / "cmdtrack_ros" / name
        assert os.access(executable, os.X_OK), name
        # Not a path: an active virtual environment, where torch may live, must be honoured.
        assert executable.read_text().splitlines()[0] == "#!/usr/bin/env python3"


def test_requirements_are_pinned_and_name_no_host() -> None:
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        for line in path.read_text().splitlines():
            if line and not line.startswith("#"):
                assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line), f"{path.name}: {line}"


def test_set_up_names_everything_that_is_missing(tmp_path: Path) -> None:
    script = tmp_path / "scripts" / "setup_env.py"
    script.parent.mkdir()
    shutil.copy(ROOT / "scripts" / "setup_env.py", script)
    environment = {name: value for name, value in os.environ.items() if name not in ("CC", "CXX")}
    result = subprocess.run(
        [sys.executable, str(script)],
        env={**environment, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    for missing in ("CMake", "a C++ compiler", "a C compiler"):
        assert missing in result.stderr
    assert not (tmp_path / ".venv").exists()


def test_set_up_redoes_a_step_only_when_its_inputs_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import setup_env

    monkeypatch.setattr(setup_env, "STAMPS", tmp_path / "stamps")
    source, product, runs = tmp_path / "in.txt", tmp_path / "out", []

    def build() -> None:
        product.touch()
        runs.append(source.read_text())

    def step() -> None:
        setup_env.step("build", "building", build, "key", source, product=product)

    source.write_text("a")
    step(), step()
    os.utime(source)  # a checkout changes times, not contents
    step()
    assert runs == ["a"]
    source.write_text("b")
    step()
    product.unlink()
    step()
    assert runs == ["a", "b", "b"]


def test_mended_cmake_files_name_no_build_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import setup_env

    exported = tmp_path / "share" / "x" / "xExport.cmake"
    exported.parent.mkdir(parents=True)
    exported.write_text(
        '"${_PREFIX}/include;/opt/python/cp312-cp312/include/python3.12;'
        '/opt/python/cp312-cp312/lib/python3.12/site-packages/numpy/_core/include"'
    )
    monkeypatch.setattr(setup_env, "VENV", tmp_path)
    setup_env.mend_cmake_paths()
    _, python, numpy = exported.read_text().strip('"').split(";")
    assert (Path(python) / "Python.h").exists()
    assert numpy == f"{tmp_path}/lib/python3.12/site-packages/numpy/_core/include"


@pytest.mark.skipif(Path(sys.prefix) != ROOT / ".venv", reason="about .venv, which `make setup` makes")
def test_plain_python_needs_nothing_sourced(tmp_path: Path) -> None:
    """With an empty environment and from another folder, as a shell without any set-up would start it."""
    code = "import rclpy, cmdtrack_ros.msg, cmdtrack_ros.errors as errors; print(errors.__file__)"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()) == PACKAGE / "errors.py"
