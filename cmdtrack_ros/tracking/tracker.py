"""One target, followed from frame to frame."""

from __future__ import annotations

import copy
import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cmdtrack_ros.boxes import Crop, clip_box, visible_fraction
from cmdtrack_ros.errors import CmdtrackError, ConfigError, ImageError
from cmdtrack_ros.modalities import AuxEncoder, AuxEncoding, Modality
from cmdtrack_ros.track import TargetState, Track
from cmdtrack_ros.tracking.engines.choose import make_engine
from cmdtrack_ros.tracking.engines.contract import Engine, Query, Response, Template, TemplateCrop, cells
from cmdtrack_ros.tracking.states import StateConfig, StateMachine
from cmdtrack_ros.tracking.stopwatch import Stopwatch

RGB, AUX = 0, 1
Images = dict[int, np.ndarray]
"""The streams that a frame has, RGB first."""
# Weight from which a stream counts as seeing the target: smoke must not become a template.
_MIN_WEIGHT_FOR_TEMPLATE = 0.25
_MIN_IMAGE_SIDE = 8
_SAME_ASPECT = 0.03  # up to here two aspect ratios are those of one picture in two sizes
# An image is searched in so many tiles at most: around a box of a few pixels it would take minutes.
_MAX_TILES = 1024


@dataclass(frozen=True)
class TrackerConfig:
    """How responses become boxes.

    Attributes:
        window: pull towards the last position, 0 = none, 1 = a full Hanning window on the score.
        size_smoothing: share of the last size kept, 0 = take the network's size as it is. More is steadier,
            and follows a target that comes closer later.
        renewal: share of a recent template beside the first one, 0 = the first alone. More follows a changing
            appearance; the first template's part keeps the target from drifting away.
        renewal_interval: frames between two renewals; a renewal costs a quarter of a frame.
        late_template: score from which a stream that was absent at the start gets its template from the
            current box.
        state: thresholds of TRACKING, UNCERTAIN and LOST.
    """

    window: float = 0.5
    size_smoothing: float = 0.5
    renewal: float = 0.4
    renewal_interval: int = 5
    late_template: float = 0.5
    state: StateConfig = StateConfig()

    def __post_init__(self) -> None:
        if not 0 <= self.window <= 1:
            raise ConfigError(f"window ({self.window}) must be in [0, 1]")
        if not 0 <= self.size_smoothing < 1 or not 0 <= self.renewal < 1 or self.renewal_interval < 1:
            raise ConfigError(
                f"size_smoothing ({self.size_smoothing}) and renewal ({self.renewal}) must be in [0, 1), "
                f"renewal_interval ({self.renewal_interval}) at least 1"
            )


def _all_or_nothing(method: Callable[..., Track]) -> Callable[..., Track]:
    """A method of the tracker which, where it raises, leaves the target that is being followed as it was."""

    @functools.wraps(method)
    def attempt(self: Tracker, *args: Any) -> Track:
        before = {**vars(self), "encoder": copy.copy(self.encoder), "_machine": copy.copy(self._machine)}
        try:
            return method(self, *args)
        except BaseException:
            vars(self).update(before)
            raise

    return attempt


class Tracker:
    """Follows one target: ``init`` on a box, then ``update`` with every frame.

    Attributes:
        encoder: of the aux stream. Whoever shows an aux image that was tracked asks it for the picture, over
            the range that the network saw; only the tracker lets it observe.
        remarks: cause and text of what is to be told about the last frame.
    """

    def __init__(
        self,
        engine: Engine,
        modality: Modality | str,
        encoding: AuxEncoding = AuxEncoding(),
        config: TrackerConfig = TrackerConfig(),
    ) -> None:
        self.engine, self.config = engine, config
        self.modality = Modality(modality)
        self.encoder = AuxEncoder(self.modality, encoding)
        self._machine = StateMachine(config.state)
        window = np.hanning(cells(engine.config) + 2)[1:-1]
        self._window = 1 - config.window + config.window * np.outer(window, window)
        self.reset()

    def reset(self) -> None:
        """Forget the target; the state becomes IDLE."""
        self._machine.reset()
        self.encoder.reset()
        self._first: dict[int, Template] = {}  # by stream, as all that follows
        self._templates: dict[int, Template] = {}
        self._box = np.zeros(4)
        self._size: tuple[int, int] | None = None  # height, width of the last images
        self.remarks: list[tuple[str, str]] = []
        self._scan = self._tracked = 0

    @property
    def state(self) -> TargetState:
        """The state after the last frame."""
        return self._machine.state

    def doubt(self) -> None:
        """Nobody looked for long: the target is LOST until two frames confirm it, first at its last place."""
        if self.state != TargetState.IDLE:
            self._machine.lose()
            self._scan = 0

    @_all_or_nothing
    def init(self, rgb: np.ndarray | None, aux: np.ndarray | None, box: np.ndarray) -> Track:
        """Take the target from a box.

        Args:
            rgb: HxWx3 uint8 RGB, or None.
            aux: the sensor's own array, HxW or HxWx3, registered to the RGB image, or None.
            box: (4,) xywh, pixels of the RGB image; the part outside of the image is cut off.

        Raises:
            ImageError: no image, two images of different size, or one of an unusable type.
            ConfigError: a box that is not finite, smaller than 2 px, or more than three quarters outside of
                the image.
            CmdtrackError: a network that answers NaN.

        Whatever is raised, the target that is being followed is left as it was.
        """
        clock = Stopwatch()
        height, width = self._check_images(rgb, aux)
        box = np.asarray(box, np.float64)
        _check_box(box, width, height)
        self.reset()
        with clock.step("encode"):
            images = self._observe(rgb, aux)
        self._box = clip_box(box, width, height)
        with clock.step("network"):
            for template in self._encode(images):
                self._first[template.stream] = self._templates[template.stream] = template
        self._machine.start()
        return self._track(1.0, dict.fromkeys(images, 1 / len(images)), images, clock)

    def update(self, rgb: np.ndarray | None, aux: np.ndarray | None) -> Track:
        """Find the target in the next frame; arguments and ImageError as in :meth:`init`.

        A stream may be None in any frame: tracking goes on with the other.

        Raises:
            CmdtrackError: before :meth:`init`.
        """
        return update_together([self], rgb, aux)[0]

    def _look(self, rgb: np.ndarray | None, aux: np.ndarray | None) -> _Look:
        """What the network is to be asked about the next frame."""
        if self.state == TargetState.IDLE:
            raise CmdtrackError("update before init: the tracker has no target yet")
        clock = Stopwatch()
        with clock.step("encode"):
            images = self._observe(rgb, aux)
        # A stream that never had a template has nothing to be compared with.
        templates = [self._templates[stream] for stream in images if stream in self._templates]
        crop = self._search_crop(*_size(images))
        with clock.step("crop"):
            cuts = [self._cut(crop, images, template.stream) for template in templates]
        return _Look(images, crop, Query(cuts, templates), clock)

    def _answer(self, look: _Look, response: Response | None) -> Track:
        """The target after the frame; None where there was nothing to ask."""
        if response is not None and not all(np.isfinite(part).all() for part in vars(response).values()):
            self.remarks.append(("internal error", self._nonsense()))
            response = None
        if response is None:
            self._machine.update(0.0)
            return self._track(0.0, {}, look.images, look.clock)
        with look.clock.step("decode"):
            score, shares = self._decode(response, look.crop, *_size(look.images))
        weights = dict(zip((template.stream for template in look.query.templates), shares.tolist()))
        with look.clock.step("template"):
            self._renew_templates(look.images, score, weights)
        return self._track(score, weights, look.images, look.clock)

    def _track(self, score: float, weights: dict[int, float], images: Images, clock: Stopwatch) -> Track:
        """The answer; a stream without a weight has no say."""
        return Track(
            self._box.copy(),
            score,
            self.state,
            weights.get(RGB, 0.0),
            weights.get(AUX, 0.0),
            RGB in images,
            AUX in images,
            times_ms=clock.stop(),
        )

    def _check_images(self, rgb: np.ndarray | None, aux: np.ndarray | None) -> tuple[int, int]:
        """Height and width of the images; ImageError where they cannot be used."""
        given = aux if rgb is None else rgb
        if given is None:
            raise ImageError("both images are None: expected an RGB image, an auxiliary image, or both")
        if rgb is not None and (rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or rgb.size == 0):
            raise ImageError(f"rgb image: expected HxWx3 uint8 with pixels, got shape {rgb.shape} of {rgb.dtype}")
        if aux is not None:
            self.encoder.checked(aux)
        check_sides(given)
        if rgb is not None and aux is not None and rgb.shape[:2] != aux.shape[:2]:
            raise ImageError(
                f"{self.modality} image is {aux.shape[1]}x{aux.shape[0]}, RGB is "
                f"{rgb.shape[1]}x{rgb.shape[0]}: expected the same size (register or resize one of them)"
            )
        return given.shape[0], given.shape[1]

    def _observe(self, rgb: np.ndarray | None, aux: np.ndarray | None) -> Images:
        """The checked images; the encoder has seen the auxiliary one."""
        size = self._check_images(rgb, aux)
        self.remarks = []
        self._follow_size(*size)
        if aux is not None:
            self.encoder.observe(aux)
            if self.encoder.outlier:
                self.remarks.append(("aux range outlier", self.encoder.outlier))
        return {stream: image for stream, image in ((RGB, rgb), (AUX, aux)) if image is not None}

    def _follow_size(self, height: int, width: int) -> None:
        """Take the target along where the images changed size."""
        before, self._size = self._size or (height, width), (height, width)
        if before == self._size:
            return
        scale = np.array([width / before[1], height / before[0]])
        if abs(scale[0] / scale[1] - 1) < _SAME_ASPECT:
            self._box = self._box * np.tile(scale, 2)
        else:  # another part of the scene: the target may be anywhere
            self._box = clip_box(self._box, width, height)
            self.doubt()

    def _nonsense(self) -> str:
        return f"the network ({self.engine.name}) answers NaN; damaged memory or graph? Start the node anew"

    def _cut(self, crop: Crop, images: Images, stream: int) -> np.ndarray:
        return crop.cut(images[stream], self.encoder.picture if stream == AUX else None)

    def _encode(self, images: Images, streams: Sequence[int] | None = None) -> list[Template]:
        """Templates of the present box, None = of all streams; CmdtrackError where the network answers NaN."""
        streams = list(images) if streams is None else streams
        config = self.engine.config
        crop = Crop.around(self._box, config.template_factor, config.template_size)
        box = crop.to_crop(self._box) / config.template_size
        crops = [TemplateCrop(self._cut(crop, images, stream), box, stream) for stream in streams]
        templates = self.engine.encode(crops)
        if not all(_sound(template) for template in templates):
            raise CmdtrackError(self._nonsense())
        return templates

    def _renew_templates(self, images: Images, score: float, weights: dict[int, float]) -> None:
        """Take templates from the frame just tracked, where it can be trusted."""
        if self.state != TargetState.TRACKING:
            return
        self._tracked += 1
        due = self.config.renewal > 0 and self._tracked % self.config.renewal_interval == 0
        new = [s for s in images if s not in self._first and score >= self.config.late_template]
        seen = [s for s in images if s in self._first and due and weights[s] >= _MIN_WEIGHT_FOR_TEMPLATE]
        for template in self._encode(images, new + seen) if new or seen else ():
            stream = template.stream
            first = self._first.setdefault(stream, template)
            self._templates[stream] = template if stream in new else first.blended(template, self.config.renewal)

    def _search_crop(self, height: int, width: int) -> Crop:
        config = self.engine.config
        crop = Crop.around(self._box, config.search_factor, config.search_size)
        if self.state != TargetState.LOST:
            return crop
        # Every other frame looks at the last place, the others walk over the image tile by tile.
        self._scan += 1
        if self._scan % 2:
            return crop
        side = max(crop.side, math.sqrt(width * height / _MAX_TILES) / 0.6)
        columns, rows = (max(math.ceil(length / (side * 0.6)), 1) for length in (width, height))
        row, column = divmod(self._scan // 2 % (rows * columns), columns)
        return Crop((column + 0.5) * width / columns, (row + 0.5) * height / rows, side, crop.size)

    def _decode(self, response: Response, crop: Crop, height: int, width: int) -> tuple[float, np.ndarray]:
        """Move the box to the best cell; returns its score and the modalities' weights there."""
        # While lost, the last place says nothing about where the target is within the region.
        lost = self.state == TargetState.LOST
        ranked = response.score if lost else response.score * self._window
        row, column = np.unravel_index(int(ranked.argmax()), ranked.shape)
        score = float(response.score[row, column])
        center_x, center_y, w, h = _box_around(response, int(row), int(column)) * crop.size
        found = crop.to_image(np.array([center_x - w / 2, center_y - h / 2, w, h]))
        state = self._machine.update(score)
        needed = self.config.state.found if lost else self.config.state.doubtful
        if score >= needed:
            self._move(found, keep=0.0 if lost else self.config.size_smoothing, width=width, height=height)
            if lost and state == TargetState.LOST:
                # Look at the same place again before believing it.
                self._scan = 0
        return score, response.weights[:, row, column].astype(float)

    def _move(self, found: np.ndarray, keep: float, width: int, height: int) -> None:
        center = found[:2] + found[2:] / 2
        size = keep * self._box[2:] + (1 - keep) * found[2:]
        self._box = clip_box(np.concatenate([center - size / 2, size]), width, height)


def check_sides(image: np.ndarray) -> None:
    """ImageError for an image HxW or HxWxC that is too small to hold a target."""
    if min(image.shape[:2]) < _MIN_IMAGE_SIDE:
        raise ImageError(
            f"image of {image.shape[1]}x{image.shape[0]}: expected at least {_MIN_IMAGE_SIDE} pixels either way"
        )


def _sound(template: Template) -> bool:
    """Whether all of it is finite: arrays of any engine, on any device."""
    return all(math.isfinite(float(part.max()) - float(part.min())) for part in template.parts)


def _box_around(response: Response, row: int, column: int) -> np.ndarray:
    """Mean of the boxes of a cell and its neighbours, weighted by score: steadier than the best cell's alone."""
    rows, columns = slice(max(row - 1, 0), row + 2), slice(max(column - 1, 0), column + 2)
    near = response.score[rows, columns]
    return (response.box[:, rows, columns] * (near / near.sum())).sum((1, 2))


def _size(images: Images) -> tuple[int, int]:
    height, width = next(iter(images.values())).shape[:2]
    return height, width


def _check_box(box: np.ndarray, width: int, height: int) -> None:
    if box.shape != (4,) or not np.isfinite(box).all() or min(box[2:]) < 2:
        raise ConfigError(
            f"target box: expected four finite numbers x, y, w, h with w and h of at least 2 px, got {box.tolist()}"
        )
    if (inside := visible_fraction(box, width, height)) < 0.25:
        raise ConfigError(
            f"target box {box.tolist()}: only {inside:.0%} of it lies in the {width}x{height} image, "
            "expected 25 % or more"
        )


@dataclass
class _Look:
    """A frame on its way through one tracker: its images, and what is asked about which part of them."""

    images: Images
    crop: Crop
    query: Query
    clock: Stopwatch


def update_together(trackers: Sequence[Tracker], rgb: np.ndarray | None, aux: np.ndarray | None) -> list[Track]:
    """:meth:`Tracker.update` of several targets in the same frame; trackers of one engine ask it as one batch.

    ``times_ms["network"]`` is that of the whole batch.
    """
    looks = [tracker._look(rgb, aux) for tracker in trackers]
    responses: list[Response | None] = [None] * len(looks)
    groups: dict[tuple[int, int], list[int]] = {}
    for i, (tracker, look) in enumerate(zip(trackers, looks)):
        if streams := len(look.query.templates):
            groups.setdefault((id(tracker.engine), streams), []).append(i)
    for members in groups.values():
        began = time.perf_counter()
        answers = trackers[members[0]].engine.search([looks[i].query for i in members])
        for i, answer in zip(members, answers):
            responses[i] = answer
            looks[i].clock.times["network"] = (time.perf_counter() - began) * 1e3
    return [tracker._answer(look, response) for tracker, look, response in zip(trackers, looks, responses)]


def load_tracker(
    weights: str | Path | None = None,
    *,
    modality: Modality | str,
    encoding: AuxEncoding = AuxEncoding(),
    config: TrackerConfig = TrackerConfig(),
    **engine: Any,
) -> Tracker:
    """A tracker from a weights file (None = the shipped one).

    ``engine``: sha256, engine, device, precision and threads of :func:`~.engines.choose.make_engine`, errors too.
    """
    return Tracker(make_engine(weights, **engine), modality, encoding, config)
