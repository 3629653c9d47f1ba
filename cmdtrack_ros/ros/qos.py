"""Which topic, message type and quality of service to ask for, given who publishes and what the user overrides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image

from cmdtrack_ros.cameras import TRANSPORT_SUFFIXES
from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.ros.messages import EventPacket
from cmdtrack_ros.streams.events import EVENT_PACKET

TRANSPORTS = ("auto", "raw", "compressed", "compressedDepth")
"""image_transport's names, which are the ends of its topics; auto goes by the publishers."""
_COMPRESSED = "sensor_msgs/msg/CompressedImage"
_MOST_QUEUED = 1000
_OVERRIDES = {
    QoSPolicyKind.HISTORY: ("keep_last", "keep_all"),
    QoSPolicyKind.DEPTH: (),
    QoSPolicyKind.RELIABILITY: ("reliable", "best_effort", "system_default"),
    QoSPolicyKind.DURABILITY: ("volatile", "transient_local", "system_default"),
}


class Plan(NamedTuple):
    """A subscription to make."""

    topic: str
    message_type: type
    reliability: ReliabilityPolicy

    def profile(self, depth: int) -> QoSProfile:
        return QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=depth,
            reliability=self.reliability,
            durability=DurabilityPolicy.VOLATILE,
        )

    @property
    def type_name(self) -> str:
        return EVENT_PACKET if self.message_type is EventPacket else f"sensor_msgs/msg/{self.message_type.__name__}"


def reliability_name(policy: ReliabilityPolicy) -> str:
    return "best effort" if policy == ReliabilityPolicy.BEST_EFFORT else "reliable"


def plan_subscription(
    base: str, publishers: Callable[[str], Sequence[Any]], reliability: str = "auto", transport: str = "auto"
) -> Plan:
    """Follow the publishers: reliable only if all of them are, as rosbag2 does.

    A reliable subscription receives nothing from a best-effort publisher, and a best-effort one loses large
    images of a reliable publisher, so neither suits all.

    Args:
        base: the topic of raw images, to which a transport adds its end; or the whole topic of any type.
        publishers: of a topic, as the graph knows them.
        transport: one of `TRANSPORTS`. auto takes `base` and what is published there; where nobody is, a topic of
            another transport that somebody publishes.
    """
    topic = _topic(base, publishers, transport)
    offers = publishers(topic)
    types = {publisher.topic_type for publisher in offers}
    if transport == "auto":
        compressed = types == {_COMPRESSED} if types else topic.endswith(TRANSPORT_SUFFIXES)
    else:
        compressed = transport != "raw"
    message_type = CompressedImage if compressed else Image
    if types == {EVENT_PACKET} and EventPacket is not None:
        message_type = EventPacket
    if reliability == "auto":
        best_effort = any(publisher.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT for publisher in offers)
    else:
        best_effort = reliability == "best_effort"
    return Plan(topic, message_type, ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE)


def _topic(base: str, publishers: Callable[[str], Sequence[Any]], transport: str) -> str:
    if transport == "raw" or base.endswith(f"/{transport}"):
        return base
    if transport != "auto":
        return f"{base}/{transport}"
    if publishers(base):
        return base
    return next((base + suffix for suffix in TRANSPORT_SUFFIXES if publishers(base + suffix)), base)


def qos_overrides(node: Node, topic: str, entity: str) -> QoSOverridingOptions:
    """What the user overrides of one topic's QoS: parameters `qos_overrides.<topic>.<entity>.<policy>`.

    Only policies that are given are declared: rclpy would keep the value that an entity was first made with, and a
    subscription that follows its publishers is made again with another.

    Args:
        topic: with namespace and remappings applied.
        entity: "subscription" or "publisher".

    Raises:
        ConfigError: a value that the policy does not have.
    """
    given = []
    for policy, choices in _OVERRIDES.items():
        name = f"qos_overrides.{topic}.{entity}.{policy.name.lower()}"
        value = _override(node, name)
        if value is None:
            continue
        if choices and value not in choices:
            raise ConfigError(f"parameter '{name}': expected one of {', '.join(choices)}, got {value!r}")
        if not choices and not (type(value) is int and 1 <= value <= _MOST_QUEUED):
            raise ConfigError(f"parameter '{name}': expected a whole number from 1 to {_MOST_QUEUED}, got {value!r}")
        given.append(policy)
    return QoSOverridingOptions(given)


def _override(node: Node, name: str) -> Any:
    """The value that a parameter was given at the start; None where it was not."""
    if node.has_parameter(name):
        return node.get_parameter(name).value
    value = node.declare_parameter(name, None, ParameterDescriptor(dynamic_typing=True)).value
    node.undeclare_parameter(name)
    return value
