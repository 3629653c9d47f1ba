"""Causes: when each is shown, and what of it is logged."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not importable: run `make test`, or source ROS 2")

from diagnostic_msgs.msg import DiagnosticStatus  # noqa: E402

from cmdtrack_ros.ros import health as module  # noqa: E402
from cmdtrack_ros.ros.health import CAUSES, RECORDING, REPEAT_SECONDS, SHOWN_SECONDS, STATUSES, Health  # noqa: E402

pytestmark = pytest.mark.ros


class Desk:
    """A health whose clock stands until it is moved, and what it logged."""

    def __init__(self) -> None:
        self.now = 100.0
        self.lines: list[str] = []
        logger = SimpleNamespace(
            **{
                name: lambda text, name=name: self.lines.append(f"{name} {text}")
                for name in ("info", "warning", "error")
            }
        )
        self.health = Health(logger)

    def said(self) -> list[str]:
        lines, self.lines = self.lines, []
        return lines

    def shown(self) -> str:
        """Messages of all statuses."""
        return "|".join(self.health.report(status, "")[1] for status in STATUSES)


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    desk = Desk()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: desk.now))
    return desk


def test_every_cause_belongs_to_a_status_and_is_bad() -> None:
    assert all(
        cause.status in (*STATUSES, RECORDING) and cause.level > DiagnosticStatus.OK for cause in CAUSES.values()
    )


def test_event_is_shown_for_a_while(desk: Desk) -> None:
    desk.health.event("bad RGB image", "/rgb: short")
    level, message, values = desk.health.report("inputs", "fine")
    assert (level, message, values["bad RGB image"]) == (DiagnosticStatus.WARN, "bad RGB image", "/rgb: short")
    assert desk.health.report("pairing", "fine")[:2] == (DiagnosticStatus.OK, "fine"), "another's status"
    desk.now += SHOWN_SECONDS - 0.1
    desk.health.event("bad RGB image", "/rgb: shorter")
    desk.now += SHOWN_SECONDS - 0.1
    assert desk.health.report("inputs", "fine")[2]["bad RGB image"] == "/rgb: shorter"
    desk.now += 0.2
    assert desk.health.report("inputs", "fine") == (DiagnosticStatus.OK, "fine", {"bad RGB image (count)": "2"})


def test_events_are_throttled_by_cause_not_by_text(desk: Desk) -> None:
    for i in range(40):
        desk.health.event("bad RGB image", f"unknown encoding foo{chr(65 + i)}")
    desk.health.event("internal error", "a bug")
    assert desk.said() == ["warning bad RGB image: unknown encoding fooA", "error internal error: a bug"]
    desk.now += SHOWN_SECONDS
    desk.health.event("bad RGB image", "short")
    desk.now += SHOWN_SECONDS
    desk.health.event("bad RGB image", "short")
    assert desk.said() == [
        "warning bad RGB image: short (39 more since the last message)",
        "warning bad RGB image: short",
    ]


def test_condition_lasts_until_it_is_over(desk: Desk) -> None:
    desk.health.condition("LOST", "since now")
    assert desk.said() == ["warning LOST: since now"]
    for _ in range(round(REPEAT_SECONDS) - 1):
        desk.now += 1.0
        desk.health.condition("LOST", f"since {desk.now}")
        assert desk.shown() == "||LOST|" and not desk.said()
    desk.now += 1.0
    assert desk.shown() == "||LOST|" and desk.said() == ["warning LOST: since 129.0"], "reminds by itself"
    desk.health.condition("LOST", None)
    desk.health.condition("LOST", None)
    assert desk.shown() == "|||" and desk.said() == ["info LOST: over"]
    assert desk.health.report("tracking", "")[2] == {"LOST (count)": "1"}


def test_condition_that_is_over_before_a_report_is_in_the_next(desk: Desk) -> None:
    for _ in range(2):
        desk.health.condition("old target", "from before a break")
        desk.now += 0.3
        desk.health.condition("old target", None)
        desk.now += 0.6
        assert "old target" in desk.shown()
        desk.now += 1.0
        assert "old target" not in desk.shown()
    desk.health.condition("old target", "from before a break")
    assert "old target" in desk.shown()
    desk.health.condition("old target", None)
    assert "old target" not in desk.shown(), "seen before it was over"


def test_condition_that_comes_and_goes_is_throttled(desk: Desk) -> None:
    for _ in range(20):
        desk.health.condition("few pairs", "10 %")
        assert desk.shown() == "|few pairs||"
        desk.health.condition("few pairs", None)
        assert desk.shown() == "|||"
        desk.now += SHOWN_SECONDS / 10
    assert desk.said() == ["warning few pairs: 10 %", "info few pairs: over"] * 2
    desk.health.condition("few pairs", "11 %")
    assert desk.said() == ["warning few pairs: 11 %"]
    desk.health.condition("few pairs", None)
    desk.health.condition("few pairs", "12 %")
    assert desk.said() == ["info few pairs: over"]
    desk.now += SHOWN_SECONDS
    assert desk.shown() == "|few pairs||" and desk.said() == ["warning few pairs: 12 %"], "it lasted after all"


def test_condition_that_gets_worse_is_logged_at_once(desk: Desk) -> None:
    for stage in (0, 0, 1, 1):
        desk.health.condition("no RGB images", f"stage {stage}", stage)
    assert desk.said() == ["warning no RGB images: stage 0", "warning no RGB images: stage 1"]


def test_an_event_does_not_end_a_condition_of_its_cause(desk: Desk) -> None:
    desk.health.condition("registration", "sizes differ")
    desk.health.event("registration", "sizes differ")
    desk.now += 2 * SHOWN_SECONDS
    assert desk.shown() == "registration|||"
    desk.health.clear("pairing")
    assert desk.shown() == "registration|||"
    desk.health.clear("inputs", "pairing")
    assert desk.shown() == "|||"
