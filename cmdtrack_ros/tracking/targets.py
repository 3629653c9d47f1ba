"""Several targets in the same images: what each of them needs, and what becomes of two that are on one object."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import NamedTuple

import numpy as np

from cmdtrack_ros.boxes import iou
from cmdtrack_ros.streams.pairing import Pair
from cmdtrack_ros.track import TargetState
from cmdtrack_ros.tracking.tracker import Tracker

SAME_IOU = 0.7
"""Two boxes that overlap more are taken to be on one object."""
SAME_FRAMES = 15
"""For so many frames in a row: half a second at 30 Hz, which two people who pass each other do not take."""
_BREAK_NS = 2_000_000_000  # between two frames: the target may have gone meanwhile
_BREAK_INTERVALS = 3  # of a stream slower than that


class Target(NamedTuple):
    """What to follow.

    Attributes:
        box: (4,) xywh in RGB pixels.
        name, class_id: that results carry; which of several targets it is, and what kind of thing.
        since: earlier pairs, oldest first, where the box was drawn on the first of them and not on the present one.
    """

    box: np.ndarray
    name: str = ""
    class_id: str = ""
    since: tuple[Pair, ...] = ()


@dataclass
class Timeline:
    """Stamp of the last frame, ns, and how long before it the one before came."""

    last: int | None = None
    interval: int = 0

    def breaks(self, stamp: int) -> bool:
        """Go on to a frame; whether much may have happened before it: a long time passed, or went backwards."""
        interval = 0 if self.last is None else stamp - self.last
        broken = interval < 0 or interval > max(_BREAK_NS, _BREAK_INTERVALS * self.interval)
        self.last, self.interval = stamp, max(interval, 0)
        return broken


@dataclass(eq=False)
class Followed:
    """A target with a tracker of its own.

    Attributes:
        timeline: of the frames that this target was looked for in.
        behind: those that it has still to be followed through, oldest first, to reach the present.
        doubted: it is from before a break, and was not found since.
    """

    target: Target
    tracker: Tracker
    timeline: Timeline
    behind: list[Pair] = field(default_factory=list)
    doubted: bool = False

    @property
    def name(self) -> str:
        return self.target.name

    @property
    def started(self) -> bool:
        return self.tracker.state != TargetState.IDLE

    def lies_on(self, box: np.ndarray) -> bool:
        """Whether what it follows is in that box, too."""
        return self.tracker.state.in_sight and float(iou(self.tracker.box, box)) > SAME_IOU

    def doubt(self) -> None:
        """Nobody looked for long: LOST until images confirm it."""
        if self.started:
            self.tracker.doubt()
            self.doubted = True


class Meetings:
    """Keeps targets apart. While two boxes lie on one another, neither learns what it sees there; after
    :data:`SAME_FRAMES`, the one with the lower mean score is LOST, and is not found again where the other one is.
    """

    def __init__(self) -> None:
        self._met: dict[tuple[int, int], tuple[int, float]] = {}  # frames, and by how much the first was surer in all

    def part(self, targets: Sequence[Followed], scores: Sequence[float]) -> Iterator[tuple[Followed, Followed]]:
        """After each frame; yields each one that has lost its object now, and the one that keeps it."""
        met, self._met = self._met, {}
        for one in targets:
            one.tracker.held = False
        for (a, score_a), (b, score_b) in combinations(zip(targets, scores), 2):
            for lost, other in ((a, b), (b, a)):
                if lost.tracker.state == TargetState.LOST and other.lies_on(lost.tracker.box):
                    lost.tracker.part()
            if not (a.tracker.state.in_sight and b.lies_on(a.tracker.box)):
                continue
            a.tracker.held = b.tracker.held = True
            key = id(a), id(b)
            frames, surer = met.get(key, (0, 0.0))
            frames, surer = frames + 1, surer + score_a - score_b
            if frames < SAME_FRAMES:
                self._met[key] = frames, surer
                continue
            lost, kept = (b, a) if surer >= 0 else (a, b)
            lost.tracker.part()
            kept.tracker.held = False
            yield lost, kept
