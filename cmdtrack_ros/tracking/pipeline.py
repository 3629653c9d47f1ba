"""From a pair of image messages to a `Track` of each target: what the node's worker does, without rclpy.

A recording evaluated offline goes through this same class, hence through the same code as on the robot.
"""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import numpy as np

from cmdtrack_ros.errors import CmdtrackError, ConfigError, ImageError
from cmdtrack_ros.modalities import AuxEncoder, AuxEncoding
from cmdtrack_ros.streams.images import MAX_PIXELS, to_rgb, to_sensor
from cmdtrack_ros.streams.pairing import Pair
from cmdtrack_ros.streams.registration import Registrar, Registration
from cmdtrack_ros.track import TargetState, Track
from cmdtrack_ros.tracking.engines.contract import Engine
from cmdtrack_ros.tracking.proposal import propose
from cmdtrack_ros.tracking.states import StateConfig
from cmdtrack_ros.tracking.targets import Followed, Given, Meetings, Target, Timeline
from cmdtrack_ros.tracking.tracker import Frame, Tracker, check_sides, see, update_together

TARGET_REFUSED = "target refused"
"""The kind of fault that a target is refused by."""
DETECTION_LEFT = "what was to be found by it is followed, or is LOST and this does not look like it"
"""Why a detection was not taken, where that is no fault."""
CATCH_UP_INTERVAL = 0.1
"""Seconds between the frames by which a target is followed from its own frame to the newest: see docs/method.md."""
CATCH_UP_STEPS = 2
"""Frames of the past with each pair, of all late targets together, while others are followed in the present."""
_JUMPED = "the stamps jumped back before the present was reached: send it again"


@dataclass
class _Stream:
    """One of the two streams: its topic, what it is called in faults, and the size of its images (height, width)."""

    topic: str
    name: str
    size: tuple[int, int] | None = None
    doubted: tuple[int, int] | None = None  # of the image before, where that was another

    def confirms(self, size: tuple[int, int]) -> bool:
        """Whether this is the stream's size, by one image at the start and by two in a row later."""
        self.size = self.size or size
        if size != self.size and size != self.doubted:
            self.doubted = size
            return False
        self.size, self.doubted = size, None
        return True


class Pipeline:
    """Converts and registers one pair of messages after the other, and tracks all targets in it.

    Bad images never raise: the pair is tracked with the stream that is left, or skipped. So it is with an image
    of another size than its stream's, until the next one confirms that the camera changed it.

    What becomes of one target leaves the others alone: each has its own tracker and states. They share the images,
    the encoder of the aux stream, which observes each image once, and the network's batch.

    Args:
        tracker: what the targets' trackers are made like.
        max_targets: followed at once. With 1 a new target takes the place of the one there is, whatever its name.
        registration: how auxiliary images come onto RGB images.
        max_pixels: of an image; a larger one is bad.
        topics: of the RGB and the auxiliary images, as faults name them.
        report: called with the cause of a fault and a text that names topic and remedy.
        go_on: asked between the frames of the past by which a pair's targets are followed to it: that may take long.

    Attributes:
        faults: how often each was reported.
        refused: name -> why a target was not taken with the last pair, or given up on its way to the present.
    """

    def __init__(
        self,
        tracker: Tracker,
        *,
        max_targets: int = 1,
        registration: Registration = Registration(),
        max_pixels: int = MAX_PIXELS,
        topics: tuple[str, str] = ("rgb", "aux"),
        report: Callable[[str, str], None] = lambda cause, text: None,
        go_on: Callable[[], bool] = lambda: True,
    ) -> None:
        self._tracker = tracker
        self._encoder = tracker.another().encoder  # of the present; a late target has one of its own until it is there
        self._max_targets = max_targets
        self._registrar = Registrar(registration)
        self._max_pixels = max_pixels
        self._rgb, self._aux = _Stream(topics[0], "RGB"), _Stream(topics[1], "auxiliary")
        self._report = report
        self._go_on = go_on
        self._targets: list[Followed] = []  # oldest first
        self._coming: list[Followed] = []  # not yet in the present
        self._meetings = Meetings()
        self._timeline = Timeline()
        self._images: tuple[np.ndarray | None, np.ndarray | None] = (None, None)
        self.faults: Counter[str] = Counter()
        self.refused: dict[str, str] = {}

    @property
    def states(self) -> dict[str, TargetState]:
        """Of the targets in the present, by name, oldest first."""
        return {one.name: one.tracker.state for one in tuple(self._targets)}

    @property
    def state(self) -> TargetState:
        """Of the oldest target; IDLE without any."""
        return next(iter(self.states.values()), TargetState.IDLE)

    @property
    def lost(self) -> tuple[Target, ...]:
        """The targets that are LOST, oldest first."""
        return tuple(one.target for one in tuple(self._targets) if one.tracker.state == TargetState.LOST)

    @property
    def names(self) -> tuple[str, ...]:
        """Of all targets, also of those that are not yet in the present."""
        return tuple(dict.fromkeys(one.name for one in (*self._targets, *self._coming)))

    @property
    def coming(self) -> tuple[str, ...]:
        """Names of the targets that are followed from an earlier frame to the present one, and are not yet there."""
        return tuple(one.name for one in self._coming)

    @property
    def unconfirmed(self) -> tuple[str, ...]:
        """Names of the targets that are from before a break, and have not been found since."""
        return tuple(one.name for one in tuple(self._targets) if one.doubted)

    @property
    def engine(self) -> Engine:
        """What runs the network."""
        return self._tracker.engine

    def configure(self, states: StateConfig, encoding: AuxEncoding) -> None:
        """Other thresholds, and another way from sensor values to pictures, from the next frame on; from any thread."""
        self._tracker.configure(states)
        self._tracker.encoder.configure(encoding)
        self._encoder.configure(encoding)
        for one in (*self._targets, *self._coming):
            one.tracker.configure(states)
            one.tracker.encoder.configure(encoding)

    def release(self, name: str = "") -> None:
        """Give up the target of that name, all where it is empty; without any, results are IDLE."""
        every = not name or self._max_targets == 1
        self._targets = [one for one in self._targets if not every and one.name != name]
        self._coming = [one for one in self._coming if not every and one.name != name]
        if not self._targets:
            self._encoder.reset()

    def register(self, registrar: Registrar) -> None:
        """Auxiliary images come onto RGB images another way from the next frame on; from any thread."""
        self._registrar = registrar

    @property
    def sizes(self) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
        """Height and width of RGB and auxiliary images; None of a stream that has not come."""
        return self._rgb.size, self._aux.size

    @property
    def images(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """RGB image and registered auxiliary image of the last pair, as the sensors gave them; None where missing."""
        return self._images

    def doubt(self) -> None:
        """Nobody looked for long: targets are LOST until images confirm them, and late ones are given up."""
        self._coming.clear()
        for one in self._targets:
            one.doubt()

    def pictures(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """RGB and aux image of the last pair as the network sees them, HxWx3 uint8; None where missing."""
        rgb, aux = self._images
        return rgb, None if aux is None else self._encoder.picture(aux)

    def aux_picture(self) -> tuple[np.ndarray, str] | None:
        """The aux image of the last pair as the network sees it, HxWx3 uint8, and its range in words; None without."""
        aux = self._images[1]
        return None if aux is None else (self._encoder.picture(aux), self._encoder.range_text(aux))

    def process(self, pair: Pair, targets: Sequence[Target] = (), since: Iterable[Pair] = ()) -> list[Track]:
        """Track all targets in one pair, after new ones were started.

        A target that cannot be started is refused, and the one before is followed on. One of an earlier frame is
        started there and followed up to the present: alone at once, beside others in steps, with the pairs that
        come, so that those do not wait for it; it has results from when it is there.

        Args:
            targets: to be started; one of the name that is followed takes that one's place.
            since: earlier pairs, oldest first, that the targets of the present are to be followed through before.

        Returns:
            One a target, oldest first, and one that is IDLE where there is none. `times_ms` has what the trackers
            did, "convert", and their "total" for all targets. Empty where the pair has no usable image; the cause
            was reported, and targets without an earlier frame were not started. Empty, too, where it was not to go on;
            what was on its way is then given up.
        """
        self.refused = {}
        try:
            return self._process(pair, targets, since)
        except BaseException:
            self._coming.clear()
            raise

    def _process(self, pair: Pair, targets: Sequence[Target], since: Iterable[Pair]) -> list[Track]:
        if pair.restarted:
            for one in list(self._coming):
                self._refuse(one, _JUMPED if one.target.given is not Given.DETECTION else DETECTION_LEFT)
        for moment in takewhile(lambda _: self._go_on(), since):
            images = self._convert(moment)
            if self._targets and not _nothing(images):
                self._follow(self._targets, see(*images, self._encoder), moment.stamp)
        for target in targets:
            self._admit(target)
        self._catch_up(pair)
        if not self._go_on():
            self._coming.clear()
            return []
        began = time.perf_counter()
        self._images = self._convert(pair)
        converted = time.perf_counter()
        tracks = [] if _nothing(self._images) else self._answer(pair)
        self._coming = [one for one in self._coming if one.started or one.behind]
        times = {"convert": (converted - began) * 1e3, "total": (time.perf_counter() - began) * 1e3}
        return [
            replace(track, times_ms={**track.times_ms, **times}, stamp_ns=pair.stamp, gap=pair.gap) for track in tracks
        ]

    def _answer(self, pair: Pair) -> list[Track]:
        """The targets in the present images, after those that have come this far have joined them."""
        frames: dict[int, Frame] = {}  # by encoder, which observes them once

        def frame(encoder: AuxEncoder) -> Frame:
            if id(encoder) not in frames:
                frames[id(encoder)] = see(*self._images, encoder)
            return frames[id(encoder)]

        self._timeline.breaks(pair.stamp)
        arrived = [one for one in list(self._coming) if not one.behind]
        started = {one: track for one in arrived if (track := self._arrive(one, frame, pair.stamp))}
        rest = [one for one in self._targets if one not in started]
        if rest:
            started |= zip(rest, self._follow(rest, frame(self._encoder), pair.stamp))
        tracks = [started[one] for one in self._targets]
        self._part(tracks)
        named = [
            replace(
                track,
                box=one.tracker.box,
                state=one.tracker.state,
                target_id=one.name,
                class_id=one.target.class_id,
                started=one in arrived,
            )
            for one, track in zip(self._targets, tracks)
        ]
        rgb, aux = self._images
        idle = Track(np.zeros(4), 0.0, TargetState.IDLE, has_rgb=rgb is not None, has_aux=aux is not None)
        return named or [idle]

    def _part(self, tracks: Sequence[Track]) -> None:
        for lost, kept in self._meetings.part(self._targets, [track.score for track in tracks]):
            self._fault(
                "targets on one object",
                f"the boxes of '{lost.name}' and '{kept.name}' lay on one another: '{lost.name}', which was less sure, "
                "is LOST until it is found elsewhere; name it anew where it is, or release it",
            )

    def _follow(self, targets: Sequence[Followed], frame: Frame, stamp: int) -> list[Track]:
        """These targets in the next frame."""
        for one in targets:
            if one.timeline.breaks(stamp):
                one.doubt()
        tracks = update_together([one.tracker for one in targets], frame)
        for one, track in zip(targets, tracks):
            one.doubted &= track.state == TargetState.LOST
            self._tell(one, track)
        for remark in frame.remarks:
            self._fault(remark.cause, f"{self._aux.topic}: {remark.text}")
        return tracks

    def _tell(self, one: Followed, track: Track) -> None:
        for cause, text in track.remarks:
            self._fault(cause, f"target '{one.name}': {text}")

    def _others(self, one: Followed) -> list[Followed]:
        """Those in the present that stay when this one comes."""
        return [] if self._max_targets == 1 else [other for other in self._targets if other.name != one.name]

    def _present(self, name: str) -> Followed | None:
        return next((one for one in self._targets if one.name == name), None)

    def _admit(self, target: Target) -> None:
        timeline = Timeline(interval=self._timeline.interval)
        one = Followed(target, self._tracker.another(), timeline, list(target.since))
        if target.given is Given.DETECTION and self.names:
            lost = self._present(target.name)
            if not lost or lost.tracker.state != TargetState.LOST or target.name in self.coming:
                self.refused[target.name] = DETECTION_LEFT
                return
            one.target = target._replace(class_id=lost.target.class_id)
            one.tracker, one.doubted = lost.tracker.twin(self._encoder), lost.doubted
        self.refused.pop(target.name, None)  # that was another one
        self._coming = [*(other for other in self._coming if other.name != one.name and self._max_targets > 1), one]

    def _arrive(self, one: Followed, frame: Callable[[AuxEncoder], Frame], stamp: int) -> Track | None:
        """Take a target into the present; the answer where it starts here. Nothing changes where it is refused."""
        if one.started and self._came_in_vain(one):
            self._refuse(one, DETECTION_LEFT)
            return None
        others = self._others(one)
        encoder = self._encoder if others else one.tracker.encoder  # alone it goes by what it has seen itself
        track = None
        if not one.started:
            track = self._start(one, frame(encoder), stamp, others)
            if not track:
                return None
        self._coming.remove(one)
        self._encoder = encoder
        if len(others) == len(self._targets):
            self._targets = [*others, one]
        else:
            self._targets = [other if other in others else one for other in self._targets]
        return track

    def _came_in_vain(self, one: Followed) -> bool:
        """A twin has lost what it looked at, or what it was to find was found meanwhile."""
        present = self._present(one.name)
        if not present or one.target.given is not Given.DETECTION:
            return False
        return one.tracker.searching or present.tracker.state != TargetState.LOST

    def _start(self, one: Followed, frame: Frame, stamp: int, others: Sequence[Followed] = ()) -> Track | None:
        """The answer to a target's first frame; None where it was refused."""
        try:
            track = self._look_at(one, frame, others) if one.looks else self._begin(one, frame, others)
        except CmdtrackError as error:
            self._refuse(one, str(error))
            return None
        if not track:
            self._refuse(one, DETECTION_LEFT)
            return None
        one.timeline.last = stamp
        self._tell(one, track)
        return track

    def _begin(self, one: Followed, frame: Frame, others: Sequence[Followed]) -> Track:
        box, proposed = one.target.box, one.target.given is Given.POINT
        if proposed:
            box = propose(frame.pictures(), box[:2])
        for other in others:
            if other.lies_on(box):
                raise ConfigError(
                    f"its box {box.tolist()} lies on target '{other.name}', which is followed there "
                    "already: send that target_id to move it, or release it first"
                )
        return one.tracker.start(frame, box, proposed=proposed)

    def _look_at(self, one: Followed, frame: Frame, others: Sequence[Followed]) -> Track | None:
        """Whether a LOST target is where a detector saw something, and not another one."""
        if any(other.lies_on(one.target.box) for other in others):
            return None
        track = one.tracker.look_at(frame, one.target.box)
        one.doubted &= one.tracker.state == TargetState.LOST
        return track

    def _refuse(self, one: Followed, why: str) -> None:
        self._coming.remove(one)
        self.refused[one.name] = why
        if why != DETECTION_LEFT:
            self._fault(TARGET_REFUSED, why)

    def _catch_up(self, pair: Pair) -> None:
        """Follow the late targets through the frames behind: all where nobody waits, else some, first come first."""
        left = CATCH_UP_STEPS
        for one in list(self._coming):
            steps = min(left, len(one.behind)) if self._others(one) else len(one.behind)
            left -= steps
            with self._past():
                for moment in takewhile(lambda _: self._go_on(), one.behind[:steps]):
                    self._step(one, moment)
            one.behind = one.behind[steps:]
            if one.behind and (pair.stamp - one.behind[-1].stamp) * 1e-9 >= CATCH_UP_INTERVAL:
                one.behind.append(pair)

    def _step(self, one: Followed, moment: Pair) -> None:
        images = self._convert(moment)
        if _nothing(images) or one not in self._coming:  # refused
            return
        frame = see(*images, one.tracker.encoder)
        if one.started:
            self._follow([one], frame, moment.stamp)
        else:
            self._start(one, frame, moment.stamp)

    @contextmanager
    def _past(self) -> Iterator[None]:
        """What images of the past say of the streams is not held against those of the present."""
        present = self._rgb, self._aux
        self._rgb, self._aux = (copy.copy(stream) for stream in present)
        try:
            yield
        finally:
            self._rgb, self._aux = present

    def _convert(self, pair: Pair) -> tuple[np.ndarray | None, np.ndarray | None]:
        rgb = self._read(self._rgb, to_rgb, pair.rgb)
        aux = self._read(self._aux, self._to_aux, pair.aux)
        return rgb, aux if aux is None else self._register(aux)

    def _to_aux(self, message: Any, max_pixels: int, warn: Callable[[str], None]) -> np.ndarray:
        return self._encoder.checked(to_sensor(message, max_pixels, warn))

    def _read(
        self, stream: _Stream, convert: Callable[[Any, int, Callable[[str], None]], np.ndarray], message: Any | None
    ) -> np.ndarray | None:
        """The image of a message that is one of its stream; None for what was reported."""
        if message is None:
            return None
        bad = f"bad {stream.name} image"
        try:
            image = convert(message, self._max_pixels, lambda text: self._fault(bad, f"{stream.topic}: {text}; used"))
            check_sides(image)
        except ImageError as error:
            self._fault(bad, f"{stream.topic}: {error}")
            return None
        height, width = image.shape[:2]
        before, now = stream.size or (height, width), (height, width)
        if not stream.confirms(now):
            self._fault(
                "image size outlier",
                f"{stream.topic}: an image of {_sides(now)} among images of {_sides(before)} is left out; if the "
                "camera changed, the next one will tell",
            )
            return None
        if before != now:
            self._fault("image size changed", f"{stream.topic}: from {_sides(before)} to {_sides(now)}")
        return image

    def _register(self, aux: np.ndarray) -> np.ndarray | None:
        size = self._rgb.size  # that of the stream, for pairs that lack RGB
        if size is None:
            return aux
        encoder = self._tracker.encoder
        try:
            return self._registrar(aux, size, encoder.modality, encoder.encoding.depth_unit)
        except ConfigError as error:
            own = _sides((aux.shape[0], aux.shape[1]))
            self._fault("registration", f"{self._rgb.topic} is {_sides(size)}, {self._aux.topic} {own}: {error}")
            return None

    def _fault(self, cause: str, text: str) -> None:
        self.faults[cause] += 1
        self._report(cause, text)


def _nothing(images: tuple[np.ndarray | None, np.ndarray | None]) -> bool:
    return all(image is None for image in images)


def _sides(size: tuple[int, int]) -> str:
    height, width = size
    return f"{width}x{height}"
