"""What people look at after a run: overlay.mp4, contact_sheet.png, and track.csv for those who plot."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from cmdtrack_ros.boxes import iou, visible
from cmdtrack_ros.data import ImageSequence
from cmdtrack_ros.data.video import VideoWriter
from cmdtrack_ros.drawing import NO_RESULT, contact_sheet, frame_picture
from cmdtrack_ros.errors import ConfigError, DataError
from cmdtrack_ros.evaluation.metrics import mean_overlap
from cmdtrack_ros.modalities import AuxEncoder
from cmdtrack_ros.track import Track
from cmdtrack_ros.tracking.drive import drive, first_visible

SHEET_FRAMES = 12


def track_recording(
    sequence: ImageSequence,
    output: Path,
    box: np.ndarray | None = None,
    *,
    weights: Path | None = None,
    device: str = "auto",
    threads: int = 0,
) -> Iterator[str]:
    """Follow a target through a recording; write track.csv, overlay.mp4 and contact_sheet.png below ``output``.

    box: (4,) xywh px in the first frame; None = the first true box, where tracking then starts.
    Yields the lines of a short report.

    Raises:
        ConfigError: neither a box nor a true one.
    """
    from cmdtrack_ros.tracking.tracker import load_tracker  # needs torch, which the pictures do not

    if box is None and not visible(sequence.boxes).any():
        raise ConfigError(f"{sequence.name} has no true box to start from: give --init-box x,y,w,h")
    start = first_visible(sequence) if box is None else 0
    tracker = load_tracker(weights, modality=sequence.modality, device=device, threads=threads)
    frames = range(start, len(sequence))
    tracks = list(
        tqdm(drive(tracker, sequence, frames, box), "track", len(frames), unit="frame", disable=None)
    )
    write_tracks(output / "track.csv", sequence, tracks, start)
    write_pictures(sequence, tracks, output, f"{sequence.name}   {sequence.modality}", start=start)
    mean = mean_overlap(np.array([track.box for track in tracks]), sequence.boxes[start:])
    truths = int(visible(sequence.boxes[start + 1 :]).sum())
    rate = len(tracks) / sum(track.seconds for track in tracks)
    accuracy = f", mean IoU {mean:.3f} over {truths} frames with a true box" if truths else ""
    yield f"{sequence.name}: {len(tracks)} frames, {rate:.1f} frames/s{accuracy}"
    yield f"  {output}: track.csv, overlay.mp4, contact_sheet.png"


def write_tracks(path: Path, sequence: ImageSequence, tracks: Sequence[Track | None], start: int = 0) -> None:
    """One line a frame from frame ``start`` on; None = the tracker did not answer that frame.

    Raises:
        DataError: no frame at all.
    """
    if not tracks:
        raise DataError(f"{path}: there is no result to write")
    rows = [_row(i, track, sequence.boxes[i]) for i, track in enumerate(tracks, start)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _row(index: int, track: Track | None, truth: np.ndarray) -> dict[str, Any]:
    names = ("x", "y", "width", "height", "state", "score", "weight_rgb", "weight_aux", "iou", "stamp")
    names += ("pair_gap_ms", "latency_ms", "processing_ms")
    if track is None:
        missed = "0.0000" if visible(truth) else ""
        return {"frame": index, **dict.fromkeys(names, ""), "state": NO_RESULT, "iou": missed}
    shares = (f"{value:.4f}" for value in (track.score, track.weight_rgb, track.weight_aux))
    values = [f"{value:.3f}" for value in track.box] + [track.state.name, *shares]
    values += [f"{iou(track.box, truth):.4f}" if visible(truth) else "", f"{track.stamp_ns / 1e9:.9f}"]
    values += [
        "" if np.isnan(value) else f"{value * 1e3:.3f}" for value in (track.gap, track.latency, track.seconds)
    ]
    return {"frame": index, **dict(zip(names, values))}


def write_pictures(
    sequence: ImageSequence,
    tracks: Sequence[Track | None],
    output: Path,
    title: str,
    *,
    start: int = 0,
    encoder: AuxEncoder | None = None,
) -> None:
    """overlay.mp4 of the frames from ``start`` on, at the recording's rate; contact_sheet.png of twelve of them.

    encoder: how the tracker saw the aux images; None = with this package's defaults.
    """
    output.mkdir(parents=True, exist_ok=True)
    encoder = AuxEncoder(sequence.modality) if encoder is None else encoder
    encoder.reset()
    fps = 1.0 / float(np.median(np.diff(sequence.stamps))) if len(sequence) > 1 else 1.0
    chosen = set(np.linspace(0, len(tracks) - 1, SHEET_FRAMES).round().astype(int).tolist())
    tiles = []
    with VideoWriter(output / "overlay.mp4", fps) as video:
        for number, track in enumerate(tracks):
            frame = sequence.frame(start + number)
            aux = None if frame.aux is None else encoder(frame.aux)
            picture = frame_picture(frame.rgb, aux, track, sequence.boxes[start + number], start + number)
            video.write(picture)
            if number in chosen:
                tiles.append(picture)
    sheet = contact_sheet(tiles, title)
    cv2.imwrite(str(output / "contact_sheet.png"), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
