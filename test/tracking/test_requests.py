"""Requests for a target: which frame they meet, what is refused, and that each is answered once."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest

from cmdtrack_ros.streams.mailbox import History
from cmdtrack_ros.streams.pairing import Pair
from cmdtrack_ros.track import Track
from cmdtrack_ros.tracking import requests
from cmdtrack_ros.tracking.pipeline import DETECTION_LEFT
from cmdtrack_ros.tracking.requests import CATCH_UP_FRAMES, Due, Outcome, TargetRequests
from cmdtrack_ros.tracking.targets import Given, Target

STEP = 33_000_000
START = 1_600_000_000_000_000_000
BOX = np.array([10.0, 20.0, 30.0, 40.0])
NAMES = ("", "1", "cat", "dog")


def pair(i: int, start: int = START, **changes) -> Pair:
    return Pair(f"rgb {i}", None, start + i * STEP, **changes)


def started(name: str = "dog") -> list[Track]:
    return [Track(BOX, 1.0, target_id=name, started=True)]


class Desk:
    """Requests, and what is said of them."""

    def __init__(self, initial: Target | None = None, seconds: float = 5.0, max_targets: int = 1) -> None:
        self.reports: list[str] = []
        self.outcomes: list[Outcome] = []
        self.taken = 0
        self.pairs: list[Pair] = []
        history = History(seconds, 10**9)
        self.requests = TargetRequests(history, self.reports.append, initial, self.take, max_targets)

    def take(self) -> None:
        self.taken += 1

    def ask(self, name: str = "dog", box: object = BOX, stamp: int | None = None) -> None:
        self.requests.request(Target(np.array(box), name), stamp, self.outcomes.append)

    def offer(self, *frames: int, start: int = START, restarted: bool = False) -> int:
        """Offer frames; returns the number of the last one."""
        for i in frames:
            self.pairs.append(pair(i, start, restarted=restarted))
            number = self.requests.offer(self.pairs[-1])
        return number

    def due(self, number: int, *names: str) -> Due:
        return self.requests.due(number, self.pairs[number], names)

    def begins(self, number: int) -> Target:
        """The only target that is to be started with a pair."""
        due = self.due(number)
        assert len(due.targets) == 1 and not due.released and not due.since
        return due.targets[0]

    def refused(self) -> str:
        """The reason of the only request, which was refused, and reported by its name."""
        assert [outcome.box is None for outcome in self.outcomes] == [True]
        assert self.reports == [f"target 'dog': {self.outcomes[0].refused}"]
        return self.outcomes[0].refused


def test_request_without_stamp_means_the_next_frame() -> None:
    desk = Desk()
    desk.offer(0)
    desk.ask()
    assert desk.due(0) == Due()
    desk.offer(1)
    target = desk.begins(1)
    assert target.name == "dog" and not target.since
    assert desk.due(1) == Due(), "once"
    desk.requests.settle(started())
    assert [outcome.box.tolist() for outcome in desk.outcomes] == [BOX.tolist()] and not desk.reports


def test_frame_that_the_worker_missed_is_caught_up_from() -> None:
    desk = Desk(seconds=0.0)
    desk.ask()
    desk.offer(0, 1, 2)
    assert [p.rgb for p in desk.begins(2).since] == ["rgb 0"], "kept though the history has lost it"


@pytest.mark.parametrize("late", [0, 1], ids=["its stamp", "between two"])
def test_request_with_a_stamp_means_the_frame_from_there_on(late: int) -> None:
    desk = Desk()
    desk.offer(*range(6))
    desk.ask(stamp=pair(3).stamp - late)
    desk.offer(6)
    assert desk.due(2) == Due(), "the worker is not there yet"
    assert [p.rgb for p in desk.begins(6).since] == ["rgb 3"]


@pytest.mark.parametrize("frames, steps", [(30, 10), (140, 47), (300, CATCH_UP_FRAMES)])
def test_catching_up_goes_in_even_steps(frames: int, steps: int) -> None:
    desk = Desk(seconds=60.0)
    desk.offer(*range(frames + 1))
    desk.ask(stamp=pair(0).stamp)
    since = desk.begins(frames).since
    assert len(since) == steps and since[0].rgb == "rgb 0"
    gaps = np.diff([p.stamp for p in since] + [pair(frames).stamp]) / STEP
    assert gaps.max() - gaps.min() <= 1


def test_frames_that_come_meanwhile_are_caught_up_too() -> None:
    desk = Desk()
    desk.offer(*range(91))
    desk.ask(stamp=pair(0).stamp)
    assert len(desk.begins(90).since) == 30
    desk.requests.settle(started())
    desk.offer(*range(91, 121))
    since = desk.due(120).since
    assert len(since) == 9 and since[0].rgb == "rgb 93"
    desk.offer(*range(121, 126))
    assert [p.rgb for p in desk.due(125).since] == ["rgb 122"]
    desk.offer(126, 127, 128)
    assert desk.due(128) == Due(), "close enough"
    desk.offer(*range(129, 160))
    assert desk.due(159) == Due(), "a pause later is another matter"


def test_machine_that_falls_behind_gives_up_catching_up() -> None:
    desk = Desk()
    desk.offer(*range(31))
    desk.ask(stamp=pair(0).stamp)
    assert len(desk.begins(30).since) == 10
    desk.requests.settle(started())
    desk.offer(*range(31, 80))
    assert desk.due(79) == Due()


def test_stamp_a_bit_ahead_waits_for_its_frame() -> None:
    desk = Desk()
    desk.offer(0)
    desk.ask(stamp=pair(2).stamp)
    desk.offer(1)
    assert desk.due(1) == Due()
    desk.offer(2)
    assert desk.begins(2).name == "dog"


def test_stamp_far_ahead_is_refused() -> None:
    desk = Desk()
    desk.offer(0)
    desk.ask(stamp=START + 3_200_000_000)
    assert "is 3.2 s ahead of the newest image" in desk.refused()


@pytest.mark.parametrize("kind", ["stamp ahead", "no frames"])
def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    desk = Desk()
    if kind == "stamp ahead":
        desk.offer(0)
        desk.ask(stamp=pair(9).stamp)
    else:
        desk.ask()
    desk.requests.expire()
    assert not desk.outcomes
    now = time.monotonic()
    monkeypatch.setattr(requests.time, "monotonic", lambda: now + requests.MAX_WAIT + 0.1)
    desk.requests.expire()
    assert "within 5 s" in desk.refused()
    assert desk.due(desk.offer(9)) == Due()


@pytest.mark.parametrize("stamp", [START - 1, 1, -1_000_000_000])
def test_stamp_that_is_no_longer_kept_is_refused(stamp: int) -> None:
    desk = Desk(seconds=1.0)
    desk.offer(*range(60))
    desk.ask(stamp=stamp)
    assert "behind the newest image" in desk.refused() and "'target_history'" in desk.refused()


def test_stamp_before_the_first_frame_of_all_is_refused_when_it_comes() -> None:
    desk = Desk()
    desk.ask(stamp=START - 1)
    assert not desk.outcomes
    desk.offer(0)
    assert "behind the newest image" in desk.refused()


@pytest.mark.parametrize(
    "box",
    [(0, 0, -1, 5), (0, 0, 0, 5), (0, 0, np.nan, 5), (np.inf, 0, 5, 5), (0, 0, 2e5, 2e5), (-1e9, 0, 5, 5), (1, 2, 3)],
)
def test_box_that_no_image_can_hold_is_refused_at_once(box: tuple) -> None:
    desk = Desk()
    desk.requests.request(Target(BOX, "good"))
    desk.ask(box=box)
    assert str(float(box[-1])) in desk.refused()
    desk.offer(0)
    assert desk.begins(0).name == "good", "the one that waits is left alone"


def test_what_the_tracker_refuses_is_answered() -> None:
    desk = Desk()
    desk.ask()
    desk.offer(0)
    desk.due(0)
    desk.requests.refuse("too small")
    desk.requests.settle([Track(BOX, 1.0, target_id="dog")])
    assert desk.refused() == "too small"


def test_request_waits_for_a_usable_image() -> None:
    desk = Desk()
    desk.ask()
    desk.offer(0, 1)
    assert desk.begins(0)
    desk.requests.settle([])
    target = desk.begins(1)
    assert target.name == "dog" and [p.rgb for p in target.since] == ["rgb 0"]
    desk.requests.settle(started())
    assert desk.outcomes[0].box is not None


def test_request_gives_up_where_no_image_is_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk()
    desk.ask()
    desk.offer(0)
    desk.due(0)
    now = time.monotonic()
    monkeypatch.setattr(requests.time, "monotonic", lambda: now + requests.MAX_WAIT + 0.1)
    desk.requests.settle([])
    assert "no usable image" in desk.refused()


def test_newer_request_replaces_the_one_that_waits() -> None:
    desk = Desk()
    desk.ask("cat")
    desk.ask("dog")
    desk.offer(0)
    assert desk.begins(0).name == "dog"
    assert [outcome.refused for outcome in desk.outcomes] == ["a newer request came before its frame"]
    assert not desk.reports, "a detector that names its target with every frame is no fault"


def test_release() -> None:
    desk = Desk()
    desk.requests.request(None, START + 10**12, desk.outcomes.append)
    desk.offer(0)
    assert desk.due(0) == Due(released=("",)) and desk.outcomes == [Outcome()]
    desk.requests.request(None, None, desk.outcomes.append)
    assert desk.requests.close() == ("",), "still to be done"
    assert desk.outcomes == [Outcome()] * 2


def test_closing_answers_the_one_that_waits() -> None:
    desk = Desk()
    desk.offer(0)
    desk.ask()
    assert not desk.requests.close()
    assert [outcome.refused for outcome in desk.outcomes] == ["tracking was switched off"] and not desk.reports
    desk.offer(5)
    assert desk.due(1) == Due()


def test_several_targets_are_known_by_their_names() -> None:
    desk = Desk(max_targets=3)
    for name in ("cat", "dog", "cat", "", ""):
        desk.ask(name)
    assert [outcome.refused for outcome in desk.outcomes] == ["a newer request came before its frame"], (
        "the first cat's"
    )
    desk.offer(0)
    assert [target.name for target in desk.due(0, "dog", "2").targets] == ["dog", "cat"]
    assert len(desk.reports) == 2, "two without a name, for which there is no room"
    for report in desk.reports:
        assert "3 targets are followed already ('dog', '2', 'cat')" in report and "'max_targets'" in report
    desk.requests.settle(started("cat") + started("dog"))
    assert {outcome.name for outcome in desk.outcomes if outcome.box is not None} == {"cat", "dog"}
    desk.ask("")
    desk.offer(1)
    assert desk.begins(1).name == "1", "the next free one"
    desk.requests.settle(started("1"))
    assert desk.outcomes[-1].name == "1", "which the answer tells"


def test_one_of_several_is_released() -> None:
    desk = Desk(max_targets=3)
    for name in ("dog", "bird", "cat"):
        desk.requests.request(None, None, desk.outcomes.append, name)
    desk.offer(0)
    desk.ask("fish")
    desk.offer(1)
    due = desk.due(1, "dog", "cat", "cow")
    assert due.released == ("dog", "cat") and [target.name for target in due.targets] == ["fish"], "it makes room"
    assert [outcome.refused for outcome in desk.outcomes] == [
        "",
        "there is no such target to release; there are 'cat', 'cow'",
        "",
    ]
    desk.requests.request(None)
    desk.offer(2)
    assert desk.due(2, "cow", "fish").released == ("",)


def test_a_target_on_its_way_is_answered_when_it_is_there_or_given_up() -> None:
    desk = Desk(max_targets=3)
    desk.offer(*range(31))
    desk.ask("dog", stamp=pair(0).stamp)
    assert len(desk.begins(30).since) == 10
    desk.requests.settle([Track(BOX, 0.5, target_id="cat")], coming=("dog",))
    assert not desk.outcomes
    desk.offer(*range(31, 50))
    assert desk.due(49, "cat", "dog") == Due(), "who catches up beside others misses nothing"
    desk.requests.settle([Track(BOX, 0.5, target_id="cat"), *started("dog")])
    assert [outcome.refused for outcome in desk.outcomes] == [""]
    for ended in ("refused", "released", "named anew", "closed"):
        desk.outcomes.clear()
        desk.ask("dog", stamp=pair(40).stamp)
        number = desk.offer(len(desk.pairs))
        desk.due(number, "cat")
        desk.requests.settle([Track(BOX, 0.5, target_id="cat")], coming=("dog",))
        if ended == "refused":
            desk.requests.settle([], {"dog": "no such box"})
        elif ended == "closed":
            desk.requests.close()
        else:
            desk.requests.request(None if ended == "released" else Target(BOX, "dog"), name="dog")
            number = desk.offer(len(desk.pairs))
            desk.due(number, "cat", "dog")
        assert len(desk.outcomes) == 1 and desk.outcomes[0].refused, ended


def test_requests_that_wait_are_bounded() -> None:
    desk = Desk(max_targets=3)
    for _ in range(requests.MAX_WAITING + 5):
        desk.ask("")
    assert len(desk.outcomes) == 5


INITIAL = Target(BOX, "initial")


def follow_initial(desk: Desk, frame: int = 0, start: int = START) -> int:
    """The initial target is started on a frame; returns that frame's number."""
    number = desk.offer(frame, start=start)
    assert desk.begins(number).name == "initial"
    desk.requests.settle(started("initial"))
    return number


def test_initial_target_is_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(INITIAL)
    assert not desk.requests.close()
    now = time.monotonic()
    monkeypatch.setattr(requests.time, "monotonic", lambda: now + 3600)
    desk.requests.expire()
    follow_initial(desk)
    assert desk.taken == 1
    desk.requests.close()
    desk.offer(1, 2)
    assert desk.due(2) == Due(), "not on another activation"


def test_initial_target_waits_for_a_usable_image() -> None:
    desk = Desk(INITIAL)
    desk.offer(0)
    assert desk.begins(0).name == "initial"
    desk.requests.settle([])
    assert not desk.taken
    desk.offer(1)
    assert desk.begins(1).name == "initial"


def test_initial_target_is_started_again_where_a_recording_starts_over() -> None:
    desk = Desk(INITIAL)
    follow_initial(desk, 20)
    desk.offer(*range(21, 60))
    number = desk.offer(0, restarted=True)
    assert desk.due(number - 1) == Due(), "not on what is left of the first pass"
    assert desk.begins(number).name == "initial" and desk.due(number) == Due()


@pytest.mark.parametrize("case", ["to the middle", "live", "another target", "released"])
def test_initial_target_is_not_started_again_elsewhere(case: str) -> None:
    desk = Desk(INITIAL)
    start = time.time_ns() if case == "live" else START
    number = follow_initial(desk, 0, start)
    if case in ("another target", "released"):
        desk.requests.request(Target(BOX, "dog") if case == "another target" else None)
        number = desk.offer(1, start=start)
        desk.due(number)
        desk.requests.settle(started())
    back = 40 if case == "to the middle" else 0
    number = desk.offer(back, start=start, restarted=True)
    assert desk.due(number) == Due()


def test_every_request_is_answered_once() -> None:
    """Any order of requests, frames and results, with a worker that is late."""
    for seed in range(300):
        rng = random.Random(seed)
        desk = Desk(seconds=rng.choice((0.1, 5.0)), max_targets=rng.choice((1, 3)))
        frame, asked, number, worker = 0, 0, -1, -1
        for _ in range(60):
            match rng.randrange(6):
                case 0 | 1:
                    frame += rng.randrange(1, 4)
                    number = desk.offer(frame, restarted=rng.random() < 0.05)
                case 2 | 3 if worker < number:
                    worker = rng.randrange(worker + 1, number + 1)
                    desk.due(worker, *rng.sample(NAMES, rng.randrange(3)))
                    if rng.random() < 0.3:
                        desk.requests.refuse("no")
                    refused = dict.fromkeys(rng.sample(NAMES, 1), "no") if rng.random() < 0.2 else None
                    found = rng.choice(([], started(rng.choice(NAMES)), [Track(BOX, 0.5)]))
                    desk.requests.settle(found, refused, rng.sample(NAMES, rng.randrange(2)))
                case 4:
                    name = rng.choice(NAMES)
                    target = rng.choice((None, Target(BOX, name), Target(-BOX, name)))
                    stamp = rng.choice((None, pair(frame + rng.randrange(-200, 60)).stamp))
                    desk.requests.request(target, stamp, desk.outcomes.append, name)
                    asked += 1
                case 5:
                    desk.requests.expire()
        desk.requests.close()
        assert len(desk.outcomes) == asked, seed


def test_detection_replaces_no_request_and_is_refused_quietly() -> None:
    desk = Desk()
    desk.ask("dog")
    detection = Target(BOX, "cat", given=Given.DETECTION)
    desk.requests.request(detection, None, desk.outcomes.append)
    assert [outcome.refused for outcome in desk.outcomes] == ["another request is on its way"]
    assert desk.begins(desk.offer(0)).name == "dog"
    desk.requests.request(detection, None, desk.outcomes.append)
    assert len(desk.outcomes) == 2, "nor one that the worker has"
    desk.requests.settle(started())
    desk.requests.request(detection, None, desk.outcomes.append)
    assert desk.begins(desk.offer(1)) == detection
    desk.requests.settle([], {"cat": DETECTION_LEFT})
    assert desk.outcomes[-1].refused == DETECTION_LEFT and desk.reports == []


def test_point_needs_no_size() -> None:
    desk = Desk()
    desk.requests.request(Target(np.array([5.0, 6.0, 0.0, 0.0]), given=Given.POINT), None, desk.outcomes.append)
    assert desk.outcomes == [] and desk.begins(desk.offer(0)).given is Given.POINT
    desk.requests.request(Target(np.array([np.nan, 6.0, 0.0, 0.0]), given=Given.POINT), None, desk.outcomes.append)
    assert "finite" in desk.outcomes[-1].refused


@pytest.mark.parametrize("initial", [None, Target(BOX, "initial")])
def test_reset_releases_forgets_and_begins_anew(initial: Target | None) -> None:
    desk = Desk()
    number = desk.offer(0, 1, 2)
    desk.ask("waiting")
    desk.requests.reset(initial, desk.outcomes.append)
    assert "newer request" in desk.outcomes[0].refused
    assert desk.due(number) == Due()
    assert desk.due(desk.offer(3)).released == ("",) and desk.outcomes[1] == Outcome()
    assert desk.due(desk.offer(4)).targets == (() if initial is None else (initial,))
    desk.ask("late", stamp=START)
    assert "behind the newest image" in desk.outcomes[2].refused, "frames from before are forgotten"
