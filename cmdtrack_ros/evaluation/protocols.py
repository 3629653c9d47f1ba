"""How a tracker is driven over a sequence: one pass from the first visible frame, or VOT's multi-start.

DepthTrack's long-term protocol drives the tracker exactly as one pass does; what differs is that confidences
are scored and how result files are laid out (``cmdtrack_ros.evaluation.results``).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import numpy as np

from cmdtrack_ros.data import Sequence
from cmdtrack_ros.errors import DataError
from cmdtrack_ros.evaluation.baselines import EvaluatedTracker


class Protocol(str, Enum):
    """What ``cmdtrack evaluate --protocol`` takes."""

    AUTO = "auto"
    OPE = "ope"
    LONGTERM = "longterm"
    MULTISTART = "multistart"


@dataclass(frozen=True)
class Run:
    """A tracker's answers to n frames, in the order it saw them.

    Attributes:
        boxes: (n, 4) float64 xywh, pixels of the RGB image; the frame it was started on holds the start box,
            frames before that are NaN.
        scores: (n,) float64, 0..1; NaN where the tracker was not asked.
        seconds: (n,) float64, time in ``init`` or ``update`` alone, without reading the images; NaN likewise.
    """

    boxes: np.ndarray
    scores: np.ndarray
    seconds: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def fps(self) -> float:
        """Updates a second, NaN when there was none. The first answer is ``init``'s and is left out."""
        times = self.seconds[np.isfinite(self.seconds)][1:]
        return float(len(times) / times.sum()) if times.sum() > 0 else float("nan")


def visible(boxes: np.ndarray) -> np.ndarray:
    """(n, 4) xywh -> (n,) bool: a box with an area is there."""
    return np.isfinite(boxes).all(-1) & (boxes[..., 2] > 0) & (boxes[..., 3] > 0)


def first_visible(sequence: Sequence) -> int:
    """Index of the first frame with a box; DataError when there is none."""
    seen = np.flatnonzero(visible(sequence.boxes))
    if not len(seen):
        raise DataError(f"{sequence.name}: no frame has a ground-truth box, so there is nothing to start on")
    return int(seen[0])


def choose(sequence: Sequence, protocol: Protocol) -> Protocol:
    """The protocol of the sequence's benchmark when ``protocol`` is AUTO, else ``protocol``.

    Raises:
        DataError: multi-start asked for on a sequence without anchors.
    """
    if protocol is Protocol.AUTO:
        if sequence.anchors is not None:
            return Protocol.MULTISTART
        return Protocol.LONGTERM if getattr(sequence, "layout", "") == "depthtrack" else Protocol.OPE
    if protocol is Protocol.MULTISTART and sequence.anchors is None:
        raise DataError(
            f"{sequence.name}: the multi-start protocol needs anchors (anchor.value), there are none"
        )
    return protocol


def drive(tracker: EvaluatedTracker, sequence: Sequence, order: np.ndarray) -> Run:
    """Start on frame ``order[0]`` with its ground truth, then update on the others in that order.

    Args:
        order: (n,) int frame indices.
    """
    boxes = np.full((len(order), 4), np.nan)
    scores, seconds = np.full(len(order), np.nan), np.full(len(order), np.nan)
    for row, index in enumerate(order):
        frame = sequence.frame(int(index))
        begin = time.perf_counter()
        if row == 0:
            tracker.init(frame.rgb, frame.aux, sequence.boxes[index])
            boxes[row], scores[row] = sequence.boxes[index], 1.0
        else:
            answer = tracker.update(frame.rgb, frame.aux)
            boxes[row], scores[row] = answer.box, answer.score
        seconds[row] = time.perf_counter() - begin
    return Run(boxes, scores, seconds)


def one_pass(tracker: EvaluatedTracker, sequence: Sequence) -> Run:
    """One pass over the sequence from its first visible frame on; rows before it are NaN."""
    start = first_visible(sequence)
    run = drive(tracker, sequence, np.arange(start, len(sequence)))
    gap = np.full(start, np.nan)
    return Run(
        np.concatenate([np.full((start, 4), np.nan), run.boxes]),
        np.concatenate([gap, run.scores]),
        np.concatenate([gap, run.seconds]),
    )


def anchors(sequence: Sequence) -> list[tuple[int, np.ndarray]]:
    """VOT's runs, forward ones first: anchor frame, (k,) frames from it to the end or backwards to 0.

    Source: the VOT-RGBD2022 challenge; ``anchor.value`` > 0 runs forward, < 0 backward.

    Raises:
        DataError: no anchor, or one on a frame without a box.
    """
    values = sequence.anchors
    if values is None or not np.any(values != 0):
        raise DataError(
            f"{sequence.name}: the multi-start protocol needs an anchor other than 0, there is none"
        )
    empty = np.flatnonzero((values != 0) & ~visible(sequence.boxes))
    if len(empty):
        raise DataError(
            f"{sequence.name}: the anchor on frame {empty[0]} (from 0) has no ground-truth box to start on"
        )
    forward = [(int(i), np.arange(i, len(sequence))) for i in np.flatnonzero(values > 0)]
    return forward + [(int(i), np.arange(i, -1, -1)) for i in np.flatnonzero(values < 0)]


def multi_start(tracker: EvaluatedTracker, sequence: Sequence) -> Iterator[tuple[int, Run]]:
    """(anchor frame, Run in the order seen) for each run of :func:`anchors`."""
    for anchor, order in anchors(sequence):
        yield anchor, drive(tracker, sequence, order)
