"""Camera models: points in space to pixels and back, by what a sensor_msgs/CameraInfo says. No rclpy.

Frames follow REP 103: x right, y down, z forward, metres. Points and rays are in the frame that the camera's images
name in their headers. As in image_geometry, that is the rectified frame: of a camera with a rectification matrix R
(one of a stereo pair), a raw image is seen from a camera turned by R.

Pixels are those of CameraInfo and OpenCV: whole numbers at the centres of pixels. A box's corner (`boxes.py`), where
a pixel's area reaches from its index to its index + 1, lies half a pixel further: subtract 0.5 from box coordinates.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from cmdtrack_ros.errors import ConfigError

_POLYNOMIAL = ("plumb_bob", "rational_polynomial")
MODELS = (*_POLYNOMIAL, "equidistant")
"""Names that CameraInfo's `distortion_model` may have: two lengths of OpenCV's polynomial, and its fisheye model."""
_LENGTHS = (4, 5, 8, 12, 14)  # of OpenCV's coefficients
_MOST_PIXELS = 100_000  # of a side
_MOST = 1e6  # of any other number
_UNDONE = 0.5  # px; where undoing the distortion misses by more, it has no answer
_TABLE_STEP = 8  # px between those that the bounds of the table come from
TRANSPORT_SUFFIXES = ("/compressed", "/compressedDepth")
"""What image_transport adds to the topic of the images."""
_RECTIFIED = re.compile(r"(^|_)rect(ified)?(_|$)")


@dataclass(frozen=True, eq=False)
class Camera:
    """A calibrated camera, as it made one kind of image: raw or rectified.

    Attributes:
        width, height: of its images, px.
        matrix: (3, 3) focal lengths and principal point, px.
        model: one of `MODELS`.
        distortion: (n,) coefficients in OpenCV's order; empty for none.
        rotation: (3, 3) from the frame of the points to that of the lens.
        frame_id: the frame that the CameraInfo names.
    """

    width: int
    height: int
    matrix: np.ndarray
    model: str = "plumb_bob"
    distortion: np.ndarray = field(default_factory=lambda: np.zeros(0))
    rotation: np.ndarray = field(default_factory=lambda: np.eye(3))
    frame_id: str = ""

    @property
    def focal(self) -> tuple[float, float]:
        """Focal lengths fx, fy, px."""
        return float(self.matrix[0, 0]), float(self.matrix[1, 1])

    def project(self, points: np.ndarray) -> np.ndarray:
        """Where points are seen.

        Args:
            points: (n, 3) in the camera's frame, m.

        Returns:
            (n, 2) px, also outside of the image; NaN for points that are not in front of the camera, or so far aside
            that the distortion's polynomial folds back.
        """
        points = np.asarray(points, np.float64).reshape(-1, 3) @ self.rotation.T
        pixels = np.full((len(points), 2), np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            sides = points[:, :2] / points[:, 2:]
            seen = (points[:, 2] > 0) & (np.hypot(*sides.T) < self._widest)
        if seen.any():
            pixels[seen] = self._distort(sides[seen])
        return pixels

    def project_image(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`project` for as many points as an image has pixels, at a tenth of its time where there is distortion.

        Args:
            x, y, z: (h, w) float32 in the camera's frame, m.

        Returns:
            Columns and rows (h, w) float32 px; NaN or far outside where no image shows a point. Looked up between rays
            about two pixels apart, hence off by less than 0.1 px.
        """
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            if not self.distortion.size and np.array_equal(self.rotation, np.eye(3)):
                (fx, fy), (cx, cy), inverse = self.focal, self.matrix[:2, 2], 1 / z
                return (x * inverse * np.float32(fx) + np.float32(cx), y * inverse * np.float32(fy) + np.float32(cy))
            table, low, scale = self._table
            u, v = _half_tangents(x, y, z)
            u, v = (u - low[0]) * scale[0], (v - low[1]) * scale[1]
        outside = (math.nan, math.nan)
        found = cv2.remap(table, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=outside)
        return found[..., 0], found[..., 1]

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where rays are seen: (rows, columns, 2) float32 px, over an even grid of their `_half_tangents`, from `low`
        on with `scale` nodes a unit; both (2,) float32.
        """
        size = np.array([self.width, self.height])
        columns, rows = np.meshgrid(*(np.linspace(0, side, side // _TABLE_STEP + 2) for side in size))
        seen = np.stack(_half_tangents(*self.rays(np.stack([columns.ravel(), rows.ravel()], 1)).T), 1)
        seen = seen[np.isfinite(seen).all(1)]
        if not len(seen):
            raise ConfigError(f"camera {self.frame_id!r}: its distortion has no ray for any pixel of its images")
        low, high = seen.min(0), seen.max(0)
        beyond = _TABLE_STEP / size * (high - low)  # where the image ends between the pixels that were looked at
        low, high, count = low - beyond, high + beyond, size // 2 + _TABLE_STEP
        u, v = np.meshgrid(*(np.linspace(low[i], high[i], count[i]) for i in range(2)))
        pixels = self.project(np.stack([2 * u, 2 * v, 1 - u * u - v * v], -1).reshape(-1, 3))
        table = pixels.reshape(*u.shape, 2).astype(np.float32)
        return table, low.astype(np.float32), ((count - 1) / (high - low)).astype(np.float32)

    def rays(self, pixels: np.ndarray) -> np.ndarray:
        """What a pixel sees, at a depth of 1: times an image's depth it is the point.

        Args:
            pixels: (n, 2) px.

        Returns:
            (n, 3) in the camera's frame, NaN where no point is seen; z is 1 where `rotation` is none.
        """
        pixels = np.asarray(pixels, np.float64).reshape(-1, 2)
        if not len(pixels):
            return np.zeros((0, 3))
        rays = np.column_stack([self._undistort(pixels), np.ones(len(pixels))]) @ self.rotation
        with np.errstate(invalid="ignore"):
            missed = np.abs(self.project(rays) - pixels).max(1)
        rays[~(missed < _UNDONE)] = np.nan
        return rays

    def _distort(self, sides: np.ndarray) -> np.ndarray:
        if not self.distortion.size:  # a depth image has as many points as pixels
            return sides * self.focal + self.matrix[:2, 2]
        points = np.column_stack([sides, np.ones(len(sides))])[:, None]
        if self.model == "equidistant":
            found, _ = cv2.fisheye.projectPoints(points, np.zeros(3), np.zeros(3), self.matrix, self.distortion)
        else:
            found, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), self.matrix, self.distortion)
        return found[:, 0]

    def _undistort(self, pixels: np.ndarray) -> np.ndarray:
        """(n, 2) px -> x / z and y / z in the frame of the lens."""
        if not self.distortion.size:
            return (pixels - self.matrix[:2, 2]) / self.focal
        pixels = pixels[:, None]
        if self.model == "equidistant":
            return cv2.fisheye.undistortPoints(pixels, self.matrix, self.distortion)[:, 0]
        stop = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-9)
        return cv2.undistortPointsIter(pixels, self.matrix, self.distortion, np.eye(3), np.eye(3), stop)[:, 0]

    @cached_property
    def _widest(self) -> float:
        """The distance from the axis, at a depth of 1, from which on the image no longer moves outwards."""
        if not self.distortion.size:
            return math.inf
        angles = np.linspace(0, math.pi / 2, 2001)[:-1]
        if self.model == "equidistant":
            seen = angles * np.polyval([*self.distortion[::-1], 1.0], angles**2)
        else:
            k = np.zeros(8)
            k[: min(len(self.distortion), 8)] = self.distortion[:8]
            square = np.tan(angles) ** 2
            over, under = np.polyval([k[4], k[1], k[0], 1.0], square), np.polyval([k[7], k[6], k[5], 1.0], square)
            seen = np.tan(angles) * over / under
        folds = np.flatnonzero(~(np.diff(seen) > 0))
        return math.tan(angles[folds[0]]) if folds.size else math.inf


def camera_info_topic(image_topic: str) -> str:
    """Beside the images, as image_transport looks for it: /camera/image_raw/compressed -> /camera/camera_info."""
    for suffix in TRANSPORT_SUFFIXES:
        image_topic = image_topic.removesuffix(suffix)
    return f"{image_topic.rpartition('/')[0]}/camera_info"


def _half_tangents(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Stereographic coordinates of directions: finite and smooth over all that is in front, unlike x / z and y / z."""
    inverse = 1 / (np.sqrt(x * x + y * y + z * z) + z)
    return x * inverse, y * inverse


def is_rectified(image_topic: str) -> bool:
    """Whether a topic carries rectified images, by image_proc's names: image_rect, image_rect_color, ..."""
    return any(_RECTIFIED.search(part) for part in image_topic.split("/"))


def camera_from(info: Any, topic: str, rectified: bool = False) -> Camera:
    """The model that a message holds.

    Args:
        info: sensor_msgs/CameraInfo, or what has its fields.
        topic: where it came from, as errors name it.
        rectified: for the rectified images rather than the raw ones. The fourth column of P, where the other camera
            of a stereo pair stands, is left out: points are those of this camera.

    Raises:
        ConfigError: names topic and field: not calibrated, a number that no camera has, an unknown distortion, or
            binning or a region of interest, under which K and P are not those of the image.
    """
    _check_grid(info, topic)
    k = _numbers(info.k, 9, topic, "k").reshape(3, 3)
    _check_matrix(k, info, topic, "k")
    turns = _numbers(info.r, 9, topic, "r")
    r = turns.reshape(3, 3) if turns.any() else np.eye(3)  # drivers of single cameras leave it zero
    if np.abs(r @ r.T - np.eye(3)).max() > 1e-3 or np.linalg.det(r) < 0:
        raise ConfigError(f"{topic}: r: expected a rotation matrix, got {turns.tolist()}")
    size, frame_id = (int(info.width), int(info.height)), str(info.header.frame_id)
    if rectified:
        p = _numbers(info.p, 12, topic, "p").reshape(3, 4)[:, :3]
        _check_matrix(p, info, topic, "p")
        return Camera(*size, p, frame_id=frame_id)
    model, distortion = _distortion(info, topic)
    return Camera(*size, k, model, distortion, r.T, frame_id)


def _check_grid(info: Any, topic: str) -> None:
    """The image is what K and P speak of: its size is known, without binning or a part cut out."""
    for name in ("width", "height"):
        if not 0 < getattr(info, name) <= _MOST_PIXELS:
            raise ConfigError(f"{topic}: {name}: expected 1 to {_MOST_PIXELS} px, got {getattr(info, name)}")
    for name in ("binning_x", "binning_y"):
        if getattr(info, name) > 1:
            raise ConfigError(
                f"{topic}: {name}: expected 0 or 1, got {getattr(info, name)}; set the camera to binning 1"
            )
    roi = info.roi
    whole = roi.width in (0, info.width) and roi.height in (0, info.height)
    if roi.x_offset or roi.y_offset or not whole:
        raise ConfigError(
            f"{topic}: roi: expected the whole image, got {roi.width}x{roi.height} at {roi.x_offset}, {roi.y_offset}; "
            "set the camera to its whole image"
        )


def _numbers(values: Any, count: int, topic: str, name: str) -> np.ndarray:
    numbers = np.array(values, np.float64).ravel()
    if len(numbers) != count or not (np.abs(numbers) <= _MOST).all():
        raise ConfigError(f"{topic}: {name}: expected {count} numbers within {_MOST:g}, got {numbers.tolist()}")
    return numbers


def _check_matrix(matrix: np.ndarray, info: Any, topic: str, name: str) -> None:
    if not matrix.any():
        raise ConfigError(f"{topic}: {name} is all zeros: the camera is not calibrated (camera_calibration does that)")
    (fx, skew, cx), (below, fy, cy), last = matrix.tolist()
    centred = abs(cx) <= 10 * info.width and abs(cy) <= 10 * info.height
    if not (fx > 0 and fy > 0 and skew == below == 0 and last == [0, 0, 1] and centred):
        raise ConfigError(
            f"{topic}: {name}: expected fx, 0, cx, 0, fy, cy, 0, 0, 1 with positive focal lengths and a centre near "
            f"the image of {info.width}x{info.height}, got {matrix.ravel().tolist()}"
        )


def _distortion(info: Any, topic: str) -> tuple[str, np.ndarray]:
    """Model and coefficients; none where all are zero, whatever the model is called."""
    d = _numbers(info.d, len(info.d), topic, "d")
    if not d.any():
        return MODELS[0], np.zeros(0)
    if info.distortion_model not in MODELS:
        raise ConfigError(
            f"{topic}: distortion_model: expected one of {', '.join(MODELS)}, got {info.distortion_model!r}"
        )
    polynomial = info.distortion_model in _POLYNOMIAL
    if polynomial and len(d) in _LENGTHS:
        return info.distortion_model, d
    if not polynomial and len(d) >= 4 and not d[4:].any():
        return info.distortion_model, d[:4]
    expected = ", ".join(map(str, _LENGTHS)) if polynomial else "4"
    raise ConfigError(f"{topic}: d: expected {expected} coefficients of {info.distortion_model}, got {len(d)}")
