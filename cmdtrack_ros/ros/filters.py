"""The subscribing end of message_filters, or a stand-in of the same protocol where that is not installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    from message_filters import Subscriber

    MESSAGE_FILTERS = True
except ImportError:
    MESSAGE_FILTERS = False

    class Subscriber:
        """A subscription that passes its messages on to registered callbacks."""

        def __init__(self, node: Any, message_type: type, topic: str, **options: Any) -> None:
            self.callbacks: dict[int, tuple[Callable[..., None], tuple[Any, ...]]] = {}
            self.topic = topic
            self.sub = node.create_subscription(message_type, topic, self.signalMessage, **options)

        def registerCallback(self, cb: Callable[..., None], *args: Any) -> int:  # noqa: N802
            connection = len(self.callbacks)
            self.callbacks[connection] = (cb, args)
            return connection

        def signalMessage(self, *messages: Any) -> None:  # noqa: N802
            for callback, args in self.callbacks.values():
                callback(*messages, *args)

        def getTopic(self) -> str:  # noqa: N802
            return self.topic
