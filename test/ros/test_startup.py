"""What the node's process loads until it is active."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("rclpy", reason="rclpy is not importable: run `make test`, or source ROS 2")
pytest.importorskip("onnxruntime", reason="without ONNX Runtime the network runs on torch")

pytestmark = pytest.mark.ros

ACTIVATE = """
import sys, rclpy
from lifecycle_msgs.msg import State
from cmdtrack_ros.ros.node import TrackerNode
rclpy.init(args=["--ros-args", "-p", "device:=cpu", "-p", "precision:=int8"])
node = TrackerNode()
node.autostart()
print(node._state_machine.current_state[1], *sys.modules)
node.trigger_deactivate()
rclpy.shutdown()
"""
# What trains, exports, draws reports or reads bags: seconds and hundreds of megabytes.
UNWANTED = {"torch", "onnx", "matplotlib", "scipy", "rosbags.rosbag2", "av", "pydantic", "typer", "jinja2"}


CONVERTERS = {"cv_bridge", "rosbags.image"}


def test_active_node_has_loaded_what_images_need_and_no_torch() -> None:
    """With the shipped weights, whose int8 graphs are there."""
    done = subprocess.run([sys.executable, "-c", ACTIVATE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    state, *modules = done.stdout.splitlines()[-1].split()
    assert state == "active" and "onnxruntime" in modules
    assert not UNWANTED & set(modules)
    assert CONVERTERS & set(modules), "the first image waits for its import"
