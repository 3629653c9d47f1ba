"""What comes back from a node, set right without one."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not importable: run `make test`, or source ROS 2")

from cmdtrack_ros.ros.replay.session import with_pair_stamp
from cmdtrack_ros.track import Track

pytestmark = pytest.mark.ros

STAMP = 1_700_000_000_000_000_123


@pytest.mark.parametrize(
    "has_rgb, has_aux, gap, expected",
    [
        (False, True, math.nan, STAMP - 40_000_000),  # an aux image alone: its header is before the offset
        (True, True, 0.004, STAMP),
        (True, False, math.nan, STAMP),
        (False, True, 0.004, STAMP),  # a pair whose RGB image could not be read has that image's header
    ],
)
def test_a_result_has_the_stamp_of_its_pair(has_rgb: bool, has_aux: bool, gap: float, expected: int) -> None:
    track = Track(np.ones(4), 1.0, has_rgb=has_rgb, has_aux=has_aux, stamp_ns=STAMP, gap=gap)
    assert with_pair_stamp(track, -0.04).stamp_ns == expected
