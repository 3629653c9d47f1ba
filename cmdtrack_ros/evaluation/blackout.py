"""What is left of the tracking when one camera goes black half way through a sequence.

Per sequence with two streams: mean IoU over the second half, with both streams, with one of them black from
there on, and of a run that had only the other stream from the start.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cmdtrack_ros.boxes import iou, visible
from cmdtrack_ros.data import ImageSequence
from cmdtrack_ros.data.derived import Blackout
from cmdtrack_ros.errors import DataError
from cmdtrack_ros.evaluation.baselines import BOTH, TrackerSpec, make_tracker
from cmdtrack_ros.evaluation.protocols import one_pass
from cmdtrack_ros.evaluation.results import write_text
from cmdtrack_ros.modalities import Modality
from cmdtrack_ros.tracking.drive import BoxTracker, first_visible

COLUMNS = ("both", "rgb_black", "aux_alone", "aux_black", "rgb_alone")


def middle(sequence: ImageSequence) -> int:
    """The frame half way between the first visible one and the end."""
    return (first_visible(sequence) + len(sequence)) // 2


def second_half(tracker: BoxTracker, sequence: ImageSequence) -> float:
    """Mean IoU of one pass over the frames from :func:`middle` on that have a box.

    Raises:
        DataError: no box in the second half.
    """
    start = middle(sequence)
    seen = np.flatnonzero(visible(sequence.boxes[start:])) + start
    if not len(seen):
        raise DataError(f"{sequence.name}: no frame of the second half has a ground-truth box")
    boxes = one_pass(tracker, sequence).boxes
    return float(np.mean([iou(boxes[i], sequence.boxes[i]) for i in seen]))


def blackout(sequence: ImageSequence, weights: tuple[Path, ...], device: str) -> dict[str, float]:
    """The mean IoU of each of :data:`COLUMNS` over the second half of a sequence with two streams."""

    def run(stream: str, shown: ImageSequence) -> float:
        return second_half(make_tracker(TrackerSpec("ours", stream, weights, device), shown.modality), shown)

    start = middle(sequence)
    return {
        "both": run(BOTH, sequence),
        "rgb_black": run(BOTH, Blackout(sequence, "rgb", start)),
        "aux_alone": run("aux", sequence),
        "aux_black": run(BOTH, Blackout(sequence, "aux", start)),
        "rgb_alone": run("rgb", sequence),
    }


def blackouts(
    sequences: list[ImageSequence], weights: tuple[Path, ...], device: str, output: Path, show: Callable[[str], None]
) -> dict[str, dict[str, float]]:
    """:func:`blackout` of every sequence with two streams, and their ``mean``; shown line by line, written to
    ``output`` as JSON.

    Raises:
        DataError: no sequence has two streams.
    """
    paired = [sequence for sequence in sequences if _two_streams(sequence)]
    if not paired:
        raise DataError("expected a sequence with two streams, got none")
    show("mean IoU of the second half: with both | RGB black, aux alone | aux black, RGB alone")
    runs: dict[str, dict[str, float]] = {}
    for sequence in paired:
        runs[sequence.name] = blackout(sequence, weights, device)
        show(_line(sequence.name, runs[sequence.name]))
    runs["mean"] = {name: float(np.mean([run[name] for run in runs.values()])) for name in COLUMNS}
    show(_line("mean", runs["mean"]))
    write_text(output, json.dumps(runs, indent=1))
    return runs


def _two_streams(sequence: ImageSequence) -> bool:
    frame = sequence.frame(first_visible(sequence))
    return sequence.modality is not Modality.RGB and frame.rgb is not None and frame.aux is not None


def _line(name: str, run: dict[str, float]) -> str:
    both, rgb_black, aux_alone, aux_black, rgb_alone = (f"{run[column]:.3f}" for column in COLUMNS)
    return f"{name:24} {both} | {rgb_black} {aux_alone} | {aux_black} {rgb_alone}"
