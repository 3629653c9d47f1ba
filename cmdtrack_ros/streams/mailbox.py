"""Between the callbacks, which only store, and the one worker, which tracks."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

from cmdtrack_ros.streams.pairing import Pair

T = TypeVar("T")

REPLAY_LIMIT = 256  # frames; a replay this far ahead of the network would fill the memory


class Mailbox(Generic[T]):
    """Holds the newest item until the worker takes it; `put` never blocks.

    Args:
        keep_all: hold up to `REPLAY_LIMIT` items instead of one, for a replay that must not drop any.
    """

    def __init__(self, keep_all: bool = False) -> None:
        self._waiting: deque[T] = deque(maxlen=REPLAY_LIMIT if keep_all else 1)
        self._changed = threading.Condition()
        self._closed = False
        self.dropped = 0

    def put(self, item: T) -> None:
        """Store `item`; counts the oldest one as dropped where there is no room."""
        with self._changed:
            self.dropped += len(self._waiting) == self._waiting.maxlen
            self._waiting.append(item)
            self._changed.notify()

    def take(self) -> T | None:
        """Wait for an item; None once the mailbox is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            return None if self._closed else self._waiting.popleft()

    def close(self) -> None:
        """Release the worker."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class History:
    """The pairs of the last seconds as they came, bounded in bytes: oldest out first. Not thread-safe.

    A pair's place is its number in the order of arrival, from 0 on, which goes on through jumps of the stamps.
    The newest pair is kept in any case.

    Args:
        seconds: kept, by the stamps.
        max_bytes: of image data.
    """

    def __init__(self, seconds: float, max_bytes: int) -> None:
        self._span = round(seconds * 1e9)
        self._max_bytes = max_bytes
        self._pairs: deque[tuple[Pair, int]] = deque()  # with the bytes that each one added
        self._end = 0  # the number of the next pair
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._pairs)

    @property
    def seconds(self) -> float:
        """From the oldest pair to the newest."""
        return self._age() * 1e-9

    @property
    def newest(self) -> Pair | None:
        return self._pairs[-1][0] if self._pairs else None

    def add(self, pair: Pair) -> int:
        """Keep a pair; returns its number."""
        size = _size(pair.rgb)
        if not self._pairs or self._pairs[-1][0].aux is not pair.aux:  # a slow aux image serves several pairs
            size += _size(pair.aux)
        self._pairs.append((pair, size))
        self.bytes += size
        while len(self._pairs) > 1 and (self.bytes > self._max_bytes or self._age() > self._span):
            self.bytes -= self._pairs.popleft()[1]
        self._end += 1
        return self._end - 1

    def find(self, stamp: int) -> tuple[int, Pair] | None:
        """Number and pair of the first from `stamp` (ns) on; None where none is, or that moment is no longer kept."""
        if not self._pairs or self._pairs[0][0].stamp > stamp:
            return None
        start = self._end - len(self._pairs)
        return next(((start + i, pair) for i, (pair, _) in enumerate(self._pairs) if pair.stamp >= stamp), None)

    def between(self, start: int, end: int) -> list[Pair]:
        """The kept pairs with numbers from `start` up to before `end`, oldest first."""
        first = self._end - len(self._pairs)
        return [pair for number, (pair, _) in enumerate(self._pairs, first) if start <= number < end]

    def _age(self) -> int:
        return self._pairs[-1][0].stamp - self._pairs[0][0].stamp if self._pairs else 0

    def clear(self) -> None:
        """Drop all pairs, as after a jump of the stamps; numbers go on."""
        self._pairs.clear()
        self.bytes = 0


def _size(message: object) -> int:
    """Bytes of a message's image data; 0 for none."""
    return len(getattr(message, "data", b""))
