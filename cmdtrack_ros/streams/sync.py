"""How two streams of stamps lie to each other: rates, jitter, the offset of their clocks, and what would pair them.

The clocks are compared through the arrivals: stamp minus arrival of an auxiliary image, less that of the RGB image
that arrived nearest to it. Medians make it robust: neither a garbage stamp nor a stall, nor a recording that starts
over, moves it. What it cannot tell apart is a clock that is behind and a driver that delivers later; so only offsets
beyond what drivers differ by are taken for clocks.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from cmdtrack_ros.streams.pairing import RANGES, PairCounters, PairOptions
from cmdtrack_ros.streams.stamps import RESTART_NS

_WINDOW_NS = 8_000_000_000  # for rate, jitter and gaps
_RECENT_NS = 1_600_000_000  # for what has to be noticed soon: half of it outvotes what was before
_RECENT_LEAST = 9  # images, of a slow stream
_KEPT = 512  # images per stream; 8 s at 60 Hz
_NEEDED = 5  # images for any statement
_DRIVERS_DIFFER = 0.12  # s; latencies of two sound drivers may
_DRIVER_TAKES = 1.0  # s, at most: an auxiliary stream that much later may have a slow driver
_LOCKED = 0.1  # of a period: two streams whose gaps spread less run in step
_EARLIEST, _LATEST = -0.1, 60.0  # s; a latency outside of it cannot be
_JUMPING, _BACKWARDS = 0.2, 0.5  # share of stamps that leave, or go back before, the one before
_FEW = 0.5  # share of RGB images with a partner
_SHARE_NS = 5_000_000_000
_SLOP_MARGIN = 1.1
_MAD_TO_SIGMA = 1.4826


class StreamReport(NamedTuple):
    """One stream over the last seconds; NaN where too few images came.

    rate (Hz, of arrivals), period (s, median of the stamps' intervals), jitter (s, standard deviation of a stamp,
    estimated robustly), delay (s, median from stamp to arrival by the node's clock).
    """

    rate: float = math.nan
    period: float = math.nan
    jitter: float = math.nan
    delay: float = math.nan


@dataclass(frozen=True)
class SyncReport:
    """What `SyncDoctor` found.

    Attributes:
        rgb, aux: each stream by itself.
        offset: seconds that auxiliary stamps are ahead of RGB stamps of the same moment (before `aux_offset`); it
            contains the difference of the drivers' latencies. NaN where unknown.
        uncertainty: standard deviation of one measurement of `offset`, seconds.
        phase: median gap, auxiliary minus RGB, of nearest stamps under the proposed `aux_offset`, seconds.
        share: of the last RGB images, those with a partner; NaN where no counters were given.
        slop, aux_offset: proposed for nearest pairs; what is in force where nothing else is worth it.
        findings: what is wrong, cause -> sentence with the remedy.
    """

    rgb: StreamReport
    aux: StreamReport
    offset: float
    uncertainty: float
    phase: float
    share: float
    slop: float
    aux_offset: float
    findings: dict[str, str]


class _Samples(NamedTuple):
    """Stamps, arrivals and the node's clock at these (ns, int64); `clock` is empty where it is not known."""

    stamps: np.ndarray
    arrived: np.ndarray
    clock: np.ndarray

    @property
    def transit(self) -> np.ndarray:
        return self.stamps - self.arrived

    def where(self, mask: np.ndarray) -> _Samples:
        return _Samples(self.stamps[mask], self.arrived[mask], self.clock[mask] if len(self.clock) else self.clock)


class _Stream:
    """The last images of one stream."""

    def __init__(self, name: str, kept: int | None) -> None:
        self.name = name
        self._images: deque[tuple[int, int, int | None]] = deque(maxlen=kept)

    def add(self, stamp: int, arrived: int, clock: int | None) -> None:
        self._images.append((stamp, arrived, clock))

    def samples(self, since: int) -> _Samples:
        """Those that arrived later."""
        images = [image for image in self._images if image[1] > since]
        clock = [image[2] for image in images if image[2] is not None]
        stamps, arrived = ([image[i] for image in images] for i in range(2))
        whole = clock if len(clock) == len(images) else []
        return _Samples(np.array(stamps, np.int64), np.array(arrived, np.int64), np.array(whole, np.int64))


def _recent(samples: _Samples, since: int) -> _Samples:
    mask = samples.arrived > since
    mask[-_RECENT_LEAST:] = True
    return samples.where(mask)


def _sigma(values: np.ndarray) -> float:
    return _MAD_TO_SIGMA * float(np.median(np.abs(values - np.median(values))))


def _describe(samples: _Samples, recent: _Samples) -> StreamReport:
    if len(samples.stamps) < _NEEDED:
        return StreamReport()
    span = float(samples.arrived[-1] - samples.arrived[0]) * 1e-9
    steps = np.diff(samples.stamps) * 1e-9
    steps = steps[steps > 0]
    delay = float(np.median(recent.clock - recent.stamps)) * 1e-9 if len(recent.clock) else math.nan
    return StreamReport(
        rate=(len(samples.stamps) - 1) / span if span > 0 else math.nan,
        period=float(np.median(steps)) if len(steps) else math.nan,
        jitter=_sigma(steps) / math.sqrt(2) if len(steps) else math.nan,
        delay=delay,
    )


def _nearest(values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Index of the element of the sorted `values` nearest to each of `wanted`."""
    right = np.searchsorted(values, wanted).clip(1, max(len(values) - 1, 1))
    left = right - 1
    right = right.clip(max=len(values) - 1)
    return np.where(wanted - values[left] <= values[right] - wanted, left, right)


class _Fit(NamedTuple):
    """How the auxiliary stamps lie to the RGB stamps, and the options that fit; seconds, NaN where unknown.

    apart: by how much the clocks are, beyond `aux_offset`; 0 where it is no more than drivers differ by.
    """

    offset: float
    uncertainty: float
    phase: float
    apart: float
    slop: float
    aux_offset: float


def _fit(
    samples: tuple[_Samples, _Samples], recent: tuple[_Samples, _Samples], period: float, options: PairOptions
) -> _Fit:
    present = 0.0 if options.pairing == "exact" else options.slop
    unknown = _Fit(math.nan, math.nan, math.nan, 0.0, present, options.aux_offset)
    if min(len(stream.stamps) for stream in recent) < _NEEDED or math.isnan(period):
        return unknown
    rgb, aux = recent
    differences = clock_differences(rgb.stamps, rgb.arrived, aux.stamps, aux.arrived)
    offset, uncertainty = float(np.median(differences)), _sigma(differences)
    residual = offset + options.aux_offset
    allowed = max(0.5 * period, _DRIVERS_DIFFER) + uncertainty
    apart = residual if abs(residual) > allowed else 0.0
    gaps = _gaps(samples, recent, -offset if apart else options.aux_offset)
    if len(gaps) < _NEEDED:
        return unknown._replace(offset=offset, uncertainty=uncertainty, apart=apart)
    phase = float(np.median(gaps))
    in_step = _sigma(gaps) < _LOCKED * period
    if apart and in_step:  # they run in step, and most likely take their images together
        offset, apart, gaps, phase = offset + phase, apart + phase, gaps - phase, 0.0
    reach = max(float(np.percentile(np.abs(gaps), 95)), 0.0 if in_step else 0.5 * period)
    needed = math.ceil(reach * _SLOP_MARGIN * 1e3) * 1e-3
    slop = round(min(max(present, needed), RANGES["slop"][1]), 3)
    return _Fit(offset, uncertainty, phase, apart, slop, round(-offset, 3) if apart else options.aux_offset)


def clock_differences(
    rgb_stamps: np.ndarray, rgb_arrived: np.ndarray, aux_stamps: np.ndarray, aux_arrived: np.ndarray
) -> np.ndarray:
    """Seconds that each auxiliary stamp is ahead of the RGB clock, by the RGB image that arrived nearest to it.

    Arrays of ns (int64), those of arrival increasing; of at least one image each.
    """
    transit = rgb_stamps - rgb_arrived
    return (aux_stamps - aux_arrived - transit[_nearest(rgb_arrived, aux_arrived)]) * 1e-9


def _gaps(samples: tuple[_Samples, _Samples], recent: tuple[_Samples, _Samples], aux_offset: float) -> np.ndarray:
    """Seconds from each RGB stamp to the nearest auxiliary one, of images whose stamps are of the present run."""
    sound = [
        np.sort(one.stamps[np.abs(one.transit - int(np.median(now.transit))) < RESTART_NS])
        for one, now in zip(samples, recent)
    ]
    rgb, aux = sound[0], sound[1] + round(aux_offset * 1e9)
    if not len(rgb) or not len(aux):
        return np.empty(0)
    rgb = rgb[(rgb >= aux[0]) & (rgb <= aux[-1])]
    return (aux[_nearest(aux, rgb)] - rgb) * 1e-9


def _stream_findings(name: str, recent: _Samples) -> dict[str, str]:
    """What is wrong with the stamps of one stream: cause -> sentence."""
    stamps = recent.stamps
    if len(stamps) < _NEEDED:
        return {}
    if (stamps == 0).mean() > _FEW:
        return {
            "stamps missing": f"{name}: stamps are 0; let the driver stamp its images (paired by arrival meanwhile)"
        }
    steps = np.diff(stamps)
    if (steps == 0).mean() > _FEW:
        again = f"{name}: the stamp {stamps[-1] * 1e-9:.3f} s comes again and again"
        return {"stamps constant": f"{again}; mend its driver (paired by arrival meanwhile)"}
    jumps = np.abs(steps - np.diff(recent.arrived)) > RESTART_NS
    if jumps.mean() > _JUMPING or (steps < 0).mean() > _BACKWARDS:
        count = int((jumps | (steps < 0)).sum())
        return {"stamps jumping": f"{name}: {count} of the last {len(steps)} stamps do not follow the one before"}
    return _latency_findings(name, recent)


def _latency_findings(name: str, recent: _Samples) -> dict[str, str]:
    if not len(recent.clock):
        return {}
    if not recent.clock[-1]:
        unset = "the node's clock stands at 0: nothing publishes /clock; start what does, or set use_sim_time: false"
        return {"stamps ahead": f"{name}: {unset}"}
    delay = float(np.median(recent.clock - recent.stamps)) * 1e-9
    if delay < _EARLIEST:
        text = f"{name}: stamps are {-delay:.3f} s ahead of their arrival; synchronise the clocks (chrony, PTP)"
        return {"stamps ahead": text}
    if delay > _LATEST:
        text = f"{name}: stamps are {delay:.0f} s old; synchronise the clocks, or play a recording with use_sim_time"
        return {"stamps old": text}
    return {}


class SyncDoctor:
    """Watches the stamps of two streams; `report` is cheap enough for once a second. For one thread.

    Args:
        options: pairing in force.
        names: how sentences call the streams, RGB first; with their topics, say.
        whole: judge by all images since the start, as of a recording, instead of the last seconds.
    """

    def __init__(
        self,
        options: PairOptions = PairOptions(),
        names: tuple[str, str] = ("RGB", "auxiliary"),
        *,
        whole: bool = False,
    ) -> None:
        self.configure(options)
        self._whole = whole
        self._rgb, self._aux = (_Stream(name, None if whole else _KEPT) for name in names)
        self._counts: deque[tuple[int, PairCounters]] = deque([(0, PairCounters())])

    def configure(self, options: PairOptions) -> None:
        """Judge by other options from now on."""
        self._options = options

    def add_rgb(self, stamp_ns: int, arrived_ns: int, clock_ns: int | None = None) -> None:
        """Note one RGB image.

        Args:
            arrived_ns: by a steady clock, the same for both streams (a recording: the time of recording).
            clock_ns: the node's clock at that moment, which stamps should agree with; None where there is none.
        """
        self._rgb.add(stamp_ns, arrived_ns, clock_ns)

    def add_aux(self, stamp_ns: int, arrived_ns: int, clock_ns: int | None = None) -> None:
        """Note one auxiliary image; arguments as of `add_rgb`."""
        self._aux.add(stamp_ns, arrived_ns, clock_ns)

    def report(self, now_ns: int, counters: PairCounters | None = None) -> SyncReport:
        """What the last seconds up to `now_ns` (the steady clock) show.

        counters: of the pairing that was made when this was, from which the share of pairs is told.
        """
        window, lately = (now_ns, now_ns) if self._whole else (_WINDOW_NS, _RECENT_NS)
        rgb, aux = self._rgb.samples(now_ns - window), self._aux.samples(now_ns - window)
        recent = _recent(rgb, now_ns - lately), _recent(aux, now_ns - lately)
        streams = _describe(rgb, recent[0]), _describe(aux, recent[1])
        findings: dict[str, str] = {}
        for stream, samples in zip((self._rgb, self._aux), recent):
            for fault, text in _stream_findings(stream.name, samples).items():
                findings[fault] = f"{findings[fault]}; {text}" if fault in findings else text
        stamps_lie = {"stamps missing", "stamps constant", "stamps jumping"} & set(findings)
        fit = _fit((rgb, aux), recent, math.nan if stamps_lie else streams[1].period, self._options)
        newest, share = self._shares(now_ns, counters)
        if cause := self._pairing_cause(newest, share, fit):
            findings[cause] = self._pairing_text(cause, newest if cause == "nothing pairs" else share, fit)
        return SyncReport(*streams, *fit[:3], share, fit.slop, fit.aux_offset, findings)

    def _shares(self, now: int, counters: PairCounters | None) -> tuple[float, float]:
        """Share of RGB images with a partner: of the last few, and of the last seconds."""
        if counters is None:
            return math.nan, math.nan
        self._counts.append((now, replace(counters)))
        while not self._whole and len(self._counts) > 2 and self._counts[1][0] <= now - _SHARE_NS:
            self._counts.popleft()
        lately = next(
            (share for _, old in reversed(self._counts) if not math.isnan(share := _share(old, counters))), math.nan
        )
        return lately, _share(self._counts[0][1], counters)

    def _pairing_cause(self, lately: float, share: float, fit: _Fit) -> str | None:
        if lately == 0.0:
            return "nothing pairs"
        if lately < _FEW and share < _FEW:
            return "few pairs"
        # Who comes latest is the partner whatever the clocks say.
        return "clocks apart" if fit.apart and self._options.pairing != "latest" else None

    def _pairing_text(self, cause: str, share: float, fit: _Fit) -> str:
        options = self._options
        reach = {
            "nearest": f"within slop {options.slop:g} s",
            "exact": "of the same stamp (pairing: exact)",
            "latest": f"within latest_gap {options.latest_gap:g} s",
        }[options.pairing]
        got = f"{share:.0%} of the RGB images have an auxiliary image {reach}; "
        if cause == "clocks apart":
            got = ""
        if fit.apart:
            return got + self._offset_text(fit)
        if options.pairing == "latest":
            return f"{got}the clocks agree: auxiliary images come too seldom, or too late; raise latest_gap to use them"
        if fit.slop > options.largest_gap:
            apart = f"the nearest stamps lie up to {fit.slop / _SLOP_MARGIN:.3f} s apart"
            return f"{got}{apart}: set {self._slop_text(fit)} to pair them"
        late = f"come later than aux_timeout {options.aux_timeout:g} s"
        return f"{got}the clocks agree: auxiliary images are lost, or {late}"

    def _slop_text(self, fit: _Fit) -> str:
        kind = "" if self._options.pairing == "nearest" else "pairing: nearest and "
        return f"{kind}slop: {fit.slop:g}"

    def _offset_text(self, fit: _Fit) -> str:
        side = "ahead of" if fit.apart > 0 else "behind"
        text = f"{self._aux.name}: stamps are {abs(fit.apart):.3f} s {side} those of {self._rgb.name}"
        low, high = RANGES["aux_offset"]
        if not low <= fit.aux_offset <= high:
            return f"{text}; synchronise the clocks (chrony, PTP), aux_offset reaches no further than {high:g} s"
        proposal = f"aux_offset: {fit.aux_offset:.3f}"
        if self._options.pairing != "latest" and fit.slop > self._options.largest_gap:
            proposal += f" and {self._slop_text(fit)}"
        if -_DRIVER_TAKES < fit.apart < 0:
            late = abs(fit.apart) + 0.05
            return f"{text}: set {proposal} if its clock is behind, or aux_timeout: {late:.2f} if its driver is slow"
        return f"{text}: synchronise the clocks, or set {proposal}"


def _share(before: PairCounters, after: PairCounters) -> float:
    """Share of pairs among the RGB images put out in between; NaN where too few were, or no auxiliary images came."""
    paired, alone = after.paired - before.paired, after.unpaired - before.unpaired
    enough = paired + alone >= _NEEDED and after.aux - before.aux >= 2
    return paired / (paired + alone) if enough else math.nan
