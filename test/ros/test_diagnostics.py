"""What the operator is told: latencies, and the steps they consist of."""

from __future__ import annotations

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not importable: run `make test`, or source ROS 2")

from cmdtrack_ros.ros.diagnostics import Latencies, steps_ms  # noqa: E402
from cmdtrack_ros.streams.pairing import Pair  # noqa: E402
from cmdtrack_ros.track import Track  # noqa: E402

pytestmark = pytest.mark.ros


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
