"""Between the callbacks, which only store, and the one worker, which tracks."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")

REPLAY_LIMIT = 256  # frames; a replay this far ahead of the network would fill the memory


class Mailbox(Generic[T]):
    """Holds the newest item until the worker takes it; `put` never blocks.

    Args:
        history: number of recent items that `since` can give back.
        keep_all: hold up to `REPLAY_LIMIT` items instead of one, for a replay that must not drop any.
    """

    def __init__(self, history: int, keep_all: bool = False) -> None:
        self._waiting: deque[T] = deque(maxlen=REPLAY_LIMIT if keep_all else 1)
        self._recent: deque[tuple[int, T]] = deque(maxlen=history)
        self._changed = threading.Condition()
        self._closed = False
        self.dropped = 0

    def put(self, stamp: int, item: T) -> None:
        """Store `item` (its stamp in ns); counts the oldest one as dropped where there is no room."""
        with self._changed:
            self.dropped += len(self._waiting) == self._waiting.maxlen
            self._waiting.append(item)
            self._recent.append((stamp, item))
            self._changed.notify()

    def take(self) -> T | None:
        """Wait for an item; None once the mailbox is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            return None if self._closed else self._waiting.popleft()

    def since(self, stamp: int) -> list[tuple[int, T]]:
        """Recent items from `stamp` (ns) on, oldest first; empty where that moment is no longer kept."""
        with self._changed:
            if not self._recent or self._recent[0][0] > stamp:
                return []
            return [entry for entry in self._recent if entry[0] >= stamp]

    def forget(self) -> None:
        """Drop all items, as after a jump of the clock."""
        with self._changed:
            self._waiting.clear()
            self._recent.clear()

    def close(self) -> None:
        """Release the worker."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
