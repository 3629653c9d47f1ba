"""Plays faults and keeps the score."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path

from faults.acts import restarted
from faults.judge import AFTER, OVER_WITHIN, Episode, Row, judge, judge_over, name_of, over_at
from faults.scenes import SCENES, available
from faults.stage import Stage, staged
from faults.table import SETTINGS, Fault
from synthetic import make_block, run_cli

QUIET_WITHIN = 10.0  # s until the diagnostics say nothing any more of what was before
ANSWER_WITHIN = 10.0  # s for a service of a node that is alive
# Lines that OpenCV, libjpeg and libpng print by themselves.
BY_ITSELF = re.compile(
    r"^(\[ *(?:WARN|ERROR):.*|libpng .*|Corrupt JPEG.*|Premature end.*|.*extraneous bytes.*)$", re.MULTILINE
)


def play_all(faults: Sequence[Fault], folder: Path, only: str = "") -> Iterator[Row]:
    """The rows of these faults, where their names have the pattern `only`; one node for all of a stage."""
    entries = [(fault.stage, scene, fault) for fault in faults for scene in fault.scenes if available(scene)]
    chosen = [entry for entry in entries if re.search(only, name_of(entry[2], entry[1]))]
    chosen.sort(key=lambda entry: (list(SETTINGS).index(entry[0]), list(SCENES).index(entry[1])))
    for (setting, scene), group in groupby(chosen, key=lambda entry: entry[:2]):
        played = [fault for _, _, fault in group]
        try:
            with staged(SCENES[scene](), folder / f"{setting}_{scene}", **SETTINGS[setting]) as stage:
                yield from play_on(stage, played)
        except AssertionError as error:
            yield Row(f"all of stage {setting} ({scene})", False, short=[f"the node was not brought to work: {error}"])


def play_on(stage: Stage, faults: Sequence[Fault]) -> Iterator[Row]:
    """The rows of faults that are played on a stage, in this order."""
    for fault in faults:
        ready = _make_ready(stage, fault)
        episode = play(fault, stage)
        row = judge(fault, stage, episode)
        if ready:
            row.short.insert(0, ready)
        if fault.causes and row.said_s is not None:
            with suppress(AssertionError):
                left = episode.ended + OVER_WITHIN - time.monotonic()
                stage.wait("silence", lambda: over_at(row, fault, stage, episode), left)  # noqa: B023 - done before
            judge_over(row, over_at(row, fault, stage, episode), episode)
        yield row


def play(fault: Fault, stage: Stage) -> Episode:
    """Do it and watch what follows."""
    cameras = stage.cameras
    cameras.lateness, stage.figures = 0.0, {}
    printed_before = stage.log.stat().st_size
    began, shots, failed = time.monotonic(), len(cameras.shots), ""
    try:
        began = fault.act(stage) or began
    except Exception as error:  # a fault that the harness did not foresee costs its own row
        failed = str(error) if isinstance(error, AssertionError) else repr(error)
        cameras.inject, cameras.scale = None, (1.0, 1.0)
        cameras.start()
    ended, shots = time.monotonic(), len(cameras.shots) - shots
    time.sleep(AFTER)
    printed = BY_ITSELF.search(stage.log.read_bytes()[printed_before:].decode(errors="replace"))
    return Episode(
        began,
        ended,
        time.monotonic(),
        _answers(stage),
        failed,
        shots,
        cameras.lateness,
        printed.group() if printed else "",
    )


def _make_ready(stage: Stage, fault: Fault) -> str:
    """Bring the node to follow the target and to be silent about the fault; says where it cannot be brought there."""
    try:
        try:
            stage.settle()
        except AssertionError:
            restarted(stage)
            stage.settle()
        stage.wait("silence", lambda: not stage.ears.shown(fault.causes), QUIET_WITHIN)
    except AssertionError as error:
        return f"before it: {error}"
    return ""


def _answers(stage: Stage) -> bool:
    with suppress(AssertionError):
        return bool(stage.state(ANSWER_WITHIN))
    return False


def full_disk(folder: Path) -> Iterator[Row]:
    """Verbs that write where nothing fits any more: each is to end in one line that names the file."""
    recording = make_block(folder / "block")
    for verb, options in (("track", ()), ("evaluate", ("--tracker", "mosse"))):
        output = folder / f"{verb}_on_full_disk"
        done = run_cli(verb, recording, *options, "--output", output, file_size=0)
        said = [line for line in done.stderr.splitlines() if line.startswith("cmdtrack: ")]
        row = Row(f"{verb} onto a full disk", said=said[-1] if said else "", level="ERROR" if done.returncode else "OK")
        row.survived = "Traceback" not in done.stderr
        if done.returncode != 1 or len(said) != 1 or str(output) not in said[0] or not row.survived:
            row.short.append("expected exit code 1 and one line that names the file")
        yield row
