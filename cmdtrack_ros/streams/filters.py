"""The protocol of message_filters. No rclpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class SimpleFilter:
    """Passes what it is given on to registered callbacks, as message_filters' class of this name."""

    def __init__(self) -> None:
        self.callbacks: dict[int, tuple[Callable[..., None], tuple[Any, ...]]] = {}

    def registerCallback(self, cb: Callable[..., None], *args: Any) -> int:  # noqa: N802 - message_filters' name
        connection = len(self.callbacks)
        self.callbacks[connection] = (cb, args)
        return connection

    def signalMessage(self, *messages: Any) -> None:  # noqa: N802
        for callback, args in self.callbacks.values():
            callback(*messages, *args)
