"""Registered frames in the order of time, whose boxes stand in a file of labels, as ``labels.py`` writes it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from cmdtrack_ros.data import FolderSequence
from cmdtrack_ros.data.sequences import DEFAULT_FPS, list_images
from cmdtrack_ros.errors import DataError
from cmdtrack_ros.modalities import Modality

Rows = list[list[float] | None]
"""One target: x, y, w, h in px for each frame, None where it is not followed."""


def open_series(folder: Path) -> FolderSequence:
    """A folder with ``visible/`` and ``infrared/`` frames of the same names, without boxes; DataError if it is none."""
    rgb = list_images(folder / "visible")
    aux = [folder / "infrared" / file.name for file in rgb]
    if absent := [file for file in aux if not file.is_file()]:
        raise DataError(f"{absent[0]}: no such file, expected the infrared picture of the same name as in visible/")
    count = len(rgb)
    boxes: np.ndarray = np.full((count, 4), np.nan)
    return FolderSequence(folder, "", rgb, aux, Modality.THERMAL, boxes, np.arange(count) / DEFAULT_FPS)


def load_labelled(file: Path, data: Path) -> list[FolderSequence]:
    """A sequence for each target in a file of labels, named ``SERIES#NUMBER``.

    DataError for a file that is no list of labels, or labels of other frames.
    """
    sequences = []
    for name, targets in read_labels(file).items():
        for number, rows in enumerate(targets):
            sequence = open_series(data / name)
            if len(rows) != len(sequence):
                raise DataError(f"{file}: {len(rows)} boxes for the {len(sequence)} frames of {data / name}")
            sequence.boxes = np.array([[np.nan] * 4 if row is None else row for row in rows], np.float64)
            sequence.name = f"{sequence.name}#{number}"
            sequences.append(sequence)
    if not sequences:
        raise DataError(f"{file}: expected labelled targets, it has none")
    return sequences


def read_labels(file: Path) -> dict[str, list[Rows]]:
    """A file of labels: the targets of each series, by its path below the data folder.

    DataError when it is none.
    """
    try:
        labels = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read as labels ({error})") from error
    if not isinstance(labels, dict) or not all(isinstance(targets, list) for targets in labels.values()):
        raise DataError(f"{file}: expected {{series: [boxes, ...]}}")
    return labels
