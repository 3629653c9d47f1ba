"""While the node is active: what its streams, pairs and results show, turned into causes and values of /diagnostics."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from cmdtrack_ros.ros.diagnostics import Latencies
from cmdtrack_ros.ros.health import Health
from cmdtrack_ros.ros.inputs import ImageInput
from cmdtrack_ros.streams.mailbox import Mailbox
from cmdtrack_ros.streams.pairing import NearestPairFilter, PairOptions, stamp_ns
from cmdtrack_ros.streams.sync import StreamReport, SyncDoctor, SyncReport
from cmdtrack_ros.track import TargetState, Track

_WINDOW_SECONDS = 3.0  # over which losses are counted
_TOLERATED_LOSS = 0.05  # of a stream's images
_TOLERATED_DROPS = 0.1  # of the pairs; catching up with a new target drops some
_LEAST = 3  # lost images or dropped pairs that are worth a word
_SHARE_SECONDS = 10
_USELESS_SHARE = 0.05  # measured: 0.065 to 0.78 with good auxiliary images, 0.03 to 0.13 with empty ones
SYNC_CAUSES = (
    "stamps constant",
    "stamps missing",
    "stamps jumping",
    "stamps ahead",
    "stamps old",
    "nothing pairs",
    "few pairs",
    "clocks apart",
)
"""What `SyncDoctor` finds."""


class Growth:
    """By how much totals grew over the last seconds; to be called regularly."""

    def __init__(self, seconds: float = _WINDOW_SECONDS) -> None:
        self._seconds = seconds
        self._past: deque[tuple[float, tuple[int, ...]]] = deque()

    def __call__(self, *totals: int) -> tuple[int, ...]:
        now = time.monotonic()
        self._past.append((now, totals))
        while len(self._past) > 2 and self._past[1][0] <= now - self._seconds:
            self._past.popleft()
        return tuple(total - before for total, before in zip(totals, self._past[0][1]))


class StreamShares:
    """The mean weight of the auxiliary stream where both streams had their say; one thread adds, another asks."""

    def __init__(self, seconds: int) -> None:
        self._sum, self._count = 0.0, 0
        self._past: deque[tuple[float, int]] = deque(maxlen=seconds + 1)

    def add(self, track: Track) -> None:
        if track.has_rgb and track.has_aux and not track.started and track.state != TargetState.IDLE:
            self._sum, self._count = self._sum + track.weight_aux, self._count + 1

    def mean(self) -> float:
        """To be called once a second: the mean over the last seconds, NaN unless each of them had results."""
        self._past.append((self._sum, self._count))
        counts = [count for _, count in self._past]
        if len(counts) < (self._past.maxlen or 0) or len(set(counts)) < len(counts):
            return math.nan
        return (self._sum - self._past[0][0]) / (counts[-1] - counts[0])


class Supervisor:
    """Watches one activation of the node. `check` and `values` are for the executor, `note` for the worker.

    Args:
        inputs: name -> stream, RGB first.
        clock: the node's clock, ns.
        data_timeout: seconds of silence after which the log says what to check.
    """

    def __init__(
        self,
        health: Health,
        inputs: Mapping[str, ImageInput],
        pairing: NearestPairFilter,
        mailbox: Mailbox[Any],
        options: PairOptions,
        clock: Callable[[], int],
    ) -> None:
        self._health = health
        self._inputs = inputs
        self._pairing = pairing
        self._mailbox = mailbox
        self._clock = clock
        self._latencies = Latencies()
        self._shares = StreamShares(_SHARE_SECONDS)
        self._tracks: Sequence[Track] = ()
        self._lost = {name: Growth() for name in inputs}
        self._dropped = Growth()
        self._outliers = Growth(1.0)
        names = tuple(f"{name} ({stream.topic})" for name, stream in inputs.items())
        self._doctor = SyncDoctor(options, (*names, "auxiliary")[:2])
        self._sync: SyncReport | None = None
        for stream, add in zip(inputs.values(), (self._doctor.add_rgb, self._doctor.add_aux)):
            stream.registerCallback(self._note_stamp, add)

    def configure(self, options: PairOptions) -> None:
        """Pairing goes by other options from now on."""
        self._doctor.configure(options)

    def close(self) -> None:
        """Nothing is watched any more: what was wrong is over."""
        self._health.clear("inputs", "pairing")
        for cause in ("LOST", "wrong target suspected", "too slow"):
            self._health.condition(cause, None)

    def note(self, tracks: Sequence[Track]) -> None:
        """The results of an image, as published, oldest target first."""
        self._latencies.add(tracks[0])  # which is the same for all of them
        for track in tracks:
            self._shares.add(track)
        self._tracks = tracks
        lost = _named(track for track in tracks if track.state == TargetState.LOST)
        text = (
            f"target {lost} is searched for around the place where it was last seen. If it does not come back, name it "
            "anew on ~/target"
        )
        self._health.condition("LOST", text if lost else None)
        suspect = _named(track for track in tracks if track.suspect)
        text = (
            f"what is followed does not lead back to the first image of target {suspect}: look at ~/overlay, and name "
            "the target anew on ~/target"
        )
        self._health.condition("wrong target suspected", text if suspect else None)

    def check(self, data_timeout: float) -> None:
        """Look at everything; to be called once a second.

        Args:
            data_timeout: seconds of silence after which the log says what to check.
        """
        for name, stream in self._inputs.items():
            text = stream.silence_diagnosis() if stream.silent() else None
            self._health.condition(f"no {name} images", text, stage=stream.seconds_silent() > data_timeout)
            self._check_losses(name, stream)
        self._check_pairs()
        self._check_drops()
        self._check_shares()

    def values(self) -> dict[str, dict[str, Any]]:
        """Values of each status."""
        inputs: dict[str, Any] = {}
        for name, stream in self._inputs.items():
            inputs |= {f"{name} {key}": value for key, value in stream.values().items()}
        pairing: dict[str, Any] = self._pairing.counters.as_dict()
        if self._sync:
            for name, report in zip(self._inputs, (self._sync.rgb, self._sync.aux)):
                inputs |= {f"{name} {key}": value for key, value in _stream_values(report).items()}
            pairing |= _sync_values(self._sync)
        return {
            "inputs": inputs,
            "pairing": pairing,
            "tracking": self._latencies.values() | _target_values(self._tracks),
            "device": {"dropped": self._mailbox.dropped},
        }

    def _note_stamp(self, message: Any, add: Callable[[int, int, int | None], None]) -> None:
        add(stamp_ns(message), time.monotonic_ns(), self._clock())

    def _check_losses(self, name: str, stream: ImageInput) -> None:
        lost, received = self._lost[name](stream.lost, stream.received)
        much = lost >= _LEAST and lost > _TOLERATED_LOSS * (lost + received)
        self._health.condition(f"{name} images lost", stream.loss_diagnosis(lost, lost + received) if much else None)

    def _check_pairs(self) -> None:
        counters = self._pairing.counters
        self._sync = self._doctor.report(time.monotonic_ns(), counters)
        for cause in SYNC_CAUSES:
            self._health.condition(cause, self._sync.findings.get(cause))
        (outliers,) = self._outliers(counters.outliers)
        if outliers:
            topics = " or ".join(stream.topic for stream in self._inputs.values())
            self._health.event(
                "stamp outlier",
                f"{outliers} image(s) of {topics} left out: their stamp leapt, and no other image went on from there. "
                "Look at the driver's clock",
            )

    def _check_drops(self) -> None:
        counters = self._pairing.counters
        dropped, pairs = self._dropped(self._mailbox.dropped, counters.paired + counters.unpaired + counters.aux_alone)
        text = None
        if dropped >= _LEAST and dropped > _TOLERATED_DROPS * pairs:
            text = (
                f"{dropped} of the last {pairs} images were not tracked, because newer ones came meanwhile "
                f"({self._latencies.processing_text()}). Set precision: int8 or weights: nano, give it more 'threads', "
                "relieve the machine, or lower the cameras' rate"
            )
        self._health.condition("too slow", text)

    def _check_shares(self) -> None:
        share = self._shares.mean()
        for cause, weight, name in (
            ("auxiliary stream useless", share, "auxiliary"),
            ("RGB stream useless", 1 - share, "RGB"),
        ):
            text = None
            if weight < _USELESS_SHARE:
                text = (
                    f"{self._inputs[name].topic} had {weight:.1%} of the say in the last {_SHARE_SECONDS} s. Is its "
                    "lens free, is it registered to the other camera, does its range fit what it shows?"
                )
            self._health.condition(cause, text)


def _named(tracks: Iterable[Track]) -> str:
    """Their names, in words; empty for none."""
    return " and ".join(f"'{track.target_id}'" for track in tracks)


def _target_values(tracks: Sequence[Track]) -> dict[str, str]:
    """What each target was like in the last image."""
    return {
        f"target '{track.target_id}'": f"{track.state.name}, score {track.score:.2f}"
        for track in tracks
        if track.state != TargetState.IDLE
    }


def _stream_values(report: StreamReport) -> dict[str, str]:
    seconds = {"jitter": report.jitter, "delay": report.delay}
    return {f"{key} (ms)": f"{value * 1e3:.1f}" for key, value in seconds.items() if math.isfinite(value)}


def _sync_values(report: SyncReport) -> dict[str, str]:
    numbers = {
        "clock offset (ms)": report.offset * 1e3,
        "gap of nearest stamps (ms)": report.phase * 1e3,
        "share of pairs": report.share,
        "proposed slop": report.slop,
        "proposed aux_offset": report.aux_offset,
    }
    return {key: f"{value:.3f}" for key, value in numbers.items() if math.isfinite(value)}
