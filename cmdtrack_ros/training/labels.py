"""Boxes for video that has none, from foreign trackers: knowledge of more data than ours, for every stream.

A target is anything object-like in one stream of one frame. Two networks follow it on that stream, away from the frame
and back; what both agree on is taken for true, and for true in the other stream of the same moment, too: so what they
see in clean RGB teaches the thermal, depth or event stream. Our choice, all of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from cmdtrack_ros.boxes import iou, visible
from cmdtrack_ros.data import ImageSequence
from cmdtrack_ros.data.derived import OneStream
from cmdtrack_ros.errors import ConfigError, writing
from cmdtrack_ros.modalities import AuxEncoder
from cmdtrack_ros.tracking.drive import drive
from cmdtrack_ros.training.augment import Rng
from cmdtrack_ros.training.cutouts import propose_box
from cmdtrack_ros.training.foreign import ForeignNetwork, ForeignTracker
from cmdtrack_ros.training.series import open_series, read_labels
from cmdtrack_ros.training.split import SplitFolder

AGREE, RETURN = 0.5, 0.7
"""Least IoU of two networks, and of a network's ways away and back, in every frame that is kept."""
MIN_FRAMES = 6
MIN_MOTION = 0.3
"""Least way of a target's centre, in mean sides of its box: what stands still says no more than a still."""


def find_targets(
    sequence: ImageSequence, networks: Sequence[ForeignNetwork], tries: int, seed: int
) -> Iterator[np.ndarray]:
    """Boxes (n, 4) xywh px, NaN where not followed, of each target that all networks agree on; none twice."""
    rng = np.random.default_rng(seed)
    found: list[np.ndarray] = []
    for _ in range(tries):
        stream, frame = ("rgb", "aux")[int(rng.integers(2))], int(rng.integers(len(sequence)))
        shown = OneStream(sequence, stream)
        box = _proposed(shown, frame, rng)
        if any(iou(other[frame], box) > 0.3 for other in found):
            continue
        boxes = agreed_track(shown, networks, frame, box)
        if boxes is not None and not any((iou(other, boxes) > 0.5).any() for other in found):
            found.append(boxes)
            yield boxes


def _proposed(shown: OneStream, frame: int, rng: Rng) -> np.ndarray:
    rgb, aux = shown.rgb(frame), shown.aux(frame)
    return propose_box(rgb if rgb is not None else AuxEncoder(shown.modality)(aux), rng)  # type: ignore[arg-type]


def agreed_track(
    shown: ImageSequence, networks: Sequence[ForeignNetwork], frame: int, box: np.ndarray
) -> np.ndarray | None:
    """Boxes (n, 4) of what is in ``box`` at ``frame``, NaN where not followed; None where nothing is to be learnt."""
    boxes = np.full((len(shown), 4), np.nan)
    boxes[frame] = box
    for away in (np.arange(frame, len(shown)), np.arange(frame, -1, -1)):
        ahead = _agreed(networks, shown, away, box)
        order: np.ndarray = away[: len(ahead)]
        if len(order) < 2:
            continue
        back = np.array(list(_follow(networks[0], shown, order[::-1], ahead[-1])))[::-1]
        if iou(ahead, back).min() >= RETURN:
            boxes[order[1:]] = ((ahead + back) / 2)[1:]
    kept = boxes[visible(boxes)]
    centers, sides = kept[:, :2] + kept[:, 2:] / 2, np.sqrt(kept[:, 2:].prod(1))
    moved = np.ptp(centers, axis=0).max() >= MIN_MOTION * sides.mean()
    return boxes if len(kept) >= MIN_FRAMES and moved else None


def _agreed(networks: Sequence[ForeignNetwork], shown: ImageSequence, order: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The first network's boxes (n, 4) along ``order``, up to the frame where another one disagrees."""
    kept = []
    for answers in zip(*(_follow(network, shown, order, box) for network in networks)):
        if min(iou(answers[0], other) for other in answers[1:]) < AGREE:
            break
        kept.append(answers[0])
    return np.array(kept)


def _follow(network: ForeignNetwork, shown: ImageSequence, order: np.ndarray, box: np.ndarray) -> Iterator[np.ndarray]:
    return (track.box for track in drive(ForeignTracker(network, shown.modality), shown, order, box))


def write_labels(
    file: Path, folders: Sequence[Path], data: Path, parts: SplitFolder, networks: Sequence[ForeignNetwork], tries: int
) -> dict[str, int]:
    """Label series below ``data`` into a file that a source of kind ``labelled`` reads; their numbers of targets.

    What the file has already is kept: start again after an interruption.

    Raises:
        ConfigError: fewer than two networks, or a series that the split does not train on.
        DataError: no series there, or a file that is no list of labels.
    """
    if len(networks) < 2:
        raise ConfigError(f"teachers: expected two or more, which must agree, got {len(networks)}")
    labels = read_labels(file) if file.is_file() else {}
    for number, folder in enumerate(folders):
        sequence = open_series(folder)
        if parts.part(folder) != "training" or any(parts.part(path) != "training" for path in sequence.rgb_files):
            raise ConfigError(f"{folder}: is not for training, says the split")
        name = folder.resolve().relative_to(data.resolve()).as_posix()
        if name in labels:
            continue
        targets = find_targets(sequence, networks, tries, seed=number)
        labels[name] = [[None if np.isnan(box).any() else box.round(1).tolist() for box in boxes] for boxes in targets]
        with writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(labels))
    return {name: len(targets) for name, targets in labels.items()}
