"""The carrier of every answer."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cmdtrack_ros.track import Track, per_frame, percentiles_ms

BOX = np.ones(4)
START = 1_700_000_000 * 10**9  # as a double of seconds, a stamp of these days is known to 0.24 us


def test_answers_meet_the_nearest_frame() -> None:
    stamps = [START, START + 100, START + 160]
    first, second, third, stray = (Track(BOX, 1.0, stamp_ns=START + at) for at in (0, 129, 160, 700))
    assert per_frame(stamps, [first, second, third, stray]) == [first, second, third]
    assert per_frame(stamps, [third]) == [None, None, third]
    assert per_frame(stamps[:1], [second]) == [second]


def test_between_two_frames_there_is_no_answer() -> None:
    stamps = [START, START + 100, START + 140]  # half of the shortest interval is 20
    assert per_frame(stamps, [Track(BOX, 1.0, stamp_ns=START + 50)]) == [None] * 3


def test_percentiles_are_of_what_was_measured() -> None:
    assert percentiles_ms([math.nan]) == {}
    values = percentiles_ms([0.001, math.nan, 0.003])
    assert values == pytest.approx({"p50": 2.0, "p95": 2.9, "p99": 2.98, "max": 3.0})
