"""One image stream: a subscription that follows its publishers, and knows when it has fallen silent."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.qos import QoSProfile

from cmdtrack_ros.ros.filters import Subscriber
from cmdtrack_ros.ros.messages import EventPacket
from cmdtrack_ros.ros.qos import Plan, plan_subscription, qos_overrides, reliability_name
from cmdtrack_ros.ros.transport import profile_file
from cmdtrack_ros.streams.events import EVENT_PACKET
from cmdtrack_ros.streams.filters import SimpleFilter

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble's name of the module
    from rclpy.qos_event import SubscriptionEventCallbacks


_SILENT_SECONDS = 1.0
_SILENT_INTERVALS = 3  # of a stream that comes more slowly


class ImageInput(SimpleFilter):
    """The upstream filter of one image topic (message_filters' protocol).

    The subscription is made anew, with the type and QoS that fit, when publishers of another kind appear.

    Args:
        name: how messages to the operator call the stream ("RGB").
        parameter: the node parameter that holds the topic.
        topic: of raw images; `transport` adds its end.
        reliability: "auto", "reliable" or "best_effort"; `qos_overrides` of the topic go before it.
        transport: one of `TRANSPORTS`.
        depth: messages queued by the middleware.
        raw: callbacks get the serialised message.
    """

    def __init__(
        self,
        node: Node,
        name: str,
        parameter: str,
        topic: str,
        reliability: str,
        transport: str,
        depth: int,
        *,
        raw: bool = False,
    ) -> None:
        super().__init__()
        self._node = node
        self._name = name
        self._parameter = parameter
        self._reliability = reliability
        self._transport = transport
        self._depth = depth
        self._raw = raw
        self.topic = node.resolve_topic_name(topic)
        self._arrivals: deque[float] = deque(maxlen=100)
        self._heard = time.monotonic()
        self.received = 0
        self.lost = 0  # in transport, as far as the middleware tells
        # A subscription must not be destroyed by its own event, so the event only wakes this.
        self._wake = node.create_guard_condition(self.follow_publishers)
        self._subscriber: Subscriber | None = None
        self._plan: Plan | None = None
        self._profile: QoSProfile | None = None  # of the subscription, overrides included
        self.follow_publishers()

    def follow_publishers(self) -> None:
        """Subscribe anew if the publishers now call for another topic, type or reliability."""
        plan = plan_subscription(
            self.topic, self._node.get_publishers_info_by_topic, self._reliability, self._transport
        )
        if plan == self._plan or (self._plan and not self._node.get_publishers_info_by_topic(plan.topic)):
            return
        overrides = qos_overrides(self._node, plan.topic, "subscription")
        if self._subscriber:
            self._node.destroy_subscription(self._subscriber.sub)
        again, self._plan, self._profile = self._subscriber is not None, plan, plan.profile(self._depth)
        events = SubscriptionEventCallbacks(
            incompatible_qos=lambda _: self._wake.trigger(), message_lost=self._note_loss
        )
        self._subscriber = Subscriber(
            self._node,
            plan.message_type,
            plan.topic,
            event_callbacks=events,
            qos_profile=self._profile,
            qos_overriding_options=overrides,
            raw=self._raw,
        )
        self._subscriber.registerCallback(self._receive)
        if plan.topic != self.topic and self._transport == "auto":
            self._node.get_logger().info(f"{self._name}: nobody publishes {self.topic}, taking {plan.topic}")
        if again:
            self._node.get_logger().info(f"{self._name} on {plan.topic}: subscribing anew ({self._subscription()})")

    def _subscription(self) -> str:
        return f"{self._plan.type_name}, {reliability_name(self._profile.reliability)}"

    @property
    def subscribed_topic(self) -> str:
        """Where the images come from: `topic`, or that of the transport that was taken."""
        return self._plan.topic

    @property
    def message_type(self) -> str:
        """Of the subscription, such as sensor_msgs/msg/Image."""
        return self._plan.type_name

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
        topic = self._plan.topic
        publishers = self._node.get_publishers_info_by_topic(topic)
        offers = {f"{p.topic_type}, {reliability_name(p.qos_profile.reliability)}" for p in publishers}
        text = (
            f"nothing on {topic} for {self.seconds_silent():.1f} s; subscribed to "
            f"{self._subscription()}; {len(publishers)} publisher(s)"
        )
        if not publishers:
            return (
                f"{text}. Is the camera's driver running, with the same ROS_DOMAIN_ID? `ros2 topic list -t` "
                f"shows what there is; set parameter '{self._parameter}' or remap the topic"
            )
        if all(p.topic_type != self._plan.type_name for p in publishers):
            return f"{text} ({'; '.join(sorted(offers))}): {self._expected(publishers)}"
        return (
            f"{text} ({'; '.join(sorted(offers))}). `ros2 topic hz {topic}` shows whether images flow; "
            f"images above 0.5 MB need larger buffers than Fast DDS has by itself: start the camera's driver and this "
            f"node with FASTRTPS_DEFAULT_PROFILES_FILE={profile_file()}"
        )

    def _expected(self, publishers: list[Any]) -> str:
        if EventPacket is None and any(p.topic_type == EVENT_PACKET for p in publishers):
            return "event packets need event_camera_msgs (apt: ros-$ROS_DISTRO-event-camera-msgs)"
        return "expected Image or CompressedImage; is the transport that the parameters name the publisher's?"

    def loss_diagnosis(self, lost: int, sent: int) -> str:
        """What a loss in transport comes from, and what to try."""
        return (
            f"{lost} of the last {sent} images on {self._plan.topic} did not arrive ({self._subscription()}): large "
            "images need larger buffers than Fast DDS has by itself. Start the camera's driver, above all, and this "
            f"node with FASTRTPS_DEFAULT_PROFILES_FILE={profile_file()}, or publish compressed images"
        )

    def values(self) -> dict[str, str]:
        """For the diagnostics."""
        return {
            "topic": self._plan.topic,
            "subscription": self._subscription(),
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
        self.signalMessage(message)
