"""A measure that sees small differences: the same pairs for every network, from recordings that none trains on.

One pass over whole sequences is chaotic: an early slip decides the rest, and two seeds of one recipe differ by 0.12.
Here a network sees a template and a search region that are always the same, drawn by seed, and what counts is the
overlap of its best cell's box. Differences between networks come with the interval of a paired bootstrap over the
recordings ("units"), of which each has as many pairs.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from cmdtrack_ros.boxes import Crop, iou
from cmdtrack_ros.data import load_sequence
from cmdtrack_ros.modalities import Modality
from cmdtrack_ros.tracking.engines.contract import Engine, Query, TemplateCrop
from cmdtrack_ros.training.augment import Rng
from cmdtrack_ros.training.config import Split
from cmdtrack_ros.training.sources import (
    BoxedStillSource,
    PairSource,
    SequenceSource,
    StillSource,
    View,
    find_boxed_stills,
    find_stills,
)
from cmdtrack_ros.training.split import SplitFolder

PAIRS = 48
"""Pairs of each unit."""
SEED = 11
STREAMS: dict[str, tuple[int, ...]] = {"both": (0, 1), "rgb": (0,), "aux": (1,)}
"""What a network is shown, by the numbers of the streams."""
_SHIFT, _ZOOM, _SHAPE = 1.0, 0.12, 0.08


@dataclass(frozen=True)
class FixedPair:
    """``near`` (4,) xywh px: where and how large the target is believed to be, as after a frame, or a loss."""

    template: View
    search: View
    near: np.ndarray

    def streams(self) -> dict[str, tuple[int, ...]]:
        """The entries of ``STREAMS`` that both of its views have pictures for."""
        there = {
            i for i in (0, 1) if pictures_of(self.template)[i] is not None and pictures_of(self.search)[i] is not None
        }
        return {name: wanted for name, wanted in STREAMS.items() if there >= set(wanted)}


@dataclass(frozen=True)
class Unit:
    """One recording, or a few stills of a kind.

    Attributes:
        modality: of its aux stream; events are simulated ones.
        open: its source of pairs, anew for each pass, so that no pictures stay in memory.
    """

    name: str
    modality: Modality
    open: Callable[[], PairSource]

    def pairs(self, count: int, seed: int = SEED) -> Iterator[FixedPair]:
        """The first ``count`` pairs: each depends on seed, name and number alone."""
        source = self.open()
        for number in range(count):
            yield _fixed(source, np.random.default_rng((seed, zlib.crc32(self.name.encode()), number)))


def _fixed(source: PairSource, rng: Rng) -> FixedPair:
    pair = source.sample(rng)
    for _ in range(20):
        if not np.array_equal(pair.template.box, pair.search.box):  # not one frame twice
            break
        pair = source.sample(rng)
    return FixedPair(pair.template, pair.search, _near(pair.search.box, rng))


def _near(box: np.ndarray, rng: Rng) -> np.ndarray:
    reach = _SHIFT * np.sqrt(box[2] * box[3]) * (1.0 if rng.random() < 0.5 else 0.4)
    center = box[:2] + box[2:] / 2 + rng.uniform(-reach, reach, 2)
    size = box[2:] * np.exp(rng.normal(0, _ZOOM) + rng.normal(0, _SHAPE, 2))
    return np.concatenate([center - size / 2, size])


def open_units(split: Split, data: Path) -> list[Unit]:
    """A unit for each sequence that the split's validation names, and one for each of its patterns of stills."""
    units: list[Unit] = []
    for pattern, paths in SplitFolder(split, data).validation().items():
        if all(path.is_dir() for path in paths):
            units += [_sequence_unit(path) for path in paths]
        else:
            units.append(_still_unit(pattern, paths))
    return units


def _sequence_unit(path: Path) -> Unit:
    sequence = load_sequence(path)
    modality = Modality.EVENT if sequence.modality is Modality.RGB else sequence.modality
    return Unit(path.name, modality, lambda: SequenceSource([sequence]))


def _still_unit(pattern: str, paths: list[Path]) -> Unit:
    folder, wanted = paths[0].parent.parent, set(paths)
    if (folder / "boxes.json").is_file():
        boxed = [still for still in find_boxed_stills(folder) if still.file in wanted]
        return Unit(pattern, Modality.THERMAL, lambda: BoxedStillSource(boxed, Modality.THERMAL))
    stills = [still for still in find_stills(folder.parent) if still[0] in wanted]
    return Unit(pattern, Modality.THERMAL, lambda: StillSource(stills))


class PairTracker(Protocol):
    """What can be measured."""

    def answer(self, pair: FixedPair, streams: Iterable[tuple[int, ...]]) -> list[tuple[np.ndarray, float] | None]:
        """The best cell's box (4,) xywh px and score for each choice of streams; None where it cannot take it."""


class EnginePairs:
    """This package's networks, student or teacher."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def answer(self, pair: FixedPair, streams: Iterable[tuple[int, ...]]) -> list[tuple[np.ndarray, float] | None]:
        config, chosen = self.engine.config, list(streams)
        crop = Crop.around(pair.template.box, config.template_factor, config.template_size)
        box = crop.to_crop(pair.template.box) / config.template_size
        used = sorted({stream for streams in chosen for stream in streams})
        cuts = _cut(crop, pair.template, used)
        encoded = self.engine.encode([TemplateCrop(cuts[stream], box, stream) for stream in used])
        templates = dict(zip(used, encoded, strict=True))
        crop = Crop.around(pair.near, config.search_factor, config.search_size)
        cuts = _cut(crop, pair.search, used)
        return [
            self._best(Query([cuts[stream] for stream in streams], [templates[stream] for stream in streams]), crop)
            for streams in chosen
        ]

    def _best(self, query: Query, crop: Crop) -> tuple[np.ndarray, float]:
        [response] = self.engine.search([query])
        row, column = np.unravel_index(int(response.score.argmax()), response.score.shape)
        x, y, w, h = response.box[:, row, column] * crop.size
        return crop.to_image(np.array([x - w / 2, y - h / 2, w, h])), float(response.score[row, column])


def pictures_of(view: View) -> tuple[np.ndarray | None, np.ndarray | None]:
    """By the numbers of the streams."""
    return view.rgb, view.aux


def _cut(crop: Crop, view: View, streams: Iterable[int]) -> dict[int, np.ndarray]:
    pictures = pictures_of(view)
    return {stream: crop.cut(picture) for stream in streams if (picture := pictures[stream]) is not None}


Overlaps = dict[str, dict]
"""Of one network: unit -> {"modality": ..., stream: {"iou": [...], "score": [...]}}, one number a pair; for JSON."""


def measure(
    trackers: Mapping[str, PairTracker], units: Iterable[Unit], count: int = PAIRS, seed: int = SEED
) -> dict[str, Overlaps]:
    """What each tracker answers to the same pairs; units are taken one by one, so that a caller may show progress."""
    found: dict[str, Overlaps] = {name: {} for name in trackers}
    for unit in units:
        for name in trackers:
            found[name][unit.name] = {"modality": unit.modality.value}
        for pair in unit.pairs(count, seed):
            streams = pair.streams()
            for name, tracker in trackers.items():
                for stream, answer in zip(streams, tracker.answer(pair, streams.values()), strict=True):
                    if answer is not None:
                        _record(found[name][unit.name], stream, float(iou(answer[0], pair.search.box)), answer[1])
    return found


def _record(kept: dict, stream: str, overlap: float, score: float) -> None:
    lists = kept.setdefault(stream, {"iou": [], "score": []})
    lists["iou"].append(round(overlap, 4))
    lists["score"].append(round(score, 4))


def by_cell(overlaps: Overlaps) -> dict[tuple[str, str], dict[str, list[float]]]:
    """IoU of each pair of each unit, by modality and stream; modality "all" has every unit."""
    modalities = sorted({kept["modality"] for kept in overlaps.values()})
    cells: dict[tuple[str, str], dict[str, list[float]]] = {}
    for modality in ("all", *modalities):
        for stream in STREAMS:
            units = {
                name: kept[stream]["iou"]
                for name, kept in overlaps.items()
                if stream in kept and modality in ("all", kept["modality"])
            }
            if units:
                cells[modality, stream] = units
    return cells


def scores_of(overlaps: Overlaps) -> dict[str, float]:
    """Mean IoU of each modality and stream by names such as ``pairs/thermal/aux``, for a log."""
    return {
        f"pairs/{modality}/{stream}": float(np.mean(list(units.values())))
        for (modality, stream), units in by_cell(overlaps).items()
    }
