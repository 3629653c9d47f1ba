"""The last seconds of several topics, as received, in bounded memory."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from cmdtrack_ros.data.bags.reader import RawMessage


class _Entry(NamedTuple):
    arrived: float
    message: RawMessage


class Ring:
    """Keeps messages for `seconds`, and no more than `size` bytes of them; the oldest go first.

    Args:
        seconds: since a message arrived.
        size: of the serialised messages together, bytes.
    """

    def __init__(self, seconds: float, size: int) -> None:
        self._seconds = seconds
        self._size = size
        self._entries: deque[_Entry] = deque()
        self.bytes = 0
        self.shortened = False
        """Whether the last message pushed younger ones than `seconds` out."""

    def add(self, message: RawMessage, arrived: float) -> None:
        """Append a message that arrived now, at `arrived` seconds of a clock that never jumps."""
        self._entries.append(_Entry(arrived, message))
        self.bytes += len(message.data)
        while self._entries and arrived - self._entries[0].arrived > self._seconds:
            self._drop()
            self.shortened = False
        while self.bytes > self._size and len(self._entries) > 1:
            self._drop()
            self.shortened = True

    def span(self) -> float:
        """Seconds between the oldest and the newest arrival."""
        return self._entries[-1].arrived - self._entries[0].arrived if self._entries else 0.0

    def messages(self) -> list[RawMessage]:
        """What it holds now, in the order of arrival."""
        return [entry.message for entry in self._entries]

    def clear(self) -> None:
        self._entries.clear()
        self.bytes, self.shortened = 0, False

    def _drop(self) -> None:
        self.bytes -= len(self._entries.popleft().message.data)
