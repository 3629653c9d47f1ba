"""The node: recordings played through DDS at a camera's rate, and what came back how late and at what price."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cmdtrack_ros.data import ImageSequence
from cmdtrack_ros.data.bags import write_bag
from cmdtrack_ros.data.derived import GreyAsDepth, Resized
from cmdtrack_ros.errors import CmdtrackError
from cmdtrack_ros.evaluation.benchmark.competitors import SIZES
from cmdtrack_ros.evaluation.benchmark.rounds import Spread
from cmdtrack_ros.evaluation.replay import as_live_camera
from cmdtrack_ros.track import TargetState, Track, percentiles_ms
from cmdtrack_ros.tracking.drive import first_visible

STEPS = {
    "arrival": "arrival",
    "pairing": "pairing",
    "waiting": "waiting",
    "tracking": "processing",
    "publication": "publication",
}
"""Steps of a pair through the node -> their names in its diagnostics."""
_PERCENTS = ("p50", "p95", "p99")


class Playback(Protocol):
    """What is read of a :class:`cmdtrack_ros.ros.replay.session.Playback`; seconds and CPU are those of the playing."""

    @property
    def tracks(self) -> list[Track]: ...
    @property
    def diagnostics(self) -> dict[str, str]: ...
    @property
    def seconds(self) -> float: ...
    @property
    def cpu_seconds(self) -> float: ...
    @property
    def peak_memory_mb(self) -> float: ...
    @property
    def startup_seconds(self) -> float: ...


Play = Callable[[Path, Mapping[str, Any], list[str], Path], Playback]
"""(bag, parameters, topics, log) -> what came back: ``cmdtrack_ros.ros.replay.session.play_into_node``."""


@dataclass(frozen=True)
class Case:
    """A pair of cameras. ``depth``: the aux images are 16-bit depth, made up from grey."""

    name: str
    rate: float
    size: str
    depth: bool = False

    def staged(self, recording: ImageSequence, frames: int) -> ImageSequence:
        """The recording as these cameras would have taken it, from its first true box on."""
        start = first_visible(recording)
        stop = min(start + frames, len(recording))
        resized = Resized(recording, SIZES[self.size], self.rate, start, stop)
        return GreyAsDepth(resized) if self.depth else resized


CASES = (Case("30 Hz", 30, "VGA"), Case("60 Hz", 60, "VGA"), Case("30 Hz 720p depth", 30, "720p", depth=True))


@dataclass
class CaseResult:
    """What the node did in one case.

    Attributes:
        values: quantity -> its value in each round; NaN where nothing was answered. Milliseconds of a step are those
            that the node itself reports of its last 300 results.
        latencies_ms: of all answers of all rounds.
    """

    values: dict[str, list[float]] = field(default_factory=dict)
    latencies_ms: list[float] = field(default_factory=list)

    def spread(self, name: str) -> Spread:
        return Spread.of(self.values[name])

    @property
    def steps(self) -> dict[str, dict[str, float]]:
        """Step -> percentile -> milliseconds, medians of the rounds."""
        return {step: {percent: self.spread(f"{step} {percent}").median for percent in _PERCENTS} for step in STEPS}

    def add(self, playback: Playback, frames: int) -> None:
        """Another round, of a recording of ``frames`` frames."""
        answered = [track for track in playback.tracks if track.state is not TargetState.IDLE]
        latency = percentiles_ms(track.latency for track in answered)
        self.latencies_ms += [track.latency * 1e3 for track in answered]
        found = {
            "answered": len(answered) / frames,
            **{f"{percent}_ms": latency.get(percent, math.nan) for percent in _PERCENTS},
            "cpu": playback.cpu_seconds / playback.seconds,
            "memory_mb": playback.peak_memory_mb,
            "startup_s": playback.startup_seconds,
        }
        for step, name in STEPS.items():
            for percent in _PERCENTS:
                found[f"{step} {percent}"] = float(playback.diagnostics.get(f"{name} {percent} (ms)", math.nan))
        for name, value in found.items():
            self.values.setdefault(name, []).append(value)


def run_node(
    rounds: int,
    frames: int,
    recording: ImageSequence,
    weights: Path | None,
    play: Play,
    folder: Path,
    advance: Callable[[], object],
) -> tuple[dict[str, CaseResult], dict[str, str]]:
    """Play all cases in turn, ``rounds`` times.

    Args:
        frames: of the recording, at most.
        folder: for bags (some hundred MB each) and what the nodes say.
        advance: called after each playback.

    Returns:
        results by case, and the reasons of those that failed.
    """
    staged = {case: case.staged(recording, frames) for case in CASES}
    for case, sequence in staged.items():
        write_bag(sequence, folder / case.name)
    results: dict[str, CaseResult] = {}
    failed: dict[str, str] = {}
    for _ in range(rounds):
        for case, sequence in staged.items():
            if case.name not in failed:
                try:
                    playback = play(folder / case.name, *as_live_camera(sequence, weights), folder / f"{case.name}.log")
                    results.setdefault(case.name, CaseResult()).add(playback, len(sequence))
                except CmdtrackError as error:
                    failed[case.name] = str(error)
            advance()
    return results, failed
