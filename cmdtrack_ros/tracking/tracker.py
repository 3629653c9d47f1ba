"""One target, followed from frame to frame."""

from __future__ import annotations

import copy
import functools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cmdtrack_ros.boxes import Crop, clip_box, iou, visible_fraction
from cmdtrack_ros.errors import CmdtrackError, ConfigError, ImageError, Remark
from cmdtrack_ros.modalities import AuxEncoder, AuxEncoding, Modality, shows
from cmdtrack_ros.models.confidence import EVIDENCE
from cmdtrack_ros.track import TargetState, Track
from cmdtrack_ros.tracking.colours import colours, shared
from cmdtrack_ros.tracking.engines.choose import make_engine
from cmdtrack_ros.tracking.engines.contract import Engine, Query, Response, Template, TemplateCrop, cells
from cmdtrack_ros.tracking.evidence import Evidence
from cmdtrack_ros.tracking.states import StateConfig, StateMachine
from cmdtrack_ros.tracking.stopwatch import Stopwatch

PROPOSAL_SCORE = 0.58
"""Score of a target that was proposed a moment ago: the share of proposals that are right, see docs/targets.md."""
RGB, AUX = 0, 1
Images = dict[int, np.ndarray]
"""The streams that a frame has, RGB first."""
# Weight from which a stream counts as seeing the target: smoke must not become a template.
_MIN_WEIGHT_FOR_TEMPLATE = 0.25
# Frames that a box is held for before any stream shows something there: ten seconds at 30 Hz. Where events will come,
# none of them so far say that nothing has moved; of a covered lens they say nothing, and someone has to be told.
_LONGEST_WAIT = 300
_LOOKS = 3  # at a place found while LOST, before the search goes on
_LARGEST_TARGET = 0.8  # of the image
_SUSPECT = 0.4  # IoU of a look back; one right box in six hundred comes below it
_SAME_COLOURS = 0.75  # shared with the first box; 19 in 20 of a target's later boxes, one in five of other targets'
_MIN_IMAGE_SIDE = 8
_SAME_ASPECT = 0.03  # up to here two aspect ratios are those of one picture in two sizes
# An image is searched in so many tiles at most: around a box of a few pixels it would take minutes.
_MAX_TILES = 1024


@dataclass(frozen=True)
class Frame:
    """The images of a moment for all targets in it; made by :func:`see`.

    Attributes:
        images: the streams that are there, all of one size.
        encoder: of the aux stream, which has observed this frame's image.
        encode_ms: how long that took.
    """

    images: Images
    encoder: AuxEncoder
    encode_ms: float

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = next(iter(self.images.values())).shape[:2]
        return height, width

    @property
    def remarks(self) -> tuple[Remark, ...]:
        """On its images, as long as the encoder has observed no further one."""
        return self.encoder.remarks if AUX in self.images else ()

    def cut(self, crop: Crop, stream: int) -> np.ndarray:
        """A part of a stream's image as the network sees it."""
        return crop.cut(self.images[stream], self.encoder.picture if stream == AUX else None)

    def part(self, box: np.ndarray, stream: int) -> np.ndarray:
        """The part of a stream's image within a box (4,) xywh, as the network sees it."""
        x, y = np.floor(box[:2]).astype(int)
        right, bottom = np.ceil(box[:2] + box[2:]).astype(int)
        part = self.images[stream][y:bottom, x:right]
        return self.encoder.picture(part) if stream == AUX else part

    def pictures(self) -> list[np.ndarray]:
        """HxWx3 uint8, as the network sees them."""
        width, height = self.size[::-1]
        return [self.part(np.array([0, 0, width, height]), stream) for stream in self.images]


def see(rgb: np.ndarray | None, aux: np.ndarray | None, encoder: AuxEncoder) -> Frame:
    """The next frame of the two streams, which `encoder` observes; arguments and ImageError as of `Tracker.init`."""
    _check_images(rgb, aux, encoder)
    began = time.perf_counter()
    if aux is not None:
        encoder.observe(aux)
    images = {stream: image for stream, image in ((RGB, rgb), (AUX, aux)) if image is not None}
    return Frame(images, encoder, (time.perf_counter() - began) * 1e3)


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
        check_interval: frames between two looks back (see :meth:`Tracker.update`), 0 = none but while LOST; each costs
            three quarters of a frame.
        follow: network's own score from which the box goes with it.
        follow_lost: the same while LOST: a place that is worth a look back.
        late_template: score from which a stream that was absent at the start, or showed nothing of the target then,
            gets its template from the current box, once it shows something there.
        state: thresholds of TRACKING, UNCERTAIN and LOST.
    """

    window: float = 0.5
    size_smoothing: float = 0.5
    renewal: float = 0.4
    renewal_interval: int = 5
    check_interval: int = 15
    follow: float = 0.2
    follow_lost: float = 0.25
    late_template: float = 0.5
    state: StateConfig = StateConfig()

    def __post_init__(self) -> None:
        if not 0 <= self.window <= 1:
            raise ConfigError(f"window ({self.window}) must be in [0, 1]")
        if self.check_interval < 0:
            raise ConfigError(f"check_interval ({self.check_interval}) must be at least 0")
        if not 0 <= self.size_smoothing < 1 or not 0 <= self.renewal < 1 or self.renewal_interval < 1:
            raise ConfigError(
                f"size_smoothing ({self.size_smoothing}) and renewal ({self.renewal}) must be in [0, 1), "
                f"renewal_interval ({self.renewal_interval}) at least 1"
            )


def _all_or_nothing(method: Callable[..., Track]) -> Callable[..., Track]:
    """A method of the tracker which, where it raises, leaves the target that is being followed as it was."""

    @functools.wraps(method)
    def attempt(self: Tracker, *args: Any, **options: Any) -> Track:
        before = {**vars(self), "encoder": copy.copy(self.encoder), "_machine": copy.copy(self._machine)}
        try:
            return method(self, *args, **options)
        except BaseException:
            vars(self).update(before)
            raise

    return attempt


class Tracker:
    """Follows one target: ``init`` on a box, then ``update`` with every frame.

    Where several targets are followed in the same images, a tracker each, the images are observed once for all:
    :func:`see`, then ``start`` and :func:`update_together`.

    Attributes:
        evidence: (len(EVIDENCE),) what the last score was computed from; zeros before there was one.
        encoder: of the aux stream, which ``init`` and ``update`` let observe. Whoever shows an aux image that was
            tracked asks it for the picture, over the range that the network saw.
        held: another target's box lies on this one: nothing is learned from what is there.
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
        self.encoder.reset()
        self._forget()

    def _forget(self) -> None:
        self._machine.reset()
        self._first: dict[int, Template] = {}  # by stream, as all that follows
        self._templates: dict[int, Template] = {}
        self._box = np.zeros(4)
        self._size: tuple[int, int] | None = None  # height, width of the last images
        self._remarks: list[Remark] = []
        self.held = False
        self._scan = self._age = self._looks = self._waited = 0
        self._looking = False  # while LOST: the box is a place that was found and is looked at
        self._sure = self._box  # where it was TRACKING last
        self._evidence = Evidence()
        self._origin: dict[int, np.ndarray] = {}  # search region of the frame with the first template
        self._first_box: dict[int, np.ndarray] = {}  # in that frame
        self._colours: dict[int, np.ndarray] = {}  # of that box, where the stream was the frame's first one
        self.evidence = np.zeros(len(EVIDENCE))

    def configure(self, states: StateConfig) -> None:
        """Other thresholds from the next frame on; from any thread."""
        self._machine.config = states

    @property
    def state(self) -> TargetState:
        """The state after the last frame."""
        return self._machine.state

    def doubt(self) -> None:
        """Nobody looked for long: the target is LOST until two frames confirm it, first at its last place."""
        if self.state != TargetState.IDLE:
            self._machine.lose()
            self._scan = 0

    @property
    def searching(self) -> bool:
        """LOST, and no place was found that is worth a closer look."""
        return self.state == TargetState.LOST and not self._looking

    def part(self) -> None:
        """What is followed, or was found, is another target: LOST, and back where it was TRACKING last by itself."""
        self._machine.lose()
        self._box, self._looking, self.held = self._sure, False, False

    def another(self) -> Tracker:
        """A tracker for another target, or for this one anew: without a target, with an encoder of its own."""
        tracker = Tracker(self.engine, self.modality, self.encoder.encoding, self.config)
        tracker.configure(self._machine.config)
        return tracker

    def twin(self, encoder: AuxEncoder) -> Tracker:
        """Another one for the same target as it is now, to go where this one does not, with a copy of an encoder."""
        twin = copy.copy(self)
        twin.encoder = copy.copy(encoder)
        twin._machine, twin._evidence = copy.copy(self._machine), copy.copy(self._evidence)
        for name in ("_first", "_templates", "_origin", "_first_box", "_colours"):
            setattr(twin, name, dict(getattr(self, name)))
        return twin

    @property
    def box(self) -> np.ndarray:
        """(4,) xywh, as in the last Track."""
        return self._box.copy()

    @_all_or_nothing
    def init(self, rgb: np.ndarray | None, aux: np.ndarray | None, box: np.ndarray, *, proposed: bool = False) -> Track:
        """Take the target from a box.

        Args:
            rgb: HxWx3 uint8 RGB, or None.
            aux: the sensor's own array, HxW or HxWx3, registered to the RGB image, or None.
            box: (4,) xywh, pixels of the RGB image; the part outside of the image is cut off.
            proposed: nobody drew the box: it is UNCERTAIN until `PROPOSAL_FRAMES` in a row confirm it, each of them
                with a look back (see :meth:`update`).

        Raises:
            ImageError: no image, two images of different size, or one of an unusable type.
            ConfigError: a box that is not finite, smaller than 2 px, more than three quarters outside of the image, or
                that covers more than four fifths of it.
            CmdtrackError: a network that answers NaN.

        Whatever is raised, the target that is being followed is left as it was.
        """
        self.encoder.reset()
        frame = see(rgb, aux, self.encoder)
        return _with_remarks(frame, self.start(frame, box, proposed=proposed))

    def start(self, frame: Frame, box: np.ndarray, *, proposed: bool = False) -> Track:
        """:meth:`init` on a frame that was observed for several targets; what it raises leaves no target."""
        clock = Stopwatch()
        height, width = frame.size
        box = np.asarray(box, np.float64)
        _check_box(box, width, height)
        self._forget()
        self._size = frame.size
        self._box = clip_box(box, width, height)
        self._sure = self._box.copy()
        shown = self._shown(frame, frame.images)
        with clock.step("network"):
            templates = self._encode(frame, shown)
        if not all(map(_sound, templates)):
            raise CmdtrackError(self._nonsense())
        self._learn(templates, frame)
        self._machine.start(proposed)
        if blank := [stream for stream in frame.images if stream not in shown]:
            self._remark_blank(blank, shown)
        if not shown:
            self._machine.wait()
            return self._track(self._waiting_score, {}, frame, clock)
        score = PROPOSAL_SCORE if proposed else 1.0
        return self._track(score, dict.fromkeys(shown, 1 / len(shown)), frame, clock)

    def _shown(self, frame: Frame, streams: Iterable[int]) -> list[int]:
        """Those of the streams that show something of a target in the present box."""
        height, width = frame.size
        crop = self._template_crop()
        around = clip_box(crop.to_image(np.array([0.0, 0, crop.size, crop.size])), width, height)
        return [
            stream
            for stream in streams
            if shows(
                frame.part(self._box, stream),
                frame.part(around, stream),
                self.modality if stream == AUX else Modality.RGB,
            )
        ]

    def _learn(self, templates: Sequence[Template], frame: Frame) -> None:
        """Streams' first templates, of the present box: what is compared with from now on, and led back to."""
        crop = self._region(self._box)
        for template in templates:
            stream = template.stream
            self._first[stream] = self._templates[stream] = template
            self._origin[stream], self._first_box[stream] = frame.cut(crop, stream), self._box
            if stream == min(frame.images):
                self._colours[stream] = self._colours_of(self._box, frame)

    def _remark_blank(self, blank: Sequence[int], shown: Sequence[int]) -> None:
        def named(streams: Sequence[int]) -> str:
            return " and ".join("RGB" if stream == RGB else str(self.modality) for stream in streams)

        goes_on = f"followed in {named(shown)}" if shown else f"the box is held for {_LONGEST_WAIT} frames at most"
        text = f"{named(blank)}: nothing shows in the target's box. Until something does, {goes_on}"
        self._remarks.append(Remark("target does not show", text))

    @property
    def _waiting_score(self) -> float:
        """Nothing speaks for the box, or against it: the least that does not count towards a loss."""
        return self._machine.config.score_doubtful

    def look_at(self, frame: Frame, box: np.ndarray) -> Track | None:
        """While LOST, search around a box that something else proposes, as around one that the scan found.

        What is there must have the first box's colours, and is taken up again by the rules of :meth:`update`: over
        some frames, with looks back. Arguments and errors as of :meth:`start`; to go on as before where nothing
        comes of it, look with a :meth:`twin`. A target that no stream has shown so far starts there, as a proposal.

        Returns:
            None where it does not look like the target, or another place is being looked at.
        """
        if self.state != TargetState.LOST:
            raise CmdtrackError(f"look_at while {self.state.name}: expected a target that is LOST")
        height, width = frame.size
        box = np.asarray(box, np.float64)
        _check_box(box, width, height)
        self._follow_size(height, width)
        if not self._first:
            return self.start(frame, box, proposed=True)
        box = clip_box(box, width, height)
        if self._looking or not self._has_its_colours(box, frame):
            return None
        self._box, self._looking, self._looks = box, True, _LOOKS + 1  # this look, and those that any place gets
        self._evidence.forget()
        track = update_together([self], frame)[0]
        return None if self.searching else track

    def update(self, rgb: np.ndarray | None, aux: np.ndarray | None) -> Track:
        """Find the target in the next frame; arguments and ImageError as in :meth:`init`.

        A stream may be None in any frame: tracking goes on with the other.

        The score is the probability that the box is right, where the weights are calibrated. Every ``check_interval``
        frames, and at each place that is found while LOST, a look back counts in it: the present target, taken as the
        template, must lead to the first box in the first frame (a forward-backward check, as in Kalal et al.,
        "Forward-Backward Error: Automatic Detection of Tracking Failures", ICPR 2010).

        Raises:
            CmdtrackError: before :meth:`init`.
        """
        self._check_has_target()
        frame = see(rgb, aux, self.encoder)
        return _with_remarks(frame, update_together([self], frame)[0])

    def _check_has_target(self) -> None:
        if self.state == TargetState.IDLE:
            raise CmdtrackError("update before init: the tracker has no target yet")

    def _look(self, frame: Frame) -> _Look:
        """What the network is to be asked about the next frame."""
        self._check_has_target()
        clock = Stopwatch()
        self._remarks = []
        self._follow_size(*frame.size)
        # A stream that never had a template has nothing to be compared with.
        templates = [self._templates[stream] for stream in frame.images if stream in self._templates]
        crop = self._search_crop(*frame.size)
        with clock.step("crop"):
            cuts = [frame.cut(crop, template.stream) for template in templates]
        return _Look(frame, crop, Query(cuts, templates), clock)

    def _answer(self, look: _Look, response: Response | None) -> Track:
        """The target after the frame; None where there was nothing to ask."""
        if not self._first and self.state.in_sight:
            return self._wait(look)
        if response is None or not self._understood(response):
            self._machine.update(0.0)
            return self._track(0.0, {}, look.frame, look.clock)
        with look.clock.step("decode"):
            lost = self.state == TargetState.LOST
            row, column = self._best_cell(response, lost)
            followed = self._follow(response, row, column, look, lost)
        with look.clock.step("template"):
            check = lost or self._machine.proposed or self._check_is_due()
            fresh = self._look_back(look) if followed and check else {}
            if lost and not self._looking:
                self._evidence.forget()
            score = self._judge(response, row, column)
            if self.state == TargetState.LOST:
                self._consider(lost and followed, score)
            else:
                self._looking = False
            if self.state == TargetState.TRACKING and not self.held:
                self._sure = self._box
            weights = dict(zip((t.stream for t in look.query.templates), response.weights[:, row, column].tolist()))
            self._renew_templates(look.frame, score, weights, fresh)
        return self._track(score, weights, look.frame, look.clock)

    def _wait(self, look: _Look) -> Track:
        """No stream has shown anything of the target so far: its box holds until one does, and is then learned from."""
        self._machine.wait()
        shown = [] if self.held else self._shown(look.frame, look.frame.images)
        if shown:
            with look.clock.step("template"):
                templates = self._encode(look.frame, shown)
                if self._usable(templates):
                    self._learn(templates, look.frame)
        self._waited += 1
        if not self._first and self._waited >= _LONGEST_WAIT:
            self._machine.lose()
            text = f"nothing has shown in the target's box for {_LONGEST_WAIT} frames: name it anew, where it shows"
            self._remarks.append(Remark("target does not show", text))
            return self._track(0.0, {}, look.frame, look.clock)
        return self._track(self._waiting_score, {}, look.frame, look.clock)

    def _consider(self, found: bool, score: float) -> None:
        """A place found while LOST is looked at again, closer; where the score does not come, the box goes back.

        It goes back to where it was TRACKING last: since then it may have left with whatever covers the target.
        """
        promising = found and self._evidence.agreement >= _SUSPECT
        if promising and not self._looking:
            self._looking, self._looks = True, _LOOKS
            return
        self._looks -= 1
        if not promising or (self._looks <= 0 and score < self._score_needed()):
            self._box, self._looking = self._sure, False

    def _check_is_due(self) -> bool:
        """On a renewal, which needs the same templates, where one interval is a multiple of the other."""
        interval = self.config.check_interval
        return interval > 0 and self._age % interval == self.config.renewal_interval % interval

    def _judge(self, response: Response, row: int, column: int) -> float:
        """The score of a frame, which moves the state."""
        self.evidence = self._evidence.of(response, row, column)
        confidence = self.engine.confidence
        score = confidence.probability(self.evidence) if confidence else float(response.score[row, column])
        self._machine.update(score, self._score_needed())
        return score

    def _score_needed(self) -> float:
        """To leave LOST here: beyond the region of the last place there is more to be mistaken for the target."""
        found = self._machine.config.score_found
        away = np.abs(self._box[:2] - self._sure[:2] + (self._box[2:] - self._sure[2:]) / 2).max()
        return found if away < self._region(self._sure).side / 2 else (1 + found) / 2

    def _look_back(self, look: _Look) -> dict[int, Template]:
        """Templates of the present box, by stream, after they were asked for the first box in the first frame.

        Of a stream that came later that is another frame than of the others. All are asked at once; the box that
        should be found is that of the stream with the most say.
        """
        streams = [stream for stream in look.frame.images if stream in self._origin]
        fresh = self._encode(look.frame, streams)
        if not fresh or not self._usable(fresh):
            return {}
        response = self.engine.search([Query([self._origin[stream] for stream in streams], fresh)])[0]
        if not self._understood(response):
            return {}
        row, column = np.unravel_index(int(response.score.argmax()), response.score.shape)
        first = self._first_box[streams[int(response.weights[:, row, column].argmax())]]
        found = _found_box(response, int(row), int(column), self._region(first))
        self._evidence.agreement = float(iou(found, first))
        return {template.stream: template for template in fresh}

    def _track(self, score: float, weights: dict[int, float], frame: Frame, clock: Stopwatch) -> Track:
        """The answer; a stream without a weight has no say."""
        times = clock.stop()
        times["total"] += frame.encode_ms
        return Track(
            self._box.copy(),
            score,
            self.state,
            weights.get(RGB, 0.0),
            weights.get(AUX, 0.0),
            RGB in frame.images,
            AUX in frame.images,
            times_ms={"encode": frame.encode_ms, **times},
            suspect=self.state != TargetState.LOST and self._evidence.agreement < _SUSPECT,
            remarks=tuple(self._remarks),
        )

    def _follow_size(self, height: int, width: int) -> None:
        """Take the target along where the images changed size."""
        before, self._size = self._size or (height, width), (height, width)
        if before == self._size:
            return
        if self._looking:  # what was looked at is given up
            self._box, self._looking = self._sure, False
        scale = np.array([width / before[1], height / before[0]])
        if abs(scale[0] / scale[1] - 1) < _SAME_ASPECT:
            self._box, self._sure = (box * np.tile(scale, 2) for box in (self._box, self._sure))
        else:  # another part of the scene: the target may be anywhere
            self._box, self._sure = (clip_box(box, width, height) for box in (self._box, self._sure))
            self.doubt()

    def _colours_of(self, box: np.ndarray, frame: Frame) -> np.ndarray:
        """Of the part of a box within the first of the streams."""
        return colours(frame.part(box, min(frame.images)))

    def _has_its_colours(self, box: np.ndarray, frame: Frame) -> bool:
        """Whether the first stream shows in a box what the first box had; RGB against RGB, else nobody knows."""
        if (known := self._colours.get(min(frame.images))) is None:
            return True
        return shared(self._colours_of(box, frame), known) >= _SAME_COLOURS

    def _nonsense(self) -> str:
        return f"the network ({self.engine.name}) answers NaN; damaged memory or graph? Start anew"

    def _encode(self, frame: Frame, streams: Sequence[int]) -> list[Template]:
        """Templates of the present box, of some streams."""
        if not streams:
            return []
        crop = self._template_crop()
        box = crop.to_crop(self._box) / crop.size
        return self.engine.encode([TemplateCrop(frame.cut(crop, stream), box, stream) for stream in streams])

    def _template_crop(self) -> Crop:
        """What a template has of the present box and its surroundings."""
        return Crop.around(self._box, self.engine.config.template_factor, self.engine.config.template_size)

    def _understood(self, response: Response) -> bool:
        """Whether an answer consists of numbers; where not, that is to be told."""
        if sound := all(np.isfinite(part).all() for part in vars(response).values()):
            return sound
        self._remarks.append(Remark("internal error", self._nonsense()))
        return False

    def _usable(self, templates: list[Template]) -> bool:
        """Whether what was made from the present frame can be; where not, that is to be told."""
        if sound := all(map(_sound, templates)):
            return sound
        self._remarks.append(Remark("internal error", self._nonsense()))
        return False

    def _renew_templates(
        self, frame: Frame, score: float, weights: dict[int, float], fresh: dict[int, Template]
    ) -> None:
        """Take templates from the frame just tracked, where it can be trusted; ``fresh``: those there are already."""
        if self.state != TargetState.TRACKING or self.held:
            return
        due = self.config.renewal > 0 and self._age % self.config.renewal_interval == 0
        late = [s for s in frame.images if s not in self._first and score >= self.config.late_template]
        new = self._shown(frame, late) if late else []
        seen = [s for s in frame.images if s in self._first and due and weights[s] >= _MIN_WEIGHT_FOR_TEMPLATE]
        missing = [stream for stream in new + seen if stream not in fresh]
        made = self._encode(frame, missing)
        if not self._usable(made):
            return
        fresh |= {template.stream: template for template in made}
        self._learn([fresh[stream] for stream in new], frame)
        for stream in seen:
            self._templates[stream] = self._first[stream].blended(fresh[stream], self.config.renewal)

    def _region(self, box: np.ndarray) -> Crop:
        """The search region around a box."""
        return Crop.around(box, self.engine.config.search_factor, self.engine.config.search_size)

    def _search_crop(self, height: int, width: int) -> Crop:
        crop = self._region(self._box)
        if self.state != TargetState.LOST or self._looking:
            return crop
        # Every other frame looks at the last place, the others walk over the image tile by tile.
        self._scan += 1
        if self._scan % 2:
            return crop
        side = max(crop.side, math.sqrt(width * height / _MAX_TILES) / 0.6)
        columns, rows = (max(math.ceil(length / (side * 0.6)), 1) for length in (width, height))
        row, column = divmod(self._scan // 2 % (rows * columns), columns)
        return Crop((column + 0.5) * width / columns, (row + 0.5) * height / rows, side, crop.size)

    def _best_cell(self, response: Response, lost: bool) -> tuple[int, int]:
        # While lost, the last place says nothing about where the target is within the region.
        ranked = response.score if lost else response.score * self._window
        row, column = np.unravel_index(int(ranked.argmax()), ranked.shape)
        return int(row), int(column)

    def _follow(self, response: Response, row: int, column: int, look: _Look, lost: bool) -> bool:
        """Move the box to a cell's, where the network's own score is enough; returns whether it was."""
        self._age += not lost
        if response.score[row, column] < (self.config.follow_lost if lost else self.config.follow):
            return False
        height, width = look.frame.size
        found = _found_box(response, row, column, look.crop)
        self._move(found, keep=0.0 if lost else self.config.size_smoothing, width=width, height=height)
        return True

    def _move(self, found: np.ndarray, keep: float, width: int, height: int) -> None:
        center = found[:2] + found[2:] / 2
        size = keep * self._box[2:] + (1 - keep) * found[2:]
        self._box = clip_box(np.concatenate([center - size / 2, size]), width, height)


def _found_box(response: Response, row: int, column: int, crop: Crop) -> np.ndarray:
    """The box (4,) xywh in the image that a cell of a region stands for."""
    center_x, center_y, w, h = _box_around(response, row, column) * crop.size
    return crop.to_image(np.array([center_x - w / 2, center_y - h / 2, w, h]))


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


def _check_images(rgb: np.ndarray | None, aux: np.ndarray | None, encoder: AuxEncoder) -> tuple[int, int]:
    """Height and width of the images; ImageError where they cannot be used."""
    given = aux if rgb is None else rgb
    if given is None:
        raise ImageError("both images are None: expected an RGB image, an auxiliary image, or both")
    if rgb is not None and (rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or rgb.size == 0):
        raise ImageError(f"rgb image: expected HxWx3 uint8 with pixels, got shape {rgb.shape} of {rgb.dtype}")
    if aux is not None:
        encoder.checked(aux)
    check_sides(given)
    if rgb is not None and aux is not None and rgb.shape[:2] != aux.shape[:2]:
        raise ImageError(
            f"{encoder.modality} image is {aux.shape[1]}x{aux.shape[0]}, RGB is "
            f"{rgb.shape[1]}x{rgb.shape[0]}: expected the same size (register or resize one of them)"
        )
    return given.shape[0], given.shape[1]


def _check_box(box: np.ndarray, width: int, height: int) -> None:
    if box.shape != (4,) or not np.isfinite(box).all() or min(box[2:]) < 2:
        raise ConfigError(
            f"target box: expected four finite numbers x, y, w, h with w and h of at least 2 px, got {box.tolist()}"
        )
    cut = clip_box(box, width, height)
    if (share := float(cut[2] * cut[3]) / (width * height)) > _LARGEST_TARGET:
        raise ConfigError(
            f"target box {box.tolist()}: it covers {share:.0%} of the {width}x{height} image, which leaves nothing to "
            f"tell it from, expected at most {_LARGEST_TARGET:.0%}"
        )
    if (inside := visible_fraction(box, width, height)) < 0.25:
        raise ConfigError(
            f"target box {box.tolist()}: only {inside:.0%} of it lies in the {width}x{height} image, "
            "expected 25 % or more"
        )


@dataclass
class _Look:
    """A frame on its way through one tracker, and what is asked about which part of it."""

    frame: Frame
    crop: Crop
    query: Query
    clock: Stopwatch


def _with_remarks(frame: Frame, track: Track) -> Track:
    """For one who sees this target alone; where there are several, what is wrong with their frame is told once."""
    return replace(track, remarks=(*track.remarks, *frame.remarks))


def update_together(trackers: Sequence[Tracker], frame: Frame) -> list[Track]:
    """:meth:`Tracker.update` of several targets in the same frame; trackers of one engine ask it as one batch.

    ``times_ms["network"]`` is that of the whole batch.
    """
    looks = [tracker._look(frame) for tracker in trackers]
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
