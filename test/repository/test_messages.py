"""The two messages: documented, built, and the same on both sides of the wire."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MESSAGES = sorted((ROOT / "msg").glob("*.msg"))


def test_every_message_is_built() -> None:
    built = re.findall(r'"msg/(\w+\.msg)"', (ROOT / "CMakeLists.txt").read_text())
    assert sorted(built) == [path.name for path in MESSAGES]


@pytest.mark.parametrize("path", MESSAGES, ids=lambda path: path.name)
def test_every_field_is_explained_above(path: Path) -> None:
    lines = path.read_text().splitlines()
    for above, line in zip(["", *lines], lines):
        if not line or line.startswith("#"):
            continue
        assert above.startswith("#"), line
        if line.startswith("float"):
            assert "[" in above or "0 to 1" in above, f"neither unit nor range above: {line}"


@pytest.mark.ros
def test_messages_survive_the_wire() -> None:
    from rclpy.serialization import deserialize_message, serialize_message

    from cmdtrack_ros.msg import TargetBox, TrackState

    sent = TrackState(
        state=TrackState.STATE_UNCERTAIN,
        target_id="walker",
        class_id="person",
        x=1.5,
        y=-2.25,
        width=30.0,
        height=40.0,
        score=0.5,
        weight_rgb=0.25,
        weight_aux=0.75,
        has_rgb=True,
        has_aux=True,
        pair_gap=math.nan,
        latency=0.0625,
        processing_time=0.03125,
    )
    sent.header.stamp.sec, sent.header.stamp.nanosec, sent.header.frame_id = 7, 999_999_999, "rgb_optical"
    got = deserialize_message(serialize_message(sent), TrackState)
    assert math.isnan(got.pair_gap)
    got.pair_gap = sent.pair_gap = 0.0  # NaN equals nothing
    assert got == sent
    assert [TrackState.STATE_IDLE, TrackState.STATE_TRACKING, TrackState.STATE_UNCERTAIN, TrackState.STATE_LOST] == [
        0,
        1,
        2,
        3,
    ]
    box = TargetBox(target_id="walker", class_id="person", x=1.0, y=2.0, width=3.0, height=4.0)
    assert deserialize_message(serialize_message(box), TargetBox) == box


@pytest.mark.ros
def test_states_of_the_message_are_those_of_the_tracker() -> None:
    from cmdtrack_ros.msg import TrackState
    from cmdtrack_ros.track import TargetState

    assert {f"STATE_{state.name}": state.value for state in TargetState} == {
        name: getattr(TrackState, name) for name in dir(TrackState) if name.startswith("STATE_")
    }
