"""Where training pairs come from: sequences and stills, from their files to pairs of views, and what is held
out of them for validation.
"""

from __future__ import annotations

import fnmatch
import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cmdtrack_ros.boxes import visible
from cmdtrack_ros.data import ImageSequence, load_dataset
from cmdtrack_ros.data.derived import DerivedSequence
from cmdtrack_ros.data.events import simulate_events
from cmdtrack_ros.data.sequences import IMAGE_SUFFIXES, FolderSequence, read_aux, read_rgb
from cmdtrack_ros.errors import DataError
from cmdtrack_ros.modalities import AuxEncoder, Modality
from cmdtrack_ros.streams.pairing import PairOptions
from cmdtrack_ros.streams.registration import read_registration
from cmdtrack_ros.training.augment import Rng, shifted, warp
from cmdtrack_ros.training.config import Source, Split
from cmdtrack_ros.training.cutouts import Pictures, cut_out, moments, propose_box
from cmdtrack_ros.training.series import load_labelled
from cmdtrack_ros.training.split import Recording, SplitFolder

log = logging.getLogger(__name__)

StillFiles = tuple[Path, Path | None]


@dataclass(frozen=True)
class View:
    """One moment: network pictures HxWx3 uint8 of each stream (None = absent), the target's box (4,) xywh px,
    and which target it is.
    """

    rgb: np.ndarray | None
    aux: np.ndarray | None
    box: np.ndarray
    target: str = ""


@dataclass(frozen=True)
class ViewPair:
    """Template and search view; ``same`` is False when the search view shows another target (or none).

    ``distractor``: another target, to be pasted beside the one searched for. ``true``: the search view's box is the
    truth, no tracker's label.
    """

    template: View
    search: View
    same: bool = True
    distractor: View | None = None
    true: bool = True


class PairSource(Protocol):
    """Where pairs come from."""

    def sample(self, rng: Rng) -> ViewPair:
        """Draw one pair of the same target."""


def open_sources(
    sources: list[Source], data: Path, split: Split | None = None
) -> tuple[list[tuple[PairSource, float]], list[ImageSequence]]:
    """Training sources with their shares, and the sequences held out from them. ``data``: see
    ``data_folder``. ``split``: what else is not trained on.
    """
    opened: list[tuple[PairSource, float]] = []
    held_out: list[ImageSequence] = []
    parts = SplitFolder(split, data)
    for source in sources:
        path = data / source.path
        if source.kind in ("stills", "boxed_stills"):
            opened.append((_open_stills(source, path, parts), source.share))
            continue
        named = _named(load_sequences(source, path, data), source, data)
        # A bag is called by its name.
        found = _only(((getattr(sequence, "path", path / sequence.name), sequence) for sequence in named), source, path)
        training, kept = _split([sequence for _, sequence in found], source, parts)
        held_out += [sequence for sequence in kept if _can_be_scored(sequence)]
        true = source.kind != "labelled"
        opened.append((SequenceSource(training, source.max_gap, source.cache, true), source.share))
    return opened, held_out


def _open_stills(source: Source, path: Path, parts: SplitFolder) -> PairSource:
    if source.kind == "boxed_stills":
        found = _only(((still.file, still) for still in find_boxed_stills(path)), source, path)
        boxed, _ = parts.parted(found, source.path)
        return BoxedStillSource(boxed, source.modality or Modality.RGB, source.cache)
    files, _ = parts.parted(_only(((still[0], still) for still in find_stills(path)), source, path), source.path)
    return StillSource(files, source.cache, source.cutouts)


def _only(recordings: Iterable[tuple[Path, Recording]], source: Source, path: Path) -> list[tuple[Path, Recording]]:
    """Those that the source's patterns choose, all without patterns; DataError for a pattern that chooses none."""
    listed = list(recordings)
    if not source.only:
        return listed
    names = [file.relative_to(path).as_posix() if file.is_relative_to(path) else file.name for file, _ in listed]
    if absent := [pattern for pattern in source.only if not fnmatch.filter(names, pattern)]:
        raise DataError(
            f"only: nothing in {source.path} is called {', '.join(absent)}; it has {', '.join(names[:3])}..."
        )
    chosen = zip(names, listed, strict=True)
    return [entry for name, entry in chosen if any(fnmatchcase(name, pattern) for pattern in source.only)]


def load_sequences(source: Source, path: Path, data: Path) -> list[ImageSequence]:
    """All sequences of a source of kind ``sequences``, ``bags`` or ``labelled``."""
    if source.kind == "sequences":
        return load_dataset(path, source.layout)
    if source.kind == "labelled":
        return list(load_labelled(path, data))
    from cmdtrack_ros.data.bags import is_bag

    if not path.exists():
        raise DataError(f"{path}: expected a bag or a folder of bags, there is no such file or folder")
    found = [path] if is_bag(path) else sorted(child for child in path.iterdir() if is_bag(child))
    if not found:
        raise DataError(f"{path}: expected a rosbag2 or a folder of them, found none")
    return [_load_bag(bag, source) for bag in found]


def _load_bag(path: Path, source: Source) -> ImageSequence:
    from cmdtrack_ros.data.bags import TRUTH_FILE, TRUTH_TOPIC, BagOptions, load_bag

    topics = source.rgb_topic, source.aux_topic, source.truth_topic
    pairing = PairOptions(
        slop=source.slop, aux_offset=source.aux_offset, pairing=source.pairing, latest_gap=source.latest_gap
    )
    options = BagOptions(
        *topics,
        modality=source.modality,
        pairing=pairing,
        registration=read_registration(source.registration),
        rgb_camera_info=source.rgb_camera_info,
        aux_camera_info=source.aux_camera_info,
        event_window=source.event_window,
    )
    sequence = load_bag(path, options)
    if not visible(sequence.boxes).any():
        raise DataError(
            f"{path}: no box for any image; expected {TRUTH_FILE} in its folder, or TargetBox or Detection2DArray "
            f"messages on {source.truth_topic or TRUTH_TOPIC}, with the stamps of the images"
        )
    return sequence


def _can_be_scored(sequence: ImageSequence) -> bool:
    if _large_enough(sequence.boxes).sum() >= 2:
        return True
    log.warning("%s: fewer than two boxes of 4 px in the frames held out of training; not validated", sequence.name)
    return False


def _split(
    sequences: list[ImageSequence], source: Source, parts: SplitFolder
) -> tuple[list[ImageSequence], list[ImageSequence]]:
    """Sequences to train on, and those to validate on."""
    if absent := set(source.held_out) - {sequence.name for sequence in sequences}:
        raise DataError(
            f"held_out: no sequence {', '.join(sorted(absent))} in {source.path}; "
            f"it has {', '.join(sequence.name for sequence in sequences)}"
        )
    training, kept = parts.parted(((_path(sequence), sequence) for sequence in sequences), source.path)
    kept += [sequence for sequence in training if sequence.name in source.held_out]
    training = [sequence for sequence in training if sequence.name not in source.held_out]
    part = source.held_out_part
    if source.held_out_share and len(training) > 1:
        training, last = _without_last(training, source.held_out_share)
        kept += last
    elif source.held_out_share:
        part = max(part, source.held_out_share)
    if part:
        stops = [round(len(sequence) * (1 - part)) for sequence in training]
        kept += [DerivedSequence(sequence, stop, len(sequence)) for sequence, stop in zip(training, stops, strict=True)]
        training = [DerivedSequence(sequence, 0, stop) for sequence, stop in zip(training, stops, strict=True)]
    return training, kept


def _without_last(sequences: list[ImageSequence], share: float) -> tuple[list[ImageSequence], list[ImageSequence]]:
    """All but this share, and the share: the last, of bags named by their time the newest; one at least each."""
    count = min(max(1, round(share * len(sequences))), len(sequences) - 1)
    return sequences[:-count], sequences[-count:]


def _path(sequence: ImageSequence) -> Path:
    """Of a sequence folder; a bag is of no split, which knows it by no name."""
    return sequence.path if isinstance(sequence, FolderSequence) else Path("/")


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
        raise DataError(f"{file}: names {len(absent)} sequences that {source.path} lacks, such as {absent[0]}")
    return [found[name] for name in names]


def decide(share: float, rng: Rng) -> bool:
    """True for this share of calls; without a share, nothing is drawn, so that older recipes keep their
    samples.
    """
    return share > 0 and rng.random() < share


class _Cache:
    """Keeps the newest ``limit`` results of a costly loader."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable, load: Callable[[], Any]) -> Any:
        if key in self._kept:
            self._kept.move_to_end(key)
        else:
            self._kept[key] = load()
            if len(self._kept) > self._limit:
                self._kept.popitem(last=False)
        return self._kept[key]


class SequenceSource:
    """Pairs from annotated sequences, up to ``max_gap`` frames apart.

    A sequence with RGB alone gets an aux stream: events simulated from neighbouring frames. ``true``: its boxes are the
    truth, no trackers' labels.
    """

    def __init__(
        self, sequences: list[ImageSequence], max_gap: int = 100, cache: int = 6000, true: bool = True
    ) -> None:
        if not sequences:
            raise DataError("a sequence source needs at least one sequence, got none")
        self.sequences = sequences
        self.max_gap, self.true = max_gap, true
        self._frames = [_trainable_frames(sequence) for sequence in sequences]
        # Long sequences say more, but not in proportion: their frames are alike.
        share = np.sqrt([len(frames) for frames in self._frames])
        self._share = share / share.sum()
        self._cache = _Cache(cache)

    def sample(self, rng: Rng) -> ViewPair:
        index = int(rng.choice(len(self.sequences), p=self._share))
        frames = self._frames[index]
        first = int(rng.choice(frames))
        near = frames[np.abs(frames - first) <= self.max_gap]
        second = int(rng.choice(near))
        threshold = float(rng.uniform(0.08, 0.3))
        template, search = (self._view(index, frame, threshold) for frame in (first, second))
        return ViewPair(template, search, true=self.true)

    def _view(self, index: int, frame: int, threshold: float) -> View:
        sequence = self.sequences[index]
        rgb, aux = self._pictures(index, frame)
        if aux is None:
            before, _ = self._pictures(index, max(frame - 1, 0))
            if before is None or rgb is None:
                raise DataError(f"{sequence.name}: events are simulated from RGB images, frame {frame} has none")
            aux = simulate_events(before, rgb, threshold=threshold)
        return View(rgb, aux, sequence.boxes[frame], sequence.name)

    def _pictures(self, index: int, frame: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        return self._cache.get((index, frame), partial(_network_pictures, self.sequences[index], frame))


def _trainable_frames(sequence: ImageSequence) -> np.ndarray:
    """Indices of the frames with a box of 4 px or more on each side."""
    frames = np.flatnonzero(_large_enough(sequence.boxes))
    if len(frames) < 2:
        raise DataError(f"sequence {sequence.name}: expected at least two frames with a box, got {len(frames)}")
    return frames


def _network_pictures(sequence: ImageSequence, index: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    frame = sequence.frame(index)
    aux = None if frame.aux is None else AuxEncoder(sequence.modality)(frame.aux)
    return frame.rgb, aux


class StillSource:
    """Pairs from registered still pictures: an object-like region under synthetic motion.

    Args:
        files: (RGB file, infrared file or None) per still; without infrared, events are simulated from the
            motion.
        cutouts: share of pairs in which a segment of one still moves across another still, see
            ``cutouts.py``.
    """

    def __init__(self, files: list[StillFiles], cache: int = 6000, cutouts: float = 0.0) -> None:
        if not files:
            raise DataError("a still source needs at least one picture, got none")
        if cutouts and len(files) < 2:
            raise DataError(
                f"cutouts ({cutouts}): a segment of one still moves across another one, expected two stills "
                f"or more, got only {files[0][0]}"
            )
        self.files = files
        self.cutouts = cutouts
        self._cache = _Cache(cache)

    def sample(self, rng: Rng) -> ViewPair:
        return self._cutout_pair(rng) if decide(self.cutouts, rng) else self._moved_pair(rng)

    def _moved_pair(self, rng: Rng) -> ViewPair:
        index = self._draw(rng)
        rgb, aux = self._pictures(index)
        box = propose_box(aux if aux is not None and rng.random() < 0.6 else rgb, rng)
        return _moved_pair(View(rgb, aux, box, self._name(index)), rng)

    def _cutout_pair(self, rng: Rng) -> ViewPair:
        scene, giver = self._draw(rng), self._draw(rng)
        if giver == scene:
            # By a generator far ahead on the same stream: `rng` draws no more for it than for any other pair.
            ahead = np.random.Generator(rng.bit_generator.jumped())  # type: ignore[attr-defined]  # of all but one kind
            giver = (scene + int(ahead.integers(1, len(self.files)))) % len(self.files)
        scene_pictures = self._pictures(scene)
        cutout = cut_out(self._pictures(giver), rng)
        first, second = moments(scene_pictures, cutout, rng)
        name = self._name(giver)
        return ViewPair(View(*first, name), View(*second, name))

    def _draw(self, rng: Rng) -> int:
        return int(rng.integers(len(self.files)))

    def _name(self, index: int) -> str:
        return str(self.files[index][0])

    def _pictures(self, index: int) -> Pictures:
        """RGB and infrared (or None) of a still, HxWx3 uint8."""
        return [None if file is None else self._cache.get(file, partial(read_rgb, file)) for file in self.files[index]]


@dataclass(frozen=True)
class BoxedStill:
    """A picture file and the boxes (n, 4) xywh px of targets in it, n at least 1."""

    file: Path
    boxes: np.ndarray


class BoxedStillSource:
    """Pairs from single pictures with true boxes, under synthetic motion.

    Args:
        modality: of the pictures: RGB gets events simulated from the motion, any other is an aux stream alone.
    """

    def __init__(self, stills: list[BoxedStill], modality: Modality, cache: int = 6000) -> None:
        self.stills, self.modality = stills, modality
        self._cache = _Cache(cache)

    def sample(self, rng: Rng) -> ViewPair:
        still = self.stills[int(rng.integers(len(self.stills)))]
        box = still.boxes[int(rng.integers(len(still.boxes)))]
        picture = self._cache.get(still.file, partial(self._picture, still.file))
        rgb, aux = (picture, None) if self.modality is Modality.RGB else (None, picture)
        # Named by the picture: another target of the same one is no other surroundings.
        return _moved_pair(View(rgb, aux, box, str(still.file)), rng)

    def _picture(self, file: Path) -> np.ndarray:
        if self.modality is Modality.RGB:
            return read_rgb(file)
        return AuxEncoder(self.modality)(read_aux(file, self.modality))


def find_boxed_stills(folder: Path) -> list[BoxedStill]:
    """The pictures in ``folder/img`` that ``folder/boxes.json`` has boxes of at least 4 px a side for."""
    file = folder / "boxes.json"
    try:
        listed = {
            name: np.array(boxes, np.float64).reshape(-1, 4) for name, boxes in json.loads(file.read_text()).items()
        }
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{file}: expected {{file: [[x, y, w, h], ...]}} ({error})") from error
    stills = [BoxedStill(folder / "img" / name, boxes[_large_enough(boxes)]) for name, boxes in sorted(listed.items())]
    if absent := [still.file for still in stills if not still.file.is_file()]:
        raise DataError(f"{absent[0]}: no such file, {file} has boxes for it")
    stills = [still for still in stills if len(still.boxes)]
    if not stills:
        raise DataError(f"{file}: expected boxes of at least 4 px a side, found none")
    return stills


def _large_enough(boxes: np.ndarray) -> np.ndarray:
    """(n, 4) -> (n,) bool: boxes that say something about a target."""
    return visible(boxes) & (np.nan_to_num(boxes[:, 2:]) >= 4).all(1)


def find_stills(folder: Path) -> list[StillFiles]:
    """Stills below ``folder``: ``*/{visible,infrared}/NAME`` pairs, or single pictures without infrared."""
    pairs: list[StillFiles] = [
        (rgb, rgb.parent.parent / "infrared" / rgb.name) for rgb in sorted(folder.glob("*/visible/*"))
    ]
    missing = [aux for _, aux in pairs if aux is not None and not aux.is_file()]
    if missing:
        raise DataError(f"{missing[0]}: no such file, expected the infrared picture of the same name as in visible/")
    if pairs:
        return pairs
    return [(path, None) for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES]


def _moved_pair(template: View, rng: Rng) -> ViewPair:
    """A still and its view after a motion; events are simulated where it has no aux stream."""
    search = _moved(template, rng)
    if template.aux is None:
        threshold = float(rng.uniform(0.08, 0.3))
        template, search = (_with_events(view, threshold, rng) for view in (template, search))
    return ViewPair(template, search)


def _moved(view: View, rng: Rng) -> View:
    """The view of a still after a random affine motion of the camera about the target."""
    x, y, w, h = view.box
    center = np.array([x + w / 2, y + h / 2])
    angle, shear = rng.normal(0, 0.1), rng.normal(0, 0.05)
    stretch = np.exp(rng.normal(0, 0.1, 2))
    linear = np.array([[np.cos(angle), -np.sin(angle) + shear], [np.sin(angle), np.cos(angle)]]) * stretch
    matrix = np.concatenate([linear, (center - linear @ center)[:, None]], 1)
    corners = np.array([[x, y], [x + w, y], [x, y + h], [x + w, y + h]]) @ linear.T + matrix[:, 2]
    # The corners of a turned box overstate it; halfway between their bounds and the stretched box fits
    # objects.
    spread = np.ptp(corners, axis=0)
    size = (spread + np.abs(np.diag(linear)) * [w, h]) / 2
    return replace(
        view,
        rgb=None if view.rgb is None else warp(view.rgb, matrix),
        aux=None if view.aux is None else warp(view.aux, matrix),
        box=np.concatenate([center - size / 2, size]),
    )


def _with_events(view: View, threshold: float, rng: Rng) -> View:
    """The view of a still with the events since one frame earlier, when the camera looked up to 3 px beside."""
    assert view.rgb is not None
    before = shifted(view.rgb, rng.uniform(-3, 3, 2))
    return replace(view, aux=simulate_events(before, view.rgb, threshold=threshold))
