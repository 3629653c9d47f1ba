"""How far a target's position in space is off, on RGB-D sequences with true boxes.

No sequence says where its target is in space. What stands for the truth knows nothing of `tracking/world.py`:
GrabCut parts the target in the true box from what is around it by colour alone, and the median depth of its pixels
is the target's, at the centre of the true box. Its own errors are in the figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from cmdtrack_ros.boxes import visible
from cmdtrack_ros.cameras import Camera
from cmdtrack_ros.data import ImageSequence
from cmdtrack_ros.errors import ConfigError, DataError
from cmdtrack_ros.evaluation.baselines import BOTH, TrackerSpec, make_tracker
from cmdtrack_ros.modalities import AuxEncoding, Modality
from cmdtrack_ros.track import TargetState
from cmdtrack_ros.tracking.drive import drive, first_visible
from cmdtrack_ros.tracking.world import Reading, TargetDepth, inside, locate

METHODS = ("ours", "centre pixel", "mean of box", "median of box", "ours, tracked box", "median, tracked box")
_MARGIN = 0.5  # of the box's sides, around it: what GrabCut takes for the background
_ROUNDS = 3
_LEAST_SHARE = 0.1  # of the box, cut out and with a reading, for a truth
_MOST = 1e5  # px, of a focal length or principal point

Errors = dict[str, list[float]]
"""Method -> m a frame with a truth; NaN without an answer."""


def parse_camera(text: str) -> np.ndarray:
    """(3, 3) matrix of "fx,fy,cx,cy", px.

    Raises:
        ConfigError: not four numbers, or focal lengths that are not positive.
    """
    try:
        fx, fy, cx, cy = (float(word) for word in text.split(","))
    except ValueError:
        fx = fy = cx = cy = math.nan
    if not (0 < fx <= _MOST and 0 < fy <= _MOST and abs(cx) <= _MOST and abs(cy) <= _MOST):
        raise ConfigError(f"--camera {text}: expected fx,fy,cx,cy in px, such as 585,585,319.5,239.5")
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])


def true_depth(rgb: np.ndarray, metres: np.ndarray, box: np.ndarray) -> float | None:
    """Median depth, m, of what GrabCut cuts out of a true box (4,) xywh px; None where that is too little.

    Source: C. Rother, V. Kolmogorov, A. Blake, "GrabCut", SIGGRAPH 2004, as OpenCV has it.
    """
    height, width = metres.shape
    around = np.concatenate([box[:2] - _MARGIN * box[2:], (1 + 2 * _MARGIN) * box[2:]])
    window = inside(around, width, height)
    rows, columns = inside(box, width, height)
    labels = np.full((height, width), cv2.GC_BGD, np.uint8)
    labels[rows, columns] = cv2.GC_PR_FGD
    labels = labels[window].copy()
    if not (labels == cv2.GC_PR_FGD).any() or not (labels == cv2.GC_BGD).any():
        return None
    cv2.setRNGSeed(0)
    cv2.grabCut(
        np.ascontiguousarray(rgb[window]), labels, None, np.zeros((1, 65)), np.zeros((1, 65)), _ROUNDS,
        cv2.GC_INIT_WITH_MASK,
    )  # fmt: skip
    readings = metres[window][labels == cv2.GC_PR_FGD]
    readings = readings[readings > 0]
    return float(np.median(readings)) if readings.size >= _LEAST_SHARE * box[2] * box[3] else None


def true_place(rgb: np.ndarray, metres: np.ndarray, box: np.ndarray, camera: Camera) -> np.ndarray | None:
    """(3,) m, in the camera's frame: the centre of a true box at its :func:`true_depth`; None where that is none."""
    depth = true_depth(rgb, metres, box)
    return None if depth is None else _place(camera, box, depth)


def pose_errors(sequence: ImageSequence, matrix: np.ndarray, tracker: TrackerSpec) -> Errors:
    """Distance to the truth, m, of each of :data:`METHODS` on the frames that have one.

    Args:
        matrix: (3, 3) of the RGB camera, px.
    """
    errors: Errors = {name: [] for name in METHODS}
    ours, tracked_ours = TargetDepth(), TargetDepth()
    start = first_visible(sequence)
    tracks = drive(make_tracker(tracker, sequence.modality), sequence)
    for index, track in enumerate(tracks, start):
        frame, box = sequence.frame(index), sequence.boxes[index]
        if frame.rgb is None or frame.aux is None:
            raise DataError(f"{sequence.name}, frame {index}: expected RGB and depth, one of them is missing")
        metres = AuxEncoding().metres(frame.aux)
        camera = Camera(metres.shape[1], metres.shape[0], matrix)
        tracked = track.box if track.state is TargetState.TRACKING else None
        answers: dict[str, np.ndarray | None] = {"ours, tracked box": None, "median, tracked box": None}
        if tracked is not None:
            answers["ours, tracked box"] = _ours(tracked_ours, camera, metres, tracked, track.stamp_ns)
            answers["median, tracked box"] = _simple(camera, metres, tracked)["median of box"]
        if not visible(box[None])[0]:
            continue
        answers |= {"ours": _ours(ours, camera, metres, box, track.stamp_ns), **_simple(camera, metres, box)}
        truth = true_place(frame.rgb, metres, box, camera)
        if truth is None:
            continue
        for name in METHODS:
            place = answers[name]
            errors[name].append(math.nan if place is None else float(np.linalg.norm(place - truth)))
    return errors


def _ours(depths: TargetDepth, camera: Camera, metres: np.ndarray, box: np.ndarray, stamp_ns: int) -> np.ndarray | None:
    rows, columns = inside(box, camera.width, camera.height)
    shown = box - [columns.start, rows.start, 0, 0]
    reading = depths.update(metres[rows, columns], shown, min(camera.focal), stamp_ns)
    place = locate(camera, box, reading) if reading else None
    return None if place is None else place.position


def _place(camera: Camera, box: np.ndarray, depth: float) -> np.ndarray | None:
    place = locate(camera, box, Reading(depth, 0.0))
    return None if place is None else place.position


def _simple(camera: Camera, metres: np.ndarray, box: np.ndarray) -> dict[str, np.ndarray | None]:
    """What a few lines of code would make of a box."""
    readings = metres[inside(box, camera.width, camera.height)]
    readings = readings[readings > 0]
    x, y = (box[:2] + box[2:] / 2).astype(int)
    at_centre = 0.0
    if 0 <= x < camera.width and 0 <= y < camera.height:
        at_centre = float(metres[y, x])
    depths = {"centre pixel": at_centre, "mean of box": 0.0, "median of box": 0.0}
    if readings.size:
        depths |= {"mean of box": float(readings.mean()), "median of box": float(np.median(readings))}
    return {name: _place(camera, box, depth) if depth > 0 else None for name, depth in depths.items()}


def evaluate_poses(
    sequences: list[ImageSequence],
    matrix: np.ndarray,
    weights: tuple[Path, ...],
    device: str,
    show: Callable[[str], None],
) -> dict[str, Errors]:
    """:func:`pose_errors` of every RGB-D sequence, and of ``all`` frames together; shown as a table.

    Raises:
        DataError: no sequence has RGB and depth.
    """
    taken = [sequence for sequence in sequences if sequence.modality is Modality.DEPTH and _has_rgb(sequence)]
    if not taken:
        raise DataError("expected a sequence with RGB and depth, got none")
    show("error in m, median / 95 %, and share of frames with an answer, against GrabCut's depth in the true box")
    show(f"| sequence | frames | {' | '.join(METHODS)} |")
    show("|---" * (len(METHODS) + 2) + "|")
    everything: dict[str, Errors] = {}
    for sequence in taken:
        everything[sequence.name] = pose_errors(sequence, matrix, TrackerSpec("ours", BOTH, weights, device))
        show(_row(sequence.name, everything[sequence.name]))
    together = {name: [e for errors in everything.values() for e in errors[name]] for name in METHODS}
    show(_row("all", together))
    return everything | {"all": together}


def _has_rgb(sequence: ImageSequence) -> bool:
    return sequence.frame(first_visible(sequence)).rgb is not None


def _row(name: str, errors: Errors) -> str:
    return f"| {name} | {len(errors[METHODS[0]])} | {' | '.join(_cells(errors))} |"


def _cells(errors: Errors) -> Iterator[str]:
    for name in METHODS:
        values = np.array(errors[name])
        known = values[np.isfinite(values)]
        if not known.size:
            yield "–"
            continue
        middle, high = np.percentile(known, (50, 95))
        yield f"{middle:.3f} / {high:.3f}, {known.size / values.size:.0%}"
