"""What an operator looks at: painted once, for whom it is wanted, and the same in all forms."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not importable: run `make test`, or source ROS 2")

from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.lifecycle import LifecycleNode  # noqa: E402
from robot import PATIENCE, good_rgb, scene  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402

from cmdtrack_ros.drawing import STATE_COLOURS  # noqa: E402
from cmdtrack_ros.ros import overlay as module  # noqa: E402
from cmdtrack_ros.ros.annotations import ImageAnnotations, to_annotations  # noqa: E402
from cmdtrack_ros.ros.overlay import Overlay  # noqa: E402
from cmdtrack_ros.streams.images import to_rgb  # noqa: E402
from cmdtrack_ros.track import TargetState, Track  # noqa: E402

pytestmark = pytest.mark.ros

PAIR = SimpleNamespace(header=good_rgb(0, 5_000_000_007).header)
TRACK = Track(np.array([100.0, 90.0, 48.0, 40.0]), 0.9, target_id="patch")


class Viewer:
    """An active node with an overlay, and the viewers that come and go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.painted = 0
        self._paint = module.operator_picture
        monkeypatch.setattr(module, "operator_picture", self._count)
        self.context = rclpy.context.Context()
        rclpy.init(context=self.context)
        self.node = LifecycleNode("tracker", context=self.context)
        self.node.result_publisher = self.node.create_lifecycle_publisher  # without the overrides of QoS
        self.overlay = Overlay(self.node, 80)
        self.node.trigger_configure()
        self.node.trigger_activate()
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def _count(self, *arguments: object) -> np.ndarray:
        self.painted += 1
        return self._paint(*arguments)

    def open(self, kind: type, topic: str) -> list:
        heard: list = []
        self.node.create_subscription(kind, topic, heard.append, 10)
        self.wait(lambda: self.node.count_subscribers(f"/tracker/{topic.removeprefix('~/')}"))
        return heard

    def publish(self) -> None:
        self.overlay.publish(PAIR, [TRACK], lambda: (scene(0)[0], None))

    def wait(self, condition) -> None:
        end = self.node.get_clock().now().nanoseconds + PATIENCE * 1e9
        while not condition():
            assert self.node.get_clock().now().nanoseconds < end
            self.executor.spin_once(timeout_sec=0.02)

    def close(self) -> None:
        self.overlay.close()
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def viewer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Viewer]:
    viewer = Viewer(monkeypatch)
    yield viewer
    viewer.close()


def test_nothing_is_painted_for_nobody_and_once_for_all(viewer: Viewer) -> None:
    viewer.publish()
    assert viewer.painted == 0
    compressed = viewer.open(CompressedImage, "~/overlay/compressed")
    viewer.publish()
    viewer.wait(lambda: compressed)
    assert viewer.painted == 1
    plain = viewer.open(Image, "~/overlay")
    compressed.clear()
    viewer.publish()
    viewer.wait(lambda: plain and compressed)
    assert viewer.painted == 2
    assert compressed[0].header == plain[0].header == PAIR.header
    assert compressed[0].format == "rgb8; jpeg compressed bgr8"
    # The label's hard edges lose most.
    assert np.abs(to_rgb(compressed[0]).astype(int) - to_rgb(plain[0])).mean() < 3


def test_quality_is_that_of_the_moment(viewer: Viewer) -> None:
    heard = viewer.open(CompressedImage, "~/overlay/compressed")
    sizes = []
    for quality in (95, 20):
        viewer.overlay.quality = quality
        heard.clear()
        viewer.publish()
        viewer.wait(lambda: heard)
        sizes.append(len(heard[0].data))
    assert sizes[1] < sizes[0] / 2


@pytest.mark.skipif(ImageAnnotations is None, reason="foxglove_msgs is not importable")
def test_annotations_are_the_box_and_its_colour(viewer: Viewer) -> None:
    heard = viewer.open(ImageAnnotations, "~/annotations")
    viewer.publish()
    viewer.wait(lambda: heard)
    assert viewer.painted == 0
    (shape,), (text,) = heard[0].points, heard[0].texts
    assert [(point.x, point.y) for point in shape.points] == [(100, 90), (148, 90), (148, 130), (100, 130)]
    assert shape.type == shape.LINE_LOOP and shape.timestamp == text.timestamp == PAIR.header.stamp
    colour = shape.outline_color
    assert [round(c * 255) for c in (colour.r, colour.g, colour.b)] == list(STATE_COLOURS[TargetState.TRACKING])
    assert text.text == "patch TRACKING 0.90"


@pytest.mark.skipif(ImageAnnotations is None, reason="foxglove_msgs is not importable")
def test_released_target_leaves_no_box_behind() -> None:
    message = to_annotations(PAIR.header, [Track(np.zeros(4), 0.0, TargetState.IDLE)])
    assert not message.points and not message.texts
