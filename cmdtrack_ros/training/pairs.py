"""Training pairs: a template and a search region of the same target, both modalities, with everything random
seeded.

Sample ``i`` of a :class:`PairDataset` depends on ``(seed, i)`` alone, so a run that resumes at sample ``i``
sees what an uninterrupted run would have seen, and several processes share the work without talking about it.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from cmdtrack_ros.boxes import Crop, iou, mean_colour, visible_fraction
from cmdtrack_ros.models.config import CropConfig
from cmdtrack_ros.training import augment
from cmdtrack_ros.training.augment import Rng
from cmdtrack_ros.training.config import PairConfig
from cmdtrack_ros.training.sources import PairSource, View, ViewPair, decide
from cmdtrack_ros.training.teaching import ForeignTeachers


class PairDataset(Dataset):
    """An endless, seeded stream of samples.

    Each is a dict: ``index`` () int64, ``template`` (2, 3, T, T) uint8, ``template_box`` (4,) xywh in
    fractions of T, ``search`` (2, 3, S, S) uint8, ``box`` (4,) xywh in fractions of S, ``present`` (2,) float
    (RGB, aux), ``informative`` (2,) float, 0 for a stream that was made to mislead, ``positive`` () float.

    With foreign ``teachers`` also ``taught_box`` (4,) xywh in fractions of S, ``taught_score`` () in [0, 1],
    ``taught_weight`` () how right it is, 0 = nothing is taught, ``taught_true`` () 1 where the truth told
    that; and where they show their features, ``taught_features`` (C, S/16, S/16) float16 of the clean RGB search
    region, ``taught_features_weight`` () 0 where there is no RGB. All else is as without teachers.
    """

    def __init__(
        self,
        sources: list[tuple[PairSource, float]],
        config: PairConfig,
        crops: CropConfig,
        seed: int,
        teachers: ForeignTeachers | None = None,
    ) -> None:
        shares = np.array([share for _, share in sources], np.float64)
        self.sources = [source for source, _ in sources]
        self.shares = shares / shares.sum()
        self.config, self.crops, self.seed, self.teachers = config, crops, seed, teachers

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((self.seed, index))
        source = self._choose(rng)
        pair = source.sample(rng)
        if rng.random() < self.config.negatives:
            # Another target's surroundings: the network must say that the target is not there.
            if other := _other(self._choose(rng), pair, rng):
                pair = replace(pair, search=other, same=False)
        elif decide(self.config.hard_negatives, rng) and (other := _other(source, pair, rng)):
            pair = replace(pair, search=other, same=False)
        if decide(self.config.distractors, rng):
            pair = replace(pair, distractor=_other(source, pair, rng))
        return {"index": torch.tensor(index)} | make_sample(pair, self.config, self.crops, rng, self.teachers)

    def _choose(self, rng: Rng) -> PairSource:
        return self.sources[int(rng.choice(len(self.sources), p=self.shares))]


def _other(source: PairSource, pair: ViewPair, rng: Rng, tries: int = 4) -> View | None:
    """A view of another target of the same source; None if there hardly is any."""
    for _ in range(tries):
        view = source.sample(rng).search
        if view.target not in (pair.template.target, pair.search.target):
            return view
    return None


@dataclass
class _Region:
    """What is cut around a target: a picture per stream, HxWx3 uint8, and the target's box in it, px."""

    crop: Crop
    pictures: list[np.ndarray]
    box: np.ndarray

    @classmethod
    def cut(cls, view: View, crop: Crop, box: np.ndarray, present: list[bool]) -> _Region:
        """``box`` in pixels of the view; black where a stream is not ``present``."""
        empty = np.zeros((crop.size, crop.size, 3), np.uint8)
        pictures = [
            crop.cut(image) if there and image is not None else empty
            for image, there in zip((view.rgb, view.aux), present, strict=True)
        ]
        return cls(crop, pictures, crop.to_crop(box))

    def finished(self, mirrored: bool) -> tuple[torch.Tensor, np.ndarray]:
        """Pictures (2, 3, S, S) uint8, and the box (4,) xywh in fractions of S."""
        stacked, fraction = np.stack(self.pictures).transpose(0, 3, 1, 2), self.box / self.crop.size
        if mirrored:
            stacked = stacked[..., ::-1]
            fraction[0] = 1 - fraction[0] - fraction[2]
        return torch.from_numpy(stacked.copy()), fraction


def make_sample(
    pair: ViewPair, config: PairConfig, crops: CropConfig, rng: Rng, teachers: ForeignTeachers | None = None
) -> dict[str, torch.Tensor]:
    """Cut, augment and stack a pair; see :class:`PairDataset` for the result."""
    clean = pair
    pair, present = _streams(pair)
    if all(present) and decide(config.dropped, rng):
        present[int(rng.integers(2))] = False
    if config.margin:
        pair = _redrawn(pair, np.exp(rng.normal(0, config.margin, 2)))
    template, search = _regions(pair, present, config, crops, rng)
    if pair.distractor is not None:
        _paste(pair.distractor, search, present, rng)
    search.pictures[1] = augment.shifted(search.pictures[1], rng.uniform(-config.misalignment, config.misalignment, 2))
    informative = [1.0, 1.0]
    if all(present) and decide(config.misleading, rng):
        informative[_mislead(pair.search, template, search, rng)] = 0.0
    if decide(config.edges, rng):
        _end_image_beside_target(template, search, rng)
    if rng.random() < config.occluded:
        _occlude(search, rng)
    _change_appearance(template, search, present, config, rng)
    mirrored = rng.random() < 0.5
    template_pictures, template_box = template.finished(mirrored)
    search_pictures, box = search.finished(mirrored)
    inside = visible_fraction(box, 1, 1) > 0.3
    sample = {
        "template": template_pictures,
        "template_box": torch.from_numpy(template_box).float(),
        "search": search_pictures,
        "box": torch.from_numpy(box).float(),
        "present": torch.tensor(present, dtype=torch.float32),
        "informative": torch.tensor(informative),
        "positive": torch.tensor(float(pair.same and inside)),
    }
    if teachers is not None:
        sample |= _taught(teachers, clean, pair.search.box, search.crop, crops.search_factor, mirrored, inside)
        if teachers.show_features:
            sample |= _shown_features(teachers, clean.search.rgb, search.crop, mirrored)
    return sample


def _shown_features(
    teachers: ForeignTeachers, rgb: np.ndarray | None, crop: Crop, mirrored: bool
) -> dict[str, torch.Tensor]:
    """What the teachers see in a clean search region."""
    picture = np.zeros((crop.size, crop.size, 3), np.uint8) if rgb is None else crop.cut(rgb)
    return {
        "taught_features": torch.from_numpy(teachers.features(picture[:, ::-1] if mirrored else picture)),
        "taught_features_weight": torch.tensor(float(rgb is not None)),
    }


def _taught(
    teachers: ForeignTeachers,
    clean: ViewPair,
    drawn: np.ndarray,
    crop: Crop,
    factor: float,
    mirrored: bool,
    inside: bool,
) -> dict[str, torch.Tensor]:
    """What the teachers say of a clean pair, around the same place and at the same scale as the search region.

    ``drawn`` (4,): the search view's box as the student shall answer it; what is taught gets the same margin.
    """
    size = clean.search.box[2:] * crop.side / Crop.around(drawn, factor, crop.size).side
    near = np.concatenate([np.array([crop.center_x, crop.center_y]) - size / 2, size])
    lesson = teachers.teach(clean, near) if inside else None
    score, weight = 0.0, 0.0
    box: np.ndarray = np.zeros(4)
    if lesson is not None:
        box = crop.to_crop(_resized(lesson.box, drawn[2:] / clean.search.box[2:])) / crop.size
        if mirrored:
            box[0] = 1 - box[0] - box[2]
        center = box[:2] + box[2:] / 2
        score, weight = lesson.score, lesson.weight * float(((center > 0) & (center < 1)).all())
    return {
        "taught_box": torch.from_numpy(box).float(),
        "taught_score": torch.tensor(score, dtype=torch.float32),
        "taught_weight": torch.tensor(weight, dtype=torch.float32),
        "taught_true": torch.tensor(float(clean.true)),
    }


def _streams(pair: ViewPair) -> tuple[ViewPair, list[bool]]:
    """The pair, and which streams (RGB, aux) both of its views have."""
    present = [all(getattr(view, name) is not None for view in (pair.template, pair.search)) for name in ("rgb", "aux")]
    if any(present):
        return pair, present
    # A negative drawn from a source with other streams: show it through the stream the template has.
    picture = pair.search.rgb if pair.search.rgb is not None else pair.search.aux
    pair = replace(pair, search=replace(pair.search, rgb=picture, aux=picture))
    return pair, [pair.template.rgb is not None, pair.template.aux is not None]


def _redrawn(pair: ViewPair, factors: np.ndarray) -> ViewPair:
    """The pair with both boxes' width and height multiplied by ``factors`` (2,) about their centres."""
    template, search = (replace(view, box=_resized(view.box, factors)) for view in (pair.template, pair.search))
    return replace(pair, template=template, search=search)


def _resized(box: np.ndarray, factors: np.ndarray) -> np.ndarray:
    size = box[2:] * factors
    return np.concatenate([box[:2] + (box[2:] - size) / 2, size])


def _regions(
    pair: ViewPair, present: list[bool], config: PairConfig, crops: CropConfig, rng: Rng
) -> tuple[_Region, _Region]:
    """Template and search region."""
    template_box = _jittered(pair.template.box, config.jitter, rng)
    template_crop = Crop.around(template_box, crops.template_factor, crops.template_size)
    search_crop = _search_crop(pair.search.box, config, crops, rng)
    return (
        _Region.cut(pair.template, template_crop, template_box, present),
        _Region.cut(pair.search, search_crop, pair.search.box, present),
    )


def _jittered(box: np.ndarray, share: float, rng: Rng) -> np.ndarray:
    error = rng.normal(0, share, 4)
    size = box[2:] * np.exp(error[2:])
    center = box[:2] + box[2:] / 2 + box[2:] * error[:2]
    return np.concatenate([center - size / 2, size])


def _search_crop(box: np.ndarray, config: PairConfig, crops: CropConfig, rng: Rng) -> Crop:
    crop = Crop.around(box, crops.search_factor, crops.search_size)
    reach = np.sqrt(box[2] * box[3]) * config.shift
    # Mostly near, as between two frames; sometimes far, as after a loss.
    shift = rng.uniform(-reach, reach, 2) * (1.0 if rng.random() < 0.5 else 0.4)
    return replace(_displaced(crop, *shift), side=crop.side * float(np.exp(rng.normal(0, config.zoom))))


def _displaced(crop: Crop, x: float, y: float) -> Crop:
    return replace(crop, center_x=crop.center_x + x, center_y=crop.center_y + y)


def _paste(view: View, search: _Region, present: list[bool], rng: Rng) -> None:
    """Paste what is in the view's box beside the target, at about its size, into every picture, in place."""
    box, size = search.box, search.crop.size
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
            search.pictures[stream][y : y + h, x : x + w] = patch


def _mislead(view: View, template: _Region, search: _Region, rng: Rng) -> int:
    """Veil one stream of both regions, in place, and show what lies beside its search region; says which."""
    stream = int(rng.random() < 0.3)
    angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.4) * search.crop.side
    beside = _displaced(search.crop, distance * np.cos(angle), distance * np.sin(angle))
    image = (view.rgb, view.aux)[stream]
    assert image is not None, "only a view with both streams has one that misleads"
    shown = [template.pictures[stream], beside.cut(image)]
    template.pictures[stream], search.pictures[stream] = augment.veil(shown, rng)
    return stream


def _end_image_beside_target(template: _Region, search: _Region, rng: Rng) -> None:
    """Let the image end beside the target in the template, and farther off in the search region, in place.

    So it is when a target has just come into view: the image's edge beside it must not count as its look.
    """
    axis, far = int(rng.integers(2)), bool(rng.integers(2))
    for region, reach in ((template, (0.0, 0.15)), (search, (0.1, 1.2))):
        start, side = region.box[axis], region.box[axis + 2]
        edge = start + side * (rng.uniform(*reach) + 1 if far else -rng.uniform(*reach))
        edge = int(np.clip(edge, 0, region.crop.size))
        outside = slice(edge, None) if far else slice(0, edge)
        for stream, picture in enumerate(region.pictures):
            ended = region.pictures[stream] = picture.copy()
            ended[(outside, slice(None)) if axis else (slice(None), outside)] = mean_colour(picture)


def _occlude(search: _Region, rng: Rng) -> None:
    """Cover up to half of the target with a patch from elsewhere in the same pictures, in place."""
    box, size = search.box, search.crop.size
    w, h = np.maximum((box[2:] * rng.uniform(0.25, 0.7, 2)).astype(int), 2)
    x, y = (box[:2] + rng.uniform(-0.2, 0.8, 2) * box[2:]).astype(int)
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + w, size), min(y + h, size)
    if right <= left or bottom <= top:
        return
    source_x = int(rng.integers(0, size - (right - left) + 1))
    source_y = int(rng.integers(0, size - (bottom - top) + 1))
    for picture in search.pictures:
        patch = picture[source_y : source_y + bottom - top, source_x : source_x + right - left].copy()
        picture[top:bottom, left:right] = patch


def _change_appearance(template: _Region, search: _Region, present: list[bool], config: PairConfig, rng: Rng) -> None:
    """Everyday changes of all pictures, and a useless search picture in the ``degraded`` share, in place."""
    for region in (template, search):
        for stream, picture in enumerate(region.pictures):
            if present[stream]:
                region.pictures[stream] = augment.photometric(picture, rng, colour=stream == 0)
    if all(present) and rng.random() < config.degraded:
        stream = int(rng.integers(2))
        search.pictures[stream] = augment.degrade(search.pictures[stream], rng)


def batches(dataset: Dataset, size: int, steps: range, process: int, processes: int, workers: int) -> DataLoader:
    """Loader of one batch of ``size`` samples per step, prepared by ``workers`` data processes (0 = this
    one).

    Step s takes the samples s * size * processes and following, of which each process has its own ``size``:
    what all of them see together is what one process with a larger batch would see.
    """
    starts = ((step * processes + process) * size for step in steps)
    sampler = [range(start, start + size) for start in starts]
    return DataLoader(
        dataset,
        batch_sampler=sampler,  # type: ignore[arg-type]  # ranges do as well as lists, and take no memory
        num_workers=workers,
        # Foreign networks cannot move to a process that starts anew, as those of a run that was spawned would.
        multiprocessing_context="fork" if workers else None,
        collate_fn=getattr(dataset, "collate", None),
        prefetch_factor=4 if workers else None,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_leave_stopping_to_the_trainer,
    )


def _leave_stopping_to_the_trainer(_worker: int) -> None:
    """Signals often reach the whole process group; without its data the trainer could not end its step."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
