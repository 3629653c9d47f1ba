"""From the sources of a configuration to training pairs and held-out sequences."""

from __future__ import annotations

import logging
from pathlib import Path

from cmdtrack_ros.boxes import visible
from cmdtrack_ros.data import ImageSequence, load_dataset
from cmdtrack_ros.data.derived import DerivedSequence
from cmdtrack_ros.errors import DataError
from cmdtrack_ros.streams.pairing import PairOptions
from cmdtrack_ros.training.config import Source
from cmdtrack_ros.training.pairs import PairSource, SequenceSource, StillSource, find_stills

log = logging.getLogger(__name__)


def open_sources(
    sources: list[Source], data: Path
) -> tuple[list[tuple[PairSource, float]], list[ImageSequence]]:
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


def load_sequences(source: Source, path: Path) -> list[ImageSequence]:
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


def _load_bag(path: Path, source: Source) -> ImageSequence:
    from cmdtrack_ros.data.bags import TRUTH_TOPIC, BagOptions, load_bag

    topics = source.rgb_topic, source.aux_topic, source.truth_topic
    pairing = PairOptions(slop=source.slop, aux_offset=source.aux_offset)
    sequence = load_bag(path, BagOptions(*topics, modality=source.modality, pairing=pairing))
    if not visible(sequence.boxes).any():
        raise DataError(
            f"{path}: no box for any image; expected TargetBox or Detection2DArray messages on "
            f"{source.truth_topic or TRUTH_TOPIC}, with the stamps of the images"
        )
    return sequence


def _can_be_scored(sequence: ImageSequence) -> bool:
    if visible(sequence.boxes).sum() >= 2:
        return True
    log.warning("%s: fewer than two boxes in the frames held out of training; not validated", sequence.name)
    return False


def split(sequences: list[ImageSequence], source: Source) -> tuple[list[ImageSequence], list[ImageSequence]]:
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
        kept += [DerivedSequence(sequence, stop, len(sequence)) for sequence, stop in zip(training, stops)]
        training = [DerivedSequence(sequence, 0, stop) for sequence, stop in zip(training, stops)]
    return training, kept


def _named(sequences: list[ImageSequence], source: Source, data: Path) -> list[ImageSequence]:
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
