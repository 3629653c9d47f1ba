"""What the operator is told: faults without repetition, and latencies."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not importable: run `make test`, or source ROS 2")

from cmdtrack_ros.ros import diagnostics  # noqa: E402
from cmdtrack_ros.ros.diagnostics import FaultLog, Latencies, steps_ms  # noqa: E402
from cmdtrack_ros.streams.pairing import Pair  # noqa: E402
from cmdtrack_ros.track import Track  # noqa: E402

pytestmark = pytest.mark.ros


def test_each_fault_is_logged_once() -> None:
    logged: list[str] = []
    faults = FaultLog(logged.append, 60.0)
    for size in (3, 4, 5):
        faults("rgb image", f"expected 10 bytes, got {size}")
    faults("rgb image", "expected rgb8, got 'foo'")
    assert logged == ["rgb image: expected 10 bytes, got 3", "rgb image: expected rgb8, got 'foo'"]
    assert faults.recent_kinds() == ["rgb image"]
    again = FaultLog(logged.append, 0.0)
    again("tracking", "x")
    again("tracking", "x")
    assert logged[2:] == ["tracking: x"] * 2


def test_repeats_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    now = 100.0
    monkeypatch.setattr(diagnostics, "time", SimpleNamespace(monotonic=lambda: now))
    faults = FaultLog(logged.append, 5.0)
    for now in (100.0, 101.0, 102.0, 106.0):  # noqa: B007 - the clock reads it
        faults("tracking", "x")
    assert logged == ["tracking: x", "tracking: x (2 more since the last message)"]


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
