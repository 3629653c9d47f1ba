"""From a sensor's own image to what the network sees; one piece of code for training and run time.

The network takes HxWx3 uint8 pictures in both of its streams:

- thermal: grey, three equal channels; 8-bit images pass unchanged, counts and temperatures are stretched;
- depth: JET colours from near (blue) to far (red), black where there is no reading;
- event: polarity on white: red for positive, blue for negative events.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import cv2
import numpy as np

from cmdtrack_ros.errors import ConfigError, ImageError, Remark

# Between the 1st and 99th percentile, as a multiple of the middle 80 %: from here on bad pixels are looked for.
_WIDE = 4.0
THERMAL_UNITS: dict[str, tuple[float, float] | None] = {
    "counts": None,
    "celsius": (1.0, 0.0),
    "centikelvin": (0.01, -273.15),
    "decikelvin": (0.1, -273.15),
}
"""What a value of a thermal image is: factor and offset that make it degrees Celsius; None where none do."""
Range = tuple[float, float]
"""Low and high end, in metres or the thermal sensor's unit."""
_SAMPLE = 160 * 120  # pixels that a range is taken from: every fourth of a VGA image either way
# Share of a target's pixels with an event, from which its picture makes a template: see `shows`.
_LEAST_EVENTS = 0.03
_WHITE = 240  # in all channels: no event, also after JPEG


class Modality(str, Enum):
    """What a stream carries."""

    RGB = "rgb"
    THERMAL = "thermal"
    DEPTH = "depth"
    EVENT = "event"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class AuxEncoding:
    """How sensor values become picture values.

    Attributes:
        thermal_low, thermal_high: fixed range of a 16-bit or float thermal image, in degrees Celsius, or where
            `thermal_unit` is counts in these; both NaN = follow the 1st and 99th percentile of the image.
        depth_max: metres shown as the far end of the colour range at most; farther is far.
        depth_unit: metres per unit of an integer depth image (REP 118: 0.001, millimetres).
        smoothing: share of the previous range kept when a range follows the image; 0 follows every frame
            at once (and flickers), 0.9 follows within some ten frames.
        thermal_unit: what a value of a thermal image is, one of `THERMAL_UNITS`.
    """

    thermal_low: float = float("nan")
    thermal_high: float = float("nan")
    depth_max: float = 10.0
    depth_unit: float = 0.001
    smoothing: float = 0.9
    thermal_unit: str = "counts"

    def __post_init__(self) -> None:
        if np.isnan(self.thermal_low) != np.isnan(self.thermal_high) or self.thermal_low >= self.thermal_high:
            raise ConfigError(
                f"thermal_low ({self.thermal_low}) and thermal_high ({self.thermal_high}): "
                "expected low < high, or NaN for both"
            )
        if not self.depth_max > 0 or not self.depth_unit > 0:
            raise ConfigError(f"depth_max ({self.depth_max} m) and depth_unit ({self.depth_unit} m) must be positive")
        if not 0 <= self.smoothing < 1:
            raise ConfigError(f"smoothing ({self.smoothing}) must be in [0, 1)")
        if self.thermal_unit not in THERMAL_UNITS:
            raise ConfigError(f"thermal_unit: expected one of {', '.join(THERMAL_UNITS)}, got {self.thermal_unit!r}")

    @property
    def thermal_range(self) -> Range:
        """The fixed thermal range in values of the image; NaN for one that follows it."""
        factor, offset = THERMAL_UNITS[self.thermal_unit] or (1.0, 0.0)
        return (self.thermal_low - offset) / factor, (self.thermal_high - offset) / factor

    def metres(self, image: np.ndarray) -> np.ndarray:
        """A depth image HxW uint16 or float32, or a part of it, in metres: float32, 0 where there is no reading."""
        metres = image.astype(np.float32)
        if image.dtype == np.uint16:
            metres *= self.depth_unit
            return metres
        return np.where(np.isfinite(metres) & (metres > 0), metres, np.float32(0))


class AuxEncoder:
    """Turns the images of one auxiliary stream into network pictures, over a range that follows the stream.

    ``encoder(image)`` is what the network sees of the stream's next image: :meth:`observe`, then
    :meth:`picture`. Whoever shows the same image to people asks the same encoder for its :meth:`picture`.

    Attributes:
        remarks: why the last image observed did not count; none where it did.
    """

    def __init__(self, modality: Modality | str, encoding: AuxEncoding = AuxEncoding()) -> None:
        self.modality = Modality(modality)
        self.encoding = encoding
        self._has_values = self.modality in (Modality.THERMAL, Modality.DEPTH)
        self.reset()

    def configure(self, encoding: AuxEncoding) -> None:
        """Encode by other values from the next image on, over a range taken anew; from any thread."""
        if encoding != self.encoding:
            self.encoding = encoding
            self.reset()

    def reset(self) -> None:
        """Forget the smoothed range, as at the start of another recording."""
        self._range: Range | None = None
        self._doubted: Range | None = None  # of the image before, where it was far off
        self.remarks: tuple[Remark, ...] = ()

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Encode the stream's next image.

        Args:
            image: HxW, HxWx1 or HxWx3, uint8, uint16 or float32; NaN, Inf and (depth) 0 mean "no reading".

        Returns:
            HxWx3 uint8.

        Raises:
            ImageError: empty image, or a shape or type that this modality does not have.
        """
        self.observe(image)
        return self.picture(image)

    def observe(self, image: np.ndarray) -> None:
        """Let the range follow the stream's next image; arguments and errors as of a call.

        A range that is far off the stream's counts once the next image confirms it: one garbage image moves
        nothing. Where the confirmed range hardly shows in the present one, smoothing would leave the stream
        blind for long, and it is taken at once.
        """
        image = self.checked(image)
        self.remarks = ()
        if not self._follows(image):
            return
        if (now := self._measure(image)) is None:
            self.remarks = (_outlier("no pixel has a reading"),)
            return
        before, doubted = self._range or now, self._doubted
        self._doubted = now if _far(now, before) else None
        if self._doubted and (doubted is None or _far(now, doubted)) and self.encoding.smoothing:
            text = f"values {now[0]:.5g} to {now[1]:.5g} after {before[0]:.5g} to {before[1]:.5g}"
            self.remarks = (_outlier(f"{text}: taken over once the next image confirms it"),)
            return
        keep = 0.0 if _hidden(now, before) else self.encoding.smoothing
        self._range = keep * before[0] + (1 - keep) * now[0], keep * before[1] + (1 - keep) * now[1]

    def picture(self, image: np.ndarray) -> np.ndarray:
        """The image, or a part of it, over the range as it is: HxWx3 uint8, pixel by pixel. Errors as of a call."""
        image = self.checked(image)
        if self.modality is Modality.EVENT:
            return event_picture(image)
        if not self._stretched(image):
            return as_three_channels(image)
        if (over := self._over(image)) is None:
            return np.zeros((*image.shape, 3), np.uint8)
        return self._depth(image, *over) if self.modality is Modality.DEPTH else _grey(image, *over)

    def range_text(self, image: np.ndarray) -> str:
        """The range that :meth:`picture` shows the image over, for people; empty for a picture already. ASCII."""
        image = self.checked(image)
        if not self._stretched(image):
            return ""
        if (over := self._over(image)) is None:
            return "no reading"
        if self.modality is Modality.DEPTH:
            return f"{over[0]:.2f} to {over[1]:.2f} m"
        if (scale := THERMAL_UNITS[self.encoding.thermal_unit]) is None:
            return f"{over[0]:.5g} to {over[1]:.5g}"
        low, high = (value * scale[0] + scale[1] for value in over)
        return f"{low:.1f} to {high:.1f} C"

    def _over(self, image: np.ndarray) -> Range | None:
        """The range that a stretched image is shown over; None where no pixel has a reading."""
        if not self._follows(image):
            return self.encoding.thermal_range
        return self._range or self._measure(image)

    def checked(self, image: np.ndarray) -> np.ndarray:
        """The image, HxWx1 as HxW; errors as of a call."""
        if image.ndim == 3 and image.shape[2] == 1:
            image = image[..., 0]
        if image.size == 0 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
            raise ImageError(f"{self.modality} image: expected HxW or HxWx3 with pixels, got shape {image.shape}")
        if image.dtype not in (np.uint8, np.uint16, np.float32):
            raise ImageError(f"{self.modality} image: expected uint8, uint16 or float32, got {image.dtype}")
        if image.dtype != np.uint8 and not self._stretched(image):
            expected = "uint8 or one channel" if self._has_values else "uint8"
            raise ImageError(f"{self.modality} image: expected {expected}, got {image.dtype} of shape {image.shape}")
        return image

    def _stretched(self, image: np.ndarray) -> bool:
        """Whether the image's values lie over a range, rather than being a picture already."""
        return self._has_values and image.dtype != np.uint8 and image.ndim == 2

    def _follows(self, image: np.ndarray) -> bool:
        """Whether that range is taken from the stream itself."""
        fixed = self.modality is Modality.THERMAL and not np.isnan(self.encoding.thermal_low)
        return self._stretched(image) and not fixed

    def _measure(self, image: np.ndarray) -> Range | None:
        """The range of one image by a sample of its valid values; None without any."""
        step = max(math.isqrt(image.size // _SAMPLE), 4)  # enough for a percentile, at a fraction of its cost
        if self.modality is Modality.THERMAL:
            return _thermal_range(image, step)
        metres = self.encoding.metres(image[::step, ::step])
        if not (metres := metres[metres > 0]).size:
            return None
        far = min(3.0 * float(np.median(metres.astype(np.float64))), self.encoding.depth_max)
        return min(float(np.percentile(metres, 1)), far), far

    def _depth(self, image: np.ndarray, low: float, high: float) -> np.ndarray:
        metres = self.encoding.metres(image)
        level = _levels(metres, low, high).astype(np.uint8)
        picture = cv2.applyColorMap(level, _DEPTH_COLOURS)
        return cv2.bitwise_and(picture, picture, mask=(metres > 0).view(np.uint8))  # black without a reading


def _outlier(text: str) -> Remark:
    return Remark("aux range outlier", text)


def _thermal_range(image: np.ndarray, step: int) -> Range | None:
    """1st and 99th percentile of every `step`-th pixel either way, without dead and hot ones; None without readings."""
    part = image[::step, ::step]
    readings = part[np.isfinite(part)].astype(np.float64)
    if not readings.size:
        return None
    low, lower, upper, high = np.percentile(readings, (1, 10, 90, 99)).tolist()
    if high - low > _WIDE * (upper - lower) and min(image.shape) > 1:
        readings = _without_lone(image, step, upper - lower)
        low, high = np.percentile(readings, (1, 99)).tolist()
    return low, high


def _without_lone(image: np.ndarray, step: int, span: float) -> np.ndarray:
    """The sample of `_thermal_range`, without pixels that differ by more than `span` from those right and below.

    What is hot or cold in a scene has neighbours like itself; a bad pixel of the sensor rarely does.
    """
    own, right, below = (
        image[y : image.shape[0] - 1 + y : step, x : image.shape[1] - 1 + x : step].astype(np.float64)
        for y, x in ((0, 0), (0, 1), (1, 0))
    )
    median = np.maximum(np.minimum(own, right), np.minimum(np.maximum(own, right), below))
    valid = np.isfinite(own)
    with np.errstate(invalid="ignore"):
        kept = own[valid & ~(np.abs(own - median) > span)]
    return kept if kept.size else own[valid]


def _far(now: Range, before: Range) -> bool:
    """Whether an end moved by more than the whole range, or little of the range is left."""
    span = before[1] - before[0]
    return max(abs(new - old) for new, old in zip(now, before)) > span or _hidden(now, before)


def _hidden(now: Range, before: Range) -> bool:
    """Whether an image of range `now` takes up less than a quarter of the levels over range `before`."""
    return min(now[1], before[1]) - max(now[0], before[0]) < 0.25 * (before[1] - before[0])


def _grey(image: np.ndarray, low: float, high: float) -> np.ndarray:
    return as_three_channels(np.nan_to_num(_levels(image.astype(np.float32), low, high)).astype(np.uint8))


def _levels(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values float32 over a range -> 0..255, float32."""
    with np.errstate(over="ignore", invalid="ignore"):  # garbage of either sign leaves the type's range
        return np.clip((values - low) * (255.0 / max(high - low, 1e-6)), 0, 255)


def as_three_channels(image: np.ndarray) -> np.ndarray:
    """HxW or HxWx3 uint8 -> HxWx3 uint8; another type is an ImageError."""
    if image.dtype != np.uint8:
        raise ImageError(f"picture: expected uint8, got {image.dtype}")
    return image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)


def event_picture(image: np.ndarray) -> np.ndarray:
    """Event frame -> polarity on white, HxWx3 uint8.

    HxWx3 uint8 is taken as already drawn. HxW uint8 is a stack with values below 128 for negative events,
    128 for none and above for positive ones.
    """
    if image.dtype != np.uint8:
        raise ImageError(f"event frame: expected uint8, got {image.dtype}")
    if image.ndim == 3:
        return image
    return cv2.LUT(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB), _POLARITY_COLOURS)


def shows(target: np.ndarray, around: np.ndarray, modality: Modality) -> bool:
    """Whether there is anything that a target could be recognised by.

    A region of one colour has nothing in any modality: a covered lens, a night without a light. Neither has depth
    without a reading on the target, nor what an event camera shows of a target that stands still: noise.

    The share of events is from the validation recordings of config/train/split.yaml with simulated events: a target at
    rest has them in 0.2 % of its pixels at most, a moving one in 3 % or more (all but the slowest: 10 %). A template of
    3 % to 5 % is as good for events alone as that of the full motion, one of less costs 0.1 to 0.25 of mean IoU.

    Args:
        target: HxWx3 uint8, what is in the target's box as the network sees it.
        around: the same with what its template has of its surroundings; HxWx3 uint8.
    """
    if (around == around[0, 0]).all():
        return False
    if modality is Modality.DEPTH:
        return bool(target.any())
    return modality is not Modality.EVENT or float((target.min(-1) < _WHITE).mean()) >= _LEAST_EVENTS


def _polarity_colours() -> np.ndarray:
    table = np.full((1, 256, 3), 255, np.uint8)
    strength = np.arange(128, dtype=np.int32) * 2 + 1
    table[0, 128:, 1:] = (255 - (strength - 1))[:, None]
    table[0, :128, :2] = (strength - 1)[:, None]
    return table


_POLARITY_COLOURS = _polarity_colours()
_DEPTH_COLOURS = cv2.cvtColor(
    cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB
)
