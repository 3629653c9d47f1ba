"""What a fault did to the node, and whether that falls short of what is asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from cmdtrack_ros.ros.health import CAUSES

if TYPE_CHECKING:
    from faults.stage import Result, Stage, Status
    from faults.table import Fault

AFTER = 3.0  # s that the node is watched after a fault
JUDGED = 2.0  # s at their end, in which the box must be as good as without the fault
KEPT = 0.9  # share of the clean run's mean IoU
OVER_WITHIN = 8.0  # s after a fault until the diagnostics say nothing of it: 5 s that an event is shown, and a period
LINE_EVERY = 5.0  # s; a cause is not logged more often
LEVELS = ("OK", "WARN", "ERROR")


@dataclass
class Row:
    """One line of the table.

    Attributes:
        survived: the process lives on and answers, and ends only where it is to end.
        resumed_s: from the end of the fault to the first good result; None without one.
        said: what the diagnostics said of it; empty where they said nothing.
        level: how badly they said it.
        mean_iou: over the last 2 s of the 3 s after the fault; NaN where no box is asked for.
        mean_iou_clean: over the same frames without a fault.
        said_s: from the beginning of the fault to the first diagnostics that said it.
        over_s: from the end of the fault to the first diagnostics that said it no more.
        lines: on /rosout that begin with the cause.
        short: in what it falls short.
    """

    fault: str
    survived: bool = True
    resumed_s: float | None = None
    said: str = ""
    level: str = ""
    mean_iou: float = math.nan
    mean_iou_clean: float = math.nan
    said_s: float | None = None
    over_s: float | None = None
    lines: int = 0
    figures: dict[str, float] = field(default_factory=dict)
    short: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Numbers rounded; null where there is none."""
        values: dict[str, Any] = {"passed": not self.short}
        for name, value in self.__dict__.items():
            if isinstance(value, float):
                value = None if math.isnan(value) else round(value, 3)
            values[name] = value
        return {"fault": values.pop("fault"), **values}


@dataclass(frozen=True)
class Episode:
    """What happened.

    began, ended, watched: of the fault, and until when the node was watched (s, steady clock).
    survived: as of `Row`. failed: what the act itself found wrong.
    shots: taken while the fault lasted. lateness: of the cameras, for which the machine is to blame (s).
    printed: what the node's process printed by itself, beside ROS.
    """

    began: float
    ended: float
    watched: float
    survived: bool = True
    failed: str = ""
    shots: int = 0
    lateness: float = 0.0
    printed: str = ""


def name_of(fault: Fault, scene: str) -> str:
    return f"{fault.name} ({scene})"


def judge(fault: Fault, stage: Stage, episode: Episode) -> Row:
    """The row of a fault that has just been watched; `judge_over` completes it later."""
    row = Row(name_of(fault, stage.scene.name), episode.survived)
    row.figures = {"camera_hz": stage.cameras.rate, **stage.figures}
    if not episode.survived:
        row.short.append("the node did not survive")
    if episode.failed:
        row.short.append(episode.failed)
    if episode.printed:
        row.short.append(f"printed without a topic's name: {episode.printed}")
    _judge_results(row, fault, stage, episode)
    _judge_words(row, fault, stage, episode)
    return row


def _judge_results(row: Row, fault: Fault, stage: Stage, episode: Episode) -> None:
    # What a busy machine dropped had been taken up all the same.
    answered = len(stage.between(episode.began, episode.ended)) + stage.ears.grown("dropped", episode.began)
    if fault.answers and answered < fault.answers * episode.shots:
        row.short.append(f"{answered} results of {episode.shots} images while it lasted")
    after = stage.between(episode.ended, episode.watched)
    good = next((result for result in after if stage.follows(result)), None)
    row.resumed_s = good.at - episode.ended if good else None
    if row.resumed_s is None or row.resumed_s > fault.resume_within + episode.lateness:
        row.short.append(f"not resumed within {fault.resume_within:g} s")
    judged = [result for result in after if result.at >= episode.watched - JUDGED]
    row.mean_iou, row.mean_iou_clean = mean_overlaps(stage, judged)
    if not row.mean_iou >= KEPT * row.mean_iou_clean:
        row.short.append(f"mean IoU {row.mean_iou:.2f} after it, {row.mean_iou_clean:.2f} without it")


def mean_overlaps(stage: Stage, results: Sequence[Result]) -> tuple[float, float]:
    """Mean IoU of results, and of the clean run on the same frames; without results 0 and that of all frames."""
    if not results:
        return 0.0, float(np.mean(stage.clean))
    frames = [stage.cameras.truth(result.at, result.track.stamp_ns)[0] for result in results]
    clean = float(np.mean([stage.clean[frame] for frame in frames]))
    return float(np.mean([stage.overlap(result) for result in results])), clean


def _judge_words(row: Row, fault: Fault, stage: Stage, episode: Episode) -> None:
    heard = [s for s in list(stage.ears.statuses) if episode.began <= s.at < episode.watched and s.level != "OK"]
    first = next((status for status in heard if is_said(fault.causes, status)), None)
    if first:
        row.said, row.level, row.said_s = _text(first, fault.causes), first.level, first.at - episode.began
    elif heard and not fault.causes:
        row.said, row.level = heard[0].message, heard[0].level
    if fault.quiet and (alarms := {status.message for status in heard if status.message != "too slow"}):
        row.short.append(f"false alarm: {', '.join(sorted(alarms))}")
    if any("internal error" in status.message for status in heard):
        row.short.append("internal error")
    if not fault.causes or (fault.sayable and not fault.sayable(stage, episode)):
        return
    expected = " or ".join(f"'{cause}'" for cause in fault.causes)
    if row.said_s is None:
        instead = "; ".join(sorted({status.message for status in heard})) or "nothing"
        row.short.append(f"diagnostics did not say {expected}, but {instead}")
    elif LEVELS.index(row.level) < (level := min(CAUSES[cause].level[0] for cause in fault.causes)):
        row.short.append(f"said as {row.level}, expected {LEVELS[level]}")
    elif row.said_s > fault.said_within + episode.lateness:
        row.short.append(f"said after {row.said_s:.1f} s, expected {fault.said_within:g} s")
    _judge_lines(row, fault, stage, episode, expected)


def _judge_lines(row: Row, fault: Fault, stage: Stage, episode: Episode, expected: str) -> None:
    heard = [line.text for line in list(stage.ears.lines) if episode.began <= line.at < episode.watched]
    row.lines = sum(text.startswith(fault.causes) and not text.endswith(": over") for text in heard)
    at_most = len(fault.causes) * (1 + (episode.watched - episode.began) // LINE_EVERY)
    if not row.lines:
        row.short.append(f"no line on /rosout begins with {expected}")
    elif row.lines > at_most:
        row.short.append(f"{row.lines} lines on /rosout, expected {at_most:.0f} at most")


def _text(status: Status, causes: Sequence[str]) -> str:
    """The first of the causes that a status names, with what it says of it."""
    cause = next(cause for cause in causes if cause in status.message)
    return f"{cause}: {status.values[cause]}" if cause in status.values else status.message


def is_said(causes: Sequence[str], status: Status) -> bool:
    """Whether a status names one of the causes as a problem."""
    return status.level != "OK" and any(cause in status.message for cause in causes)


def over_at(row: Row, fault: Fault, stage: Stage, episode: Episode) -> float | None:
    """When the diagnostics first said nothing more of what they had said (steady clock, s); None before that."""
    since = max(episode.ended, episode.began + row.said_s)
    later = [status for status in list(stage.ears.statuses) if status.at >= since]
    for at, statuses in groupby(later, key=lambda status: status.at):  # the moment of one array
        if not any(is_said(fault.causes, status) for status in statuses):
            return at
    return None


def judge_over(row: Row, at: float | None, episode: Episode) -> None:
    """Add when the diagnostics had done with the fault."""
    row.over_s = None if at is None else at - episode.ended
    if row.over_s is None or row.over_s > OVER_WITHIN + episode.lateness:
        row.short.append(f"not over within {OVER_WITHIN:g} s")
