"""The CameraInfo of an image topic: found, heard whatever its publisher offers, and believed only where it fits."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not importable: run `make test`, or source ROS 2")

from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import CameraInfo  # noqa: E402

from cmdtrack_ros.cameras import camera_info_topic  # noqa: E402
from cmdtrack_ros.errors import ConfigError  # noqa: E402
from cmdtrack_ros.ros.camera_info import CameraInfoInput  # noqa: E402

pytestmark = pytest.mark.ros
PATIENCE = 60.0  # s, however busy the machine


def message(focal: float = 500.0) -> CameraInfo:
    k = [focal, 0.0, 320.0, 0.0, focal, 240.0, 0.0, 0.0, 1.0]
    return CameraInfo(width=640, height=480, k=k, r=np.eye(3).ravel(), distortion_model="plumb_bob")


def test_it_lies_beside_the_images() -> None:
    for topic in ("/camera/color/image_raw", "/camera/color/image_raw/compressed", "/camera/color/image"):
        assert camera_info_topic(topic) == "/camera/color/camera_info"
    assert camera_info_topic("/depth/image_rect_raw/compressedDepth") == "/depth/camera_info"
    assert camera_info_topic("/image") == "/camera_info"


@pytest.mark.parametrize(
    "reliability, durability", [("BEST_EFFORT", "VOLATILE"), ("RELIABLE", "VOLATILE"), ("RELIABLE", "TRANSIENT_LOCAL")]
)
def test_every_publisher_is_heard_and_a_changed_calibration_taken_over(
    node_with: Callable, reliability: str, durability: str
) -> None:
    node = node_with()
    qos = QoSProfile(depth=1, reliability=ReliabilityPolicy[reliability], durability=DurabilityPolicy[durability])
    publisher = node.create_publisher(CameraInfo, "/front/camera_info", qos)
    latched = durability == "TRANSIENT_LOCAL"
    if latched:
        publisher.publish(message())  # once, before anybody listens
    stream = CameraInfoInput(node, "rgb_camera_info", "/front/image_raw/compressed")
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)

    def comes(focal: float) -> bool:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if not latched or focal != 500.0:
                publisher.publish(message(focal))
            stream.follow_publishers()
            executor.spin_once(timeout_sec=0.02)
            try:
                if stream.camera((480, 640)).focal == (focal, focal):
                    return True
            except ConfigError:
                continue
        return False

    assert comes(500.0) and comes(600.0)
    with pytest.raises(
        ConfigError, match="/front/camera_info is for images of 640x480, .* has 320x240.*rgb_camera_info"
    ):
        stream.camera((240, 320))
    executor.shutdown()


def test_what_is_missing_or_unusable_is_said(node_with: Callable) -> None:
    stream = CameraInfoInput(node_with(), "rgb_camera_info", "/front/image_raw", "/other/info")
    assert stream.waiting, "drivers need a moment"
    with pytest.raises(ConfigError, match=r"nothing came on /other/info \(0 publisher\(s\)\).*'rgb_camera_info'"):
        stream.camera((480, 640))
    for focal, says in ((0.0, "/other/info: k: expected fx"), (500.0, "")):
        stream._receive(message(focal))
        if says:
            with pytest.raises(ConfigError, match=says):
                stream.camera((480, 640))
    assert stream.camera((480, 640)).focal == (500.0, 500.0) and not stream.waiting
