"""The one loop that drives a tracker over a recording: of evaluation, validation and `cmdtrack track`."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cmdtrack_ros.boxes import visible
from cmdtrack_ros.errors import DataError
from cmdtrack_ros.track import Track

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

    ``times_ms["total"]`` is the time in ``init`` or ``update``, without the reading of images. At the end, the first of
    the tracker's remarks on each cause is logged, and how many frames had one.
    """
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    order = range(first_visible(sequence), len(sequence)) if order is None else order
    try:
        for row, index in enumerate(order):
            frame = sequence.frame(int(index))
            began = time.perf_counter()
            if row == 0:
                track = tracker.init(frame.rgb, frame.aux, sequence.boxes[index] if box is None else box)
            else:
                track = tracker.update(frame.rgb, frame.aux)
            total = (time.perf_counter() - began) * 1e3
            for cause, text in dict(track.remarks).items():
                first.setdefault(cause, f"frame {index}: {cause}: {text}")
                counts[cause] += 1
            yield replace(track, stamp_ns=round(frame.stamp * 1e9), times_ms={**track.times_ms, "total": total})
    finally:  # also where nobody asks for the rest
        for cause, text in first.items():
            log.warning("%s, %s (the first of %d)", sequence.name, text, counts[cause])
