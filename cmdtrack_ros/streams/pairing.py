"""Pairs an auxiliary image with each RGB image by stamp. No rclpy: recordings are paired by the same code.

RGB drives: every RGB image comes out exactly once, in stamp order, with its partner or alone. The partner is, by
`PairOptions.pairing`,

- nearest: the auxiliary image nearest in time within the slop;
- exact: that of the very same stamp, as of two cameras with one trigger;
- latest: the newest auxiliary image that has come when the RGB image does, however far apart within `latest_gap`.
  Nothing waits, and what pairs depends on the order of arrival.

An auxiliary image may serve several RGB images (a 9 Hz thermal camera beside a
30 Hz RGB camera): within the slop it is still the best view of that moment, so nothing is gained by
holding it back.

How long an RGB image waits for a nearest or exact partner. It goes out as soon as one of these holds:

1. an auxiliary image with the same or a later stamp has come, so none nearer can follow;
2. the next auxiliary image cannot be nearer, judged by the shortest interval lately seen in that stream;
3. it has waited for `aux_timeout`;
4. the auxiliary stream has been silent for `SILENT_NS` while RGB images keep coming (the stream is taken up
   again when it returns).

When RGB has been silent for `SILENT_NS` while auxiliary images keep coming, these come out alone until it
returns.

A stamp that leaps is held back until a second image confirms it (`streams.stamps`): one that none follows is left
out, and nothing else is lost. Where the stamps of a stream do not advance, arrival takes their place: its images, and
where it is RGB those of the other stream too, are paired as if stamped when they came.
"""

from __future__ import annotations

import logging
import threading
import time
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.streams.stamps import RESTART_NS, Image, StampGuard

SILENT_NS = 1_000_000_000
_IMAGES_BEFORE_ALONE = 3  # of one stream: the first to return after a pause of both does not go alone
_INTERVALS_NEEDED = 8
_INTERVALS_KEPT = 16
_INTERVAL_MARGIN = 0.8  # the next interval may be this much shorter than the shortest one lately seen

RANGES: dict[str, tuple[float, float]] = {
    "slop": (0.0, 10.0),
    "aux_timeout": (0.0, 10.0),
    "aux_offset": (-86_400.0, 86_400.0),
    "queue_size": (1, 1000),
    "latest_gap": (0.0, 10.0),
}
"""Lowest and highest of the numbers of `PairOptions`."""

PAIRINGS = ("nearest", "exact", "latest")
"""The values of `PairOptions.pairing`."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PairOptions:
    """How two streams are paired; the one place of these defaults.

    Attributes:
        slop: largest gap of a nearest pair in seconds, inclusive; 0 pairs as exact does.
        aux_timeout: longest wait of an RGB image for its partner, in seconds.
        aux_offset: seconds added to every auxiliary stamp (negative where that camera stamps late).
        queue_size: images kept per stream. A full RGB queue sends its oldest image out early.
        pairing: one of `PAIRINGS`.
        latest_gap: largest gap of a pair by pairing latest, in seconds, inclusive.
    """

    slop: float = 0.03
    aux_timeout: float = 0.1
    aux_offset: float = 0.0
    queue_size: int = 10
    pairing: str = "nearest"
    latest_gap: float = 0.5

    def __post_init__(self) -> None:
        if self.pairing not in PAIRINGS:
            raise ConfigError(f"pairing: expected one of {', '.join(PAIRINGS)}, got {self.pairing!r}")
        for name, (low, high) in RANGES.items():
            if not low <= (value := getattr(self, name)) <= high:
                raise ConfigError(f"{name}: expected {low} to {high}, got {value}")

    @property
    def largest_gap(self) -> float:
        """Of a pair, in seconds: what the kind of pairing goes by."""
        return {"nearest": self.slop, "exact": 0.0, "latest": self.latest_gap}[self.pairing]

    def for_streams(self, count: int) -> PairOptions:
        """The options for ``count`` streams: an RGB image alone in the world waits for nobody."""
        return self if count > 1 else replace(self, aux_timeout=0.0)


class Pair(NamedTuple):
    """One RGB item with its partner, or either alone.

    `stamp` (ns) is the RGB stamp, or where RGB is silent the aux stamp after `aux_offset`; `gap` (s) is aux
    minus RGB after `aux_offset`, NaN for one alone. `restarted`: the stamps jumped back before this pair.
    `arrived` and `left` (ns, by the clock of a `NearestPairFilter`): when the image that `stamp` belongs to came,
    and when the pair went out; `left` is None where pairing goes by the stamps.
    """

    rgb: Any  # None for an aux image alone
    aux: Any  # None for an RGB image alone
    stamp: int
    gap: float = float("nan")
    restarted: bool = False
    arrived: int = 0
    left: int | None = None

    @property
    def header(self) -> Any:
        """The header of the message that the pair's result belongs to."""
        return (self.aux if self.rgb is None else self.rgb).header


@dataclass
class PairCounters:
    """Messages since the start: received, put out, and lost.

    aux_alone: auxiliary images put out while RGB was silent.
    late: came after its moment had gone out (raise `aux_timeout`), or repeats a stamp.
    evicted: auxiliary images pushed out of a full queue while still usable (raise `queue_size`).
    restarts: times the stamps jumped back.
    outliers: left out, because their stamp leapt and no other image followed it.
    by_arrival: images whose stamp was not gone by, because their stream's stamps did not advance.
    """

    rgb: int = 0
    aux: int = 0
    paired: int = 0
    unpaired: int = 0
    aux_alone: int = 0
    late: int = 0
    evicted: int = 0
    restarts: int = 0
    outliers: int = 0
    by_arrival: int = 0

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


class _Entry(NamedTuple):
    stamp: int
    order: int  # keeps items out of comparisons
    item: Any
    arrived: int


class NearestPairer:
    """The pairing rule on integer nanoseconds; not thread-safe (`NearestPairFilter` is).

    `now_ns` in the methods is the caller's clock (any monotonic one). Where it is None, time is the newest
    stamp seen, which makes the result depend on the recording alone and not on the speed of its replay.
    """

    def __init__(self, options: PairOptions = PairOptions()) -> None:
        self.configure(options)
        self.counters = PairCounters()
        self._order = 0
        self._rgb_guard, self._aux_guard = StampGuard(), StampGuard()
        self.reset()

    def configure(self, options: PairOptions) -> None:
        """Pair by other options from the next message on."""
        self._queue_size = options.queue_size
        self._reach = round(options.largest_gap * 1e9)
        self._latest = options.pairing == "latest"
        self._wait = round(options.aux_timeout * 1e9)
        self._offset = round(options.aux_offset * 1e9)

    def reset(self) -> None:
        """Forget all queued images and the past; counters stay."""
        self._rgb_guard.reset()
        self._aux_guard.reset()
        self._anchor: tuple[int, int] | None = None  # a stamp, and the clock when its image came
        self._forget()

    def _forget(self) -> None:
        self._pending: list[_Entry] = []
        self._last_out: int | None = None
        self._newest_rgb: int | None = None
        self._aux_heard: int | None = None
        self._rgb_heard: int | None = None
        self._aux_since_rgb = self._rgb_since_aux = 0
        self._aux_ahead = False  # in a recording that starts over: aux has, RGB not yet
        self._restarted = False  # until a pair has carried it out
        self._forget_aux()

    @property
    def waiting(self) -> int:
        """RGB images that wait for a partner."""
        return len(self._pending)

    def add_rgb(self, stamp_ns: int, item: Any, now_ns: int | None = None) -> list[Pair]:
        """Take one RGB image; returns the pairs it completes, oldest first."""
        self.counters.rgb += 1
        self._aux_since_rgb = 0
        self._rgb_since_aux += 1
        by_arrival = self._rgb_guard.by_arrival
        images = self._rgb_guard.take(stamp_ns, item, now_ns)
        if self._rgb_guard.by_arrival is not by_arrival:
            known = [stamp for stamp in (self._newest_rgb, self._last_out) if stamp is not None]
            self._anchor = (max(known), now_ns) if known and now_ns is not None else None
        return self._take(images, self._take_rgb, self._aux_guard, self._take_aux, -self._offset)

    def add_aux(self, stamp_ns: int, item: Any, now_ns: int | None = None) -> list[Pair]:
        """Take one auxiliary image; returns the pairs it completes, oldest first."""
        self.counters.aux += 1
        self._aux_since_rgb += 1
        self._rgb_since_aux = 0
        images = self._aux_guard.take(stamp_ns, item, now_ns)
        return self._take(images, self._take_aux, self._rgb_guard, self._take_rgb, self._offset)

    def _take(
        self,
        images: list[Image],
        take: Callable[[Image], list[Pair]],
        other: StampGuard,
        take_other: Callable[[Image], list[Pair]],
        offset: int,
    ) -> list[Pair]:
        """Go on with images of one stream; a leap that they confirm holds for the other stream's, too."""
        out: list[Pair] = []
        for number, image in enumerate(images):
            out += take(image)
            if number + 1 < len(images):
                for released in other.release(image.stamp + offset):
                    out += take_other(released)
        self._count_outliers()
        return out

    def _count_outliers(self) -> None:
        self.counters.outliers = self._rgb_guard.outliers + self._aux_guard.outliers

    def _take_rgb(self, image: Image) -> list[Pair]:
        stamp = image.stamp
        if self._rgb_guard.by_arrival:
            stamp = self._stamp_by_arrival(image)
        elif image.now is not None:
            self._anchor = stamp, image.now
        out: list[Pair] = []
        if self._newest_rgb is not None and stamp < self._newest_rgb - RESTART_NS:
            out = self._restart(stamp)
        self._newest_rgb = max(stamp, self._newest_rgb) if self._newest_rgb is not None else stamp
        now = self._now(image.now)
        self._rgb_heard = now
        known = any(entry.stamp == stamp for entry in self._pending)
        if known or (self._last_out is not None and stamp <= self._last_out):
            self.counters.late += 1
            return out
        if self._aux_heard is None:
            self._aux_heard = now
        insort(self._pending, self._entry(stamp, image.item, now))
        out += self._settle(now)
        while len(self._pending) > self._queue_size:
            out.append(self._emit())
        return out

    def _take_aux(self, image: Image) -> list[Pair]:
        by_arrival = self._rgb_guard.by_arrival or self._aux_guard.by_arrival
        stamp = self._stamp_by_arrival(image) if by_arrival else image.stamp + self._offset
        out: list[Pair] = []
        if self._newest_aux is not None and stamp < self._newest_aux - RESTART_NS:
            while self._pending and self._pending[0].stamp > stamp + RESTART_NS:
                out.append(self._emit())
            self._forget_aux()
            self._aux_ahead = self._last_out is not None and stamp < self._last_out - RESTART_NS
        self._note_interval(stamp)
        now = self._now(image.now)
        self._aux_heard = now
        rgb_silent = self._rgb_silent(now)
        if self._too_late(stamp) or any(entry.stamp == stamp for entry in self._aux):
            self.counters.late += 1
        else:
            insort(self._aux, self._entry(stamp, image.item, now))
        out += self._settle(now)
        while len(self._aux) > self._queue_size:
            self._aux.pop(0)
            self.counters.evicted += 1
        if rgb_silent and not self._pending:
            out += self._emit_aux(stamp, image.item, now)
        return out

    def _stamp_by_arrival(self, image: Image) -> int:
        """The stamp an image would have, had it been taken when it came."""
        self.counters.by_arrival += 1
        if self._anchor is None or image.now is None:
            return image.stamp
        stamp, moment = self._anchor
        return stamp + image.now - moment

    def flush(self, now_ns: int | None = None) -> list[Pair]:
        """Send out what has waited long enough at `now_ns`; everything when it is None (end of data)."""
        if now_ns is None:
            out = [pair for image in self._aux_guard.finish() for pair in self._take_aux(image)]
            out += [pair for image in self._rgb_guard.finish() for pair in self._take_rgb(image)]
            self._count_outliers()
            return out + [self._emit() for _ in range(len(self._pending))]
        return self._settle(now_ns)

    def _entry(self, stamp: int, item: Any, now: int) -> _Entry:
        self._order += 1
        return _Entry(stamp, self._order, item, now)

    def _now(self, now_ns: int | None) -> int:
        if now_ns is not None:
            return now_ns
        return max(stamp for stamp in (self._newest_rgb, self._newest_aux) if stamp is not None)

    def _forget_aux(self) -> None:
        self._aux: list[_Entry] = []
        self._newest_aux: int | None = None
        self._intervals: deque[int] = deque(maxlen=_INTERVALS_KEPT)

    def _restart(self, stamp: int) -> list[Pair]:
        """The RGB stamps jumped back to `stamp`: finish the old pass, keep aux images of the new one."""
        self.counters.restarts += 1
        out = [self._emit() for _ in range(len(self._pending))]
        kept = [entry for entry in self._aux if entry.stamp <= stamp + RESTART_NS]
        self._forget()
        self._restarted = True
        self._aux = kept
        self._newest_aux = kept[-1].stamp if kept else None
        return out

    def _note_interval(self, stamp: int) -> None:
        if self._newest_aux is None:
            self._newest_aux = stamp
        elif stamp > self._newest_aux:
            self._intervals.append(stamp - self._newest_aux)
            self._newest_aux = stamp
        else:
            self._intervals.clear()  # out of order: what was learnt about the stream's rhythm does not hold

    def _too_late(self, stamp: int) -> bool:
        """Older than any later RGB image can use. Far older means that aux restarted first, and is kept."""
        if self._last_out is None:
            return False
        return self._last_out - RESTART_NS <= stamp < self._last_out - self._reach

    def _rgb_silent(self, now: int) -> bool:
        if self._rgb_heard is None or self._aux_since_rgb < _IMAGES_BEFORE_ALONE:
            return False
        return now - self._rgb_heard >= SILENT_NS

    def _aux_silent(self, now: int) -> bool:
        return self._rgb_since_aux >= _IMAGES_BEFORE_ALONE and now - (self._aux_heard or 0) >= SILENT_NS

    def _emit_aux(self, stamp: int, item: Any, now: int) -> list[Pair]:
        if self._last_out is not None and self._last_out - RESTART_NS <= stamp <= self._last_out:
            return []
        if self._last_out is not None and stamp < self._last_out:
            self.counters.restarts += 1
            self._restarted = True
        self._last_out = stamp
        self.counters.aux_alone += 1
        return [self._pair(None, item, stamp, float("nan"), now)]

    def _pair(self, rgb: Any | None, aux: Any | None, stamp: int, gap: float, arrived: int) -> Pair:
        restarted, self._restarted = self._restarted, False
        return Pair(rgb, aux, stamp, gap, restarted, arrived)

    def _partner(self, stamp: int) -> _Entry | None:
        """The newest auxiliary image, or the nearest one: the earlier of two equally near. None out of reach."""
        at = bisect_left(self._aux, (stamp,))
        candidates = self._aux[-1:] if self._latest else self._aux[max(at - 1, 0) : at + 1]
        near = [entry for entry in candidates if abs(entry.stamp - stamp) <= self._reach]
        return min(near, key=lambda entry: abs(entry.stamp - stamp), default=None)

    def _settled(self, entry: _Entry, now: int) -> bool:
        stamp = entry.stamp
        if self._latest or now - entry.arrived >= self._wait or self._aux_silent(now):
            return True
        if self._newest_aux is None:
            return False
        if stamp <= self._newest_aux <= stamp + RESTART_NS:
            return True
        if len(self._intervals) < _INTERVALS_NEEDED:
            return False
        next_aux = self._newest_aux + int(_INTERVAL_MARGIN * min(self._intervals))
        best = self._partner(stamp)
        limit = abs(best.stamp - stamp) if best else self._reach + 1
        return next_aux >= stamp + limit

    def _settle(self, now: int) -> list[Pair]:
        out = []
        while self._pending and self._settled(self._pending[0], now):
            out.append(self._emit())
        return out

    def _emit(self) -> Pair:
        entry = self._pending.pop(0)
        partner = self._partner(entry.stamp)
        self._last_out = entry.stamp
        unusable = bisect_left(self._aux, (entry.stamp - self._reach,))
        # Once aux has jumped back and RGB has not, images far older than this frame belong to what comes.
        restarted = min(bisect_left(self._aux, (entry.stamp - RESTART_NS,)), unusable) if self._aux_ahead else 0
        if partner is None:
            self.counters.unpaired += 1
            gap = float("nan")
        else:
            self.counters.paired += 1
            gap = (partner.stamp - entry.stamp) * 1e-9
        self._aux = self._aux[:restarted] + self._aux[unusable:]
        return self._pair(entry.item, partner.item if partner else None, entry.stamp, gap, entry.arrived)


def stamp_ns(message: Any) -> int:
    """A message's header stamp in nanoseconds."""
    stamp = message.header.stamp
    return stamp.sec * 1_000_000_000 + stamp.nanosec


class NearestPairFilter:
    """`NearestPairer` with the protocol of message_filters; thread-safe.

    Callbacks get `(pair, *args)`, one call at a time and in stamp order, with no lock held. A pair has a
    header, so that filters for single messages (a Cache, say) may follow. A callback that raises is logged,
    and the others are still called.

    Args:
        fs: the RGB filter and, unless RGB is the only stream, the auxiliary filter.
        clock: monotonic nanoseconds; None goes by the stamps alone (see `NearestPairer`).
    """

    def __init__(
        self,
        fs: Sequence[Any] = (),
        options: PairOptions = PairOptions(),
        *,
        clock: Callable[[], int | None] | None = time.monotonic_ns,
    ) -> None:
        self._pairer = NearestPairer(options)
        self._clock = clock or (lambda: None)
        self._lock = threading.Lock()
        self._ready: deque[Pair] = deque()
        self._signalling = False
        self.callbacks: dict[int, tuple[Callable[..., None], tuple[Any, ...]]] = {}
        if fs:
            self.connectInput(fs)

    def registerCallback(self, cb: Callable[..., None], *args: Any) -> int:  # noqa: N802 - message_filters' name
        connection = len(self.callbacks)
        self.callbacks[connection] = (cb, args)
        return connection

    def connectInput(self, fs: Sequence[Any]) -> None:  # noqa: N802
        """Listen to one (RGB) or two (RGB, aux) filters."""
        if len(fs) not in (1, 2):
            raise ConfigError(f"NearestPairFilter: expected an RGB and perhaps an aux filter, got {len(fs)}")
        self.input_connections = [f.registerCallback(add) for f, add in zip(fs, (self.add_rgb, self.add_aux))]

    def signalMessage(self, *messages: Any) -> None:  # noqa: N802
        for callback, args in list(self.callbacks.values()):
            try:
                callback(*messages, *args)
            except Exception:
                logger.exception("a callback of the pairing filter raised; pairing goes on")

    def add_rgb(self, message: Any) -> None:
        self._run(lambda now: self._pairer.add_rgb(stamp_ns(message), message, now))

    def add_aux(self, message: Any) -> None:
        self._run(lambda now: self._pairer.add_aux(stamp_ns(message), message, now))

    def flush(self, everything: bool = False) -> None:
        """Send out what has waited long enough; to be called by a timer while `waiting` is not 0.

        A filter that goes by the stamps has no clock to wait by, so there only `everything` sends anything.
        """
        if everything:
            self._run(lambda now: self._pairer.flush())
        elif self._clock() is not None:
            self._run(self._pairer.flush)

    def reset(self) -> None:
        """Forget queued images and the past, as after a jump of the clock."""
        with self._lock:
            self._pairer.reset()

    def configure(self, options: PairOptions) -> None:
        with self._lock:
            self._pairer.configure(options)

    @property
    def counters(self) -> PairCounters:
        return self._pairer.counters

    @property
    def waiting(self) -> int:
        return self._pairer.waiting

    def _run(self, step: Callable[[int | None], list[Pair]]) -> None:
        with self._lock:
            now = self._clock()
            self._ready.extend(pair._replace(left=now) for pair in step(now))
            if self._signalling:  # another thread, or a callback of ours, is sending: it takes these along
                return
            self._signalling = True
        while True:
            with self._lock:
                if not self._ready:
                    self._signalling = False
                    return
                pair = self._ready.popleft()
            self.signalMessage(pair)
