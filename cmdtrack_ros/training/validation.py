"""A quick look at tracking quality while training goes on."""

from __future__ import annotations

import copy

import numpy as np

from cmdtrack_ros.boxes import iou
from cmdtrack_ros.data import Sequence
from cmdtrack_ros.models.student import Student
from cmdtrack_ros.tracking import Tracker
from cmdtrack_ros.tracking.engine import make_engine


def mean_overlap(student: Student, sequences: list[Sequence], threads: int = 1) -> dict[str, float]:
    """Mean IoU per sequence of one pass from the first visible frame (which is not counted), on the CPU."""
    engine = make_engine(copy.deepcopy(student).cpu(), "cpu", threads)
    return {sequence.name: float(np.mean(overlaps(Tracker(engine, sequence.modality), sequence))) for sequence in sequences}


def overlaps(tracker: Tracker, sequence: Sequence) -> np.ndarray:
    """IoU of each frame with a box after the first visible one."""
    visible = np.flatnonzero(np.isfinite(sequence.boxes).all(1))
    scores = []
    for index in range(visible[0], len(sequence)):
        frame = sequence.frame(index)
        step = tracker.update if index > visible[0] else lambda rgb, aux: tracker.init(rgb, aux, sequence.boxes[visible[0]])
        track = step(frame.rgb, frame.aux)
        if index > visible[0] and index in visible:
            scores.append(iou(track.box, sequence.boxes[index]))
    return np.array(scores)
