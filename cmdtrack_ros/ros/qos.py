"""Which message type and quality of service to ask for, given who publishes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

_COMPRESSED = "sensor_msgs/msg/CompressedImage"
TRANSPORT_SUFFIXES = ("/compressed", "/compressedDepth")
"""What image_transport adds to the topic of the images."""


class Plan(NamedTuple):
    """A subscription to make."""

    message_type: type
    reliability: ReliabilityPolicy

    def profile(self, depth: int) -> QoSProfile:
        return QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=depth,
            reliability=self.reliability,
            durability=DurabilityPolicy.VOLATILE,
        )

    def describe(self) -> str:
        return f"sensor_msgs/msg/{self.message_type.__name__}, {reliability_name(self.reliability)}"


def reliability_name(policy: ReliabilityPolicy) -> str:
    return "best effort" if policy == ReliabilityPolicy.BEST_EFFORT else "reliable"


def plan_subscription(topic: str, publishers: Sequence[Any], reliability: str = "auto") -> Plan:
    """Follow the publishers of `topic`: reliable only if all of them are, as rosbag2 does.

    A reliable subscription receives nothing from a best-effort publisher, and a best-effort one loses large
    images of a reliable publisher, so neither suits all.
    """
    types = {publisher.topic_type for publisher in publishers}
    compressed = types == {_COMPRESSED} if types else topic.endswith(TRANSPORT_SUFFIXES)
    if reliability == "auto":
        best_effort = any(
            publisher.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT for publisher in publishers
        )
    else:
        best_effort = reliability == "best_effort"
    return Plan(
        CompressedImage if compressed else Image,
        ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE,
    )
