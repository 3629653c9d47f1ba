"""What people look at after a run: overlay.mp4, contact_sheet.png, and track.csv for those who plot."""

from __future__ import annotations

import csv
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cmdtrack_ros.boxes import iou, visible
from cmdtrack_ros.data import ImageSequence
from cmdtrack_ros.data.sequences import write_rgb
from cmdtrack_ros.data.video import VideoWriter
from cmdtrack_ros.drawing import NO_RESULT, contact_sheet, frame_picture
from cmdtrack_ros.errors import ConfigError, DataError, writing
from cmdtrack_ros.evaluation.metrics import mean_overlap
from cmdtrack_ros.modalities import AuxEncoder
from cmdtrack_ros.track import Track
from cmdtrack_ros.tracking.drive import drive, first_visible

SHEET_FRAMES = 12
COLUMNS = ("frame", "x", "y", "width", "height", "state", "score", "weight_rgb", "weight_aux", "iou", "stamp")
TIMES: dict[str, Callable[[Track], float]] = {
    "total_ms": lambda track: track.seconds,
    "pair_gap_ms": lambda track: track.gap,
    "latency_ms": lambda track: track.latency,
    "processing_ms": lambda track: track.seconds,
}
"""Columns of track.csv in milliseconds, and the seconds that they show."""


def track_recording(
    sequence: ImageSequence,
    output: Path,
    box: np.ndarray | None = None,
    *,
    weights: Path | None = None,
    device: str = "auto",
    threads: int = 0,
) -> Iterator[str]:
    """Follow a target through a recording; leave track.csv, overlay.mp4, contact_sheet.png in ``output``.

    box: (4,) xywh px in the first frame; None = the first true box, where tracking then starts, else the box that the
        recording notes.
    Yields the lines of a short report.

    Raises:
        ConfigError: neither a box nor a true one.
    """
    from cmdtrack_ros.tracking.tracker import load_tracker  # needs torch, which the pictures do not

    if box is None and not visible(sequence.boxes).any():
        box = sequence.noted_box
    if box is None and not visible(sequence.boxes).any():
        raise ConfigError(f"{sequence.name} has no true box to start from: give --init-box x,y,w,h")
    start = first_visible(sequence) if box is None else 0
    tracker = load_tracker(weights, modality=sequence.modality, device=device, threads=threads)
    frames = range(start, len(sequence))
    tracks = list(tqdm(drive(tracker, sequence, frames, box), "track", len(frames), unit="frame", disable=None))
    write_tracks(output / "track.csv", sequence, tracks, start)
    write_pictures(sequence, tracks, output, f"{sequence.name}   {sequence.modality}", start)
    mean = mean_overlap(np.array([track.box for track in tracks]), sequence.boxes[start:])
    truths = int(visible(sequence.boxes[start + 1 :]).sum())
    rate = len(tracks) / sum(track.seconds for track in tracks)
    accuracy = f", mean IoU {mean:.3f} over {truths} frames with a true box" if truths else ""
    yield f"{sequence.name}: {len(tracks)} frames, {rate:.1f} frames/s{accuracy}"
    yield f"  {output}: track.csv, overlay.mp4, contact_sheet.png"


def write_tracks(
    path: Path,
    sequence: ImageSequence,
    tracks: Sequence[Track | None],
    start: int = 0,
    times: Sequence[str] = ("total_ms",),
) -> None:
    """One line a frame from frame ``start`` on; None = the tracker did not answer that frame.

    times: the columns after the stamp, of :data:`TIMES`.

    Raises:
        DataError: no frame at all.
    """
    if not tracks:
        raise DataError(f"{path}: there is no result to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path), path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow((*COLUMNS, *times))
        for index, track in enumerate(tracks, start):
            writer.writerow(_row(index, track, sequence.boxes[index], times))


def _row(index: int, track: Track | None, truth: np.ndarray, times: Sequence[str]) -> list[Any]:
    if track is None:
        missed = "0.0000" if visible(truth) else ""
        return [index, *[""] * 4, NO_RESULT, "0.0000", "0.0000", "0.0000", missed, "", *[""] * len(times)]
    box = [f"{value:.3f}" if visible(track.box) else "" for value in track.box]
    shares = [f"{value:.4f}" for value in (track.score, track.weight_rgb, track.weight_aux)]
    overlap = f"{iou(track.box, truth):.4f}" if visible(truth) else ""
    milliseconds = [TIMES[name](track) * 1e3 for name in times]
    measured = ["" if np.isnan(value) else f"{value:.3f}" for value in milliseconds]
    return [index, *box, track.state.name, *shares, overlap, f"{track.stamp_ns / 1e9:.9f}", *measured]


def pictures_as_seen(
    sequence: ImageSequence,
    order: Iterable[int],
    *,
    given: Container[int] | None = None,
    shown: Container[int] | None = None,
) -> Iterator[tuple[int, np.ndarray | None, np.ndarray | None]]:
    """Frame index, RGB and aux picture (HxWx3 uint8, or None) as the network saw them.

    The range of a picture may follow the stream, so the encoder goes the way of the tracker's own. Frames that
    do not decode are left out.

    Args:
        order: (n,) frames one after the other, from the one on which the tracker was started.
        given: those whose aux image reached the tracker; None = all.
        shown: those that are wanted; None = all.
    """
    encoder = AuxEncoder(sequence.modality)
    follows = True
    for index in map(int, order):
        wanted = shown is None or index in shown
        if not wanted and not follows:
            continue
        try:
            aux = sequence.aux(index)
            rgb = sequence.rgb(index) if wanted else None
        except DataError:
            continue
        if aux is not None:
            follows = aux.dtype != np.uint8  # 8-bit images are pictures already, whatever came before them
            if given is None or index in given:
                encoder.observe(aux)
        if wanted:
            yield index, rgb, None if aux is None else encoder.picture(aux)


def write_pictures(
    sequence: ImageSequence, tracks: Sequence[Track | None], output: Path, title: str, start: int = 0
) -> None:
    """overlay.mp4 of the frames from ``start`` on, at the recording's rate; contact_sheet.png of twelve."""
    output.mkdir(parents=True, exist_ok=True)
    fps = 1.0 / float(np.median(np.diff(sequence.stamps))) if len(sequence) > 1 else 1.0
    frames = range(start, start + len(tracks))
    given = {index for index, track in zip(frames, tracks) if track is not None and track.has_aux}
    chosen = set(np.linspace(start, frames[-1], SHEET_FRAMES).round().astype(int).tolist())
    tiles = []
    film = output / "overlay.mp4"
    with writing(film), VideoWriter(film, fps) as video:
        for index, rgb, aux in pictures_as_seen(sequence, frames, given=given):
            picture = frame_picture(rgb, aux, tracks[index - start], sequence.boxes[index], index)
            video.write(picture)
            if index in chosen:
                tiles.append(picture)
    sheet = contact_sheet(tiles, title)
    write_rgb(output / "contact_sheet.png", sheet)
