"""Tracks as messages: nothing is lost on the way, and detections have the fields that consumers read."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from types import ModuleType

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not importable: run `make test`, or source ROS 2")

from std_msgs.msg import Header  # noqa: E402

from cmdtrack_ros.ros import messages  # noqa: E402
from cmdtrack_ros.track import TargetState, Track  # noqa: E402

pytestmark = pytest.mark.ros

TRACK = Track(
    np.array([10.5, 20.25, 30.0, 40.0]),
    0.75,
    TargetState.UNCERTAIN,
    weight_rgb=0.25,
    weight_aux=0.5,
    has_rgb=True,
    has_aux=False,
    times_ms={"total": 12.5},
    target_id="walker",
    stamp_ns=7_000_000_009,
    gap=-0.004,
    latency=0.0625,
    class_id="person",
)


def header() -> Header:
    sent = Header(frame_id="rgb_optical")
    sent.stamp.sec, sent.stamp.nanosec = 7, 9
    return sent


@pytest.mark.parametrize("track", [TRACK, replace(TRACK, has_rgb=False, has_aux=True)])
def test_track_comes_back_from_its_message(track: Track) -> None:
    message = messages.to_track_state(header(), track)
    assert message.header == header()
    back = messages.from_track_state(message)
    for name in {one.name for one in fields(Track)} - {"started"}:  # which is of the node's log alone
        np.testing.assert_equal(getattr(back, name), getattr(track, name), name)


# The fields of vision_msgs 4 (Humble and later), which is no package-index wheel: apt has it. Slots, so that a
# field that the real messages lack cannot be set.


@dataclass(slots=True)
class Point2D:
    x: float = 0.0
    y: float = 0.0


@dataclass(slots=True)
class Pose2D:
    position: Point2D = field(default_factory=Point2D)
    theta: float = 0.0


@dataclass(slots=True)
class BoundingBox2D:
    center: Pose2D = field(default_factory=Pose2D)
    size_x: float = 0.0
    size_y: float = 0.0


@dataclass(slots=True)
class ObjectHypothesis:
    class_id: str = ""
    score: float = 0.0


@dataclass(slots=True)
class ObjectHypothesisWithPose:
    hypothesis: ObjectHypothesis = field(default_factory=ObjectHypothesis)
    pose: None = None  # a PoseWithCovariance, which a tracker in the image does not fill


@dataclass(slots=True)
class Detection2D:
    header: Header = field(default_factory=Header)
    results: list[ObjectHypothesisWithPose] = field(default_factory=list)
    bbox: BoundingBox2D = field(default_factory=BoundingBox2D)
    id: str = ""


@dataclass(slots=True)
class Detection2DArray:
    header: Header = field(default_factory=Header)
    detections: list[Detection2D] = field(default_factory=list)


@pytest.fixture
def with_vision_msgs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module = ModuleType("vision_msgs.msg")
    for kind in (Detection2D, Detection2DArray, ObjectHypothesisWithPose):
        setattr(module, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, "vision_msgs", ModuleType("vision_msgs"))
    monkeypatch.setitem(sys.modules, "vision_msgs.msg", module)
    importlib.reload(messages)
    yield
    monkeypatch.undo()
    importlib.reload(messages)


@pytest.mark.usefixtures("with_vision_msgs")
def test_detections_are_the_tracked_boxes() -> None:
    lost, unknown = replace(TRACK, state=TargetState.LOST), replace(TRACK, target_id="2", class_id="")
    array = messages.to_detections(header(), [TRACK, lost, unknown])
    assert array == Detection2DArray(
        header(),
        [
            Detection2D(
                header(),
                [ObjectHypothesisWithPose(ObjectHypothesis(class_id, 0.75))],
                BoundingBox2D(Pose2D(Point2D(25.5, 40.25)), 30.0, 40.0),
                name,
            )
            for name, class_id in (("walker", "person"), ("2", "target"))
        ],
    )


@pytest.mark.usefixtures("with_vision_msgs")
@pytest.mark.parametrize("state", [TargetState.IDLE, TargetState.LOST])
def test_nothing_is_detected_out_of_sight(state: TargetState) -> None:
    assert messages.to_detections(header(), [Track(TRACK.box, 0.1, state)]) == Detection2DArray(header())
