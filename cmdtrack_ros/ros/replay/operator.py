"""Who stands beside a tracker while a recording is played: somebody who names its targets, and a viewer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np
from geometry_msgs.msg import PointStamped, PoseStamped
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image

from cmdtrack_ros.cameras import Camera
from cmdtrack_ros.data.bags import RGB_TOPIC, TRUTH_TOPIC
from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.msg import TargetBox
from cmdtrack_ros.ros.camera_info import camera_info_topic
from cmdtrack_ros.ros.messages import Detection2DArray, detection
from cmdtrack_ros.srv import SetTarget
from cmdtrack_ros.streams.images import to_rgb
from cmdtrack_ros.streams.pairing import stamp_ns

Door = Literal["box", "click", "detector"]
CLICK_TOPIC = f"{RGB_TOPIC}_mouse_left"  # as rqt_image_view names it
DETECTIONS_TOPIC = "/detector/detections"
OTHER_CLASS = "something else"
_QOS = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)
_SURE, _UNSURE = 0.9, 0.3


def check_door(door: Door) -> None:
    """ConfigError where this machine cannot use it."""
    if door == "detector" and Detection2DArray is None:
        raise ConfigError(
            "a detector needs vision_msgs, which cannot be imported: `make setup` builds what is needed of it, apt has "
            "ros-$ROS_DISTRO-vision-msgs"
        )


class _Door(Protocol):
    """Where the targets go in."""

    def ready(self) -> bool: ...
    def see(self, truth: TargetBox) -> None:
        """One more image, of which this is the true box of the (left) target."""
        ...


class Operator:
    """Names the targets of a recording that is played, and keeps the pictures and positions that the node publishes.

    Where the targets are is taken from the true boxes that are played with the images. As a detector, it never
    misses the target, and finds two other things as well: one of another class with the better score, and one of
    the class with a low score.

    Args:
        node: to live in.
        door: by which targets are named: ~/set_target, a click, or a detector's boxes.
        targets: name -> box (4,) xywh px in the recording's first image. A click and a detector name the first one.
        class_id: what kind of thing they are.
        camera: whose CameraInfo is published beside each image; None = none.
        tracker: the tracker node's name.

    Attributes:
        overlays: stamp (ns) -> HxWx3 uint8 RGB of ~/overlay.
        aux_pictures: the same of ~/aux_picture.
        positions: stamp (ns) -> (3,) m of ~/target_pose.
        refused: name of a target -> why ~/set_target did not take it.
    """

    def __init__(
        self,
        node: Node,
        door: Door,
        targets: Mapping[str, np.ndarray],
        class_id: str,
        camera: Camera | None = None,
        tracker: str = "tracker",
    ) -> None:
        self.overlays: dict[int, np.ndarray] = {}
        self.aux_pictures: dict[int, np.ndarray] = {}
        self.positions: dict[int, np.ndarray] = {}
        self.refused: dict[str, str] = {}
        self._node, self._camera = node, camera
        pictures = {f"/{tracker}/overlay": self.overlays, f"/{tracker}/aux_picture": self.aux_pictures}
        self._topics = list(pictures)
        if door == "box":
            self._door: _Door = _Boxes(node, tracker, targets, class_id, self.refused)
        else:
            self._door = _Click(node) if door == "click" else _Detector(node, class_id)
        node.create_subscription(TargetBox, TRUTH_TOPIC, self._see, _QOS)
        for topic, kept in pictures.items():
            node.create_subscription(Image, topic, partial(self._keep, kept), _QOS)
        if camera:
            self._topics.append(f"/{tracker}/target_pose")
            self._info = node.create_publisher(CameraInfo, camera_info_topic(RGB_TOPIC), _QOS)
            node.create_subscription(PoseStamped, f"/{tracker}/target_pose", self._on_pose, _QOS)

    def ready(self) -> bool:
        """Whether the node is met at all of its topics and services."""
        heard = self._camera is None or self._info.get_subscription_count() > 0
        return heard and all(map(self._node.count_publishers, self._topics)) and self._door.ready()

    def _see(self, truth: TargetBox) -> None:
        if self._camera:
            info = CameraInfo(header=truth.header, width=self._camera.width, height=self._camera.height)
            info.k = self._camera.matrix.ravel().tolist()
            self._info.publish(info)
        self._door.see(truth)

    @staticmethod
    def _keep(kept: dict[int, np.ndarray], message: Image) -> None:
        kept[stamp_ns(message)] = to_rgb(message)

    def _on_pose(self, message: PoseStamped) -> None:
        position = message.pose.position
        self.positions[stamp_ns(message)] = np.array([position.x, position.y, position.z])


class _Boxes:
    """Asks ~/set_target for all targets, with the stamp of the first image."""

    def __init__(
        self, node: Node, tracker: str, targets: Mapping[str, np.ndarray], class_id: str, refused: dict[str, str]
    ) -> None:
        self._client = node.create_client(SetTarget, f"/{tracker}/set_target")
        self._targets, self._class_id, self._refused = targets, class_id, refused
        self._asked = False

    def ready(self) -> bool:
        return self._client.service_is_ready()

    def see(self, truth: TargetBox) -> None:
        if self._asked:
            return
        self._asked = True
        for name, box in self._targets.items():
            x, y, width, height = box.tolist()
            request = SetTarget.Request(
                stamp=truth.header.stamp, target_id=name, class_id=self._class_id, x=x, y=y, width=width, height=height
            )
            self._refused[name] = "no answer came"
            self._client.call_async(request).add_done_callback(lambda future, name=name: self._told(name, future))

    def _told(self, name: str, future: Any) -> None:
        answer = future.result()
        if answer.accepted:
            del self._refused[name]
        else:
            self._refused[name] = answer.reason


class _Click:
    """Clicks once, on the middle of the target in the first image."""

    def __init__(self, node: Node) -> None:
        self._publisher = node.create_publisher(PointStamped, CLICK_TOPIC, _QOS)
        self._clicked = False

    def ready(self) -> bool:
        return self._publisher.get_subscription_count() > 0

    def see(self, truth: TargetBox) -> None:
        if self._clicked:
            return
        self._clicked = True
        click = PointStamped(header=truth.header)
        click.point.x, click.point.y = truth.x + truth.width / 2, truth.y + truth.height / 2
        self._publisher.publish(click)


class _Detector:
    """Finds the target in every image, and two things that it is not to be mistaken for."""

    def __init__(self, node: Node, class_id: str) -> None:
        self._class_id = class_id
        self._publisher = node.create_publisher(Detection2DArray, DETECTIONS_TOPIC, _QOS)

    def ready(self) -> bool:
        return self._publisher.get_subscription_count() > 0

    def see(self, truth: TargetBox) -> None:
        target, corner = (truth.x, truth.y, truth.width, truth.height), (0.0, 0.0, truth.width, truth.height)
        found = ((OTHER_CLASS, 1.0, corner), (self._class_id, _SURE, target), (self._class_id, _UNSURE, corner))
        array = Detection2DArray(header=truth.header)
        array.detections = [detection(truth.header, box, class_id, score) for class_id, score, box in found]
        self._publisher.publish(array)
