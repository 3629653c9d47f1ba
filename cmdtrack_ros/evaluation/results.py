"""Result files, in the layouts that the benchmarks' own toolkits read.

Below ``OUTPUT/results/TRACKER/``:

- one pass (LasHeR, RGBT234, GTOT, VisEvent, OTB): ``SEQ.txt``, a row ``x,y,w,h`` a frame; beside it
  ``confidence/SEQ.txt`` and ``time/SEQ.txt`` (seconds);
- long-term (VOT toolkit, experiment ``rgbd-unsupervised``): ``rgbd-unsupervised/SEQ/SEQ_001.txt``, whose row
  of the first frame is ``1``, and ``SEQ_001_confidence.value``, ``SEQ_001_time.value``;
- multi-start (VOT toolkit, experiment ``baseline``): ``baseline/SEQ/SEQ_ANCHOR.txt`` (eight digits) with the
  same two.

The file of boxes is written last and in one step, so that a run whose file is there is complete.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from cmdtrack_ros.data import ImageSequence
from cmdtrack_ros.errors import DataError, writing
from cmdtrack_ros.evaluation.protocols import Protocol, Run, anchors

CONFIDENCES, TIMES = "confidence", "time"
LONGTERM_EXPERIMENT = "rgbd-unsupervised"
MULTISTART_EXPERIMENT = "baseline"


def run_files(folder: Path, name: str, protocol: Protocol, anchor: int = 0) -> tuple[Path, Path, Path]:
    """Files of boxes, confidences and seconds of one run below a tracker's ``folder``."""
    if protocol is Protocol.OPE:
        return folder / f"{name}.txt", folder / CONFIDENCES / f"{name}.txt", folder / TIMES / f"{name}.txt"
    longterm = protocol is Protocol.LONGTERM
    stem = folder / (LONGTERM_EXPERIMENT if longterm else MULTISTART_EXPERIMENT) / name
    stem = stem / (f"{name}_001" if longterm else f"{name}_{anchor:08d}")
    boxes, scores, seconds = (stem.with_name(stem.name + end) for end in (".txt", "_confidence.value", "_time.value"))
    return boxes, scores, seconds


def starts(sequence: ImageSequence, protocol: Protocol) -> list[int]:
    """The anchors of the sequence's runs; [0] where a protocol has one run."""
    return [anchor for anchor, _ in anchors(sequence)] if protocol is Protocol.MULTISTART else [0]


def finished(folder: Path, sequence: ImageSequence, protocol: Protocol) -> bool:
    """Whether every run of the sequence has its file of boxes."""
    return all(run_files(folder, sequence.name, protocol, anchor)[0].is_file() for anchor in starts(sequence, protocol))


def write_run(folder: Path, name: str, protocol: Protocol, run: Run, anchor: int = 0) -> Path:
    """Write one run and return its file of boxes."""
    boxes, scores, seconds = run_files(folder, name, protocol, anchor)
    special = protocol is not Protocol.OPE
    rows = [",".join(f"{value:.4f}" for value in box) for box in run.boxes]
    confidences = ["" if np.isnan(v) else f"{v:.6f}" for v in run.scores]
    if special:
        # The VOT toolkit writes code 1 and no confidence for the frame that the tracker was given.
        first = int(np.argmax(np.isfinite(run.boxes).all(1)))
        rows[:first], rows[first], confidences[first] = ["0"] * first, "1", ""
    write_text(scores, "\n".join(confidences) + "\n")
    write_text(seconds, "\n".join("" if np.isnan(v) else f"{v:.6f}" for v in run.seconds) + "\n")
    write_text(boxes, "\n".join(rows) + "\n")
    return boxes


def read_run(folder: Path, sequence: ImageSequence, protocol: Protocol, anchor: int = 0) -> Run:
    """Read one run of ``sequence``; files of confidences and seconds may be missing (NaN then).

    Raises:
        DataError: no file of boxes, or rows that are not boxes, or fewer rows than frames.
    """
    order = dict(anchors(sequence))[anchor] if protocol is Protocol.MULTISTART else np.arange(len(sequence))
    file, scores, seconds = run_files(folder, sequence.name, protocol, anchor)
    boxes = read_boxes(file, len(order), sequence.boxes[order])
    return Run(boxes, read_numbers(scores, len(order)), read_numbers(seconds, len(order)))


def read_boxes(file: Path, count: int, truth: np.ndarray) -> np.ndarray:
    """Rows of boxes, separated by commas, tabs or spaces -> (count, 4) float64; rows beyond are cut.

    A row of one number is a VOT code: 1 = started here, and stands for that row of ``truth`` (count, 4);
    any other code is "no answer" (NaN).
    """
    if not file.is_file():
        raise DataError(f"{file}: no such result file")
    try:
        lines = file.read_text().strip().splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not a text file of boxes ({error.reason})") from error
    if len(lines) < count:
        raise DataError(f"{file}: expected {count} rows, one a frame, got {len(lines)}")
    boxes = np.full((count, 4), np.nan)
    for row, line in enumerate(lines[:count]):
        try:
            values = [float(word) for word in re.split(r"[,\s]+", line.strip(", \t"))]
        except ValueError:
            values = []
        if len(values) == 4:
            boxes[row] = values
        elif len(values) == 1:
            boxes[row] = truth[row] if values[0] == 1 else np.nan
        else:
            raise DataError(f"{file}, row {row + 1}: expected x,y,w,h or a VOT code, got '{line[:60]}'")
    return boxes


def read_numbers(file: Path, count: int) -> np.ndarray:
    """One number a row -> (count,) float64; NaN for empty rows, and all NaN when there is no such file."""
    if not file.is_file():
        return np.full(count, np.nan)
    lines = [line.strip() for line in file.read_text().splitlines()[:count]]
    try:
        values = [float(line) if line else np.nan for line in lines]
    except ValueError as error:
        raise DataError(f"{file}: expected one number a row ({error})") from error
    return np.array(values + [np.nan] * (count - len(values)))


def write_text(file: Path, text: str) -> None:
    """Write in one step: a killed run leaves the whole file or none.

    Raises:
        DataError: a folder or disk that cannot be written.
    """
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_text(text)
            os.replace(partial, file)
        finally:
            partial.unlink(missing_ok=True)
