"""Subscriptions that fit their publishers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not importable: run `make test`, or source ROS 2")

from rclpy.qos import ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402

from cmdtrack_ros.ros.qos import plan_subscription  # noqa: E402

pytestmark = pytest.mark.ros


def offer(best_effort: bool, kind: str = "Image") -> SimpleNamespace:
    reliability = ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE
    return SimpleNamespace(topic_type=f"sensor_msgs/msg/{kind}", qos_profile=SimpleNamespace(reliability=reliability))


@pytest.mark.parametrize(
    "topic, publishers, asked, kind, reliability",
    [
        ("/rgb/image", [], "auto", Image, "RELIABLE"),
        ("/rgb/image", [offer(False), offer(False)], "auto", Image, "RELIABLE"),
        ("/rgb/image", [offer(False), offer(True)], "auto", Image, "BEST_EFFORT"),
        ("/rgb/image", [offer(True)], "reliable", Image, "RELIABLE"),
        ("/rgb/image", [offer(False)], "best_effort", Image, "BEST_EFFORT"),
        ("/rgb/image/compressed", [], "auto", CompressedImage, "RELIABLE"),
        ("/depth/compressedDepth", [], "auto", CompressedImage, "RELIABLE"),
        ("/rgb/any", [offer(True, "CompressedImage")], "auto", CompressedImage, "BEST_EFFORT"),
        ("/odd/compressed", [offer(False)], "auto", Image, "RELIABLE"),
    ],
)
def test_subscription_follows_the_publishers(topic, publishers, asked, kind, reliability) -> None:
    plan = plan_subscription(topic, {topic: publishers}.get, asked)
    assert plan.message_type is kind and plan.reliability == ReliabilityPolicy[reliability] and plan.topic == topic
    assert plan.profile(7).depth == 7


@pytest.mark.parametrize(
    "base, transport, published, topic, kind",
    [
        ("/rgb", "auto", {"/rgb": "Image", "/rgb/compressed": "CompressedImage"}, "/rgb", Image),
        ("/rgb", "auto", {"/rgb/compressed": "CompressedImage"}, "/rgb/compressed", CompressedImage),
        ("/depth", "auto", {"/depth/compressedDepth": "CompressedImage"}, "/depth/compressedDepth", CompressedImage),
        ("/rgb", "auto", {}, "/rgb", Image),
        ("/rgb", "raw", {"/rgb/compressed": "CompressedImage"}, "/rgb", Image),
        ("/rgb", "compressed", {"/rgb": "Image"}, "/rgb/compressed", CompressedImage),
        ("/rgb/compressed", "compressed", {}, "/rgb/compressed", CompressedImage),
        ("/depth", "compressedDepth", {"/depth": "Image"}, "/depth/compressedDepth", CompressedImage),
    ],
)
def test_transport(base: str, transport: str, published: dict, topic: str, kind: type) -> None:
    offers = {name: [offer(False, message_type)] for name, message_type in published.items()}
    plan = plan_subscription(base, lambda name: offers.get(name, []), "auto", transport)
    assert (plan.topic, plan.message_type) == (topic, kind)
