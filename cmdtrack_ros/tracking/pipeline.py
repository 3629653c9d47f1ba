"""From a pair of image messages to a `Track`: what the node's worker does, without rclpy.

A recording evaluated offline goes through this same class, hence through the same code as on the robot.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import cv2
import numpy as np

from cmdtrack_ros.errors import CmdtrackError, ConfigError, ImageError
from cmdtrack_ros.streams.images import MAX_PIXELS, to_rgb, to_sensor
from cmdtrack_ros.streams.pairing import Pair
from cmdtrack_ros.track import TargetState, Track
from cmdtrack_ros.tracking.engines.contract import Engine
from cmdtrack_ros.tracking.tracker import Tracker

_INTERPOLATION = {np.dtype(np.uint8): cv2.INTER_LINEAR}  # depth must not be blended across edges: nearest


class Target(NamedTuple):
    """What to follow: box (4,) xywh in RGB pixels, and a name that results carry."""

    box: np.ndarray
    name: str = ""


class Pipeline:
    """Converts, registers and tracks one pair of messages after the other.

    Bad images never raise: the pair is tracked with the stream that is left, or skipped.

    Args:
        tracker: the tracker; owned from here on.
        registration: "none" (aux must have RGB's size) or "resize".
        max_pixels: of an image; a larger one is bad.
        topics: of the RGB and the auxiliary images, as faults name them.
        report: called with a kind of fault and a text that names its cause.
    """

    def __init__(
        self,
        tracker: Tracker,
        *,
        registration: str = "none",
        max_pixels: int = MAX_PIXELS,
        topics: tuple[str, str] = ("rgb", "aux"),
        report: Callable[[str, str], None] = lambda kind, text: None,
    ) -> None:
        if registration not in ("none", "resize"):
            raise ConfigError(f"registration: expected none or resize, got {registration!r}")
        self._tracker = tracker
        self._registration = registration
        self._max_pixels = max_pixels
        self._topics = topics
        self._report = report
        self._name = ""
        self._size: tuple[int, int] | None = None  # height, width of RGB, for pairs that lack it
        self._images: tuple[np.ndarray | None, np.ndarray | None] = (None, None)
        self.faults: Counter[str] = Counter()

    @property
    def state(self) -> TargetState:
        return self._tracker.state

    @property
    def engine(self) -> Engine:
        """What runs the network."""
        return self._tracker.engine

    def release(self) -> None:
        """Give up the target; results are IDLE until there is another."""
        self._tracker.reset()
        self._name = ""

    def pictures(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """RGB and aux image of the last pair as the network sees them, HxWx3 uint8; None where missing."""
        rgb, aux = self._images
        return rgb, None if aux is None else self._tracker.encoder.picture(aux)

    def process(self, pair: Pair, target: Target | None = None, since: Iterable[Pair] = ()) -> Track | None:
        """Track one pair, or start `target` on it.

        A target that cannot be started is reported, and the one before is followed on.

        Args:
            since: earlier pairs, oldest first. Where given, the target is started on the first of them and
                followed through the others up to `pair`.

        Returns:
            None where the pair has no usable image; the cause was reported. Without a target, the state is
            IDLE. `times_ms` has what the tracker did, "convert", and their "total".
        """
        answer, started = None, False
        for moment in (*since, pair):
            began = time.perf_counter()
            self._images = self._convert(moment)
            converted = time.perf_counter()
            answer = None
            if all(image is None for image in self._images):
                continue
            if target:
                answer = self._attempt("target refused", self._tracker.init, *self._images, target.box)
                if answer:
                    self._name, started = target.name, True
                target = None
            answer = answer or self._attempt("internal error", self._follow, *self._images)
            if answer:
                times = {"convert": (converted - began) * 1e3, "total": (time.perf_counter() - began) * 1e3}
                answer = replace(answer, times_ms={**answer.times_ms, **times})
        if answer is None:
            return None
        return replace(answer, target_id=self._name, started=started, stamp_ns=pair.stamp, gap=pair.gap)

    def _attempt(self, kind: str, action: Callable[..., Track], *args: Any) -> Track | None:
        try:
            return action(*args)
        except CmdtrackError as error:
            self._fault(kind, str(error))
            return None

    def _follow(self, rgb: np.ndarray | None, aux: np.ndarray | None) -> Track:
        if self._tracker.state == TargetState.IDLE:
            return Track(np.zeros(4), 0.0, TargetState.IDLE, has_rgb=rgb is not None, has_aux=aux is not None)
        return self._tracker.update(rgb, aux)

    def _convert(self, pair: Pair) -> tuple[np.ndarray | None, np.ndarray | None]:
        rgb_topic, aux_topic = self._topics
        rgb = self._read("bad RGB image", rgb_topic, self._to_rgb, pair.rgb)
        if rgb is not None:
            self._size = rgb.shape[:2]
        aux = self._read("bad auxiliary image", aux_topic, self._to_aux, pair.aux)
        return rgb, aux if aux is None else self._register(aux)

    def _to_rgb(self, message: Any) -> np.ndarray:
        return to_rgb(message, self._max_pixels)

    def _to_aux(self, message: Any) -> np.ndarray:
        return self._tracker.encoder.checked(to_sensor(message, self._max_pixels))

    def _read(
        self, kind: str, topic: str, convert: Callable[[Any], np.ndarray], message: Any | None
    ) -> np.ndarray | None:
        if message is None:
            return None
        try:
            return convert(message)
        except ImageError as error:
            self._fault(kind, f"{topic}: {error}")
            return None

    def _register(self, aux: np.ndarray) -> np.ndarray | None:
        if self._size is None or aux.shape[:2] == self._size:
            return aux
        height, width = self._size
        if self._registration == "resize":
            return cv2.resize(aux, (width, height), interpolation=_INTERPOLATION.get(aux.dtype, cv2.INTER_NEAREST))
        rgb_topic, aux_topic = self._topics
        self._fault(
            "registration",
            f"{rgb_topic} is {width}x{height}, {aux_topic} {aux.shape[1]}x{aux.shape[0]}: expected "
            "equal sizes; publish a registered image or set parameter 'registration' to resize",
        )
        return None

    def _fault(self, kind: str, text: str) -> None:
        self.faults[kind] += 1
        self._report(kind, text)
