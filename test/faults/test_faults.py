"""The harness of `make faults`: what it holds against the node, and a few of its faults."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not importable: run `make test`, or source ROS 2")

from cmdtrack_ros.ros.health import CAUSES
from cmdtrack_ros.track import TargetState, Track
from faults.judge import OVER_WITHIN, Episode, Row, judge, judge_over, over_at
from faults.run import play_on
from faults.scenes import SCENES
from faults.stage import Ears, Line, Result, Stage, Status, staged
from faults.table import Fault, faults

pytestmark = pytest.mark.ros

QUICK = [fault for fault in faults(1000) if fault.quick]
SAID = Fault("aux clock", lambda stage: None, ("nothing pairs",), answers=0.5)
EPISODE = Episode(began=100.0, ended=104.0, watched=107.0, shots=40)


class Heard:
    """A stage on which nothing is played: results at 10 Hz, and what the node is made to have said."""

    scene = SimpleNamespace(name="face")
    cameras = SimpleNamespace(rate=10.0, truth=lambda at, stamp: (0, np.array([10.0, 10, 20, 20])))
    overlap, follows = Stage.overlap, Stage.follows

    def __init__(self) -> None:
        self.box = np.array([10.0, 10, 20, 20])
        self.figures, self.clean, self.silent = {}, [0.9], (0.0, 0.0)
        said = {"nothing pairs": "aux is 1.0 s ahead"}
        self.ears = Ears(lines=[Line(101.0, "nothing pairs: aux is 1.0 s ahead")])
        for second in range(95, 120):
            self.ears.statuses.append(Status(second, "tracker: inputs", "OK", "30 Hz", {}))
            if 101 <= second < 106:
                self.ears.statuses.append(Status(second, "tracker: pairing", "WARN", "nothing pairs", said))
            else:
                self.ears.statuses.append(Status(second, "tracker: pairing", "OK", "nothing pairs: over", {}))

    def between(self, began: float, ended: float) -> list[Result]:
        track = Track(self.box, 0.9, TargetState.TRACKING, 0.5, 0.5, True, True)
        times = np.arange(95.0, 120.0, 0.1)
        low, high = self.silent
        return [Result(at, track) for at in times if began <= at < ended and not low <= at < high]


def verdict(stage: Heard, fault: Fault = SAID, episode: Episode = EPISODE) -> Row:
    row = judge(fault, stage, episode)
    if row.said_s is not None:
        judge_over(row, over_at(row, fault, stage, episode), episode)
    return row


def test_fault_that_is_said_and_survived_passes() -> None:
    row = verdict(Heard())
    assert row.short == [] and row.survived
    assert row.said == "nothing pairs: aux is 1.0 s ahead" and row.level == "WARN"
    assert (row.said_s, row.over_s, row.lines) == (1.0, 2.0, 1)
    assert row.mean_iou == pytest.approx(1.0) and row.mean_iou_clean == pytest.approx(0.9)
    assert row.resumed_s < 0.2
    assert row.as_json()["passed"] is True


def falls_short(stage: Heard, says: str, **changes: object) -> None:
    episode = replace(EPISODE, **changes)
    assert [short for short in verdict(stage, episode=episode).short if says in short], says


def test_node_that_dies_or_errs_falls_short() -> None:
    falls_short(Heard(), "did not survive", survived=False)
    falls_short(Heard(), "took transition 9", failed="active: took transition 9")
    falls_short(Heard(), "libpng", printed="libpng error: IDAT")
    stage = Heard()
    stage.ears.statuses.append(Status(103.0, "tracker: tracking", "ERROR", "internal error", {}))
    falls_short(stage, "internal error")


def test_false_alarm_falls_short() -> None:
    row = judge(replace(SAID, causes=(), quiet=True), Heard(), EPISODE)
    assert row.short == ["false alarm: nothing pairs"]


def test_silence_falls_short() -> None:
    stage = Heard()
    stage.ears.statuses = [Status(s.at, s.name, "OK", "paired", {}) for s in stage.ears.statuses]
    falls_short(stage, "did not say 'nothing pairs', but nothing")
    stage = Heard()
    stage.ears.statuses = [s._replace(level="OK") for s in stage.ears.statuses]
    falls_short(stage, "did not say 'nothing pairs'")
    stage = Heard()
    stage.ears.lines = []
    falls_short(stage, "no line on /rosout")
    stage.ears.lines = [Line(101.0 + 0.1 * i, f"nothing pairs: {i}") for i in range(20)]
    falls_short(stage, "20 lines on /rosout, expected 2 at most")


def test_late_words_fall_short_unless_the_machine_was_late() -> None:
    stage = Heard()
    stage.ears.statuses = [s for s in stage.ears.statuses if s.at >= 103 or s.level == "OK"]
    falls_short(stage, "said after 3.0 s, expected 2 s")
    assert verdict(stage, episode=replace(EPISODE, lateness=1.5)).short == []


def test_cause_that_stays_falls_short() -> None:
    stage = Heard()
    last = stage.ears.statuses[-1].at + 1
    stage.ears.statuses = [s for s in stage.ears.statuses if s.at < 106]
    stage.ears.statuses += [Status(at, "tracker: pairing", "WARN", "nothing pairs", {}) for at in np.arange(106, last)]
    falls_short(stage, f"not over within {OVER_WITHIN:g} s")


def test_box_that_is_off_or_late_falls_short() -> None:
    stage = Heard()
    stage.box = np.array([15.0, 10, 20, 20])
    falls_short(stage, "mean IoU 0.60 after it, 0.90 without it")
    stage = Heard()
    stage.silent = (104.0, 106.5)
    falls_short(stage, "not resumed within 2 s")
    stage.silent = (100.0, 103.0)
    falls_short(stage, "results of 40 images while it lasted")
    stage.silent = (104.0, 110.0)
    falls_short(stage, "mean IoU 0.00 after it")


def test_table_names_causes_of_the_node_once() -> None:
    table = faults(1000)
    assert {cause for fault in table for cause in fault.causes} <= CAUSES.keys()
    assert len({fault.name for fault in table}) == len(table)
    assert QUICK


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(SCENES["face"](), tmp_path_factory.mktemp("stage")) as stage:
        yield stage


@pytest.mark.parametrize("fault", QUICK, ids=lambda fault: fault.name)
def test_fault(stage: Stage, fault: Fault) -> None:
    (row,) = play_on(stage, [fault])
    assert row.short == [], row
