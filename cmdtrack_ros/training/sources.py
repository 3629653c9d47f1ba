"""From the sources of a configuration to training pairs and held-out sequences."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from cmdtrack_ros.data import Sequence, load_dataset
from cmdtrack_ros.errors import DataError
from cmdtrack_ros.training.config import Source
from cmdtrack_ros.training.pairs import PairSource, SequenceSource, StillSource, find_stills

log = logging.getLogger(__name__)


class SequencePart(Sequence):
    """Frames ``start`` .. ``stop`` (exclusive) of another sequence."""

    def __init__(self, whole: Sequence, start: int, stop: int) -> None:
        super().__init__(
            whole.name,
            whole.modality,
            whole.boxes[start:stop],
            whole.stamps[start:stop],
            labelled=whole.labelled[start:stop],
        )
        self._whole, self._start = whole, start

    def rgb(self, index: int):
        return self._whole.rgb(self._start + index)

    def aux(self, index: int):
        return self._whole.aux(self._start + index)


def open_sources(sources: list[Source], data: Path) -> tuple[list[tuple[PairSource, float]], list[Sequence]]:
    """Training sources with their shares, and the sequences held out from them. ``data``: see
    ``data_folder``.
    """
    opened, held_out = [], []
    for source in sources:
        path = data / source.path
        if source.kind == "stills":
            stills = StillSource(find_stills(path), source.cache, source.cutouts)
            opened.append((stills, source.share))
            continue
        training, kept = split(_named(load_sequences(source, path), source, data), source)
        held_out += [sequence for sequence in kept if _can_be_scored(sequence)]
        opened.append((SequenceSource(training, source.max_gap, source.cache), source.share))
    return opened, held_out


def load_sequences(source: Source, path: Path) -> list[Sequence]:
    """All sequences of a source of kind ``sequences`` or ``bags``."""
    if source.kind == "sequences":
        return load_dataset(path, source.layout)
    from cmdtrack_ros.data.bags import is_bag

    if not path.exists():
        raise DataError(f"{path}: expected a bag or a folder of bags, there is no such file or folder")
    found = [path] if is_bag(path) else sorted(child for child in path.iterdir() if is_bag(child))
    if not found:
        raise DataError(f"{path}: expected a rosbag2 or a folder of them, found none")
    return [_load_bag(bag, source) for bag in found]


def _load_bag(path: Path, source: Source) -> Sequence:
    from cmdtrack_ros.data.bags import TRUTH_TOPIC, load_bag

    sequence = load_bag(
        path,
        rgb_topic=source.rgb_topic,
        aux_topic=source.aux_topic,
        truth_topic=source.truth_topic,
        modality=source.modality,
    )
    if not np.isfinite(sequence.boxes).all(1).any():
        raise DataError(
            f"{path}: no box for any image; expected TargetBox or Detection2DArray messages on "
            f"{source.truth_topic or TRUTH_TOPIC}, with the stamps of the images"
        )
    return sequence


def _can_be_scored(sequence: Sequence) -> bool:
    if np.isfinite(sequence.boxes).all(1).sum() >= 2:
        return True
    log.warning("%s: fewer than two boxes in the frames held out of training; not validated", sequence.name)
    return False


def split(sequences: list[Sequence], source: Source) -> tuple[list[Sequence], list[Sequence]]:
    """Sequences to train on, and those to validate on."""
    kept = [sequence for sequence in sequences if sequence.name in source.held_out]
    if absent := set(source.held_out) - {sequence.name for sequence in kept}:
        raise DataError(
            f"held_out: no sequence {', '.join(sorted(absent))} in {source.path}; "
            f"it has {', '.join(sequence.name for sequence in sequences)}"
        )
    training = [sequence for sequence in sequences if sequence.name not in source.held_out]
    if source.held_out_part:
        stops = [round(len(sequence) * (1 - source.held_out_part)) for sequence in training]
        kept += [SequencePart(sequence, stop, len(sequence)) for sequence, stop in zip(training, stops)]
        training = [SequencePart(sequence, 0, stop) for sequence, stop in zip(training, stops)]
    return training, kept


def _named(sequences: list[Sequence], source: Source, data: Path) -> list[Sequence]:
    """Those that the source's list names, all without a list."""
    if source.names is None:
        return sequences
    file = data / source.names
    if not file.is_file():
        raise DataError(f"{file}: no such file, expected the name of one sequence per line")
    names = [line.strip() for line in file.read_text().splitlines() if line.strip()]
    found = {sequence.name: sequence for sequence in sequences}
    if absent := [name for name in names if name not in found]:
        raise DataError(
            f"{file}: names {len(absent)} sequences that {source.path} lacks, such as {absent[0]}"
        )
    return [found[name] for name in names]
