"""How much of a fine-tuned student is kept: what its held-out recordings say is best, nothing where nothing is better.

Between the weights a run starts from and those it ends with lie weights that are often better than either (Wortsman et
al., "Robust fine-tuning of zero-shot models", CVPR 2022). That the held-out pairs decide, and that a gain must be told
from chance, is our choice.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cmdtrack_ros.data import ImageSequence
from cmdtrack_ros.data.derived import DerivedSequence
from cmdtrack_ros.models.student import Student
from cmdtrack_ros.tracking.engines.contract import Engine
from cmdtrack_ros.training.average import blend
from cmdtrack_ros.training.comparison import Difference, difference
from cmdtrack_ros.training.fixed_pairs import EnginePairs, Unit, measure, sequence_unit
from cmdtrack_ros.training.validation import engine_of

SHARES = (0.5, 0.75)
"""Of the start's weights, in what may be kept. Less of them is often still better on what was held out, which is like
what was trained on, and has forgotten the rest, which nothing there would show."""
PAIRS = 96
"""Of all recordings together, or more where that were fewer than ``_OF_EACH`` of each."""
_OF_EACH = 8


@dataclass(frozen=True)
class Choice:
    """What is kept of a run.

    Attributes:
        share: of the start's weights in those that are kept; 1 = the start itself, nothing was gained.
        tried: mean IoU of fixed pairs by share, of the start (1) and of ``SHARES``.
        gain: of the best of ``SHARES`` over the start.
        pairs, recordings: measured on.
        parts: whether of any of these another part was trained on.
    """

    share: float
    tried: dict[float, float]
    gain: Difference
    pairs: int
    recordings: int
    parts: bool

    def __str__(self) -> str:
        best = max(SHARES, key=self.tried.__getitem__)
        what = "the last part of recordings trained on, which says little of others" if self.parts else "not trained on"
        measured = (
            f"Mean IoU {self.tried[1.0]:.3f} -> {self.tried[best]:.3f} ({self.gain.mean:+.3f}, 95 % interval "
            f"{self.gain.low:+.3f} to {self.gain.high:+.3f}) on {self.pairs} fixed pairs of {self.recordings} "
            f"recording{'s'[: self.recordings > 1]} ({what})"
        )
        if self.share == 1:
            return f"NO BETTER THAN BEFORE. {measured}. The saved weights are those that the run started from"
        return f"better than before. {measured}. Of the saved weights {self.share:.0%} are those of the start"


@dataclass(frozen=True)
class HeldOut:
    """A recording to choose by: its pairs, what of ``STREAMS`` a robot with these cameras shows the network, and
    whether another part of it was trained on.
    """

    unit: Unit
    shown: str
    part: bool

    @classmethod
    def open(cls, sequence: ImageSequence, number: int) -> HeldOut:
        """DataError where fewer than two frames have a box that is large enough.

        ``number``: tells recordings of one name apart.
        """
        unit = sequence_unit(f"{number} {sequence.name}", sequence)
        unit.open()
        frame = sequence.frame(0)
        # Of recordings with RGB alone, fixed pairs show simulated events as well; no robot has them.
        shown = "rgb" if frame.aux is None else "aux" if frame.rgb is None else "both"
        return cls(unit, shown, isinstance(sequence, DerivedSequence))

    def measure(self, engines: Mapping[float, Engine], count: int) -> dict[float, dict[str, float]]:
        """IoU of ``count`` pairs by their names, for each engine."""
        trackers = {str(name): EnginePairs(engine, (self.shown,)) for name, engine in engines.items()}
        found = measure(trackers, [self.unit], count)
        overlaps = {name: found[str(name)][self.unit.name][self.shown]["iou"] for name in engines}
        return {
            name: {f"{self.unit.name} {number}": value for number, value in enumerate(values)}
            for name, values in overlaps.items()
        }


def choose(start: Student, trained: Student, recordings: Sequence[HeldOut], pairs: int = PAIRS) -> Choice:
    """The mixture of ``start`` and ``trained`` with the best mean IoU on the recordings' pairs.

    The start itself, unless the 95 % interval of the best one's gain, by a bootstrap over pairs, lies above 0.
    """
    students = {share: mixture(start, trained, share) for share in (1.0, *SHARES)}
    engines = {share: engine_of(student) for share, student in students.items()}
    count = max(_OF_EACH, math.ceil(pairs / len(recordings)))
    overlaps: dict[float, dict[str, float]] = {share: {} for share in students}
    for recording in recordings:
        for share, found in recording.measure(engines, count).items():
            overlaps[share] |= found
    tried = {share: float(np.mean(list(of_pairs.values()))) for share, of_pairs in overlaps.items()}
    best = max(SHARES, key=tried.__getitem__)
    gain = difference(overlaps[best], overlaps[1.0])
    parts = any(recording.part for recording in recordings)
    return Choice(best if gain.low > 0 else 1.0, tried, gain, len(overlaps[best]), len(recordings), parts)


def mixture(start: Student, trained: Student, share: float) -> Student:
    """A student with ``share`` of the weights of ``start``."""
    mixed = copy.deepcopy(trained)
    blend(mixed, start, share)
    return mixed
