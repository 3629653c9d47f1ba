"""The subscribing end of message_filters, or a stand-in of the same protocol where that is not installed."""

from __future__ import annotations

from typing import Any

from cmdtrack_ros.streams.filters import SimpleFilter

try:
    from message_filters import Subscriber

    MESSAGE_FILTERS = True
except ImportError:
    MESSAGE_FILTERS = False

    class Subscriber(SimpleFilter):
        """A subscription that passes its messages on to registered callbacks."""

        def __init__(self, node: Any, message_type: type, topic: str, **options: Any) -> None:
            super().__init__()
            self.topic = topic
            self.sub = node.create_subscription(message_type, topic, self.signalMessage, **options)

        def getTopic(self) -> str:  # noqa: N802
            return self.topic
