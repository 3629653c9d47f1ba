"""What an operator looks at: the picture with the box, plain and as JPEG, and the box alone for Foxglove."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sensor_msgs.msg import CompressedImage, Image

from cmdtrack_ros.drawing import operator_picture
from cmdtrack_ros.ros.annotations import ImageAnnotations, to_annotations
from cmdtrack_ros.streams.images import fill_image, fill_jpeg
from cmdtrack_ros.streams.pairing import Pair
from cmdtrack_ros.track import Track

_QUEUE_DEPTH = 2  # an operator wants the newest

Pictures = Callable[[], tuple[np.ndarray | None, np.ndarray | None]]
"""Gives RGB and aux as HxWx3 uint8 RGB, None for an absent one."""


class Overlay:
    """Publishes ~/overlay, ~/overlay/compressed and ~/annotations, each only while somebody subscribes to it.

    The compressed topic has image_transport's name and format, so that RViz, rqt and Foxglove find it. Without
    foxglove_msgs there is no ~/annotations.

    Args:
        node: the tracker node, by which publishers are made.
        quality: of the JPEG, 1 to 100; may be changed at any time.
    """

    def __init__(self, node: Any, quality: int) -> None:
        self.quality = quality
        self._node = node
        self._plain = node.result_publisher(Image, "~/overlay", _QUEUE_DEPTH)
        self._compressed = node.result_publisher(CompressedImage, "~/overlay/compressed", _QUEUE_DEPTH)
        self._annotations = None
        if ImageAnnotations is None:
            node.get_logger().info("foxglove_msgs is not installed: ~/annotations is not published")
        else:
            self._annotations = node.result_publisher(ImageAnnotations, "~/annotations", _QUEUE_DEPTH)

    def publish(self, pair: Pair, tracks: list[Track], pictures: Pictures) -> None:
        """Send out what is wanted of one result, under the header of its image; painted and encoded at most once.

        Args:
            tracks: the targets, oldest first.
            pictures: called only where somebody looks.
        """
        if self._annotations and self._annotations.get_subscription_count():
            self._annotations.publish(to_annotations(pair.header, tracks))
        plain, compressed = self._plain.get_subscription_count(), self._compressed.get_subscription_count()
        if not (plain or compressed):
            return
        picture = operator_picture(*pictures(), tracks)
        if plain:
            self._plain.publish(fill_image(Image(header=pair.header), picture, "rgb8"))
        if compressed:
            self._compressed.publish(fill_jpeg(CompressedImage(header=pair.header), picture, self.quality))

    def close(self) -> None:
        for publisher in (self._plain, self._compressed, self._annotations):
            if publisher:
                self._node.destroy_lifecycle_publisher(publisher)
