"""Results as ROS messages, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cmdtrack_ros.msg import TrackState
from cmdtrack_ros.streams.pairing import stamp_ns
from cmdtrack_ros.track import TargetState, Track

try:
    from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose
except ImportError:
    Detection2DArray = None

UNKNOWN_CLASS = "target"
"""The class_id of a detection of which nobody said what it is."""

try:
    from event_camera_msgs.msg import EventPacket
except ImportError:
    EventPacket = None


def to_track_state(header: Any, track: Track) -> TrackState:
    """The whole result, under the header of the image it belongs to."""
    x, y, width, height = (float(v) for v in track.box)
    return TrackState(
        header=header,
        state=int(track.state),
        target_id=track.target_id,
        class_id=track.class_id,
        x=x,
        y=y,
        width=width,
        height=height,
        score=float(track.score),
        weight_rgb=float(track.weight_rgb),
        weight_aux=float(track.weight_aux),
        has_rgb=track.has_rgb,
        has_aux=track.has_aux,
        pair_gap=track.gap,
        latency=track.latency,
        processing_time=track.seconds,
    )


def from_track_state(message: TrackState) -> Track:
    """What `to_track_state` was given."""
    return Track(
        np.array([message.x, message.y, message.width, message.height]),
        message.score,
        TargetState(message.state),
        message.weight_rgb,
        message.weight_aux,
        message.has_rgb,
        message.has_aux,
        {"total": message.processing_time * 1e3},
        message.target_id,
        stamp_ns=stamp_ns(message),
        gap=message.pair_gap,
        latency=message.latency,
        class_id=message.class_id,
    )


def to_detections(header: Any, tracks: Sequence[Track]) -> Any:
    """vision_msgs/Detection2DArray of the targets that are in sight."""
    message = Detection2DArray(header=header)
    message.detections = [
        detection(header, track.box, track.class_id or UNKNOWN_CLASS, track.score, track.target_id)
        for track in tracks
        if track.state.in_sight
    ]
    return message


def detection(header: Any, box: Sequence[float] | np.ndarray, class_id: str, score: float, name: str = "") -> Any:
    """vision_msgs/Detection2D of a box (4,) xywh px with one hypothesis."""
    x, y, width, height = (float(v) for v in box)
    found = Detection2D(header=header, id=name)
    found.bbox.center.position.x, found.bbox.center.position.y = x + width / 2, y + height / 2
    found.bbox.size_x, found.bbox.size_y = width, height
    hypothesis = ObjectHypothesisWithPose()
    hypothesis.hypothesis.class_id, hypothesis.hypothesis.score = class_id, float(score)
    found.results = [hypothesis]
    return found
