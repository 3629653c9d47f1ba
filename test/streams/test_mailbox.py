"""The mailbox between callbacks and worker, and what is kept of the past."""

from __future__ import annotations

import threading
from types import SimpleNamespace

from cmdtrack_ros.streams.mailbox import REPLAY_LIMIT, History, Mailbox
from cmdtrack_ros.streams.pairing import Pair

SECOND = 1_000_000_000


def image(size: int) -> SimpleNamespace:
    return SimpleNamespace(data=bytes(size))


def pair(stamp: float, rgb: int = 0, aux: SimpleNamespace | None = None) -> Pair:
    return Pair(image(rgb), aux, round(stamp * SECOND))


def test_mailbox_keeps_the_newest_and_counts_the_rest() -> None:
    mailbox: Mailbox[str] = Mailbox()
    for i in range(5):
        mailbox.put(f"frame {i}")
    assert mailbox.take() == "frame 4" and mailbox.dropped == 4


def test_mailbox_of_a_replay_keeps_all() -> None:
    mailbox: Mailbox[int] = Mailbox(keep_all=True)
    for i in range(REPLAY_LIMIT + 2):
        mailbox.put(i)
    assert [mailbox.take() for _ in range(REPLAY_LIMIT)] == list(range(2, REPLAY_LIMIT + 2))
    assert mailbox.dropped == 2


def test_closing_the_mailbox_releases_its_worker() -> None:
    mailbox: Mailbox[int] = Mailbox()
    got: list[int | None] = []
    worker = threading.Thread(target=lambda: got.append(mailbox.take()))
    worker.start()
    mailbox.close()
    worker.join(60)
    assert not worker.is_alive() and got == [None]


def test_history_finds_frames_by_stamp() -> None:
    history = History(seconds=2.0, max_bytes=1000)
    pairs = [pair(stamp) for stamp in (10, 11, 12)]
    assert [history.add(p) for p in pairs] == [0, 1, 2]
    assert history.newest is pairs[2] and history.seconds == 2.0
    assert history.find(11 * SECOND) == (1, pairs[1])
    assert history.find(11 * SECOND + 1) == (2, pairs[2]), "between two frames: the next one"
    assert history.find(10 * SECOND - 1) is None and history.find(12 * SECOND + 1) is None
    assert history.between(1, 2) == [pairs[1]] and history.between(0, 9) == pairs


def test_history_is_bounded_in_seconds() -> None:
    history = History(seconds=2.0, max_bytes=1000)
    for stamp in (10, 11, 12, 13):
        history.add(pair(stamp))
    assert len(history) == 3 and history.find(10 * SECOND) is None
    assert history.find(11 * SECOND)[0] == 1, "numbers go on"
    history.clear()
    assert len(history) == 0 and history.bytes == 0 and history.newest is None
    assert history.add(pair(5)) == 4
    assert history.find(5 * SECOND)[0] == 4


def test_history_is_bounded_in_bytes_and_keeps_the_newest() -> None:
    history = History(seconds=100.0, max_bytes=1000)
    shared = image(100)
    for stamp in range(4):
        history.add(pair(stamp, 200, shared))
    assert len(history) == 4 and history.bytes == 900, "one aux image of four pairs counts once"
    history.add(pair(4, 200))
    assert len(history) == 4 and history.bytes == 800
    history.add(pair(5, 5000))
    assert len(history) == 1 and history.newest.stamp == 5 * SECOND
    history.add(pair(6, 10))
    assert len(history) == 1 and history.bytes == 10
