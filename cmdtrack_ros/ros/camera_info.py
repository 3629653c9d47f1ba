"""The CameraInfo that belongs to an image topic: found by image_transport's rule, checked, turned into a `Camera`."""

from __future__ import annotations

import time
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo

from cmdtrack_ros.cameras import Camera, camera_from, camera_info_topic, is_rectified
from cmdtrack_ros.errors import ConfigError

_WAIT_SECONDS = 1.0  # drivers send one with each image


class CameraInfoInput:
    """The newest CameraInfo of one image stream. `camera` is for any thread, all else for the executor's.

    Args:
        parameter: the node parameter that may name the topic, as errors name it.
        image_topic: resolved name; tells raw from rectified (`is_rectified`).
        topic: of the CameraInfo; empty for `camera_info_topic`'s.
    """

    def __init__(self, node: Node, parameter: str, image_topic: str, topic: str = "") -> None:
        self._node = node
        self._parameter = parameter
        self._image_topic = image_topic
        self._opened = time.monotonic()
        self._message: CameraInfo | None = None
        self._camera: Camera | None = None
        self._refused = ""
        self._latched: bool | None = None
        self._subscription: Any = None
        self.topic = node.resolve_topic_name(topic or camera_info_topic(image_topic))
        self.follow_publishers()

    @property
    def message(self) -> CameraInfo | None:
        """The newest that came."""
        return self._message

    @property
    def waiting(self) -> bool:
        """Nothing has come, and it is too early to complain."""
        return self._message is None and time.monotonic() - self._opened < _WAIT_SECONDS

    def camera(self, size: tuple[int, int]) -> Camera:
        """The camera of the present images.

        Args:
            size: height and width of those images, px.

        Raises:
            ConfigError: there is none that can be used; says why, and what to do.
        """
        camera = self._camera
        if camera and (camera.height, camera.width) == size:
            return camera
        if camera:
            raise ConfigError(
                f"{self.topic} is for images of {camera.width}x{camera.height}, {self._image_topic} has "
                f"{size[1]}x{size[0]}: set parameter '{self._parameter}' to the topic that belongs to these images"
            )
        raise ConfigError(self._refused or self._missing())

    def follow_publishers(self) -> None:
        """Subscribe anew where publishers now keep their last message for latecomers, or no longer do."""
        publishers = self._node.get_publishers_info_by_topic(self.topic)
        kept = (p.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for p in publishers)
        latched = bool(publishers) and all(kept)
        if latched == self._latched:
            return
        self.close()
        self._latched = latched
        # Best effort hears every publisher; what was sent before is to be had from reliable ones alone.
        reliability = ReliabilityPolicy.RELIABLE if latched else ReliabilityPolicy.BEST_EFFORT
        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        qos = QoSProfile(depth=1, reliability=reliability, durability=durability)
        self._subscription = self._node.create_subscription(CameraInfo, self.topic, self._receive, qos)

    def close(self) -> None:
        if self._subscription:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def _missing(self) -> str:
        publishers = self._node.count_publishers(self.topic)
        return (
            f"nothing came on {self.topic} ({publishers} publisher(s)), where the CameraInfo of {self._image_topic} is "
            f"expected: does the driver publish it? If under another name, set parameter '{self._parameter}'"
        )

    def _receive(self, message: CameraInfo) -> None:
        if self._message:
            self._message.header = message.header
            if self._message == message:
                return
        self._message = message
        try:
            self._camera = camera_from(message, self.topic, is_rectified(self._image_topic))
        except ConfigError as error:
            self._camera, self._refused = None, str(error)
