"""The subscribing end of message_filters, and its stand-in."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable

import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not importable: run `make test`, or source ROS 2")

from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.qos import QoSProfile  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402

from cmdtrack_ros.ros import filters  # noqa: E402
from cmdtrack_ros.streams.pairing import NearestPairFilter  # noqa: E402

pytestmark = pytest.mark.ros


@pytest.mark.parametrize("installed", [True, False], ids=["message_filters", "stand-in"])
def test_pairing_behind_both_kinds_of_subscriber(
    node_with: Callable, installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if installed:
        pytest.importorskip("message_filters", reason="message_filters is no package-index wheel; apt has it")
    else:
        monkeypatch.setitem(sys.modules, "message_filters", None)
    importlib.reload(filters)
    assert installed == filters.MESSAGE_FILTERS
    node, got = node_with(), []
    subscribers = [filters.Subscriber(node, Image, topic, qos_profile=QoSProfile(depth=5)) for topic in ("rgb", "aux")]
    pairing = NearestPairFilter(subscribers)
    pairing.registerCallback(lambda *args: got.append(args), "extra")
    assert subscribers[0].getTopic() == "rgb" and subscribers[0].sub in node.subscriptions
    publishers = [node.create_publisher(Image, topic, 5) for topic in ("rgb", "aux")]
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    end = time.monotonic() + 60
    while len(got) < 2 and time.monotonic() < end:
        for i, publisher in enumerate(publishers):
            message = Image(width=i + 1)
            message.header.stamp = node.get_clock().now().to_msg()
            publisher.publish(message)
        executor.spin_once(timeout_sec=0.05)
    executor.shutdown()
    monkeypatch.undo()
    importlib.reload(filters)
    paired = [(pair.rgb.width, pair.aux.width, extra) for pair, extra in got if pair.aux]
    assert paired and set(paired) == {(1, 2, "extra")}
