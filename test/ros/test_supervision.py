"""Sums over the last seconds that a running node is judged by."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not importable: run `make test`, or source ROS 2")

from cmdtrack_ros.ros import supervision  # noqa: E402
from cmdtrack_ros.ros.supervision import Growth, StreamShares  # noqa: E402
from cmdtrack_ros.track import TargetState, Track  # noqa: E402

pytestmark = pytest.mark.ros


def test_growth_forgets_what_is_long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(supervision, "time", SimpleNamespace(monotonic=lambda: now))
    growth = Growth(3.0)
    seen = []
    for second in range(10):
        now = float(second)
        seen.append(growth(10 * second, 5))
    assert seen[0] == (0, 0) and seen[2] == (20, 0) and seen[-1] == (30, 0)
    now = 1e6
    assert growth(90, 5) == (0, 0), "a late check compares with the one before"
    assert len(growth._past) == 2


def share(weight: float, **changes: object) -> Track:
    return Track(np.zeros(4), 0.5, **{"weight_aux": weight, **changes})


def test_share_is_of_the_frames_in_which_both_had_a_say() -> None:
    shares = StreamShares(3)
    for second in range(8):
        for _ in range(5):
            shares.add(share(0.9 if second < 4 else 0.1))
            shares.add(share(0.0, has_aux=False))
            shares.add(share(0.0, state=TargetState.IDLE))
            shares.add(share(0.5, started=True))
        mean = shares.mean()
        assert math.isnan(mean) == (second < 3), "a few seconds are no judgement"
    assert mean == pytest.approx(0.1)
    assert math.isnan(shares.mean()), "a second without results"
