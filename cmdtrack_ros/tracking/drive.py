"""The one loop that drives a tracker over a recording: of evaluation, validation and `cmdtrack track`."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cmdtrack_ros.boxes import visible
from cmdtrack_ros.errors import DataError
from cmdtrack_ros.track import Remark, Track

if TYPE_CHECKING:
    from cmdtrack_ros.data import ImageSequence

log = logging.getLogger(__name__)


class BoxTracker(Protocol):
    """What can be driven; images and boxes as in :class:`cmdtrack_ros.tracking.Tracker`."""

    def init(self, rgb: np.ndarray | None, aux: np.ndarray | None, box: np.ndarray) -> Track: ...

    def update(self, rgb: np.ndarray | None, aux: np.ndarray | None) -> Track: ...


def first_visible(sequence: ImageSequence) -> int:
    """Index of the first frame with a box; DataError when there is none."""
    seen = np.flatnonzero(visible(sequence.boxes))
    if not len(seen):
        raise DataError(f"{sequence.name}: no frame has a ground-truth box, so there is nothing to start on")
    return int(seen[0])


def drive(
    tracker: BoxTracker,
    sequence: ImageSequence,
    order: Sequence[int] | np.ndarray | None = None,
    box: np.ndarray | None = None,
) -> Iterator[Track]:
    """Start on frame ``order[0]``, update on the others in order; one Track a frame, with the frame's stamp.

    Args:
        order: (n,) frame indices; None = from the first frame with a box to the end.
        box: (4,) xywh px in frame ``order[0]``; None = that frame's ground truth.

    ``times_ms["total"]`` is the time in ``init`` or ``update``, without the reading of images. What the tracker
    remarks is logged, each remark once.
    """
    told: set[Remark] = set()
    order = range(first_visible(sequence), len(sequence)) if order is None else order
    for row, index in enumerate(order):
        frame = sequence.frame(int(index))
        began = time.perf_counter()
        if row == 0:
            track = tracker.init(frame.rgb, frame.aux, sequence.boxes[index] if box is None else box)
        else:
            track = tracker.update(frame.rgb, frame.aux)
        total = (time.perf_counter() - began) * 1e3
        for remark in set(track.remarks) - told:
            log.warning("%s, frame %d: %s (the first of its kind)", sequence.name, index, remark.text)
        told.update(track.remarks)
        yield replace(track, stamp_ns=round(frame.stamp * 1e9), times_ms={**track.times_ms, "total": total})
