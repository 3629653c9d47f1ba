"""Who imports whom: arrows between the rooms of the package point down, and ROS stays in its own."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "cmdtrack_ros"
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]
ROS_MODULES = {"rclpy", "message_filters", "diagnostic_updater", "cv_bridge", "ament_index_python"}

# A room may import those on the floors below it, and none beside it.
FLOORS = (
    ("errors",),
    ("boxes", "cameras", "modalities"),
    ("track",),
    ("drawing", "streams", "models"),
    ("data",),
    ("tracking",),
    ("training", "evaluation"),
    ("ros",),
    ("demo",),
    ("tour",),
    ("cli",),
)
# What points down, but is not wanted all the same: from, to, and the file that may.
FORBIDDEN = (
    ("data", "models", ""),  # recordings are read where torch is not installed
    ("tracking", "data", ""),  # a robot has no recordings; types only
    ("ros", "training", ""),
    ("ros", "evaluation", "ros/replay/session.py"),  # the node keeps no score
)


def imports_of(node: ast.AST) -> Iterator[str]:
    """Full names of the modules that a syntax tree imports, wherever in it, but not for types alone."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.module and not node.level, "a relative import, which this test cannot follow"
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from imports_of(child)


def modules_of(path: Path) -> set[str]:
    return set(imports_of(ast.parse(path.read_text(), str(path))))


def rooms_of(path: Path) -> set[str]:
    """The rooms of this package that a file imports, `msg` and `srv` among them."""
    parts = (name.split(".") for name in modules_of(path) if name.startswith("cmdtrack_ros."))
    return {room for _, room, *_ in parts}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def ros_packages_of(path: Path) -> set[str]:
    tops = {name.split(".")[0] for name in modules_of(path)}
    return {top for top in tops if top in ROS_MODULES or top.endswith(("_msgs", "_interfaces"))}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_point_down(path: Path) -> None:
    floor = next(number for number, rooms in enumerate(FLOORS) if room(path) in rooms)
    allowed = {room(path), *(name for rooms in FLOORS[:floor] for name in rooms)}
    if room(path) == "ros":
        allowed |= {"msg", "srv"}
    for source, target, exception in FORBIDDEN:
        if room(path) == source and path != PACKAGE / exception:
            allowed.discard(target)
    assert rooms_of(path) <= allowed


def test_only_the_ros_folder_imports_ros() -> None:
    outside = {str(path.relative_to(ROOT)): ros_packages_of(path) for path in FILES if room(path) != "ros"}
    # It converts images where it is installed, and needs no rclpy.
    cv_bridge = {"cmdtrack_ros/streams/images.py": {"cv_bridge"}}
    assert {path: names for path, names in outside.items() if names} == cv_bridge


def test_manifest_names_every_ros_package_that_is_imported() -> None:
    catkin_pkg = pytest.importorskip("catkin_pkg.package", reason="part of ROS 2 and of `make setup`")
    named = {dependency.name for dependency in catkin_pkg.parse_package(ROOT / "package.xml").exec_depends}
    imported = set().union(*map(ros_packages_of, FILES))
    assert {"rclpy", "sensor_msgs"} <= imported
    assert imported <= named


@pytest.mark.parametrize(
    "missing, modules",
    [
        # All but the verbs and the demo that play into a node.
        ("rclpy, sensor_msgs, std_msgs", "tracking, data, evaluation, training, cli"),
        # What carries a frame to the network and the answer back, and reads recordings.
        ("torch", "streams, modalities, track, drawing, data"),
        # What a robot runs: requirements/robot.txt has neither.
        ("torch, onnx", "tracking.engines.onnx, evaluation.replay, evaluation.runner, demo"),
        pytest.param("torch, onnx", "ros.node, tour", marks=pytest.mark.ros),
        # Training that no foreign tracker takes part in.
        ("onnx, onnxruntime", "training.loop, training.ablation, training.average, training.plan"),
    ],
)
def test_imports_without(missing: str, modules: str) -> None:
    imports = ", ".join(f"cmdtrack_ros.{name}" for name in modules.split(", "))
    code = f"import sys; sys.modules.update(dict.fromkeys({missing.split(', ')})); import {imports}"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
