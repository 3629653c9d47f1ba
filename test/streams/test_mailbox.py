"""The mailbox between callbacks and worker."""

from __future__ import annotations

import threading

from cmdtrack_ros.streams.mailbox import REPLAY_LIMIT, Mailbox


def test_mailbox_keeps_the_newest_and_counts_the_rest() -> None:
    mailbox: Mailbox[str] = Mailbox(history=3)
    for i in range(5):
        mailbox.put(10 * i, f"frame {i}")
    assert mailbox.take() == "frame 4" and mailbox.dropped == 4
    assert mailbox.since(20) == [(20, "frame 2"), (30, "frame 3"), (40, "frame 4")]
    assert mailbox.since(25) == [(30, "frame 3"), (40, "frame 4")], "between two frames: the next one"
    assert mailbox.since(19) == [] and mailbox.since(41) == []
    mailbox.forget()
    assert mailbox.since(20) == []


def test_mailbox_of_a_replay_keeps_all() -> None:
    mailbox: Mailbox[int] = Mailbox(history=1, keep_all=True)
    for i in range(REPLAY_LIMIT + 2):
        mailbox.put(i, i)
    assert [mailbox.take() for _ in range(REPLAY_LIMIT)] == list(range(2, REPLAY_LIMIT + 2))
    assert mailbox.dropped == 2


def test_closing_the_mailbox_releases_its_worker() -> None:
    mailbox: Mailbox[int] = Mailbox(history=1)
    got: list[int | None] = []
    worker = threading.Thread(target=lambda: got.append(mailbox.take()))
    worker.start()
    mailbox.close()
    worker.join(2)
    assert not worker.is_alive() and got == [None]
