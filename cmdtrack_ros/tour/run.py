"""The tour itself: each stop a node of its own that plays its recording, and what it showed there."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from cmdtrack_ros.boxes import visible
from cmdtrack_ros.data.bags import TRUTH_TOPIC, stamps_in_bag, write_bag
from cmdtrack_ros.data.sequences import write_rgb
from cmdtrack_ros.demo import BAG_OPTIONS, attempts, circumstances, speed
from cmdtrack_ros.drawing import contact_sheet
from cmdtrack_ros.errors import CmdtrackError, DataError
from cmdtrack_ros.evaluation.metrics import mean_overlap
from cmdtrack_ros.evaluation.pose import true_place
from cmdtrack_ros.evaluation.replay import as_live_camera
from cmdtrack_ros.evaluation.results import write_text
from cmdtrack_ros.modalities import AuxEncoding, Modality
from cmdtrack_ros.models.header import check_student
from cmdtrack_ros.ros.replay.operator import Operator, check_door
from cmdtrack_ros.ros.replay.session import Playback, play_into_node
from cmdtrack_ros.tour.report import table, write_page
from cmdtrack_ros.tour.stops import Stop, stops
from cmdtrack_ros.track import TargetState, Track, frame_at, per_frame

if TYPE_CHECKING:
    from rich.console import RenderableType

SUMMARY, PAGE, SHEET = "summary.json", "index.html", "contact_sheet.jpg"
_SHOWN = 8  # moments on a contact sheet
_COMPARED = 20  # positions in space: a truth takes GrabCut the better part of a second
_NOTES = (
    "mean_iou: from the frame after the target was taken on; frames without a result count 0. "
    "latency: from a frame's stamp, which the player sets to the moment it is due, to publication. "
    "position: distance to the centre of the true box at the depth of what GrabCut cuts out of it."
)


def run_tour(
    output: Path,
    data: Path | None = None,
    weights: Path | None = None,
    rate: float | None = None,
    frames: int | None = None,
    only: Sequence[str] = (),
) -> Iterator[RenderableType]:
    """Leave index.html, summary.json, and a folder a stop with contact_sheet.jpg, bag/ and node.log, in `output`.

    Args:
        data: folder of real recordings; None = the demo's video, and what is made from it.
        weights: None = the shipped ones.
        rate: speed of playing; None = as recorded, then slower where this machine cannot keep pace.
        frames: to play of each recording, at most.
        only: names of the stops; empty for all.

    Yields what is to be shown meanwhile, at last a table.

    Raises:
        CmdtrackError: at stops that are named, the node did not get its target, or showed nothing; the others
            were made all the same.
    """
    visited = [stop for stop in stops(data, frames) if not only or stop.name in only]
    check_student(weights)  # a node without weights would wait for an operator; here it is an error at once
    summary: dict[str, Any] = {"stops": {}, "failures": {}, **circumstances(weights), "notes": _NOTES}
    pace = 1.0  # that this machine has kept so far
    for number, stop in enumerate(visited, 1):
        sequence = stop.scene.sequence
        yield f"{number} of {len(visited)}: {sequence.name} ({stop.name}), target by {stop.door}"
        try:
            summary["stops"][stop.name] = yield from _visit(stop, output / stop.name, weights, rate, pace)
            pace = summary["stops"][stop.name]["play_rate"]
        except CmdtrackError as error:
            summary["failures"][stop.name] = str(error)
            yield f"FAILED: {error}"
    write_text(output / SUMMARY, json.dumps(summary, indent=2) + "\n")
    write_page(output / PAGE, summary)
    yield table(summary)
    yield f"pictures: {output / PAGE}"
    if summary["failures"]:
        raise CmdtrackError("; ".join(f"stop {name}: {why}" for name, why in summary["failures"].items()))


def _visit(
    stop: Stop, folder: Path, weights: Path | None, rate: float | None, first: float
) -> Generator[str, None, dict[str, Any]]:
    """Make one stop; `rate` and `first` as of :func:`attempts`."""
    check_door(stop.door)
    sequence = stop.scene.sequence
    folder.mkdir(parents=True, exist_ok=True)
    write_bag(sequence, folder / "bag", BAG_OPTIONS, overwrite=True)
    operators: list[Operator] = []
    runs = yield from attempts(sequence, lambda pace: _play(stop, folder, weights, pace, operators), rate, first)
    run, (operator,) = runs[-1], operators  # those of the last attempt
    _check(stop, run, operator, folder)
    stamps = stamps_in_bag(sequence, BAG_OPTIONS)
    targets = {name: _target(truth, stamps, _of(name, run)) for name, truth in stop.truth.items()}
    changes = [entry["frame"] for target in targets.values() for entry in target["states"]]
    write_rgb(folder / SHEET, _sheet(stop, _shown(operator, run, stamps), changes))
    summary = {
        "recording": sequence.name,
        "real": stop.scene.real,
        "origin": stop.scene.origin,
        "modality": stop.name,
        "target_given_by": stop.how,
        "targets": targets,
        **speed(sequence, per_frame(stamps, run.tracks), runs),
        "overlays": len(operator.overlays),
        "picture": f"{stop.name}/{SHEET}",
    }
    return summary | _positions(stop, stamps, run, operator)


def _play(stop: Stop, folder: Path, weights: Path | None, pace: float, operators: list[Operator]) -> Playback:
    """Play the stop's bag at `pace` times its own speed; `operators` is filled with who stood beside it."""
    parameters, topics = as_live_camera(stop.scene.sequence, weights)
    del parameters["initial_box"]  # the operator names the target
    given = {name: truth[0] for name, truth in stop.truth.items()}

    def invite(node: Any) -> Operator:
        operators[:] = [Operator(node, stop.door, given, stop.scene.kind, stop.scene.camera)]
        return operators[0]

    parameters |= stop.parameters
    return play_into_node(folder / "bag", parameters, [*topics, TRUTH_TOPIC], folder / "node.log", pace, invite)


def _of(name: str, run: Playback) -> list[Track]:
    return [track for track in run.tracks if track.target_id == name and track.state is not TargetState.IDLE]


def _check(stop: Stop, run: Playback, operator: Operator, folder: Path) -> None:
    """CmdtrackError where something of the stop is missing."""
    said = f"(what the node said: {folder / 'node.log'})"
    if not run.tracks:
        raise CmdtrackError(f"the node answered none of {len(stop.scene.sequence)} images {said}")
    for name, why in operator.refused.items():
        raise CmdtrackError(f"~/set_target did not take target '{name}': {why} {said}")
    for name in stop.truth:
        if not _of(name, run):
            raise CmdtrackError(f"no result of target '{name}', which was given by {stop.how} {said}")
    if not operator.overlays:
        raise CmdtrackError(f"no picture came on ~/overlay {said}")
    if stop.scene.camera and not operator.positions:
        raise CmdtrackError(f"no position came on ~/target_pose {said}")


def _target(truth: np.ndarray, stamps: list[int], found: list[Track]) -> dict[str, Any]:
    """What became of one target."""
    tracks = per_frame(stamps, found)
    first = next(index for index, track in enumerate(tracks) if track)
    boxes = np.array([np.full(4, np.nan) if track is None else track.box for track in tracks])
    mean = mean_overlap(boxes, truth, first)
    states = [(index, track.state.name) for index, track in enumerate(tracks) if track]
    changes = [next(run) for _, run in groupby(states, key=lambda entry: entry[1])]
    return {
        "first_frame": first,
        "answered": len(states),
        "mean_iou": None if np.isnan(mean) else mean,
        "frames_with_truth": int(visible(truth[first + 1 :]).sum()),
        "states": [{"frame": index, "state": state} for index, state in changes],
    }


def _positions(stop: Stop, stamps: list[int], run: Playback, operator: Operator) -> dict[str, Any]:
    """How far the target's positions in space are off."""
    camera, sequence = stop.scene.camera, stop.scene.sequence
    if camera is None:
        return {}
    errors, positions = [], list(operator.positions.items())
    for number in np.linspace(0, len(positions) - 1, min(_COMPARED, len(positions))).round().astype(int):
        stamp, position = positions[number]
        index = frame_at(stamps, run.recorded_ns(stamp))
        if index is None or not visible(sequence.boxes[index]):
            continue
        frame = sequence.frame(index)
        if frame.rgb is None or frame.aux is None:
            continue
        truth = true_place(frame.rgb, AuxEncoding().metres(frame.aux), sequence.boxes[index], camera)
        if truth is not None:
            errors.append(float(np.linalg.norm(position - truth)))
    if not errors:
        raise DataError(f"{sequence.name}: no position came for an image whose target has a true depth")
    median, high = np.percentile(errors, (50, 95)).tolist()
    counts = {"published": len(operator.positions), "compared": len(errors)}
    return {"position": {**counts, "median_m": median, "p95_m": high}}


def _shown(operator: Operator, run: Playback, stamps: list[int]) -> dict[int, np.ndarray]:
    """Frame -> what the node published of it: ~/overlay, and beside it ~/aux_picture."""
    pictures = {}
    for stamp, picture in operator.overlays.items():
        index = frame_at(stamps, run.recorded_ns(stamp))
        if index is not None:
            aux = operator.aux_pictures.get(stamp)
            pictures[index] = picture if aux is None else np.hstack([picture, _as_high(aux, picture)])
    return pictures


def _as_high(picture: np.ndarray, other: np.ndarray) -> np.ndarray:
    height = other.shape[0]
    width = round(picture.shape[1] * height / picture.shape[0])
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)


def _sheet(stop: Stop, shown: dict[int, np.ndarray], changes: list[int]) -> np.ndarray:
    """Some of the pictures, among them those of changes of state."""
    widest = max(picture.shape[1] for picture in shown.values())
    frames = sorted(index for index, picture in shown.items() if picture.shape[1] == widest)
    chosen = sorted(set(changes) & set(frames))[: _SHOWN // 2]
    others = [index for index in frames if index not in chosen]
    spread = np.linspace(0, len(others) - 1, min(_SHOWN - len(chosen), len(others))).round().astype(int)
    chosen = sorted([*chosen, *(others[i] for i in spread)])
    title = f"{stop.scene.sequence.name}   {stop.name}   target by {stop.door}"
    legend = "~/overlay" if stop.name == Modality.RGB.value else "~/overlay, ~/aux_picture"
    return contact_sheet([shown[index] for index in chosen], title, columns=2, legend=legend)
