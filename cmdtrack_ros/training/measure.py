"""Any networks, ours or foreign, on the validation recordings of a split: fixed pairs, and whole sequences."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from cmdtrack_ros.boxes import visible
from cmdtrack_ros.data import EventSequence, ImageSequence, load_sequence
from cmdtrack_ros.data.derived import DerivedSequence, OneStream
from cmdtrack_ros.errors import ConfigError, DataError, writing
from cmdtrack_ros.modalities import Modality
from cmdtrack_ros.models.header import Provenance, read_header, weights_file
from cmdtrack_ros.models.student import Student
from cmdtrack_ros.models.teacher import Teacher
from cmdtrack_ros.models.weights import load_weights, model_of
from cmdtrack_ros.tracking.drive import BoxTracker
from cmdtrack_ros.tracking.engines.choose import make_engine
from cmdtrack_ros.tracking.engines.contract import Engine
from cmdtrack_ros.tracking.tracker import Tracker
from cmdtrack_ros.training.config import Split
from cmdtrack_ros.training.fixed_pairs import STREAMS, EnginePairs, Overlaps, PairTracker, measure, open_units
from cmdtrack_ros.training.foreign import ForeignPairs, ForeignTracker, find_foreign
from cmdtrack_ros.training.seen import saw
from cmdtrack_ros.training.split import SplitFolder
from cmdtrack_ros.training.validation import engine_of, find_device, overlaps

STARTS = (0.0, 0.25, 0.5)
"""Where passes over a sequence begin, as shares of its frames; on the first box from there on."""


@dataclass(frozen=True)
class Measured:
    """A network to be measured.

    Attributes:
        name: for tables.
        digest: of its files.
        pairs: answers to single pairs.
        track: a tracker for an aux stream of this modality.
        streams: what it can be shown.
        provenance: what its file says of its training, where it says it.
    """

    name: str
    digest: str
    pairs: PairTracker
    track: Callable[[Modality], BoxTracker]
    streams: tuple[str, ...] = tuple(STREAMS)
    provenance: Provenance | None = None


def open_network(name: str, device: torch.device) -> Measured:
    """A weights file or its name (see ``weights_file``), of a student or a teacher; or a folder of a foreign network.

    What a foreign one was trained on, nobody here knows; it runs on the CPU, whatever the ``device``.

    Raises:
        WeightsError: what is there is neither.
    """
    path = weights_file(name)
    # Runs keep their weights under one name, in folders of their own.
    label = name if str(path) != str(Path(name).expanduser()) else f"{path.absolute().parent.name}/{path.stem}"
    if path.is_dir():
        network = find_foreign(path)
        files = sorted(path.glob("*.onnx"))
        digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
        return Measured(
            path.name, digest, ForeignPairs(network), lambda modality: ForeignTracker(network, modality), ("rgb", "aux")
        )
    engine, header = open_engine(path, device), read_header(path)
    return Measured(
        label,
        header.sha256,
        EnginePairs(engine),
        lambda modality: Tracker(engine, modality),
        provenance=header.provenance,
    )


def open_engine(path: Path, device: torch.device) -> Engine:
    """Of the weights of a student or a teacher, in fp32: on a CPU ONNX Runtime for students, else torch.

    WeightsError when they are of neither.
    """
    if model_of(path) is Teacher:
        return engine_of(load_weights(path, Teacher)[0].to(device))
    if device.type == "cuda":
        return engine_of(load_weights(path, Student)[0].to(device))
    return make_engine(path, engine="onnx", device="cpu", precision="fp32", threads=1)


def measure_pairs(
    names: list[str], split: Split, data: Path, folder: Path, count: int, device: str = "auto"
) -> dict[str, Overlaps]:
    """The fixed pairs of the split's validation, of each network; what ``folder`` keeps of them is not run again.

    ``device``: cpu (ONNX Runtime for students), cuda (torch), or auto = a GPU where there is one; all in fp32.
    """
    units, place = open_units(split, data), find_device(device)
    networks = _opened(names, split, data, place)
    kept = _Kept(folder, f"pairs-{count}", place, [unit.name for unit in units])
    missing = {name: network for name, network in networks.items() if kept.read(network) is None}
    if missing:
        found = measure({name: network.pairs for name, network in missing.items()}, units, count, bar=True)
        for name, network in missing.items():
            kept.write(network, found[name])
    return {name: kept.read(network) or {} for name, network in networks.items()}


def measure_sequences(
    names: list[str], split: Split, data: Path, folder: Path, device: str = "auto"
) -> dict[str, Overlaps]:
    """The :func:`passes` over each sequence of the split's validation; kept as the pairs are."""
    paths, place = validation_sequences(split, data), find_device(device)
    networks = _opened(names, split, data, place)
    kept = _Kept(folder, "passes", place, [path.name for path in paths])
    for network in [one for one in networks.values() if kept.read(one) is None]:
        shown = tqdm(paths, unit="sequence", desc=network.name)
        found = {path.name: passes(network.track, load_sequence(path), network.streams) for path in shown}
        kept.write(network, found)
    return {name: kept.read(network) or {} for name, network in networks.items()}


def validation_sequences(split: Split, data: Path) -> list[Path]:
    """The folders of the sequences, in the split's order; DataError: see ``SplitFolder.validation``."""
    return [path for found in SplitFolder(split, data).validation().values() for path in found if path.is_dir()]


def _opened(names: list[str], split: Split, data: Path, device: torch.device) -> dict[str, Measured]:
    """By the names for tables; ConfigError when two are called alike, or one was trained on what it is measured on."""
    networks = {network.name: network for network in (open_network(name, device) for name in names)}
    if len(networks) < len(names):
        raise ConfigError(f"networks to measure: expected different names, got {', '.join(names)}")
    found = SplitFolder(split, data).validation().values()
    recordings = [path.relative_to(data.resolve()).as_posix() for paths in found for path in paths]
    for network in networks.values():
        if network.provenance and (seen := [name for name in recordings if saw(network.provenance, name)]):
            raise ConfigError(
                f"{network.name}: was trained on {len(seen)} of the recordings to measure on, such as {seen[0]}; "
                "name a split without them (--split), or train by a recipe that names this one"
            )
    return networks


def passes(
    track: Callable[[Modality], BoxTracker], sequence: ImageSequence, streams: Sequence[str] = tuple(STREAMS)
) -> dict:
    """Mean IoU of passes over each of these streams that the sequence has, in the form of a unit of ``Overlaps``: one
    from each of ``STARTS`` to the end, as an early slip decides the rest of a pass.

    As among the fixed pairs, a recording with RGB alone counts as of modality event: its aux stream is simulated events
    (``EventSequence``, as they are by default), and all begins at the second frame, as there are none before the first.

    Args:
        track: a tracker for an aux stream of this modality.

    Raises:
        DataError: there is no frame to score, after one with a box to start on.
    """
    whole = DerivedSequence(EventSequence(sequence), 1) if sequence.modality is Modality.RGB else sequence
    starts = _starts(whole)
    if not starts:
        of, boxes = " after the first" if whole is not sequence else "", np.count_nonzero(visible(whole.boxes))
        raise DataError(f"{sequence.name}: expected two frames{of} with a box, or more, got {boxes}")
    first = whole.frame(0)
    there = [name for name, image in (("rgb", first.rgb), ("aux", first.aux)) if image is not None]
    scores = {}
    for stream in ["both", *there] if len(there) == 2 else there:
        if stream in streams:
            shown = whole if stream == "both" else OneStream(whole, stream)
            passed = [overlaps(track(whole.modality), DerivedSequence(shown, start)) for start in starts]
            scores[stream] = {"iou": [float(np.mean(one)) for one in passed]}
    return {"modality": whole.modality.value, **scores}


def _starts(sequence: ImageSequence) -> list[int]:
    """Of the frames at ``STARTS``, those from which two boxes or more are left: to start on, and to score."""
    frames = sorted({int(share * len(sequence)) for share in STARTS})
    return [frame for frame in frames if np.count_nonzero(visible(sequence.boxes[frame:])) >= 2]


@dataclass(frozen=True)
class _Kept:
    """Results of networks in a folder: by the hash of their files, for this device and these units alone."""

    folder: Path
    what: str
    device: torch.device
    units: list[str]

    def read(self, network: Measured) -> Overlaps | None:
        file = self._file(network)
        kept = json.loads(file.read_text()) if file.is_file() else {}
        return kept if list(kept) == self.units else None

    def write(self, network: Measured, found: Overlaps) -> None:
        file = self._file(network)
        with writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(found))

    def _file(self, network: Measured) -> Path:
        place = "" if self.device.type == "cpu" else f"-{self.device.type}"
        return self.folder / f"{self.what}{place}-{network.digest[:12]}.json"
