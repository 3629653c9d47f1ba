"""Training pairs: a template and a search region of the same target, both modalities, with everything random
seeded.

Sample ``i`` of a :class:`PairDataset` depends on ``(seed, i)`` alone, so a run that resumes at sample ``i``
sees what an uninterrupted run would have seen, and several processes share the work without talking about it.
"""

from __future__ import annotations

import signal
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from cmdtrack_ros.boxes import Crop, iou, mean_colour, visible_fraction
from cmdtrack_ros.data import ImageSequence
from cmdtrack_ros.data.events import simulate_events
from cmdtrack_ros.data.sequences import IMAGE_SUFFIXES, read_rgb
from cmdtrack_ros.errors import DataError
from cmdtrack_ros.modalities import AuxEncoder
from cmdtrack_ros.training import augment
from cmdtrack_ros.training.config import PairConfig
from cmdtrack_ros.training.cutouts import cut_out, moments, segment, segment_bounds

Rng = np.random.Generator


@dataclass(frozen=True)
class View:
    """One moment: network pictures HxWx3 uint8 of each stream (None = absent), the target's box, px, xywh,
    and which target it is.
    """

    rgb: np.ndarray | None
    aux: np.ndarray | None
    box: np.ndarray
    target: str = ""


@dataclass(frozen=True)
class Pair:
    """Template and search view; ``same`` is False when the search view shows another target (or none).

    ``distractor``: another target, to be pasted beside the one searched for.
    """

    template: View
    search: View
    same: bool = True
    distractor: View | None = None


class PairSource(Protocol):
    """Where pairs come from."""

    def sample(self, rng: Rng) -> Pair:
        """Draw one pair of the same target."""


class _Cache:
    """Keeps the newest ``limit`` results of a costly loader."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict = OrderedDict()

    def get(self, key, load: Callable):
        if key in self._kept:
            self._kept.move_to_end(key)
        else:
            self._kept[key] = load()
            if len(self._kept) > self._limit:
                self._kept.popitem(last=False)
        return self._kept[key]


class SequenceSource:
    """Pairs from annotated sequences, up to ``max_gap`` frames apart.

    A sequence with RGB alone gets a second stream: events simulated from neighbouring frames.
    """

    def __init__(self, sequences: list[ImageSequence], max_gap: int = 100, cache: int = 6000) -> None:
        if not sequences:
            raise DataError("a sequence source needs at least one sequence, got none")
        self.sequences = sequences
        self.max_gap = max_gap
        self._visible = [_visible_frames(sequence) for sequence in sequences]
        # Long sequences say more, but not in proportion: their frames are alike.
        share = np.sqrt([len(visible) for visible in self._visible])
        self._share = share / share.sum()
        self._cache = _Cache(cache)

    def sample(self, rng: Rng) -> Pair:
        index = int(rng.choice(len(self.sequences), p=self._share))
        visible = self._visible[index]
        first = int(rng.choice(visible))
        near = visible[np.abs(visible - first) <= self.max_gap]
        second = int(rng.choice(near))
        threshold = float(rng.uniform(0.08, 0.3))
        return Pair(self._view(index, first, threshold), self._view(index, second, threshold))

    def _view(self, index: int, frame: int, threshold: float) -> View:
        sequence = self.sequences[index]
        rgb, aux = self._cache.get((index, frame), lambda: _pictures(sequence, frame))
        if aux is None:
            before, _ = self._cache.get(
                (index, max(frame - 1, 0)), lambda: _pictures(sequence, max(frame - 1, 0))
            )
            aux = simulate_events(before, rgb, threshold=threshold)
        return View(rgb, aux, sequence.boxes[frame], sequence.name)


def _visible_frames(sequence: ImageSequence) -> np.ndarray:
    boxes = sequence.boxes
    visible = np.flatnonzero(np.isfinite(boxes).all(1) & (np.nan_to_num(boxes[:, 2:]) >= 4).all(1))
    if len(visible) < 2:
        raise DataError(
            f"sequence {sequence.name}: expected at least two frames with a box, got {len(visible)}"
        )
    return visible


def _pictures(sequence: ImageSequence, index: int) -> tuple[np.ndarray | None, np.ndarray | None]:
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

    def __init__(
        self, files: list[tuple[Path, Path | None]], cache: int = 6000, cutouts: float = 0.0
    ) -> None:
        if not files:
            raise DataError("a still source needs at least one picture, got none")
        self.files = files
        self.cutouts = cutouts
        self._cache = _Cache(cache)

    def sample(self, rng: Rng) -> Pair:
        if _decide(self.cutouts, rng):
            return self._cutout_pair(rng)
        rgb, aux, name = self._still(rng)
        proposals = aux if aux is not None and rng.random() < 0.6 else rgb
        box = propose_box(proposals, rng)
        template = View(rgb, aux, box, name)
        search = _moved(template, rng)
        if aux is None:
            # The picture as it was a frame ago, for both views.
            threshold = float(rng.uniform(0.08, 0.3))
            template = replace(template, aux=simulate_events(_nudged(rgb, rng), rgb, threshold=threshold))
            search = replace(
                search, aux=simulate_events(_nudged(search.rgb, rng), search.rgb, threshold=threshold)
            )
        return Pair(template, search)

    def _still(self, rng: Rng) -> tuple[np.ndarray, np.ndarray | None, str]:
        rgb_file, aux_file = self.files[int(rng.integers(len(self.files)))]
        rgb = self._cache.get(rgb_file, lambda: read_rgb(rgb_file))
        aux = None if aux_file is None else self._cache.get(aux_file, lambda: read_rgb(aux_file))
        return rgb, aux, str(rgb_file)

    def _cutout_pair(self, rng: Rng) -> Pair:
        *scene, _ = self._still(rng)
        *giver, name = self._still(rng)
        cutout = cut_out(giver, rng)
        first, second = moments(scene, cutout, rng)
        return Pair(View(*first, name), View(*second, name))


def find_stills(folder: Path) -> list[tuple[Path, Path | None]]:
    """Stills below ``folder``: ``*/{visible,infrared}/NAME`` pairs, or single pictures without infrared."""
    pairs = [(rgb, rgb.parent.parent / "infrared" / rgb.name) for rgb in sorted(folder.glob("*/visible/*"))]
    missing = [aux for _, aux in pairs if not aux.is_file()]
    if missing:
        raise DataError(
            f"{missing[0]}: no such file, expected the infrared picture of the same name as in visible/"
        )
    if pairs:
        return pairs
    return [(path, None) for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES]


def propose_box(image: np.ndarray, rng: Rng) -> np.ndarray:
    """An object-like box (4,) xywh px: the bounds of a segment of a picture (Felzenszwalb, 2004)."""
    height, width = image.shape[:2]
    labels, scale = segment(image, rng)
    boxes = segment_bounds(labels) / scale
    area = boxes[:, 2] * boxes[:, 3] / (width * height)
    aspect = boxes[:, 2] / boxes[:, 3]
    fit = (area > 0.003) & (area < 0.3) & (aspect > 0.2) & (aspect < 5) & (boxes[:, 2:].min(1) > 12)
    if fit.any():
        return boxes[fit][int(rng.integers(fit.sum()))]
    size = np.exp(rng.uniform(np.log(0.1), np.log(0.5), 2)) * [width, height]
    return np.concatenate([rng.uniform(0, 1, 2) * ([width, height] - size), size])


def _moved(view: View, rng: Rng) -> View:
    """The view after a random affine motion of the camera about the target."""
    height, width = view.rgb.shape[:2]
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
        rgb=augment.warp(view.rgb, matrix),
        aux=None if view.aux is None else augment.warp(view.aux, matrix),
        box=np.concatenate([center - size / 2, size]),
    )


def _nudged(image: np.ndarray, rng: Rng) -> np.ndarray:
    """The picture shifted by up to 3 px, as a moving camera saw it one frame earlier."""
    return augment.shifted(image, rng.uniform(-3, 3, 2))


class CropShape(Protocol):
    """What a network's configuration says of its crops, see ``StudentConfig``."""

    template_size: int
    search_size: int
    template_factor: float
    search_factor: float


class PairDataset(Dataset):
    """An endless, seeded stream of samples.

    Each is a dict: ``index`` () int64, ``template`` (2, 3, T, T) uint8, ``template_box`` (4,) xywh in
    fractions of T, ``search`` (2, 3, S, S) uint8, ``box`` (4,) xywh in fractions of S, ``present`` (2,) float
    (RGB, aux), ``informative`` (2,) float, 0 for a stream that was made to mislead, ``positive`` () float.
    """

    def __init__(
        self, sources: list[tuple[PairSource, float]], config: PairConfig, crops: CropShape, seed: int
    ) -> None:
        shares = np.array([share for _, share in sources], np.float64)
        self.sources = [source for source, _ in sources]
        self.shares = shares / shares.sum()
        self.config, self.crops, self.seed = config, crops, seed

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((self.seed, index))
        source = self._choose(rng)
        pair = source.sample(rng)
        if rng.random() < self.config.negatives:
            # Another target's surroundings: the network must say that the target is not there.
            if other := _other(self._choose(rng), pair, rng):
                pair = replace(pair, search=other, same=False)
        elif _decide(self.config.hard_negatives, rng) and (other := _other(source, pair, rng)):
            pair = replace(pair, search=other, same=False)
        if _decide(self.config.distractors, rng):
            pair = replace(pair, distractor=_other(source, pair, rng))
        return {"index": torch.tensor(index)} | make_sample(pair, self.config, self.crops, rng)

    def _choose(self, rng: Rng) -> PairSource:
        return self.sources[int(rng.choice(len(self.sources), p=self.shares))]


def _decide(share: float, rng: Rng) -> bool:
    """True for this share of calls; without a share, nothing is drawn, so that older recipes keep their
    samples.
    """
    return share > 0 and rng.random() < share


def _other(source: PairSource, pair: Pair, rng: Rng, tries: int = 4) -> View | None:
    """A view of another target of the same source; None if there hardly is any."""
    for _ in range(tries):
        view = source.sample(rng).search
        if view.target not in (pair.template.target, pair.search.target):
            return view
    return None


def make_sample(pair: Pair, config: PairConfig, crops: CropShape, rng: Rng) -> dict[str, torch.Tensor]:
    """Cut, augment and stack a pair; see :class:`PairDataset` for the result."""
    present = [
        all(getattr(view, name) is not None for view in (pair.template, pair.search))
        for name in ("rgb", "aux")
    ]
    if not any(present):
        # A negative drawn from a source with other streams: show it through the stream the template has.
        picture = pair.search.rgb if pair.search.rgb is not None else pair.search.aux
        pair = replace(pair, search=replace(pair.search, rgb=picture, aux=picture))
        present = [pair.template.rgb is not None, pair.template.aux is not None]
    if all(present) and _decide(config.dropped, rng):
        present[int(rng.integers(2))] = False
    if config.margin:
        pair = _redrawn(pair, np.exp(rng.normal(0, config.margin, 2)))
    template_box = _jittered(pair.template.box, config.jitter, rng)
    template_crop = Crop.around(template_box, crops.template_factor, crops.template_size)
    search_crop = _search_crop(pair.search.box, config, crops, rng)
    box = search_crop.to_crop(pair.search.box)
    template = _cut(pair.template, template_crop, present)
    search = _cut(pair.search, search_crop, present)
    if pair.distractor is not None:
        _paste(pair.distractor, search, present, box, rng)
    reach = config.misalignment
    search[1] = augment.shifted(search[1], rng.uniform(-reach, reach, 2))
    informative = np.ones(2, np.float32)
    if all(present) and _decide(config.misleading, rng):
        stream = int(rng.random() < 0.3)
        informative[stream] = 0
        template[stream], search[stream] = _misleading(pair, stream, template[stream], search_crop, rng)
    if _decide(config.edges, rng):
        _bound(template, template_crop.to_crop(template_box), search, box, rng)
    if rng.random() < config.occluded:
        _occlude(search, box, rng)
    for pictures in (template, search):
        for stream, picture in enumerate(pictures):
            if present[stream]:
                pictures[stream] = augment.photometric(picture, rng, colour=stream == 0)
    if all(present) and rng.random() < config.degraded:
        stream = int(rng.integers(2))
        search[stream] = augment.degrade(search[stream], rng)
    template_fraction = template_crop.to_crop(template_box) / crops.template_size
    fraction = box / crops.search_size
    if rng.random() < 0.5:
        template, template_fraction = _flipped(template, template_fraction)
        search, fraction = _flipped(search, fraction)
    inside = visible_fraction(fraction, 1, 1) > 0.3
    return {
        "template": _stack(template),
        "template_box": torch.from_numpy(template_fraction).float(),
        "search": _stack(search),
        "box": torch.from_numpy(fraction).float(),
        "present": torch.tensor(present, dtype=torch.float32),
        "informative": torch.from_numpy(informative),
        "positive": torch.tensor(float(pair.same and inside)),
    }


def _bound(
    template: list[np.ndarray], template_box: np.ndarray, search: list[np.ndarray], box: np.ndarray, rng: Rng
) -> None:
    """Let the image end beside the target in the template, and farther off in the search region, in place.

    So it is when a target has just come into view: the image's edge beside it must not count as its look.
    """
    axis, far = int(rng.integers(2)), bool(rng.integers(2))
    for pictures, (where, reach) in ((template, (template_box, (0.0, 0.15))), (search, (box, (0.1, 1.2)))):
        edge = where[axis] + where[axis + 2] * (rng.uniform(*reach) + 1 if far else -rng.uniform(*reach))
        edge = int(np.clip(edge, 0, pictures[0].shape[0]))
        outside = slice(edge, None) if far else slice(0, edge)
        for stream, picture in enumerate(pictures):
            pictures[stream] = picture.copy()
            pictures[stream][(outside, slice(None)) if axis else (slice(None), outside)] = mean_colour(
                picture
            )


def _misleading(pair: Pair, stream: int, template: np.ndarray, crop: Crop, rng: Rng) -> list[np.ndarray]:
    """Template and search picture of ``stream`` behind a veil, the latter from beside the search region."""
    angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.4) * crop.side
    shift_x, shift_y = distance * np.cos(angle), distance * np.sin(angle)
    beside = replace(crop, center_x=crop.center_x + shift_x, center_y=crop.center_y + shift_y)
    image = (pair.search.rgb, pair.search.aux)[stream]
    return augment.veil([template, beside.cut(image)], rng)


def _search_crop(box: np.ndarray, config: PairConfig, crops: CropShape, rng: Rng) -> Crop:
    crop = Crop.around(box, crops.search_factor, crops.search_size)
    reach = np.sqrt(box[2] * box[3]) * config.shift
    # Mostly near, as between two frames; sometimes far, as after a loss.
    shift = rng.uniform(-reach, reach, 2) * (1.0 if rng.random() < 0.5 else 0.4)
    return replace(
        crop,
        center_x=crop.center_x + shift[0],
        center_y=crop.center_y + shift[1],
        side=crop.side * float(np.exp(rng.normal(0, config.zoom))),
    )


def _redrawn(pair: Pair, factors: np.ndarray) -> Pair:
    """The pair with both boxes' width and height multiplied by ``factors`` (2,) about their centres."""
    views = []
    for view in (pair.template, pair.search):
        size = view.box[2:] * factors
        views.append(replace(view, box=np.concatenate([view.box[:2] + (view.box[2:] - size) / 2, size])))
    return replace(pair, template=views[0], search=views[1])


def _jittered(box: np.ndarray, share: float, rng: Rng) -> np.ndarray:
    error = rng.normal(0, share, 4)
    size = box[2:] * np.exp(error[2:])
    center = box[:2] + box[2:] / 2 + box[2:] * error[:2]
    return np.concatenate([center - size / 2, size])


def _cut(view: View, crop: Crop, present: list[bool]) -> list[np.ndarray]:
    empty = np.zeros((crop.size, crop.size, 3), np.uint8)
    return [crop.cut(image) if there else empty for image, there in zip((view.rgb, view.aux), present)]


def _paste(view: View, pictures: list[np.ndarray], present: list[bool], box: np.ndarray, rng: Rng) -> None:
    """Paste what is in the view's box beside the target, at about its size, into every picture, in place."""
    size = pictures[0].shape[0]
    side = float(np.sqrt(box[2] * box[3]) * np.exp(rng.normal(0, 0.15)))
    w, h = np.clip(view.box[2:] / np.sqrt(view.box[2] * view.box[3]) * side, 4, size / 2).astype(int)
    for _ in range(8):
        x, y = int(rng.integers(0, size - w)), int(rng.integers(0, size - h))
        if not iou(np.array([x, y, w, h]), box) > 0:
            break
    else:
        return  # the target fills the region
    # The window's square is cut whole and the box's part of it taken, so that all streams stay registered.
    crop = Crop.around(view.box, max(w, h) / np.sqrt(w * h), int(max(w, h)))
    left, top = (crop.size - w) // 2, (crop.size - h) // 2
    for stream, image in enumerate((view.rgb, view.aux)):
        if present[stream] and image is not None:
            patch = crop.cut(image)[top : top + h, left : left + w]
            pictures[stream][y : y + h, x : x + w] = patch


def _occlude(pictures: list[np.ndarray], box: np.ndarray, rng: Rng) -> None:
    """Cover up to half of the target with a patch from elsewhere in the same pictures, in place."""
    size = pictures[0].shape[0]
    w, h = np.maximum((box[2:] * rng.uniform(0.25, 0.7, 2)).astype(int), 2)
    x, y = (box[:2] + rng.uniform(-0.2, 0.8, 2) * box[2:]).astype(int)
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + w, size), min(y + h, size)
    if right <= left or bottom <= top:
        return
    source_x = int(rng.integers(0, size - (right - left) + 1))
    source_y = int(rng.integers(0, size - (bottom - top) + 1))
    for picture in pictures:
        patch = picture[source_y : source_y + bottom - top, source_x : source_x + right - left].copy()
        picture[top:bottom, left:right] = patch


def _flipped(pictures: list[np.ndarray], box: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    mirrored = box.copy()
    mirrored[0] = 1 - box[0] - box[2]
    return [picture[:, ::-1] for picture in pictures], mirrored


def _stack(pictures: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures).transpose(0, 3, 1, 2).copy())


def batches(
    dataset: PairDataset, size: int, steps: range, process: int, processes: int, workers: int
) -> DataLoader:
    """Loader of one batch of ``size`` samples per step, prepared by ``workers`` data processes (0 = this
    one).

    Step s takes the samples s * size * processes and following, of which each process has its own ``size``:
    what all of them see together is what one process with a larger batch would see.
    """
    starts = ((step * processes + process) * size for step in steps)
    sampler = [range(start, start + size) for start in starts]
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_leave_stopping_to_the_trainer,
    )


def _leave_stopping_to_the_trainer(_worker: int) -> None:
    """Signals often reach the whole process group; without its data the trainer could not end its step."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
