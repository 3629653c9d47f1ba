"""The whole benchmark: trackers, limit and node, while an eye is kept on the machine."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from tqdm import tqdm

from cmdtrack_ros.data import ImageSequence
from cmdtrack_ros.data.derived import Resized
from cmdtrack_ros.evaluation.benchmark.competitors import (
    DEFAULT_SIZE,
    ENGINE_PACKAGES,
    NANOTRACK,
    NANOTRACK_AUX,
    NANOTRACK_TWICE,
    OURS,
    SIZES,
    Competitor,
    Lineup,
    gather,
    name_of,
    together_name,
)
from cmdtrack_ros.evaluation.benchmark.limit import MatrixProduct, count_gmacs
from cmdtrack_ros.evaluation.benchmark.machine import Interference, Watch, usable_cores
from cmdtrack_ros.evaluation.benchmark.node import CASES, CaseResult, Play, run_node
from cmdtrack_ros.evaluation.benchmark.rounds import Measured, Spread, Timing, at_size, ratio, run_rounds
from cmdtrack_ros.modalities import Modality
from cmdtrack_ros.models.graphs import get_graphs
from cmdtrack_ros.models.header import SHIPPED, read_header

BASELINES = ("csrt", "kcf", NANOTRACK, NANOTRACK_TWICE)
LIMIT_ENGINE = f"{OURS} onnx fp32"
"""Whose network is compared with a float32 matrix product of the same runtime."""


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        frames: of a tracker in a round.
        node_frames: of the recording, at most, that are played to the node in a round.
        sizes: keys of ``SIZES``, VGA first.
        threads: of the CPU; everybody is measured on each number.
        engines: of ours on the CPU.
        targets: that ours follows at once, at most.
    """

    rounds: int = 5
    frames: int = 30
    node_frames: int = 300
    sizes: tuple[str, ...] = tuple(SIZES)
    threads: tuple[int, ...] = field(default_factory=lambda: tuple(dict.fromkeys((1, len(usable_cores())))))
    engines: tuple[str, ...] = tuple(ENGINE_PACKAGES)
    targets: int = 2


def quick(rounds: int, frames: int, targets: int = 2) -> Plan:
    """Enough to see that everything runs: its figures say nothing."""
    return Plan(rounds, frames, 20, (DEFAULT_SIZE, "720p"), (1,), ("onnx",), targets)


@dataclass(frozen=True)
class Result:
    """What was measured.

    Attributes:
        recording: its name.
        competitors: at VGA, in the order of the tables.
        headline: which of ours the node would choose on this machine's CPU; its timings are also kept as "ours".
        gmacs: of one search.
        skipped: what could not be measured -> reason.
    """

    plan: Plan
    recording: str
    competitors: list[Competitor]
    headline: str
    measured: Measured
    gmacs: float
    node: dict[str, CaseResult]
    skipped: dict[str, str]
    interference: Interference

    def timing(self, base: str, size: str = DEFAULT_SIZE, threads: int = 1) -> Timing | None:
        """Of a competitor, None where it was not there."""
        return self.measured.times.get(name_of(base, size, threads))

    @property
    def ratios(self) -> dict[str, Spread]:
        """Ours over each baseline, both on as many threads; large images over VGA; several targets over one."""
        named = dict.fromkeys(one.base for one in self.competitors if one.base.startswith(f"{OURS} "))
        ours = [OURS, *(base for base in named if base != self.headline)]
        pairs = [
            (f"{above} / {below}", (above, DEFAULT_SIZE), (below, DEFAULT_SIZE))
            for above in ours
            for below in BASELINES
        ]
        pairs += [(f"{size} / {DEFAULT_SIZE}", (OURS, size), (OURS, DEFAULT_SIZE)) for size in self.plan.sizes[1:]]
        found = {}
        for threads in self.plan.threads:
            for name, above, below in pairs:
                a, b = self.timing(*above, threads), self.timing(*below, threads)
                if a and b:
                    found[name_of(name, threads=threads)] = ratio(a.means, b.means)
            one = self.timing(OURS, threads=threads)
            for number in range(2, self.plan.targets + 1):
                together = self.timing(together_name(number), threads=threads)
                if together and one:
                    name = f"{number} targets / 1"
                    found[name_of(name, threads=threads)] = ratio(together.means, one.means)
        return found

    @property
    def limits(self) -> dict[int, Spread]:
        """Threads -> share of the machine's rate of multiplying that the network reaches; see ``limit``."""
        shares = {}
        for threads, product_rates in self.measured.product_rates.items():
            if timing := self.timing(LIMIT_ENGINE, threads=threads):
                rates = [self.gmacs / (ms / 1e3) for ms in timing.step_means("network")]
                shares[threads] = ratio(rates, product_rates)
        return shares


def run_benchmark(
    recording: ImageSequence,
    plan: Plan,
    weights: Path | None = None,
    nanotrack_weights: Path | None = None,
    device: str = "cpu",
    play: Play | None = None,
) -> Result:
    """Measure everything that is there.

    Args:
        recording: with a true box in some frame.
        nanotrack_weights: folder of NanoTrack's two files; None = without it.
        device: "cuda" or "auto" adds the engines of a GPU to those of the CPU.
        play: plays a bag into a node; None = no node.

    Raises:
        DataError: the recording is too short.
        ConfigError, WeightsError: weights that cannot be used.
    """
    has_both = recording.modality is not Modality.RGB
    lineup = gather(recording.modality, plan.threads, plan.engines, weights, nanotrack_weights, device, plan.targets)
    gmacs = _search_gmacs(weights or SHIPPED, streams=2 if has_both else 1)
    sequences = {size: Resized(recording, SIZES[size]) for size in plan.sizes}
    products = {threads: MatrixProduct(threads) for threads in plan.threads}
    turns = sum(len(at_size(lineup.competitors, size)) for size in sequences) + (len(CASES) if play else 0)
    watch = Watch()
    with tqdm(total=turns * plan.rounds, desc="benchmark", unit="turn") as bar:
        measured = run_rounds(plan.rounds, plan.frames, lineup.competitors, sequences, products, bar.update)
        node, failed = _node(plan, recording, weights, play, bar.update)
    interference = watch.interference()
    _add_derived(measured, lineup, plan)
    return Result(
        plan,
        recording.name,
        lineup.competitors,
        lineup.headline,
        measured,
        gmacs,
        node,
        {**lineup.skipped, **failed},
        interference,
    )


def _search_gmacs(weights: Path, streams: int) -> float:
    graphs = get_graphs(weights, read_header(weights), "fp32")
    return count_gmacs(onnx.load(str(graphs.search)), {"pictures": streams, "batch": 1, "streams": streams})


def _node(
    plan: Plan, recording: ImageSequence, weights: Path | None, play: Play | None, advance: Callable[[], object]
) -> tuple[dict[str, CaseResult], dict[str, str]]:
    if play is None:
        return {}, {}
    with tempfile.TemporaryDirectory(prefix="cmdtrack-benchmark-") as folder:
        results, failed = run_node(plan.rounds, plan.node_frames, recording, weights, play, Path(folder), advance)
    return results, {f"node, {case}": reason for case, reason in failed.items()}


def _add_derived(measured: Measured, lineup: Lineup, plan: Plan) -> None:
    """Timings that follow from others: "ours" is the headline; two NanoTracks, one a stream, add up."""
    times = measured.times
    for threads in plan.threads:
        for size in plan.sizes:
            times[name_of(OURS, size, threads)] = times[name_of(lineup.headline, size, threads)]
        one, other = (times.get(name_of(base, threads=threads)) for base in (NANOTRACK, NANOTRACK_AUX))
        if one and other:
            times[name_of(NANOTRACK_TWICE, threads=threads)] = added(one, other)


def added(one: Timing, other: Timing) -> Timing:
    """One tracker after the other, frame by frame."""
    return Timing(
        [
            [{step: a.get(step, 0.0) + b.get(step, 0.0) for step in dict.fromkeys([*a, *b])} for a, b in zip(*frames)]
            for frames in zip(one.rounds, other.rounds)
        ]
    )
