"""An event camera simulated from two consecutive frames of an ordinary one.

Model (after the usual description of such sensors and of the simulators ESIM, Rebecq et al. 2018, and v2e,
Hu et al. 2021; written anew): a pixel remembers the logarithm of its intensity and emits an event whenever
that has changed by the contrast threshold C. Between two frames it therefore emits

    n = floor(|log(I2 + e) - log(I1 + e)| / C)    events of polarity sign(log I2 - log I1),

where I is linear intensity in 0..1 and e (the dark current) bounds the logarithm in the dark. Real pixels
differ: C varies from pixel to pixel (normal, `threshold_spread`), some fire without cause (`noise_rate`).
What a network sees is the stack of one frame interval: each pixel shows the polarity of its events, if any.
"""

from __future__ import annotations

from statistics import NormalDist

import cv2
import numpy as np

from cmdtrack_ros.data.derived import DerivedSequence
from cmdtrack_ros.data.sequences import ImageSequence
from cmdtrack_ros.errors import DataError, ImageError
from cmdtrack_ros.modalities import Modality

POSITIVE = (255, 0, 0)
NEGATIVE = (0, 0, 255)
NONE = (255, 255, 255)
_COLOURS = np.array([NEGATIVE, NONE, POSITIVE], np.uint8)
DARK = 0.02  # e, as a share of full scale
# sRGB code value -> log of linear intensity, so that a frame costs one table look-up.
_LOG = np.log(np.power(np.arange(256) / 255.0, 2.2) + DARK).astype(np.float32)


def event_counts(
    previous_rgb: np.ndarray,
    current_rgb: np.ndarray,
    *,
    threshold: float = 0.25,
    threshold_spread: float = 0.03,
    noise_rate: float = 0.001,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Signed number of events of each pixel between two HxWx3 uint8 RGB (or HxW gray) frames: HxW int16.

    threshold: contrast C in log intensity. threshold_spread: its standard deviation over the pixels.
    noise_rate: share of pixels that fire once at random. Without `rng` the sensor has no spread and no noise.
    """
    if previous_rgb.shape != current_rgb.shape:
        raise ImageError(f"event simulation: frames of {previous_rgb.shape} and {current_rgb.shape} differ in size")
    change = cv2.LUT(_gray(current_rgb), _LOG) - cv2.LUT(_gray(previous_rgb), _LOG)
    if rng is None:
        return (change / threshold).astype(np.int16)
    # One integer a pixel carries both the pixel's threshold (low byte) and its noise draw (high 16 bits).
    draw = rng.integers(0, 1 << 32, change.shape, np.uint32)
    scale = 1.0 / (threshold + threshold_spread * _NORMAL)
    counts = (change * np.maximum(scale, 0).astype(np.float32)[draw & 0xFF]).astype(np.int16)
    noisy = (draw >> 16) < int(noise_rate * 65536)
    counts[noisy] += np.where(draw[noisy] & 0x100, 1, -1).astype(np.int16)
    return counts


def simulate_events(
    previous_rgb: np.ndarray,
    current_rgb: np.ndarray,
    *,
    threshold: float = 0.25,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Event stack as an HxWx3 uint8 RGB picture: white = none, red = brighter, blue = darker.

    Arguments as of `event_counts`. Deterministic for a given `rng` state.
    """
    return _COLOURS[np.sign(event_counts(previous_rgb, current_rgb, threshold=threshold, rng=rng)) + 1]


class EventSequence(DerivedSequence):
    """An RGB sequence whose aux stream is the events simulated between each frame and the one before.

    Frame 0 has no frame before it, hence no events but noise. Frame i draws from its own generator
    (`seed`, i), so that any order of access gives the same pictures.
    """

    def __init__(self, source: ImageSequence, threshold: float = 0.25, seed: int = 0) -> None:
        super().__init__(source, modality=Modality.EVENT)
        self.threshold = threshold
        self.seed = seed
        self._recent: dict[int, np.ndarray] = {}
        self.rgb(0)

    def rgb(self, index: int) -> np.ndarray:
        """RGB image of frame `index`; DataError where there is none to simulate events from."""
        # Two frames are kept: a video that has to step back for the frame before would start over each time.
        if index not in self._recent:
            image = super().rgb(index)
            if image is None:
                raise DataError(f"{self.name}: events are simulated from RGB images, frame {index} has none")
            self._recent = {**dict(list(self._recent.items())[-1:]), index: image}
        return self._recent[index]

    def aux(self, index: int) -> np.ndarray:
        before, now = self.rgb(max(index - 1, 0)), self.rgb(index)
        rng = np.random.default_rng((self.seed, index))
        return simulate_events(before, now, threshold=self.threshold, rng=rng)


def _gray(image: np.ndarray) -> np.ndarray:
    return image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def _normal_quantiles(count: int) -> np.ndarray:
    """`count` equally likely values of a standard normal, clipped by their finite number (about +-2.7)."""
    return np.array([NormalDist().inv_cdf((i + 0.5) / count) for i in range(count)])


_NORMAL = _normal_quantiles(256)
