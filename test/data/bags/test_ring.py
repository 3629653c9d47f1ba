"""The last seconds of several topics: bounded in time and in memory."""

from __future__ import annotations

from cmdtrack_ros.data.bags import RawMessage, Ring


def filled(ring: Ring, seconds: float, size: int = 100) -> Ring:
    """Ten messages a second, of `size` bytes."""
    for number in range(round(seconds * 10) + 1):
        ring.add(RawMessage("/t", "k", number, bytes(size)), number / 10)
    return ring


def test_it_keeps_the_last_seconds_in_order() -> None:
    ring = filled(Ring(2.0, 10**6), 7.0)
    assert [message.time_ns for message in ring.messages()] == list(range(50, 71))
    assert ring.span() == 2.0 and ring.bytes == 21 * 100 and not ring.shortened


def test_it_keeps_fewer_where_memory_ends_and_says_so() -> None:
    ring = filled(Ring(2.0, 1000), 7.0)
    assert [message.time_ns for message in ring.messages()] == list(range(61, 71))
    assert ring.bytes == 1000 and ring.shortened
    for number in range(71, 120):
        ring.add(RawMessage("/t", "k", number, bytes(10)), number / 10)
    assert not ring.shortened and ring.span() == 2.0


def test_a_message_larger_than_the_memory_is_alone() -> None:
    ring = filled(Ring(2.0, 150), 1.0, size=1000)
    assert len(ring.messages()) == 1 and ring.bytes == 1000
