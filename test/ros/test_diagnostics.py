"""What the operator is told: latencies, and the steps they consist of."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not importable: run `make test`, or source ROS 2")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402

from cmdtrack_ros.ros import diagnostics  # noqa: E402
from cmdtrack_ros.ros.diagnostics import DiagnosticsPublisher, Latencies, steps_ms  # noqa: E402
from cmdtrack_ros.ros.health import STATUSES  # noqa: E402
from cmdtrack_ros.streams.pairing import Pair  # noqa: E402
from cmdtrack_ros.track import Track  # noqa: E402

pytestmark = pytest.mark.ros

PATIENCE = 120.0  # s to wait for what must come, however busy the machine


def test_impossible_stamps_are_counted_and_left_out() -> None:
    latencies = Latencies()
    for latency in (0.05, 1.8e9, -3600.0, -0.05, math.nan, 61.0):
        latencies.add(Track(np.zeros(4), 0.5, latency=latency, times_ms={"total": 2.0, "arrival": latency * 1e3}))
    values = latencies.values()
    assert values["impossible stamps"] == "4"
    assert values["latency p99 (ms)"] == "49.0" and values["arrival p99 (ms)"] == "49.0"
    assert values["processing p50 (ms)"] == "2.0", "of all results"


STATUS = {
    "inputs": (DiagnosticStatus.WARN, "no RGB images", {"no RGB images": "nothing on /rgb", "RGB rate (Hz)": "0.0"}),
    "pairing": (DiagnosticStatus.OK, "active", {"paired": 3}),
    "tracking": (DiagnosticStatus.OK, "TRACKING", {}),
    "device": (DiagnosticStatus.ERROR, "network hangs", {"dropped": 0}),
}


def published(node: Node, statuses: dict) -> DiagnosticArray:
    """What a listener hears of one report."""
    heard: list[DiagnosticArray] = []
    node.create_subscription(DiagnosticArray, "/diagnostics", heard.append, 100)
    publisher = DiagnosticsPublisher(node)
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    end = time.monotonic() + PATIENCE
    while not any(len(array.status) == len(STATUSES) for array in heard):
        assert time.monotonic() < end, "nothing heard"
        publisher.publish("cpu", statuses)
        executor.spin_once(timeout_sec=0.1)
    executor.shutdown()
    return next(array for array in heard if len(array.status) == len(STATUSES))


@pytest.mark.parametrize("through", ["the node itself", "diagnostic_updater"])
def test_statuses_are_the_same_through_either_publisher(
    node_with: Callable[..., Node], monkeypatch: pytest.MonkeyPatch, through: str
) -> None:
    if through == "diagnostic_updater":
        pytest.importorskip("diagnostic_updater", reason="diagnostic_updater is not importable (no part of the wheels)")
        assert diagnostics.Updater is not None
    else:
        monkeypatch.setattr(diagnostics, "Updater", None)
    node = node_with()
    array = published(node, STATUS)
    assert all(timer.is_canceled() for timer in node.timers), "once a second, by a clock that does not stand still"
    assert array.header.stamp.sec > 0
    for status, (name, (level, message, values)) in zip(array.status, STATUS.items(), strict=True):
        assert (status.name, status.hardware_id) == (f"parts: {name}", "cpu")
        assert (status.level, status.message) == (level, message)
        assert {v.key: v.value for v in status.values} == {key: str(value) for key, value in values.items()}


def test_latency_percentiles() -> None:
    latencies = Latencies()
    assert latencies.values() == {}
    for i in range(1, 101):
        times = {"total": 2.0, "network": i / 10} | ({"template": 7.0} if i % 5 == 0 else {})
        latencies.add(Track(np.zeros(4), 0.5, latency=i * 1e-3, times_ms=times))
    values = latencies.values()
    assert values["latency p50 (ms)"] == "50.5" and values["processing p99 (ms)"] == "2.0"
    assert float(values["latency p95 (ms)"]) == pytest.approx(95.0, abs=0.1)
    assert float(values["network p95 (ms)"]) == pytest.approx(9.5, abs=0.1)
    assert values["template p50 (ms)"] == "7.0", "of the frames that have this step"


def test_steps_add_up_to_the_latency() -> None:
    """20 ms to the callback, 3 ms until the pair was complete, 5 ms in the mailbox, 8 ms of tracking."""
    pair = Pair(None, None, 0, arrived=1_000_000_000, left=1_003_000_000)
    steps = steps_ms(pair, began=1_008_000_000, ready=1_016_000_000, latency=0.036)
    assert steps == pytest.approx({"arrival": 20.0, "pairing": 3.0, "waiting": 5.0})
    assert steps_ms(pair._replace(left=None), 1_008_000_000, 1_016_000_000, 0.036) == {}
