"""Tracking a recording without ROS, and the files that show it: track.csv, overlay.mp4, contact_sheet.png."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from cmdtrack_ros.boxes import iou
from cmdtrack_ros.data.sequences import Sequence
from cmdtrack_ros.data.video import VideoWriter
from cmdtrack_ros.errors import ConfigError, DataError
from cmdtrack_ros.modalities import AuxEncoder
from cmdtrack_ros.overlay import Shown, contact_sheet, draw

SHEET_FRAMES = 12


def track_recording(
    sequence: Sequence,
    output: Path,
    box: list[float] | None = None,
    *,
    weights: Path | None = None,
    device: str = "auto",
    threads: int = 0,
) -> Iterator[str]:
    """Follow a target through `sequence`, write track.csv, overlay.mp4 and contact_sheet.png below `output`.

    box: x, y, w, h in the first frame; None = the sequence's first true box, where tracking then starts.
    Yields the lines of a short report.
    """
    from cmdtrack_ros.tracking import load_tracker  # needs torch, which the pictures do not

    start, box = _start(sequence, box)
    tracker = load_tracker(weights, modality=sequence.modality, device=device, threads=threads)
    shown, rows, seconds = [], [], []
    for i in tqdm(range(start, len(sequence)), "track", unit="frame", disable=None):
        frame = sequence.frame(i)
        began = time.perf_counter()
        track = (
            tracker.init(frame.rgb, frame.aux, box) if i == start else tracker.update(frame.rgb, frame.aux)
        )
        seconds.append(time.perf_counter() - began)
        truth = sequence.boxes[i]
        shown.append(
            Shown(
                i,
                track.state.name,
                track.score,
                track.box,
                truth,
                overlap(track.box, truth),
                track.weight_rgb,
                track.weight_aux,
            )
        )
        rows.append(result_row(shown[-1], stamp=f"{frame.stamp:.6f}", total_ms=f"{seconds[-1] * 1e3:.3f}"))
    write_csv(output / "track.csv", rows)
    write_pictures(sequence, shown, output, f"{sequence.name}   {sequence.modality}")
    scores = [s.iou for s in shown[1:] if s.iou is not None]
    yield f"{sequence.name}: {len(shown)} frames, {len(seconds) / sum(seconds):.1f} frames/s" + (
        f", mean IoU {np.mean(scores):.3f} over {len(scores)} frames with a true box" if scores else ""
    )
    yield f"  {output}: track.csv, overlay.mp4, contact_sheet.png"


def _start(sequence: Sequence, box: list[float] | None) -> tuple[int, np.ndarray]:
    if box is not None:
        return 0, np.array(box, np.float64)
    known = np.flatnonzero(np.isfinite(sequence.boxes).all(axis=1))
    if not len(known):
        raise ConfigError(f"{sequence.name} has no true box to start from: give --init-box x,y,w,h")
    return int(known[0]), sequence.boxes[known[0]]


def overlap(box: np.ndarray | None, truth: np.ndarray) -> float | None:
    """IoU with the truth: 0 without a box, None where there is no truth."""
    if not np.isfinite(truth).all():
        return None
    return 0.0 if box is None else float(iou(box, truth))


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """One line a row; the columns are the keys of the first row."""
    if not rows:
        raise DataError(f"{path}: there is no result to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def result_row(shown: Shown, **more: Any) -> dict[str, Any]:
    """A row of track.csv: where the target is, and further columns."""
    box = [""] * 4 if shown.box is None else [f"{v:.3f}" for v in shown.box]
    return {
        "frame": shown.index,
        **dict(zip(("x", "y", "width", "height"), box)),
        "state": shown.state,
        "score": f"{shown.score:.4f}",
        "weight_rgb": f"{shown.weight_rgb:.4f}",
        "weight_aux": f"{shown.weight_aux:.4f}",
        "iou": "" if shown.iou is None else f"{shown.iou:.4f}",
        **more,
    }


def write_pictures(sequence: Sequence, shown: list[Shown], output: Path, title: str) -> None:
    """overlay.mp4 of the frames in `shown`, at the recording's rate; contact_sheet.png of twelve of them."""
    output.mkdir(parents=True, exist_ok=True)
    encoder = AuxEncoder(sequence.modality)
    fps = 1.0 / float(np.median(np.diff(sequence.stamps))) if len(sequence) > 1 else 1.0
    chosen = set(np.linspace(0, len(shown) - 1, SHEET_FRAMES).round().astype(int).tolist())
    tiles = []
    with VideoWriter(output / "overlay.mp4", fps) as video:
        for number, one in enumerate(shown):
            frame = sequence.frame(one.index)
            picture = draw(frame.rgb, None if frame.aux is None else encoder(frame.aux), one)
            video.write(picture)
            if number in chosen:
                tiles.append(picture)
    sheet = contact_sheet(tiles, title)
    cv2.imwrite(str(output / "contact_sheet.png"), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
