"""Results as ROS messages."""

from __future__ import annotations

from typing import Any

from cmdtrack_ros.msg import TrackState
from cmdtrack_ros.ros.pipeline import Frame, Outcome
from cmdtrack_ros.tracking import TargetState

try:
    from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose
except ImportError:
    Detection2DArray = None


def to_track_state(frame: Frame, outcome: Outcome, latency: float) -> TrackState:
    """The whole result; `latency` in s from the frame's stamp to now."""
    track = outcome.track
    x, y, width, height = (float(v) for v in track.box)
    return TrackState(
        header=frame.header,
        state=int(track.state),
        target_id=outcome.name,
        x=x,
        y=y,
        width=width,
        height=height,
        score=float(track.score),
        weight_rgb=float(track.weight_rgb),
        weight_aux=float(track.weight_aux),
        has_rgb=outcome.rgb is not None,
        has_aux=outcome.aux is not None,
        pair_gap=frame.gap,
        latency=latency,
        processing_time=outcome.seconds,
    )


def to_detections(frame: Frame, outcome: Outcome) -> Any:
    """vision_msgs/Detection2DArray: the target, or nothing while it is not in sight."""
    message = Detection2DArray(header=frame.header)
    track = outcome.track
    if track.state not in (TargetState.TRACKING, TargetState.UNCERTAIN):
        return message
    x, y, width, height = (float(v) for v in track.box)
    detection = Detection2D(header=frame.header, id=outcome.name)
    detection.bbox.center.position.x, detection.bbox.center.position.y = x + width / 2, y + height / 2
    detection.bbox.size_x, detection.bbox.size_y = width, height
    hypothesis = ObjectHypothesisWithPose()
    hypothesis.hypothesis.class_id, hypothesis.hypothesis.score = "target", float(track.score)
    detection.results = [hypothesis]
    message.detections = [detection]
    return message
