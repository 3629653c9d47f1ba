"""From a pair of image messages to a `Track`: what the node's worker does, without rclpy.

A recording evaluated offline goes through this same class, hence through the same code as on the robot.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import cv2
import numpy as np

from cmdtrack_ros.errors import CmdtrackError, ConfigError, ImageError
from cmdtrack_ros.streams.images import MAX_PIXELS, to_rgb, to_sensor
from cmdtrack_ros.streams.pairing import Pair
from cmdtrack_ros.track import TargetState, Track
from cmdtrack_ros.tracking.engines.contract import Engine
from cmdtrack_ros.tracking.states import StateConfig
from cmdtrack_ros.tracking.tracker import Tracker, check_sides

TARGET_REFUSED = "target refused"
"""The kind of fault that a target is refused by."""
_BREAK_NS = 2_000_000_000  # between two frames: the target may have gone meanwhile
_BREAK_INTERVALS = 3  # of a stream slower than that
_INTERPOLATION = {np.dtype(np.uint8): cv2.INTER_LINEAR}  # depth must not be blended across edges: nearest


class Target(NamedTuple):
    """What to follow: box (4,) xywh in RGB pixels, and a name that results carry."""

    box: np.ndarray
    name: str = ""


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
    """Converts, registers and tracks one pair of messages after the other.

    Bad images never raise: the pair is tracked with the stream that is left, or skipped. So it is with an image
    of another size than its stream's, until the next one confirms that the camera changed it.

    Args:
        tracker: the tracker; owned from here on.
        registration: "none" (aux must have RGB's size) or "resize".
        max_pixels: of an image; a larger one is bad.
        topics: of the RGB and the auxiliary images, as faults name them.
        report: called with the cause of a fault and a text that names topic and remedy.
    """

    def __init__(
        self,
        tracker: Tracker,
        *,
        registration: str = "none",
        max_pixels: int = MAX_PIXELS,
        topics: tuple[str, str] = ("rgb", "aux"),
        report: Callable[[str, str], None] = lambda cause, text: None,
    ) -> None:
        if registration not in ("none", "resize"):
            raise ConfigError(f"registration: expected none or resize, got {registration!r}")
        self._tracker = tracker
        self._registration = registration
        self._max_pixels = max_pixels
        self._rgb, self._aux = _Stream(topics[0], "RGB"), _Stream(topics[1], "auxiliary")
        self._report = report
        self._name = ""
        self._last: int | None = None  # stamp of the frame tracked last, ns
        self._interval = 0  # between the last two
        self._doubted = False
        self._images: tuple[np.ndarray | None, np.ndarray | None] = (None, None)
        self.faults: Counter[str] = Counter()

    @property
    def state(self) -> TargetState:
        return self._tracker.state

    @property
    def engine(self) -> Engine:
        """What runs the network."""
        return self._tracker.engine

    def configure(self, states: StateConfig) -> None:
        """Other thresholds from the next frame on; from any thread."""
        self._tracker.configure(states)

    def release(self) -> None:
        """Give up the target; results are IDLE until there is another."""
        self._tracker.reset()
        self._name = ""

    def doubt(self) -> None:
        """Nobody looked for long: the target is LOST until images confirm it."""
        if self.state != TargetState.IDLE:
            self._tracker.doubt()
            self._doubted = True

    @property
    def unconfirmed(self) -> bool:
        """Whether the target is from before a break, and has not been found since."""
        return self._doubted and self.state != TargetState.IDLE

    @property
    def aux(self) -> np.ndarray | None:
        """Aux image of the last pair on RGB's pixels, in the sensor's own values; None where missing."""
        return self._images[1]

    def pictures(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """RGB and aux image of the last pair as the network sees them, HxWx3 uint8; None where missing."""
        rgb, aux = self._images
        return rgb, None if aux is None else self._tracker.encoder.picture(aux)

    def process(self, pair: Pair, target: Target | None = None, since: Iterable[Pair] = ()) -> Track | None:
        """Track one pair, or start `target` on it.

        A target that cannot be started is reported, and the one before is followed on.

        Args:
            since: earlier pairs, oldest first. Where given, the target is started on the first of them and
                followed through the others up to `pair`; the present one is followed through all of them. Where
                a target is refused they are left alone: the one before is not to be followed through the past.

        Returns:
            None where the pair has no usable image; the cause was reported. Without a target, the state is
            IDLE. `times_ms` has what the tracker did, "convert", and their "total".
        """
        answer, started = None, False
        moments = [*since, pair]
        while moments:
            moment = moments.pop(0)
            began = time.perf_counter()
            self._images = self._convert(moment)
            converted = time.perf_counter()
            answer = None
            if all(image is None for image in self._images):
                continue
            if target:
                answer = self._attempt(TARGET_REFUSED, self._tracker.init, *self._images, target.box)
                if answer:
                    self._name, started, self._doubted, self._last = target.name, True, False, moment.stamp
                target = None
                if not started and moments:
                    moments = [pair]
                    continue
            answer = answer or self._attempt("internal error", self._follow, moment.stamp)
            if answer:
                times = {"convert": (converted - began) * 1e3, "total": (time.perf_counter() - began) * 1e3}
                answer = replace(answer, times_ms={**answer.times_ms, **times})
        if target:
            self._fault(TARGET_REFUSED, f"target {target.name!r}: there is no usable image of it; send it again")
        if answer is None:
            return None
        return replace(answer, target_id=self._name, started=started, stamp_ns=pair.stamp, gap=pair.gap)

    def _attempt(self, cause: str, action: Callable[..., Track], *args: Any) -> Track | None:
        try:
            return action(*args)
        except CmdtrackError as error:
            self._fault(cause, str(error))
            return None

    def _follow(self, stamp: int) -> Track:
        rgb, aux = self._images
        self._mind_the_break(stamp)
        if self._tracker.state == TargetState.IDLE:
            return Track(np.zeros(4), 0.0, TargetState.IDLE, has_rgb=rgb is not None, has_aux=aux is not None)
        track = self._tracker.update(rgb, aux)
        for cause, text in self._tracker.remarks:
            self._fault(cause, f"{self._aux.topic}: {text}" if cause == "aux range outlier" else text)
        self._doubted &= track.state == TargetState.LOST
        return track

    def _mind_the_break(self, stamp: int) -> None:
        """Doubt the target after a long time without frames, and where time goes backwards."""
        interval = 0 if self._last is None else stamp - self._last
        if interval < 0 or interval > max(_BREAK_NS, _BREAK_INTERVALS * self._interval):
            self.doubt()
        self._last, self._interval = stamp, max(interval, 0)

    def _convert(self, pair: Pair) -> tuple[np.ndarray | None, np.ndarray | None]:
        rgb = self._read(self._rgb, to_rgb, pair.rgb)
        aux = self._read(self._aux, self._to_aux, pair.aux)
        return rgb, aux if aux is None else self._register(aux)

    def _to_aux(self, message: Any, max_pixels: int, warn: Callable[[str], None]) -> np.ndarray:
        return self._tracker.encoder.checked(to_sensor(message, max_pixels, warn))

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
        if size is None or aux.shape[:2] == size:
            return aux
        if self._registration == "resize":
            return cv2.resize(aux, size[::-1], interpolation=_INTERPOLATION.get(aux.dtype, cv2.INTER_NEAREST))
        self._fault(
            "registration",
            f"{self._rgb.topic} is {_sides(size)}, {self._aux.topic} {_sides((aux.shape[0], aux.shape[1]))}: expected "
            "equal sizes; publish a registered image or set parameter 'registration' to resize",
        )
        return None

    def _fault(self, cause: str, text: str) -> None:
        self.faults[cause] += 1
        self._report(cause, text)


def _sides(size: tuple[int, int]) -> str:
    height, width = size
    return f"{width}x{height}"
