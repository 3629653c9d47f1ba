"""The one door for targets, whoever names them: each request waits for its frame, and is told what became of it."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cmdtrack_ros.streams.mailbox import History
from cmdtrack_ros.streams.pairing import Pair
from cmdtrack_ros.track import Track
from cmdtrack_ros.tracking.pipeline import CATCH_UP_INTERVAL, DETECTION_LEFT
from cmdtrack_ros.tracking.targets import Given, Target

MAX_AHEAD = 1.0
"""Seconds that a request's stamp may be ahead of the newest frame."""
MAX_WAIT = 5.0
"""Seconds that a request waits for its frame: later, the box says nothing about where the target is."""
CATCH_UP_FRAMES = 50
"""The most frames by which a target is followed from its own frame to the newest, whatever `target_history`."""
MAX_WAITING = 64
"""Requests that may wait for their frames at once; of more the oldest is refused."""
MAX_COORDINATE = 1e5
_SAME_START = 1_000_000_000  # ns; a recording that starts over may have lost its first frames the first time
_REPLACED = "a newer request came before its frame"
_LIVE = 60_000_000_000  # ns between the stamps of a live stream and the system's clock, at most


class Outcome(NamedTuple):
    """What became of a request: the box (4,) xywh in RGB pixels where the target is now, or None and why it was
    refused; a release or a reset has neither. name: that the target has, asked for or given."""

    box: np.ndarray | None = None
    refused: str = ""
    name: str = ""


class Due(NamedTuple):
    """What the worker has to do before it tracks a pair: release targets (empty = all), start others, each on the first
    of its `since`, or on the pair where that is empty; and follow those in the present through the `since` of all."""

    released: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()
    since: tuple[Pair, ...] = ()


class _Request:
    """A target, or None for the release of the one of that name, on its way to its frame."""

    def __init__(
        self, target: Target | None, stamp: int | None, answer: Callable[[Outcome], None] | None, name: str = ""
    ) -> None:
        self.target, self.stamp = target, stamp
        self.name = target.name if target else name  # of a target without one: given when it is due
        self.reset = False  # a release after which the initial target is due again
        self.asked = time.monotonic()
        self.frame: tuple[int, Pair] | None = None  # kept until the worker gets to it, however slow that is
        self.given: tuple[int, Pair] | None = None  # to the worker, with this pair
        self.steps = 0  # from its frame to that one
        self._answer = answer

    def answer(self, outcome: Outcome) -> None:
        if self._answer:
            self._answer(outcome)


class TargetRequests:
    """Requests for targets meet their frames; of those for one target the newest counts, and each is answered once.

    Callbacks call `request`, `offer` and `expire`; the worker, with every pair it takes, `due` and `settle`. Answers
    come from either, with no lock held.

    A request without a stamp means the next frame, one with a stamp the first frame from there on. What is not
    usable is refused, which never touches the targets that are being followed.

    Where there may be several targets, one is known by its name: a box of that name moves it, one of another name adds
    a target, as long as there is room, and one without a name adds one with the next free number for its name. Where
    there is one at most, any box moves it, and any release means it.

    Args:
        history: the frames that a stamp may mean.
        max_targets: at once.
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
        max_targets: int = 1,
    ) -> None:
        self._history = history
        self._max_targets = max_targets
        self._report = report
        self._initial = initial
        self._taken = taken
        self._initial_stamp: int | None = None  # of its frame, while it is the target that is followed
        self._waiting: list[_Request] = self._first()  # oldest first
        self._started: list[_Request] = []  # given to the worker
        self._reached: tuple[int, Pair] | None = None  # by the worker, as long as it catches up
        self._steps = 0  # that it took for that the last time
        self._lock = threading.Lock()

    def request(
        self,
        target: Target | None,
        stamp: int | None = None,
        answer: Callable[[Outcome], None] | None = None,
        name: str = "",
    ) -> None:
        """Ask for a target, None = release the one of that name, all where it is empty.

        Args:
            stamp: ns, of the frame that the box was drawn on; None = the next one.
            answer: called once with what became of the request.
        """
        request = _Request(target, None if target is None else stamp, answer, name)
        replaced: list[_Request] = []
        with self._lock:
            outranked = _is_detection(request) and bool(self._waiting or self._started)
            refusal = "" if outranked else _unusable(target) or self._meet(request)
            if not refusal and not outranked:
                replaced = [other for other in self._waiting if self._replaces(request, other)]
                self._waiting = [other for other in self._waiting if other not in replaced]
                surplus = max(len(self._waiting) + 1 - MAX_WAITING, 0)
                replaced += self._waiting[:surplus]
                self._waiting = [*self._waiting[surplus:], request]
        if outranked:
            request.answer(Outcome(refused="another request is on its way"))
        elif refusal:
            self._refuse(request, refusal)
        for other in replaced:
            other.answer(Outcome(refused=_REPLACED))

    def reset(self, initial: Target | None, answer: Callable[[Outcome], None] | None = None) -> None:
        """Release all targets, forget all frames, and start `initial`, if any, on the first frame after that."""
        request = _Request(None, None, answer)
        request.reset = True
        with self._lock:
            self._history.clear()
            self._initial, replaced, self._waiting = initial, self._waiting, [request]
        for other in replaced:
            other.answer(Outcome(refused=_REPLACED))

    def offer(self, pair: Pair) -> int:
        """Take the next pair on its way to the worker; returns its number."""
        refused: list[tuple[_Request, str]] = []
        with self._lock:
            if pair.restarted:
                self._restart(pair)
            number = self._history.add(pair)
            for request in self._waiting:
                if request.frame:
                    continue
                if request.stamp is None:
                    request.frame = number, pair
                elif why := self._meet(request):
                    refused.append((request, why))
            self._drop(request for request, _ in refused)
        for request, why in refused:
            self._refuse(request, why)
        self.expire()
        return number

    def expire(self) -> None:
        """Refuse what has waited for too long; to be called now and then where no frames come."""
        with self._lock:
            late = [request for request in self._waiting if not request.frame and self._expired(request)]
            self._drop(late)
        for request in late:
            self._refuse(request, f"no usable image came for it within {MAX_WAIT:g} s: send it again once images come")

    def due(self, number: int, pair: Pair, names: Collection[str] = ()) -> Due:
        """What is to be done before this pair, which has this number, is tracked; ``names``: of the present targets."""
        with self._lock:
            ready = [request for request in self._waiting if request.frame and request.frame[0] <= number]
            self._drop(ready)
        if not ready:
            return Due(since=self._missed(number, pair))
        self._reached = None
        there = list(names)
        released = [request.name for request in ready if request.target is None and self._release(request, there)]
        targets = [self._begin(request, there, number, pair) for request in ready if request.target is not None]
        return Due(tuple(released), tuple(target for target in targets if target))

    def _release(self, request: _Request, there: list[str]) -> bool:
        """Answer a release, and take what it names off the list; whether there is something to be done."""
        every = not request.name or self._max_targets == 1
        if not every and request.name not in there:
            self._refuse(request, f"there is no such target to release; there are {_listed(there)}")
            return False
        with self._lock:
            given_up = [other for other in self._started if every or other.name == request.name]
            self._started = [other for other in self._started if other not in given_up]
        there[:] = [] if every else [name for name in there if name != request.name]
        for other in given_up:
            other.answer(Outcome(refused="it was released before it was caught up with"))
        self._ended(request, Outcome())
        if request.reset:
            self._begin_anew()
        return True

    def _begin_anew(self) -> None:
        with self._lock:
            first = self._first()
            if not any(self._replaces(other, one) for one in first for other in self._waiting):
                self._waiting = first + self._waiting

    def _begin(self, request: _Request, there: list[str], number: int, pair: Pair) -> Target | None:
        """The target to be started now; None where there is no room for it. It is put on the list."""
        target, frame = request.target, request.frame
        assert target and frame
        if self._max_targets > 1:
            request.name = target.name or next(name for name in map(str, itertools.count(1)) if name not in there)
            if request.name not in there and len(there) >= self._max_targets:
                self._refuse(
                    request,
                    f"{len(there)} targets are followed already ({_listed(there)}), which is parameter 'max_targets': "
                    "release one of them, send its target_id to move it, or raise 'max_targets' (which takes effect "
                    "when the node is configured)",
                )
                return None
            there += [request.name] if request.name not in there else []
        first, at = frame
        with self._lock:
            between = self._history.between(first + 1, number)
            replaced = [other for other in self._started if self._replaces(request, other)]
            self._started = [*(other for other in self._started if other not in replaced), request]
        for other in replaced:
            other.answer(Outcome(refused="a newer request came before it was caught up with"))
        since = () if first == number else _spread([at, *between], pair)
        request.given, request.steps = (number, pair), len(since)
        return target._replace(name=request.name, since=since)

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

    def settle(
        self, tracks: Sequence[Track], refused: Mapping[str, str] | None = None, coming: Collection[str] = ()
    ) -> None:
        """The worker has tracked the pair: what was due is answered, is on its way, or waits for a better image.

        Args:
            refused: name -> why the target was not taken.
            coming: names of those that are not in the present yet.
        """
        boxes = {track.target_id: track.box for track in tracks if track.started}
        refused = refused or {}
        for request in tuple(self._started):
            if request.name in coming and request.name not in boxes and request.name not in refused:
                request.steps = 0  # from now on with the pairs, of which it misses none
                continue
            with self._lock:
                if request not in self._started:  # answered when everything was closed
                    continue
                self._started.remove(request)
            if request.name in boxes:
                if request.steps and len(tracks) == 1:
                    self._reached, self._steps = request.given, request.steps
                self._ended(request, Outcome(boxes[request.name], name=request.name))
            elif request.name in refused:
                self._refuse(request, refused[request.name])
            else:
                self._wait_again(request)

    def _wait_again(self, request: _Request) -> None:
        with self._lock:
            again = not any(self._replaces(other, request) for other in self._waiting) and not self._expired(request)
            if again:
                self._waiting.insert(0, request)
        if not again:
            self._refuse(request, "no usable image came with it")

    def refuse(self, reason: str) -> None:
        """The worker could not start the targets that were due."""
        with self._lock:
            started, self._started = self._started, []
        self._reached = None
        for request in started:
            self._refuse(request, reason)

    def close(self) -> tuple[str, ...]:
        """No frames come any more, for now; returns releases that were waiting, which are then still to be done."""
        with self._lock:
            self._history.clear()
            waiting, started = self._waiting, self._started
            self._waiting = self._first() if any(map(self._is_initial, waiting + started)) else []
            self._started, self._reached = [], None
        for request in waiting + started:
            request.answer(Outcome() if request.target is None else Outcome(refused="tracking was switched off"))
        return tuple(request.name for request in waiting if request.target is None)

    def _first(self) -> list[_Request]:
        return [_Request(self._initial, None, None)] if self._initial else []

    def _drop(self, requests: Iterable[_Request]) -> None:
        gone = list(requests)
        self._waiting = [request for request in self._waiting if request not in gone]

    def _replaces(self, request: _Request, other: _Request) -> bool:
        """Whether the other one, which waits, is overtaken by a newer request: for the same target, as far as known."""
        if self._max_targets == 1 or (request.target is None and not request.name):
            return True
        return bool(request.name) and request.name == other.name

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
        others = [request for request in self._waiting if not self._is_initial(request)]
        if len(others) < len(self._waiting):
            self._waiting = others + self._first()
            return
        if others and self._max_targets == 1:
            return
        first = self._initial_stamp
        live = abs(time.time_ns() - pair.stamp) < _LIVE  # then it is the camera's clock that was set
        if first is not None and pair.stamp <= first + _SAME_START and not live:
            self._waiting += self._first()

    def _ended(self, request: _Request, outcome: Outcome) -> None:
        """What was asked for is done."""
        if self._initial and (self._max_targets == 1 or request.name in ("", self._initial.name)):
            self._initial_stamp = None
        if self._is_initial(request) and request.frame:
            self._initial_stamp = request.frame[1].stamp
            self._taken()
        request.answer(outcome)

    def _refuse(self, request: _Request, reason: str) -> None:
        if reason != DETECTION_LEFT:
            self._report(f"target '{request.name}': {reason}" if request.name else reason)
        request.answer(Outcome(refused=reason))


def _is_detection(request: _Request) -> bool:
    return request.target is not None and request.target.given is Given.DETECTION


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


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"


def _spread(pairs: list[Pair], newest: Pair) -> tuple[Pair, ...]:
    """Those to be tracked before `newest`: the first, and evenly as many as `CATCH_UP_INTERVAL` asks for."""
    seconds = (newest.stamp - pairs[0].stamp) * 1e-9
    count = min(len(pairs), max(math.ceil(seconds / CATCH_UP_INTERVAL), 1), CATCH_UP_FRAMES)
    return tuple(pairs[i * len(pairs) // count] for i in range(count))
