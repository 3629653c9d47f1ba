"""The one door for targets, whoever names them: each request waits for its frame, and is told what became of it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from cmdtrack_ros.streams.mailbox import History
from cmdtrack_ros.streams.pairing import Pair
from cmdtrack_ros.track import Track
from cmdtrack_ros.tracking.pipeline import Given, Target

MAX_AHEAD = 1.0
"""Seconds that a request's stamp may be ahead of the newest frame."""
MAX_WAIT = 5.0
"""Seconds that a request waits for its frame: later, the box says nothing about where the target is."""
CATCH_UP_INTERVAL = 0.1
"""Seconds between the frames by which a target is followed from its own frame to the newest: see docs/method.md."""
CATCH_UP_FRAMES = 50
"""The most of them, whatever `target_history`."""
MAX_COORDINATE = 1e5
_SAME_START = 1_000_000_000  # ns; a recording that starts over may have lost its first frames the first time
_REPLACED = "a newer request came before its frame"
_LIVE = 60_000_000_000  # ns between the stamps of a live stream and the system's clock, at most


class Outcome(NamedTuple):
    """What became of a request: the box (4,) xywh in RGB pixels where the target is now, or None and why it was
    refused. A release or a reset has neither."""

    box: np.ndarray | None = None
    refused: str = ""


class Due(NamedTuple):
    """What the worker has to do before it tracks a pair: release the target, or start another on the first of
    `since`, or on the pair where that is empty; without a target, follow the present one through `since`."""

    target: Target | None = None
    since: tuple[Pair, ...] = ()
    release: bool = False


class _Request:
    """A target, or None for a release, on its way to its frame."""

    def __init__(self, target: Target | None, stamp: int | None, answer: Callable[[Outcome], None] | None) -> None:
        self.target, self.stamp = target, stamp
        self.reset = False  # a release after which the initial target is due again
        self.asked = time.monotonic()
        self.frame: tuple[int, Pair] | None = None  # kept until the worker gets to it, however slow that is
        self._answer = answer

    def answer(self, outcome: Outcome) -> None:
        if self._answer:
            self._answer(outcome)


class TargetRequests:
    """Requests for a target meet their frames; the newest request counts, and each is answered once.

    Callbacks call `request`, `offer` and `expire`; the worker, with every pair it takes, `due` and `settle`. Answers
    come from either, with no lock held.

    A request without a stamp means the next frame, one with a stamp the first frame from there on. What is not
    usable is refused, which never touches the target that is being followed.

    Args:
        history: the frames that a stamp may mean.
        report: called with why a request was refused.
        initial: a target to be started on the first frame, and once more when a recording starts over.
        taken: called when it was started.
    """

    def __init__(
        self,
        history: History,
        report: Callable[[str], None],
        initial: Target | None = None,
        taken: Callable[[], None] = lambda: None,
    ) -> None:
        self._history = history
        self._report = report
        self._initial = initial
        self._taken = taken
        self._initial_stamp: int | None = None  # of its frame, while it is the target that is followed
        self._waiting = self._first()
        self._started: _Request | None = None  # given to the worker
        self._reached: tuple[int, Pair] | None = None  # by the worker, as long as it catches up
        self._steps = 0  # that it took for that the last time
        self._lock = threading.Lock()

    def request(
        self, target: Target | None, stamp: int | None = None, answer: Callable[[Outcome], None] | None = None
    ) -> None:
        """Ask for a target, None = release the one there is.

        Args:
            stamp: ns, of the frame that the box was drawn on; None = the next one.
            answer: called once with what became of the request.
        """
        request = _Request(target, None if target is None else stamp, answer)
        with self._lock:
            outranked = self._waiting is not None and target is not None and target.given is Given.DETECTION
            refusal = "" if outranked else _unusable(target) or self._meet(request)
            replaced = None if refusal or outranked else self._waiting
            if not refusal and not outranked:
                self._waiting = request
        if outranked:
            request.answer(Outcome(refused="another request is on its way"))
        elif refusal:
            self._refuse(request, refusal)
        elif replaced:
            replaced.answer(Outcome(refused=_REPLACED))

    def reset(self, initial: Target | None, answer: Callable[[Outcome], None] | None = None) -> None:
        """Release the target, forget all frames, and start `initial` on the first frame after that, if there is one."""
        request = _Request(None, None, answer)
        request.reset = True
        with self._lock:
            self._history.clear()
            self._initial, replaced, self._waiting = initial, self._waiting, request
        if replaced:
            replaced.answer(Outcome(refused=_REPLACED))

    def offer(self, pair: Pair) -> int:
        """Take the next pair on its way to the worker; returns its number."""
        with self._lock:
            if pair.restarted:
                self._restart(pair)
            number = self._history.add(pair)
            request, refusal = self._waiting, ""
            if request and not request.frame:
                if request.stamp is None:
                    request.frame = number, pair
                else:
                    refusal = self._meet(request)
            if refusal:
                self._waiting = None
        if request and refusal:
            self._refuse(request, refusal)
        self.expire()
        return number

    def expire(self) -> None:
        """Refuse what has waited for too long; to be called now and then where no frames come."""
        with self._lock:
            request = self._waiting
            if not request or request.frame or not self._expired(request):
                return
            self._waiting = None
        self._refuse(request, f"no usable image came for it within {MAX_WAIT:g} s: send it again once images come")

    def due(self, number: int, pair: Pair) -> Due:
        """What is to be done before this pair, which has this number, is tracked."""
        with self._lock:
            request = self._waiting
            if not request or not request.frame or request.frame[0] > number:
                return Due(since=self._missed(number, pair))
            self._waiting, self._started = None, request
            first, at = request.frame
            between = self._history.between(first + 1, number)
        if request.target is None:
            self._end(Outcome())
            if request.reset:
                self._begin_anew()
            return Due(release=True)
        since = () if first == number else _spread([at, *between], pair)
        self._reached, self._steps = (number, pair) if since else None, len(since)
        return Due(request.target, since)

    def _missed(self, number: int, pair: Pair) -> tuple[Pair, ...]:
        """Of what came while the worker caught up with a target, the frames to catch up through before `pair`.

        They are fewer each time; where not, the worker is too slow for it.
        """
        if not self._reached:
            return ()
        start, reached = self._reached
        missed = _spread([reached, *self._history.between(start + 1, number)], pair)[1:]
        self._reached = (number, pair) if 0 < len(missed) < self._steps else None
        self._steps = len(missed)
        return missed if self._reached else ()

    def settle(self, track: Track | None) -> None:
        """The worker has tracked the pair: the request that was due is answered, or waits for a better image."""
        request = self._started
        if not request:
            return
        if track and track.started:
            self._end(Outcome(track.box))
            return
        with self._lock:
            self._started = self._reached = None
            again = not self._waiting and not self._expired(request)
            if again:
                self._waiting = request
        if not again:
            self._refuse(request, "no usable image came with it")

    def refuse(self, reason: str, quiet: bool = False) -> None:
        """The worker could not start the target that was due; a quiet refusal is for whoever asked alone."""
        request = self._started
        if request:
            self._started = self._reached = None
            if quiet:
                request.answer(Outcome(refused=reason))
            else:
                self._refuse(request, reason)

    def close(self) -> bool:
        """No frames come any more, for now; whether a release was waiting, which is then still to be done."""
        with self._lock:
            self._history.clear()
            request = self._waiting
            self._waiting = self._first() if request and self._is_initial(request) else None
        if not request:
            return False
        request.answer(Outcome() if request.target is None else Outcome(refused="tracking was switched off"))
        return request.target is None

    def _begin_anew(self) -> None:
        with self._lock:
            self._waiting = self._waiting or self._first()

    def _first(self) -> _Request | None:
        return _Request(self._initial, None, None) if self._initial else None

    def _is_initial(self, request: _Request) -> bool:
        return request.target is not None and request.target is self._initial

    def _expired(self, request: _Request) -> bool:
        lasting = request.target is None or self._is_initial(request)
        return not lasting and time.monotonic() - request.asked > MAX_WAIT

    def _meet(self, request: _Request) -> str:
        """Find the frame that a stamped request means, where it has come; why there will be none, else empty."""
        newest = self._history.newest
        if request.stamp is None or newest is None:
            return ""
        ahead = (request.stamp - newest.stamp) * 1e-9
        if ahead > MAX_AHEAD:
            return (
                f"its stamp {request.stamp * 1e-9:.3f} s is {ahead:.1f} s ahead of the newest image: send the stamp of "
                "the image that the box was drawn on, or stamp 0 for the next image"
            )
        request.frame = self._history.find(request.stamp)
        if ahead > 0 or request.frame:
            return ""
        return (
            f"its stamp {request.stamp * 1e-9:.3f} s is {-ahead:.1f} s behind the newest image, and the last "
            f"{self._history.seconds:.1f} s ({self._history.bytes / 2**20:.0f} MiB) are kept: send it sooner, raise "
            "parameter 'target_history' or 'target_history_mb', or send stamp 0 for the next image"
        )

    def _restart(self, pair: Pair) -> None:
        """The stamps jumped back: old frames are no longer meant, and a recording's first frame may be back."""
        self._history.clear()
        if self._waiting:
            if self._is_initial(self._waiting):
                self._waiting = self._first()
            return
        first = self._initial_stamp
        live = abs(time.time_ns() - pair.stamp) < _LIVE  # then it is the camera's clock that was set
        if first is not None and pair.stamp <= first + _SAME_START and not live:
            self._waiting = self._first()

    def _end(self, outcome: Outcome) -> None:
        request, self._started = self._started, None
        if not request:
            return
        self._initial_stamp = None
        if self._is_initial(request) and request.frame:
            self._initial_stamp = request.frame[1].stamp
            self._taken()
        request.answer(outcome)

    def _refuse(self, request: _Request, reason: str) -> None:
        name = request.target.name if request.target else ""
        self._report(f"target '{name}': {reason}" if name else reason)
        request.answer(Outcome(refused=reason))


def _unusable(target: Target | None) -> str:
    """What is wrong with a box whatever the image; the rest is the tracker's to say."""
    if target is None:
        return ""
    box = np.asarray(target.box, float)
    if target.given is Given.POINT:
        box = box + (0, 0, 1, 1)
    if box.shape == (4,) and np.isfinite(box).all() and np.abs(box).max() <= MAX_COORDINATE and min(box[2:]) > 0:
        return ""
    return (
        f"box {box.tolist()} (x, y, width, height): expected four finite numbers up to {MAX_COORDINATE:g} with width "
        "and height above 0"
    )


def _spread(pairs: list[Pair], newest: Pair) -> tuple[Pair, ...]:
    """Those to be tracked before `newest`: the first, and evenly as many as `CATCH_UP_INTERVAL` asks for."""
    seconds = (newest.stamp - pairs[0].stamp) * 1e-9
    count = min(len(pairs), max(math.ceil(seconds / CATCH_UP_INTERVAL), 1), CATCH_UP_FRAMES)
    return tuple(pairs[i * len(pairs) // count] for i in range(count))
