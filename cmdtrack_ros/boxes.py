"""Boxes and crops.

A box is ``x, y, w, h`` in pixels of the RGB image, float, origin at the top-left corner of the image;
a pixel's area reaches from its index to its index + 1. A crop is a square window of the image resampled
to ``size`` x ``size`` pixels; boxes inside a crop are in pixels of that crop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from cmdtrack_ros.errors import ConfigError

MIN_BOX_SIDE = 2.0
"""Smallest side, in pixels, that a tracked box may shrink to."""


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes ``(..., 4)`` xywh -> ``(...)`` float64; 0 for NaN or no area."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    with np.errstate(invalid="ignore", divide="ignore"):
        overlap = np.clip(high - low, 0.0, None).prod(-1)
        union = a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - overlap
        score = overlap / union
    valid = np.isfinite(score) & (a[..., 2:] > 0).all(-1) & (b[..., 2:] > 0).all(-1)
    return np.where(valid, score, 0.0)


def visible(boxes: np.ndarray) -> np.ndarray:
    """(..., 4) xywh -> (...) bool: there is a box, i.e. four finite numbers with an area."""
    boxes = np.asarray(boxes, np.float64)
    with np.errstate(invalid="ignore"):
        return np.isfinite(boxes).all(-1) & (boxes[..., 2:] > 0).all(-1)


def parse_box(text: str, what: str = "--init-box") -> np.ndarray:
    """ "x,y,w,h" -> (4,) float64; ConfigError, which names ``what``, for anything but a box."""
    try:
        box = np.array([float(word) for word in text.split(",")])
    except ValueError:
        box = np.empty(0)
    if box.shape != (4,) or not visible(box):
        raise ConfigError(f"{what} {text!r}: expected x,y,w,h in pixels with w, h > 0, such as 120,80,40,60")
    return box


def clip_box(box: np.ndarray, width: int, height: int, min_size: float = MIN_BOX_SIDE) -> np.ndarray:
    """The part of ``box`` (4,) xywh inside a ``width`` x ``height`` image, sides at least ``min_size`` px."""
    low = np.clip(box[:2], 0.0, [max(width - min_size, 0.0), max(height - min_size, 0.0)])
    high = np.clip(np.asarray(box[:2]) + box[2:], low + min_size, [max(width, min_size), max(height, min_size)])
    return np.concatenate([low, high - low])


def visible_fraction(box: np.ndarray, width: int, height: int) -> float:
    """Share of the area of ``box`` (4,) xywh that lies inside the image, 0 for a box without area."""
    if not np.isfinite(box).all() or min(box[2:]) <= 0:
        return 0.0
    low = np.maximum(box[:2], 0.0)
    high = np.minimum(np.asarray(box[:2]) + box[2:], [width, height])
    return float(np.clip(high - low, 0.0, None).prod() / np.prod(box[2:]))


@dataclass(frozen=True)
class Crop:
    """A square window of an image: centre and side in image pixels, resampled to ``size`` x ``size``."""

    center_x: float
    center_y: float
    side: float
    size: int

    @classmethod
    def around(cls, box: np.ndarray, factor: float, size: int) -> Crop:
        """Window of side ``factor * sqrt(w * h)`` image pixels around the centre of ``box`` (4,) xywh."""
        x, y, w, h = (float(v) for v in box)
        side = max(factor * float(np.sqrt(max(w, 1.0) * max(h, 1.0))), 8.0)
        return cls(x + w / 2, y + h / 2, side, size)

    @property
    def scale(self) -> float:
        """Crop pixels per image pixel."""
        return self.size / self.side

    @property
    def origin(self) -> np.ndarray:
        """Image coordinates (2,) of the window's top-left corner."""
        return np.array([self.center_x - self.side / 2, self.center_y - self.side / 2])

    def cut(self, image: np.ndarray, encode: Callable[[np.ndarray], np.ndarray] | None = None) -> np.ndarray:
        """The window of ``image`` as (size, size, 3) uint8; outside of the image is its mean colour.

        Args:
            image: HxWx3 uint8; with ``encode``, whatever that takes.
            encode: from values to colours, pixel by pixel. Only what the window shows is encoded.
        """
        shape = image.shape[1], image.shape[0]
        # Two pixels more than the window, for the sampling between pixels.
        low = np.floor(self.origin).astype(int) - 2
        high = np.ceil(self.origin + self.side).astype(int) + 2
        inside = (low >= 0).all() and (high <= shape).all()
        (left, top), (right, bottom) = np.maximum(low, 0), np.minimum(high, shape)
        fill = (0, 0, 0) if inside else mean_colour(encode(image[::8, ::8]) if encode else image[::8, ::8])
        if right <= left or bottom <= top:
            return np.full((self.size, self.size, 3), fill, np.uint8)
        shrink, row_step = self._reduction()
        part = image[top + (row_step - 1) // 2 : bottom : row_step, left:right]
        part = _averaged(encode(part) if encode else part, shrink // row_step, shrink)
        return self._sample(part, shrink, left, top, fill)

    def _reduction(self) -> tuple[int, int]:
        """How many pixels are averaged into one before the sampling, and every how many rows are read for that.

        Bilinear sampling aliases below half size. Of large blocks two rows are enough; a 4K image has many.
        """
        shrink = int(1 / self.scale) if self.scale < 0.5 else 1
        row_step = max(shrink // 2, 1)
        return (2 * row_step, row_step) if shrink > 3 else (shrink, 1)

    def _sample(self, part: np.ndarray, shrink: int, left: int, top: int, fill: tuple[int, int, int]) -> np.ndarray:
        # A pixel's center lies at index + 0.5, hence the half-pixel terms.
        scale = self.scale * shrink
        offset = ((left, top) - self.origin) * self.scale + 0.5 * scale - 0.5
        matrix = np.array([[scale, 0, offset[0]], [0, scale, offset[1]]])
        return cv2.warpAffine(
            part,
            matrix,
            (self.size, self.size),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=fill,
        )

    def to_crop(self, box: np.ndarray) -> np.ndarray:
        """Box (..., 4) in image pixels -> the same box in crop pixels."""
        box = np.asarray(box, np.float64)
        return np.concatenate([(box[..., :2] - self.origin) * self.scale, box[..., 2:] * self.scale], -1)

    def to_image(self, box: np.ndarray) -> np.ndarray:
        """Box (..., 4) in crop pixels -> the same box in image pixels."""
        box = np.asarray(box, np.float64)
        return np.concatenate([box[..., :2] / self.scale + self.origin, box[..., 2:] / self.scale], -1)


def _averaged(picture: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """HxWx3 uint8 with blocks of ``rows`` x ``columns`` pixels averaged, the last ones filled up with the border."""
    if rows == columns == 1:
        return picture
    below, beside = -picture.shape[0] % rows, -picture.shape[1] % columns
    if below or beside:
        picture = cv2.copyMakeBorder(picture, 0, below, 0, beside, cv2.BORDER_REPLICATE)
    size = picture.shape[1] // columns, picture.shape[0] // rows
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def mean_colour(picture: np.ndarray) -> tuple[int, int, int]:
    """Of a picture HxWx3 uint8, rounded down."""
    red, green, blue, _ = cv2.sumElems(picture)
    pixels = picture.shape[0] * picture.shape[1]
    return int(red // pixels), int(green // pixels), int(blue // pixels)
