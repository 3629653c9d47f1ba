"""A measure that sees small differences: the same pairs for every network, from recordings that none trains on.

One pass over whole sequences is chaotic: an early slip decides the rest, and two seeds of one recipe differ by 0.12.
Here a network sees a template and a search region that are always the same, drawn by seed, and what counts is the
overlap of its best cell's box. Differences between networks come with the interval of a paired bootstrap over the
recordings ("units"), of which each has as many pairs.
"""

from __future__ import annotations

import os
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from tqdm import tqdm

from cmdtrack_ros.boxes import Crop, iou
from cmdtrack_ros.data import ImageSequence, load_sequence
from cmdtrack_ros.modalities import Modality
from cmdtrack_ros.models.config import CropConfig
from cmdtrack_ros.tracking.engines.contract import Engine, Query, Response, TemplateCrop
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
_AT_ONCE = {"cpu": 4, "cuda": 64}
"""Pairs that a network answers at once: a GPU is fast with many, a CPU with what stays in its caches."""
_AHEAD = min(8, len(os.sched_getaffinity(0)))
"""Units whose pairs are drawn, each by a thread, while networks answer to earlier ones."""


@dataclass(frozen=True)
class Cuts:
    """What a network sees of a pair, by the numbers of the streams.

    Attributes:
        templates: of each stream.
        pictures: (S, S, 3) uint8, search regions.
        crop: of the search regions in the image.
    """

    templates: dict[int, TemplateCrop]
    pictures: dict[int, np.ndarray]
    crop: Crop


@dataclass(frozen=True)
class FixedPair:
    """``near`` (4,) xywh px: where and how large the target is believed to be, as after a frame, or a loss."""

    template: View
    search: View
    near: np.ndarray
    _cuts: dict[tuple, Cuts] = field(default_factory=dict, init=False)

    def streams(self) -> dict[str, tuple[int, ...]]:
        """The entries of ``STREAMS`` that both of its views have pictures for."""
        there = self._there()
        return {name: wanted for name, wanted in STREAMS.items() if there >= set(wanted)}

    def cuts(self, config: CropConfig) -> Cuts:
        """For a network with these crops; kept, as many networks have the same."""
        key = config.template_size, config.template_factor, config.search_size, config.search_factor
        if key not in self._cuts:
            self._cuts[key] = self._cut(config)
        return self._cuts[key]

    def _cut(self, config: CropConfig) -> Cuts:
        there = sorted(self._there())
        crop = Crop.around(self.template.box, config.template_factor, config.template_size)
        box = crop.to_crop(self.template.box) / config.template_size
        shown = _cut(crop, self.template, there)
        templates = {stream: TemplateCrop(picture, box, stream) for stream, picture in shown.items()}
        crop = Crop.around(self.near, config.search_factor, config.search_size)
        return Cuts(templates, _cut(crop, self.search, there), crop)

    def _there(self) -> set[int]:
        views = pictures_of(self.template), pictures_of(self.search)
        return {stream for stream in (0, 1) if all(pictures[stream] is not None for pictures in views)}


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
            units += [sequence_unit(path.name, load_sequence(path)) for path in paths]
        else:
            units.append(_still_unit(pattern, paths))
    return units


def sequence_unit(name: str, sequence: ImageSequence) -> Unit:
    """Pairs of one recording."""
    modality = Modality.EVENT if sequence.modality is Modality.RGB else sequence.modality
    return Unit(name, modality, lambda: SequenceSource([sequence]))


def _still_unit(pattern: str, paths: list[Path]) -> Unit:
    folder, wanted = paths[0].parent.parent, set(paths)
    if (folder / "boxes.json").is_file():
        boxed = [still for still in find_boxed_stills(folder) if still.file in wanted]
        return Unit(pattern, Modality.THERMAL, lambda: BoxedStillSource(boxed, Modality.THERMAL))
    stills = [still for still in find_stills(folder.parent) if still[0] in wanted]
    return Unit(pattern, Modality.THERMAL, lambda: StillSource(stills))


Answer = tuple[np.ndarray, float]
"""The best cell's box (4,) xywh px, and its score."""


class PairTracker(Protocol):
    """What can be measured."""

    def answer(self, pairs: Sequence[FixedPair]) -> list[dict[str, Answer]]:
        """To each pair, by the names of those of its ``streams()`` that the tracker takes."""


class EnginePairs:
    """This package's networks, student or teacher. ``shown``: the names of the ``STREAMS`` that they answer to."""

    def __init__(self, engine: Engine, shown: Sequence[str] = tuple(STREAMS)) -> None:
        self.engine, self.shown = engine, shown

    def answer(self, pairs: Sequence[FixedPair]) -> list[dict[str, Answer]]:
        count = _AT_ONCE[self.engine.device]
        return [
            answers for start in range(0, len(pairs), count) for answers in self._at_once(pairs[start : start + count])
        ]

    def _at_once(self, pairs: Sequence[FixedPair]) -> list[dict[str, Answer]]:
        cuts = [pair.cuts(self.engine.config) for pair in pairs]
        encoded = iter(self.engine.encode([crop for cut in cuts for crop in cut.templates.values()]))
        templates = [{stream: next(encoded) for stream in cut.templates} for cut in cuts]
        answers: list[dict[str, Answer]] = [{} for _ in pairs]
        for name in self.shown:  # those of one call must have the same number of streams
            streams = STREAMS[name]
            asked = [i for i, pair in enumerate(pairs) if name in pair.streams()]
            queries = [
                Query([cuts[i].pictures[stream] for stream in streams], [templates[i][stream] for stream in streams])
                for i in asked
            ]
            for i, response in zip(asked, self.engine.search(queries) if queries else [], strict=True):
                answers[i][name] = _best(response, cuts[i].crop)
        return answers


def _best(response: Response, crop: Crop) -> Answer:
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
    trackers: Mapping[str, PairTracker], units: Sequence[Unit], count: int = PAIRS, seed: int = SEED, bar: bool = False
) -> dict[str, Overlaps]:
    """What each tracker answers to the same pairs; ``bar``: with a progress bar."""
    found: dict[str, Overlaps] = {name: {} for name in trackers}
    for overlaps in measure_each(trackers, units, count, seed, bar):
        for name, of_unit in overlaps.items():
            found[name] |= of_unit
    return found


def measure_each(
    trackers: Mapping[str, PairTracker], units: Sequence[Unit], count: int, seed: int = SEED, bar: bool = True
) -> Iterator[dict[str, Overlaps]]:
    """:func:`measure`, one unit after the other, for who keeps each."""
    shown = tqdm(_drawn(units, count, seed), total=len(units), unit="recording", disable=not bar)
    for unit, pairs in shown:
        yield {name: {unit.name: _overlaps(tracker, unit, pairs)} for name, tracker in trackers.items()}


def _drawn(units: Iterable[Unit], count: int, seed: int) -> Iterator[tuple[Unit, list[FixedPair]]]:
    """Each unit and its pairs; those of the next ones are drawn meanwhile."""
    with ThreadPoolExecutor(_AHEAD) as pool:
        drawn: deque[tuple[Unit, Future[list[FixedPair]]]] = deque()
        for unit in units:
            drawn.append((unit, pool.submit(lambda unit: list(unit.pairs(count, seed)), unit)))
            if len(drawn) > _AHEAD:
                first, pairs = drawn.popleft()
                yield first, pairs.result()
        while drawn:
            first, pairs = drawn.popleft()
            yield first, pairs.result()


def _overlaps(tracker: PairTracker, unit: Unit, pairs: Sequence[FixedPair]) -> dict:
    kept: dict = {"modality": unit.modality.value}
    for pair, answers in zip(pairs, tracker.answer(pairs), strict=True):
        for stream, (box, score) in answers.items():
            lists = kept.setdefault(stream, {"iou": [], "score": []})
            lists["iou"].append(round(float(iou(box, pair.search.box)), 4))
            lists["score"].append(round(score, 4))
    return kept


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
