"""From a pair of image messages to a `Track`: what the node's worker does, without rclpy.

A recording evaluated offline goes through this same class, hence through the same code as on the robot.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np

from cmdtrack_ros.errors import CmdtrackError, ConfigError, ImageError
from cmdtrack_ros.ros.images import to_rgb, to_sensor
from cmdtrack_ros.tracking import TargetState, Track, Tracker

_INTERPOLATION = {np.dtype(np.uint8): cv2.INTER_LINEAR}  # depth must not be blended across edges: nearest


class Frame(NamedTuple):
    """One moment: sensor_msgs images (either may be None, not both) and their stamp gap in s."""

    rgb: Any | None
    aux: Any | None
    gap: float = float("nan")

    @property
    def header(self) -> Any:
        return (self.aux if self.rgb is None else self.rgb).header


class Target(NamedTuple):
    """What to follow: box (4,) xywh in RGB pixels, and a name that results carry."""

    box: np.ndarray
    name: str = ""


@dataclass(frozen=True)
class Outcome:
    """What came of one frame.

    Attributes:
        track: the result; its state is IDLE and its box zero while there is no target.
        rgb: HxWx3 uint8, None where that image was missing or bad.
        aux: the sensor's array after registration, None where that image was missing or bad.
        seconds: time spent on conversion and tracking.
        started: a new target was started with this frame.
    """

    track: Track
    name: str
    rgb: np.ndarray | None
    aux: np.ndarray | None
    seconds: float
    started: bool = False


class Pipeline:
    """Converts, registers and tracks one frame after the other.

    Bad images never raise: the frame is tracked with the stream that is left, or skipped.

    Args:
        tracker: the tracker; owned from here on.
        registration: "none" (aux must have RGB's size) or "resize".
        topics: of the RGB and the auxiliary images, as faults name them.
        report: called with a kind of fault and a text that names its cause.
    """

    def __init__(
        self,
        tracker: Tracker,
        *,
        registration: str = "none",
        topics: tuple[str, str] = ("rgb", "aux"),
        report: Callable[[str, str], None] = lambda kind, text: None,
    ) -> None:
        if registration not in ("none", "resize"):
            raise ConfigError(f"registration: expected none or resize, got {registration!r}")
        self._tracker = tracker
        self._registration = registration
        self._topics = topics
        self._report = report
        self._name = ""
        self._size: tuple[int, int] | None = None  # height, width of RGB, for frames that lack it
        self.faults: Counter[str] = Counter()

    @property
    def state(self) -> TargetState:
        return self._tracker.state

    def release(self) -> None:
        """Give up the target; results are IDLE until there is another."""
        self._tracker.reset()
        self._name = ""

    def process(
        self, frame: Frame, target: Target | None = None, since: Iterable[Frame] = ()
    ) -> Outcome | None:
        """Track one frame, or start `target` on it.

        A target that cannot be started is reported, and the one before is followed on.

        Args:
            since: earlier frames, oldest first. Where given, the target is started on the first of them and
                followed through the others up to `frame`.

        Returns:
            None where the frame has no usable image; the cause was reported.
        """
        outcome, started = None, False
        for moment in (*since, frame):
            begin = time.perf_counter()
            rgb, aux = self._images(moment)
            outcome = None
            if rgb is None and aux is None:
                continue
            track = None
            if target:
                track = self._attempt("target", self._tracker.init, rgb, aux, target.box)
                if track:
                    self._name, started = target.name, True
                target = None
            track = track or self._attempt("tracking", self._follow, rgb, aux)
            if track:
                outcome = Outcome(track, self._name, rgb, aux, time.perf_counter() - begin, started)
        return outcome

    def _attempt(self, kind: str, action: Callable[..., Track], *args: Any) -> Track | None:
        try:
            return action(*args)
        except CmdtrackError as error:
            self._fault(kind, str(error))
            return None

    def _follow(self, rgb: np.ndarray | None, aux: np.ndarray | None) -> Track:
        if self._tracker.state == TargetState.IDLE:
            return Track(np.zeros(4), 0.0, TargetState.IDLE, 0.0, 0.0)
        return self._tracker.update(rgb, aux)

    def _images(self, frame: Frame) -> tuple[np.ndarray | None, np.ndarray | None]:
        rgb_topic, aux_topic = self._topics
        rgb = self._read("rgb image", rgb_topic, to_rgb, frame.rgb)
        if rgb is not None:
            self._size = rgb.shape[:2]
        aux = self._read("aux image", aux_topic, to_sensor, frame.aux)
        return rgb, aux if aux is None else self._register(aux)

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
            return cv2.resize(
                aux, (width, height), interpolation=_INTERPOLATION.get(aux.dtype, cv2.INTER_NEAREST)
            )
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
