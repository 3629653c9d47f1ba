"""From a sensor's own image to what the network sees; one piece of code for training and run time.

The network takes HxWx3 uint8 pictures in both of its streams:

- thermal: grey, three equal channels; 8-bit images pass unchanged, counts and temperatures are stretched;
- depth: JET colours from near (blue) to far (red), black where there is no reading;
- event: polarity on white: red for positive, blue for negative events.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import cv2
import numpy as np

from cmdtrack_ros.errors import ConfigError, ImageError


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
        thermal_low, thermal_high: fixed range of a 16-bit or float thermal image, in the sensor's unit
            (counts, centikelvin, degrees); both NaN = follow the 1st and 99th percentile of the image.
        depth_max: metres shown as the far end of the colour range at most; farther is far.
        depth_unit: metres per unit of an integer depth image (REP 118: 0.001, millimetres).
        smoothing: share of the previous range kept when a range follows the image; 0 follows every frame
            at once (and flickers), 0.9 follows within some ten frames.
    """

    thermal_low: float = float("nan")
    thermal_high: float = float("nan")
    depth_max: float = 10.0
    depth_unit: float = 0.001
    smoothing: float = 0.9

    def __post_init__(self) -> None:
        if np.isnan(self.thermal_low) != np.isnan(self.thermal_high) or self.thermal_low >= self.thermal_high:
            raise ConfigError(f"thermal_low ({self.thermal_low}) and thermal_high ({self.thermal_high}): "
                              "expected low < high, or NaN for both")
        if not self.depth_max > 0 or not self.depth_unit > 0:
            raise ConfigError(f"depth_max ({self.depth_max} m) and depth_unit ({self.depth_unit} m) must be positive")
        if not 0 <= self.smoothing < 1:
            raise ConfigError(f"smoothing ({self.smoothing}) must be in [0, 1)")


class AuxEncoder:
    """Turns the images of one auxiliary stream into network pictures; keeps the smoothed range between frames."""

    def __init__(self, modality: Modality | str, encoding: AuxEncoding = AuxEncoding()) -> None:
        self.modality = Modality(modality)
        self.encoding = encoding
        self._encode = {Modality.RGB: as_three_channels, Modality.THERMAL: self._thermal,
                        Modality.DEPTH: self._depth, Modality.EVENT: event_picture}[self.modality]
        self.reset()

    def reset(self) -> None:
        """Forget the smoothed range, as at the start of another recording."""
        self._range: np.ndarray | None = None

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Encode one image.

        Args:
            image: HxW, HxWx1 or HxWx3, uint8, uint16 or float32; NaN, Inf and (depth) 0 mean "no reading".

        Returns:
            HxWx3 uint8.

        Raises:
            ImageError: empty image, or a shape or type that this modality does not have.
        """
        if image.ndim == 3 and image.shape[2] == 1:
            image = image[..., 0]
        if image.size == 0 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
            raise ImageError(f"{self.modality} image: expected HxW or HxWx3 with pixels, got shape {image.shape}")
        if image.dtype not in (np.uint8, np.uint16, np.float32):
            raise ImageError(f"{self.modality} image: expected uint8, uint16 or float32, got {image.dtype}")
        return self._encode(image)

    def _follow(self, low: float, high: float) -> tuple[float, float]:
        now = np.array([low, high])
        keep = self.encoding.smoothing
        self._range = now if self._range is None else keep * self._range + (1 - keep) * now
        return float(self._range[0]), float(self._range[1])

    def _thermal(self, image: np.ndarray) -> np.ndarray:
        if image.dtype == np.uint8 or image.ndim == 3:
            return as_three_channels(image)
        values = image.astype(np.float32)
        low, high = self.encoding.thermal_low, self.encoding.thermal_high
        if np.isnan(low):
            # Every fourth pixel is enough for a percentile and costs a sixteenth.
            sample = values[::4, ::4]
            sample = sample[np.isfinite(sample)]
            if sample.size == 0:
                return np.zeros((*image.shape, 3), np.uint8)
            low, high = self._follow(*np.percentile(sample, (1, 99)))
        grey = np.clip((values - low) * (255.0 / max(high - low, 1e-6)), 0, 255)
        return as_three_channels(np.nan_to_num(grey).astype(np.uint8))

    def _depth(self, image: np.ndarray) -> np.ndarray:
        if image.dtype == np.uint8:
            return as_three_channels(image)
        if image.ndim == 3:
            raise ImageError(f"depth image: expected one channel of uint16 or float32, got shape {image.shape}")
        metres = image.astype(np.float32)
        if image.dtype == np.uint16:
            metres *= self.encoding.depth_unit
        valid = np.isfinite(metres) & (metres > 0)
        metres = np.where(valid, metres, 0.0)
        sample = metres[::4, ::4][valid[::4, ::4]]
        if sample.size == 0:
            return np.zeros((*image.shape, 3), np.uint8)
        far = min(3.0 * float(np.median(sample)), self.encoding.depth_max)
        low, high = self._follow(float(np.percentile(sample, 1)), far)
        level = np.clip((metres - low) * (255.0 / max(high - low, 1e-6)), 0, 255).astype(np.uint8)
        picture = cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB)
        picture[~valid] = 0
        return picture


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


def _polarity_colours() -> np.ndarray:
    table = np.full((1, 256, 3), 255, np.uint8)
    strength = np.arange(128, dtype=np.int32) * 2 + 1
    table[0, 128:, 1:] = (255 - (strength - 1))[:, None]
    table[0, :128, :2] = (strength - 1)[:, None]
    return table


_POLARITY_COLOURS = _polarity_colours()
