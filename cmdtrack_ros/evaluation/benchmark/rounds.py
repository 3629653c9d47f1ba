"""Rounds: each runs every competitor on some frames in turn, so that what disturbs the machine hits all alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from cmdtrack_ros.boxes import visible
from cmdtrack_ros.data import ImageSequence
from cmdtrack_ros.errors import DataError
from cmdtrack_ros.evaluation.benchmark.competitors import DEFAULT_SIZE, OURS, Competitor, library_threads
from cmdtrack_ros.evaluation.benchmark.limit import MatrixProduct
from cmdtrack_ros.track import percentiles_ms
from cmdtrack_ros.tracking.drive import drive

WARM_UP = 2
"""Frames after the start of a target that are not counted: caches fill and kernels are chosen."""

Frames = list[dict[str, float]]
"""Milliseconds of the steps of one round's frames, as ``Track.times_ms``."""


@dataclass(frozen=True)
class Spread:
    """Median, least and greatest value over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(float(np.median(values)), float(min(values)), float(max(values)))


def ratio(above: Sequence[float], below: Sequence[float]) -> Spread:
    """Of two competitors, round by round: what disturbed a round cancels out."""
    return Spread.of([a / b for a, b in zip(above, below)])


@dataclass(frozen=True)
class Timing:
    """What one competitor took, round by round."""

    rounds: list[Frames]

    @property
    def means(self) -> list[float]:
        """Milliseconds a frame in each round: a mean, for some steps come only every few frames."""
        return [float(np.mean([cost(frame) for frame in frames])) for frames in self.rounds]

    @property
    def percentiles(self) -> dict[str, float]:
        """Over the frames of all rounds, ms."""
        return percentiles_ms(cost(frame) / 1e3 for frame in chain(*self.rounds))

    def step_means(self, step: str) -> list[float]:
        """Milliseconds of a step a frame in each round."""
        return [float(np.mean([frame.get(step, 0.0) for frame in frames])) for frames in self.rounds]

    @property
    def steps(self) -> dict[str, float]:
        """Medians of the rounds, ms."""
        names = dict.fromkeys(name for frame in chain(*self.rounds) for name in frame)
        return {name: float(np.median(self.step_means(name))) for name in names if name not in ("total", "convert")}


def cost(times_ms: Mapping[str, float]) -> float:
    """Milliseconds of a frame, without the conversion into OpenCV's order of colours."""
    return times_ms["total"] - times_ms.get("convert", 0.0)


@dataclass
class Measured:
    """times: name of a competitor at an image size -> what it took. product_rates: threads -> GMAC/s, by round."""

    times: dict[str, Timing] = field(default_factory=dict)
    product_rates: dict[int, list[float]] = field(default_factory=dict)


def run_rounds(
    rounds: int,
    frames: int,
    competitors: Sequence[Competitor],
    sequences: Mapping[str, ImageSequence],
    products: Mapping[int, MatrixProduct],
    advance: Callable[[], object],
) -> Measured:
    """Measure all competitors, ours at all image sizes.

    Args:
        frames: counted in a round, after :data:`WARM_UP`.
        sequences: image size -> the recording at that size; all have the same frames.
        products: threads -> what gives the machine's limit.
        advance: called after each competitor at each size.

    Raises:
        DataError: the recording has not that many frames after one with a true box.
    """
    measured = Measured()
    for start in _starts(next(iter(sequences.values())), rounds, frames):
        for threads, product in products.items():
            measured.product_rates.setdefault(threads, []).append(product.gmacs_per_second())
        for size, sequence in sequences.items():
            for competitor in at_size(competitors, size):
                timing = measured.times.setdefault(competitor.name(size), Timing([]))
                timing.rounds.append(_run(competitor, sequence, range(start, start + WARM_UP + frames + 1)))
                advance()
    return measured


def at_size(competitors: Sequence[Competitor], size: str) -> list[Competitor]:
    """Who is measured at an image size: the others at VGA alone, for KCF takes seconds a frame at 4K."""
    return [one for one in competitors if size == DEFAULT_SIZE or one.base.startswith(f"{OURS} ")]


def _starts(sequence: ImageSequence, rounds: int, frames: int) -> list[int]:
    """First frames of the rounds, spread over the recording."""
    needed = WARM_UP + frames + 1
    possible = np.flatnonzero(visible(sequence.boxes[: max(len(sequence) - needed + 1, 0)]))
    if not len(possible):
        raise DataError(
            f"{sequence.name}: expected {needed} frames from one with a true box on (--frames {frames}, and "
            f"{WARM_UP + 1} before them), it has {len(sequence)} frames in all"
        )
    return [int(possible[i]) for i in np.linspace(0, len(possible) - 1, rounds).astype(int)]


def _run(competitor: Competitor, sequence: ImageSequence, order: range) -> Frames:
    with library_threads(competitor.threads):
        return [track.times_ms for track in drive(competitor.tracker, sequence, order)][WARM_UP + 1 :]
