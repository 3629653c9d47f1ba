"""How a tracker is driven over a sequence: one pass from the first visible frame, or VOT's multi-start.

DepthTrack's long-term protocol drives the tracker exactly as one pass does; what differs is that confidences
are scored and how result files are laid out (``cmdtrack_ros.evaluation.results``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import numpy as np

from cmdtrack_ros.boxes import visible
from cmdtrack_ros.data import ImageSequence
from cmdtrack_ros.errors import DataError
from cmdtrack_ros.tracking.drive import BoxTracker, drive, first_visible


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

    @classmethod
    def empty(cls, count: int) -> Run:
        """No answer to ``count`` frames."""
        return cls(np.full((count, 4), np.nan), np.full(count, np.nan), np.full(count, np.nan))

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def fps(self) -> float:
        """Updates a second, NaN when there was none. The first answer is ``init``'s and is left out."""
        times = self.seconds[np.isfinite(self.seconds)][1:]
        return float(len(times) / times.sum()) if times.sum() > 0 else float("nan")


def choose(sequence: ImageSequence, protocol: Protocol) -> Protocol:
    """The protocol of the sequence's benchmark when ``protocol`` is AUTO, else ``protocol``.

    Raises:
        DataError: multi-start asked for on a sequence without anchors.
    """
    if protocol is Protocol.AUTO:
        if sequence.anchors is not None:
            return Protocol.MULTISTART
        return Protocol.LONGTERM if sequence.layout == "depthtrack" else Protocol.OPE
    if protocol is Protocol.MULTISTART and sequence.anchors is None:
        raise DataError(f"{sequence.name}: the multi-start protocol needs anchors (anchor.value), there are none")
    return protocol


def run(tracker: BoxTracker, sequence: ImageSequence, order: np.ndarray) -> Run:
    """Start on frame ``order[0]`` with its true box, update on the others in order; (n,) indices."""
    result = Run.empty(len(order))
    for row, track in enumerate(drive(tracker, sequence, order)):
        result.boxes[row], result.scores[row], result.seconds[row] = track.box, track.score, track.seconds
    result.boxes[0] = sequence.boxes[order[0]]  # as given: trackers cut it to the image, or round it
    return result


def one_pass(tracker: BoxTracker, sequence: ImageSequence) -> Run:
    """One pass over the sequence from its first visible frame on; rows before it are NaN."""
    start, whole = first_visible(sequence), Run.empty(len(sequence))
    part = run(tracker, sequence, np.arange(start, len(sequence)))
    whole.boxes[start:], whole.scores[start:], whole.seconds[start:] = part.boxes, part.scores, part.seconds
    return whole


def anchors(sequence: ImageSequence) -> list[tuple[int, np.ndarray]]:
    """VOT's runs, forward ones first: anchor frame, (k,) frames from it to the end or backwards to 0.

    Source: the VOT-RGBD2022 challenge; ``anchor.value`` > 0 runs forward, < 0 backward.

    Raises:
        DataError: no anchor, or one on a frame without a box.
    """
    values = sequence.anchors
    if values is None or not np.any(values != 0):
        raise DataError(f"{sequence.name}: the multi-start protocol needs an anchor other than 0, there is none")
    empty = np.flatnonzero((values != 0) & ~visible(sequence.boxes))
    if len(empty):
        raise DataError(f"{sequence.name}: the anchor on frame {empty[0]} (from 0) has no ground-truth box to start on")
    forward = [(int(i), np.arange(i, len(sequence))) for i in np.flatnonzero(values > 0)]
    return forward + [(int(i), np.arange(i, -1, -1)) for i in np.flatnonzero(values < 0)]


def multi_start(tracker: BoxTracker, sequence: ImageSequence) -> Iterator[tuple[int, Run]]:
    """(anchor frame, Run in the order seen) for each run of :func:`anchors`."""
    for anchor, order in anchors(sequence):
        yield anchor, run(tracker, sequence, order)
