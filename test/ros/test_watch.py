"""Trackers seen from outside: several targets, causes and silence, in lines and in a terminal's picture."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not importable: run `make test`, or source ROS 2")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue  # noqa: E402
from rich.console import Console  # noqa: E402
from robot import PATIENCE, to_time  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from cmdtrack_ros.cli.watch import picture, text_lines  # noqa: E402
from cmdtrack_ros.msg import TrackState  # noqa: E402
from cmdtrack_ros.ros import watch as module  # noqa: E402
from cmdtrack_ros.ros.health import STATUSES  # noqa: E402
from cmdtrack_ros.ros.watch import Watcher, watching  # noqa: E402

pytestmark = pytest.mark.ros


@pytest.fixture
def watcher() -> Iterator[Watcher]:
    with watching() as watcher:
        yield watcher


def report(names: tuple[str, ...], **causes: str) -> DiagnosticArray:
    """Diagnostics of a tracker, the causes in "inputs"; and another node's status with a name like one of ours."""
    values = {"state": "2 TRACKING", "RGB rate (Hz)": "29.9", "latency p50 (ms)": "31.0", "latency p95 (ms)": "44.0"}
    statuses = [DiagnosticStatus(name="wheels: tracking", message="ok")]
    for name in names:
        level = DiagnosticStatus.WARN if causes and name == "inputs" else DiagnosticStatus.OK
        message = "; ".join(causes).replace("_", " ") if causes and name == "inputs" else "active"
        found = values | {key.replace("_", " "): text for key, text in causes.items()}
        pairs = [KeyValue(key=key, value=value) for key, value in found.items()]
        statuses.append(DiagnosticStatus(name=f"front/tracker: {name}", level=level, message=message, values=pairs))
    return DiagnosticArray(status=statuses)


def test_targets_causes_and_silence(watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    node = rclpy.create_node("fake")
    track = node.create_publisher(TrackState, "/front/tracker/track", 10)
    diagnostics = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
    said = {"no_RGB_images": "nothing on /rgb", "stamps_old": "synchronise"}
    end, number = time.monotonic() + PATIENCE, 0
    while not (watcher.trackers() and len(watcher.trackers()[0].newest()) == 2 and watcher.trackers()[0].causes):
        assert time.monotonic() < end
        number += 1
        for name in ("a", "b"):
            header = Header(stamp=to_time(number * 10**9))
            track.publish(TrackState(header=header, target_id=name, state=TrackState.STATE_TRACKING, score=0.5))
        diagnostics.publish(report(STATUSES, **said))
        watcher.spin(0.1)
    (seen,) = watcher.trackers()
    assert [t.target_id for t in seen.newest()] == ["a", "b"]
    assert seen.causes == [("WARN", "no RGB images", "nothing on /rgb"), ("WARN", "stamps old", "synchronise")]
    lines = text_lines([seen])
    assert lines[0].startswith("/front/tracker  2 TRACKING  Hz RGB 29.9, results ")
    assert lines[0].endswith("latency p50 31.0, p95 44.0 ms") and len(lines) == 5
    console = Console(width=100, record=True, file=None, force_terminal=False)
    with console.capture() as shown:
        console.print(picture([seen]))
    assert all(word in shown.get() for word in ("TRACKING", "0.50", "no RGB images: nothing on /rgb"))
    monkeypatch.setattr(module, "_STALE", 0.0)
    assert text_lines([seen])[0].startswith("/front/tracker  SILENT  ") and not seen.newest()
    node.destroy_node()
