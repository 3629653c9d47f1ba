"""One image stream: a subscription that follows its publishers, and knows when it has fallen silent."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from rclpy.node import Node

from cmdtrack_ros.ros.filters import Subscriber
from cmdtrack_ros.ros.qos import Plan, plan_subscription, reliability_name
from cmdtrack_ros.ros.transport import profile_file

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble's name of the module
    from rclpy.qos_event import SubscriptionEventCallbacks


_SILENT_SECONDS = 1.0
_SILENT_INTERVALS = 3  # of a stream that comes more slowly


class ImageInput:
    """The upstream filter of one image topic (message_filters' protocol).

    The subscription is made anew, with the type and QoS that fit, when publishers of another kind appear.

    Args:
        name: how messages to the operator call the stream ("RGB").
        parameter: the node parameter that holds the topic.
        reliability: "auto", "reliable" or "best_effort".
        depth: messages queued by the middleware.
        raw: callbacks get the serialised message.
    """

    def __init__(
        self, node: Node, name: str, parameter: str, topic: str, reliability: str, depth: int, *, raw: bool = False
    ) -> None:
        self._node = node
        self._name = name
        self._parameter = parameter
        self._reliability = reliability
        self._depth = depth
        self._raw = raw
        self.topic = node.resolve_topic_name(topic)
        self._callbacks: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._arrivals: deque[float] = deque(maxlen=100)
        self._heard = time.monotonic()
        self.received = 0
        self.lost = 0  # in transport, as far as the middleware tells
        # A subscription must not be destroyed by its own event, so the event only wakes this.
        self._wake = node.create_guard_condition(self.follow_publishers)
        self._subscriber: Subscriber | None = None
        self._plan: Plan | None = None
        self.follow_publishers()

    def registerCallback(self, cb: Callable[..., None], *args: Any) -> int:  # noqa: N802 - message_filters' name
        self._callbacks.append((cb, args))
        return len(self._callbacks) - 1

    def follow_publishers(self) -> None:
        """Subscribe anew if the publishers now call for another type or reliability."""
        publishers = self._node.get_publishers_info_by_topic(self.topic)
        if self._plan and not publishers:
            return
        plan = plan_subscription(self.topic, publishers, self._reliability)
        if plan == self._plan:
            return
        if self._subscriber:
            self._node.get_logger().info(f"{self._name} on {self.topic}: subscribing anew ({plan.describe()})")
            self._node.destroy_subscription(self._subscriber.sub)
        self._plan = plan
        events = SubscriptionEventCallbacks(
            incompatible_qos=lambda _: self._wake.trigger(), message_lost=self._note_loss
        )
        self._subscriber = Subscriber(
            self._node,
            plan.message_type,
            self.topic,
            event_callbacks=events,
            qos_profile=plan.profile(self._depth),
            raw=self._raw,
        )
        self._subscriber.registerCallback(self._receive)

    @property
    def message_type(self) -> str:
        """Of the subscription, such as sensor_msgs/msg/Image."""
        kind = self._plan.message_type
        return f"{kind.__module__.partition('.')[0]}/msg/{kind.__name__}"

    def rate(self) -> float:
        """Messages per second over the last ones; 0 once the stream is silent."""
        recent = [at for at in self._arrivals if at > time.monotonic() - 2.0]
        return (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 1 else 0.0

    def seconds_silent(self) -> float:
        """Seconds since the last message, or since the stream was opened."""
        return time.monotonic() - self._heard

    def silent(self) -> bool:
        """No message for longer than this stream's rate explains."""
        intervals = np.diff(list(self._arrivals)[-20:])
        usual = float(np.median(intervals)) if len(intervals) else 0.0
        return self.seconds_silent() > max(_SILENT_SECONDS, _SILENT_INTERVALS * usual)

    def silence_diagnosis(self) -> str:
        """What is known about a silent stream, and what to try."""
        publishers = self._node.get_publishers_info_by_topic(self.topic)
        offers = {f"{p.topic_type}, {reliability_name(p.qos_profile.reliability)}" for p in publishers}
        text = (
            f"nothing on {self.topic} for {self.seconds_silent():.1f} s; subscribed to "
            f"{self._plan.describe()}; {len(publishers)} publisher(s)"
        )
        if not publishers:
            return (
                f"{text}. Is the camera's driver running, with the same ROS_DOMAIN_ID? `ros2 topic list -t` "
                f"shows what there is; set parameter '{self._parameter}' or remap the topic"
            )
        wanted = f"sensor_msgs/msg/{self._plan.message_type.__name__}"
        if all(p.topic_type != wanted for p in publishers):
            return f"{text} ({'; '.join(sorted(offers))}): expected Image or CompressedImage"
        return (
            f"{text} ({'; '.join(sorted(offers))}). `ros2 topic hz {self.topic}` shows whether images flow; "
            f"images above 0.5 MB need larger buffers than Fast DDS has by itself: start the camera's driver and this "
            f"node with FASTRTPS_DEFAULT_PROFILES_FILE={profile_file()}"
        )

    def loss_diagnosis(self, lost: int, sent: int) -> str:
        """What a loss in transport comes from, and what to try."""
        return (
            f"{lost} of the last {sent} images on {self.topic} did not arrive ({self._plan.describe()}): large images "
            "need larger buffers than Fast DDS has by itself. Start the camera's driver, above all, and this node with "
            f"FASTRTPS_DEFAULT_PROFILES_FILE={profile_file()}, or publish compressed images"
        )

    def values(self) -> dict[str, str]:
        """For the diagnostics."""
        return {
            "topic": self.topic,
            "subscription": self._plan.describe(),
            "rate (Hz)": f"{self.rate():.1f}",
            "received": str(self.received),
            "lost": str(self.lost),
        }

    def close(self) -> None:
        self._node.destroy_subscription(self._subscriber.sub)
        self._node.destroy_guard_condition(self._wake)

    def _note_loss(self, status: Any) -> None:
        self.lost += status.total_count_change

    def _receive(self, message: Any) -> None:
        self._heard = time.monotonic()
        self._arrivals.append(self._heard)
        self.received += 1
        for callback, args in self._callbacks:
            callback(message, *args)
