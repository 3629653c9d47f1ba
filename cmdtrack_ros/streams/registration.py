"""Auxiliary images brought onto the RGB image: the one way, for the node, for replays and for training on bags.

Pixels are OpenCV's: whole numbers at their centres. What the auxiliary camera does not see gets the value that its
modality has for it: no reading (0) for depth, no event for events, and for thermal images, which have no such value,
the image's mean, as around the image's edge (`boxes.Crop`): no step in brightness that would pass for a thing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from cmdtrack_ros.cameras import Camera
from cmdtrack_ros.errors import ConfigError, DataError
from cmdtrack_ros.modalities import Modality
from cmdtrack_ros.streams.frames import Pose, rotation_from

METHODS = ("none", "resize", "homography", "camera_info")
RANGES = {
    "registration_homography": (-1e6, 1e6),
    "registration_distance": (0.1, 1000.0),
    "aux_translation": (-10.0, 10.0),
    "aux_rotation": (-2 * math.pi, 2 * math.pi),
}
"""Low and high end of each number of the parameters of these names."""

_LEAST_SCALE, _MOST_SCALE = 0.02, 50.0  # px of RGB per auxiliary px; beyond it nothing could be seen
_LEAST_SHOWN = 0.02  # of the RGB image
_SMOOTH = {np.dtype(kind): cv2.INTER_LINEAR for kind in (np.uint8, np.uint16, np.float32)}


def is_homography(numbers: tuple[float, ...]) -> bool:
    """Whether nine numbers, row by row, are a map between images: finite, invertible, and of a size to be seen."""
    if len(numbers) != 9 or not all(math.isfinite(n) for n in numbers) or abs(numbers[8]) < 1e-9:
        return False
    matrix = np.array(numbers, np.float64).reshape(3, 3) / numbers[8]
    scale = math.sqrt(abs(float(np.linalg.det(matrix[:2, :2]))))
    return _LEAST_SCALE <= scale <= _MOST_SCALE and abs(float(np.linalg.det(matrix))) > 1e-9


@dataclass(frozen=True)
class Registration:
    """How it is done; the fields are the node's parameters.

    Attributes:
        registration: one of `METHODS`.
        registration_homography: nine numbers, row by row: auxiliary pixel -> RGB pixel.
        registration_distance: metres from the RGB camera at which "camera_info" lays thermal and event images on RGB.
        aux_translation: x, y, z of the auxiliary camera's optical frame in the RGB camera's, m; empty = from tf.
        aux_rotation: roll, pitch, yaw of the same about fixed x, y, z, rad; empty = none.

    Raises:
        ConfigError: an unknown method, or a homography that is needed and missing, or cannot be one.
    """

    registration: str = "none"
    registration_homography: tuple[float, ...] = ()
    registration_distance: float = 5.0
    aux_translation: tuple[float, ...] = ()
    aux_rotation: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.registration not in METHODS:
            raise ConfigError(f"registration: expected one of {', '.join(METHODS)}, got {self.registration!r}")
        if self.registration == "homography" and not is_homography(self.registration_homography):
            raise ConfigError(
                "registration_homography: registration is homography, which needs nine finite numbers of an invertible "
                f"3x3 matrix, row by row; got {list(self.registration_homography)}. `cmdtrack register` finds them"
            )

    def as_parameters(self) -> dict[str, Any]:
        """Name -> value of the node's parameters that are not empty."""
        values = {name: list(v) if isinstance(v, tuple) else v for name, v in vars(self).items()}
        return {name: value for name, value in values.items() if value != []}


def read_registration(text: str) -> Registration:
    """A method that needs nothing more, or a YAML file of node parameters, such as `cmdtrack register` writes.

    Raises:
        ConfigError, DataError: neither, or a file that holds other than it should.
    """
    if text in METHODS:
        return Registration(text)
    path = Path(text)
    try:
        held = yaml.safe_load(path.read_text())
        values = next(iter(held.values()))["ros__parameters"]
        known: dict[str, Any] = {name: values[name] for name in Registration.__dataclass_fields__ if name in values}
    except OSError as error:
        raise ConfigError(
            f"registration {text!r}: expected one of {', '.join(METHODS)}, or a file of parameters ({error.strerror})"
        ) from error
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, StopIteration, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected YAML with ros__parameters, as `cmdtrack register` writes it") from error
    try:
        lists: dict[str, Any] = {name: tuple(map(float, v)) for name, v in known.items() if isinstance(v, list)}
        return Registration(**known | lists)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: {error}") from error


@dataclass(frozen=True, eq=False)
class Rig:
    """Both cameras, and how the auxiliary one is mounted: a point p of its frame is rotation @ p + translation (m) in
    the RGB camera's; optical frames (x right, y down, z forward)."""

    rgb: Camera
    aux: Camera
    rotation: np.ndarray
    translation: np.ndarray


def mounted(wanted: Registration, rgb: Camera, aux: Camera, lookup: Callable[[str, str], Pose | None]) -> Rig:
    """The cameras as the parameters, else tf say that they are mounted.

    Args:
        lookup: tf's: the second frame in the first one; None where it knows no way.

    Raises:
        ConfigError: neither says it.
    """
    if wanted.aux_translation:
        turns = wanted.aux_rotation or (0.0, 0.0, 0.0)
        return Rig(rgb, aux, rotation_from(*turns), np.array(wanted.aux_translation))
    if rgb.frame_id == aux.frame_id:
        return Rig(rgb, aux, np.eye(3), np.zeros(3))
    if pose := lookup(rgb.frame_id, aux.frame_id):
        return Rig(rgb, aux, *pose)
    raise ConfigError(
        f"tf knows no way from {aux.frame_id!r} to {rgb.frame_id!r}: publish it, or set aux_translation and "
        "aux_rotation"
    )


class Registrar:
    """Lays the images of one auxiliary stream on the RGB image. Maps are computed once for each pair of sizes.

    Args:
        rig: what "camera_info" needs; None = not known yet, for the reason `missing`.
    """

    def __init__(
        self,
        registration: Registration = Registration(),
        rig: Rig | None = None,
        missing: str = "nothing is known of the cameras",
    ) -> None:
        self.registration, self.rig = registration, rig
        self._missing = missing
        self._sizes: tuple[tuple[int, int], tuple[int, int]] | None = None
        self._maps: tuple[np.ndarray, np.ndarray] | None = None
        self._unseen: np.ndarray | None = None  # uint8, 1 where the auxiliary camera sees nothing
        self._rays: np.ndarray | None = None  # (3, h, w) float32, of auxiliary pixels, turned as the RGB camera is

    def __call__(
        self, aux: np.ndarray, size: tuple[int, int], modality: Modality | str, depth_unit: float = 0.001
    ) -> np.ndarray:
        """The image as the RGB camera would have it.

        Args:
            aux: HxW or HxWx3, the sensor's own array.
            size: height and width of RGB images.
            depth_unit: metres per unit of an integer depth image.

        Returns:
            Of the same type, `size` large.

        Raises:
            ConfigError: it cannot be done; says why, and what to do.
        """
        method, modality = self.registration.registration, Modality(modality)
        own = (aux.shape[0], aux.shape[1])
        if method == "none":
            if own != size:
                raise ConfigError(
                    "expected equal sizes; publish a registered image or set parameter 'registration' to resize, "
                    "homography or camera_info"
                )
            return aux
        smooth = modality is not Modality.DEPTH  # depth must not be blended across edges
        if method == "resize":
            interpolation = cv2.INTER_LINEAR if smooth and aux.dtype == np.uint8 else cv2.INTER_NEAREST
            return aux if own == size else cv2.resize(aux, size[::-1], interpolation=interpolation)
        if method == "camera_info" and self.rig is None:
            raise ConfigError(f"registration is camera_info, and {self._missing}")
        if method == "camera_info" and not smooth:
            return self._reproject(aux, size, depth_unit if aux.dtype == np.uint16 else 1.0)
        if self._sizes != (own, size):
            self._prepare(own, size)
        assert self._maps is not None and self._unseen is not None
        interpolation = _SMOOTH[aux.dtype] if smooth else cv2.INTER_NEAREST
        moved = cv2.remap(aux, *self._maps, interpolation, borderMode=cv2.BORDER_REPLICATE)
        unseen = self._unseen.view(bool)
        np.copyto(
            moved, _nothing(aux, modality), where=unseen if aux.ndim == 2 else unseen[..., None], casting="unsafe"
        )
        return moved

    def _prepare(self, own: tuple[int, int], size: tuple[int, int]) -> None:
        """The auxiliary pixel of each RGB pixel."""
        rows, columns = np.mgrid[: size[0], : size[1]].reshape(2, -1).astype(np.float64)
        if self.registration.registration == "homography":
            matrix = np.array(self.registration.registration_homography).reshape(3, 3)
            x, y, w = np.linalg.inv(matrix / matrix[2, 2]) @ np.stack([columns, rows, np.ones_like(rows)])
            with np.errstate(divide="ignore", invalid="ignore"):
                found = np.where(w > 0, np.stack([x, y]) / w, np.nan).T
        else:
            assert self.rig is not None
            self._check_sizes(own, size)
            rays = self.rig.rgb.rays(np.stack([columns, rows], 1))
            points = rays * self.registration.registration_distance - self.rig.translation
            found = self.rig.aux.project(points @ self.rig.rotation)
        with np.errstate(invalid="ignore"):
            seen = ((found > -0.5) & (found < np.array(own[::-1]) - 0.5)).all(1)
        if seen.mean() < _LEAST_SHOWN:
            raise ConfigError(
                f"{self.registration.registration}: auxiliary images of {own[1]}x{own[0]} cover {seen.mean():.1%} of "
                f"RGB images of {size[1]}x{size[0]}, expected {_LEAST_SHOWN:.0%} or more: was it made for these sizes?"
            )
        found[~seen] = -1
        maps = found.astype(np.float32).reshape(*size, 2)
        self._maps = cv2.convertMaps(maps, None, cv2.CV_16SC2)
        self._unseen = np.asarray(~seen).reshape(size).astype(np.uint8)
        self._sizes = own, size

    def _check_sizes(self, own: tuple[int, int], size: tuple[int, int]) -> None:
        assert self.rig is not None
        for name, camera, image in (("RGB", self.rig.rgb, size), ("auxiliary", self.rig.aux, own)):
            if (camera.height, camera.width) != image:
                raise ConfigError(
                    f"the {name} CameraInfo is for {camera.width}x{camera.height}, images are {image[1]}x{image[0]}"
                )

    def _reproject(self, depth: np.ndarray, size: tuple[int, int], unit: float) -> np.ndarray:
        """Each depth pixel where the RGB camera sees it, the nearest where several fall together; 0 where none does.

        A pixel is drawn as large as it is in the RGB image, by the ratio of the focal lengths.
        """
        assert self.rig is not None
        own = (depth.shape[0], depth.shape[1])
        if self._sizes != (own, size):
            self._check_sizes(own, size)
            rows, columns = np.mgrid[: own[0], : own[1]].reshape(2, -1)
            rays = self.rig.rotation @ self.rig.aux.rays(np.stack([columns, rows], 1)).T
            self._rays, self._sizes = rays.astype(np.float32).reshape(3, *own), (own, size)
        assert self._rays is not None
        metres = depth.astype(np.float32) * np.float32(unit)
        with np.errstate(invalid="ignore", over="ignore"):
            x, y, z = (ray * metres + np.float32(offset) for ray, offset in zip(self._rays, self.rig.translation))
            x, y = self.rig.rgb.project_image(x, y, z)
            side = max(math.ceil(max(self.rig.rgb.focal) / min(self.rig.aux.focal) - 0.05), 1)
            margin = side - 1  # above and left of the image, for what is drawn only in part
            x, y = (np.floor(pixels + np.float32(0.5 + margin / 2)) for pixels in (x, y))
            height, width = size[0] + margin, size[1] + margin
            inside = np.flatnonzero((metres > 0) & (z > 0) & (x >= 0) & (y >= 0) & (x < width) & (y < height))
        places = y.ravel()[inside].astype(np.int32) * width + x.ravel()[inside].astype(np.int32)
        nearest = np.full(height * width, np.inf, np.float32)
        _keep_nearest(nearest, places, z.ravel()[inside])
        image: np.ndarray = nearest.reshape(height, width)
        if margin:  # a pixel reaches to the right and down
            image = cv2.erode(image, np.ones((side, side), np.uint8), anchor=(margin, margin))[margin:, margin:]
        image = np.where(np.isinf(image), np.float32(0), image)
        if depth.dtype != np.uint16:
            return image.astype(depth.dtype, copy=False)
        return np.minimum(np.rint(image * np.float32(1 / unit)), 65535).astype(np.uint16)


def _keep_nearest(nearest: np.ndarray, places: np.ndarray, metres: np.ndarray) -> None:
    """A z-buffer: of equal places NumPy keeps the last, so what is nearer than that is written again."""
    while len(places):
        nearest[places] = metres
        nearer = np.flatnonzero(metres < nearest[places])
        places, metres = places[nearer], metres[nearer]


def _nothing(aux: np.ndarray, modality: Modality) -> float | tuple[float, ...]:
    """The value of a pixel that the auxiliary camera does not see."""
    if modality is Modality.DEPTH:
        return 0
    if modality is Modality.EVENT:
        return 128 if aux.ndim == 2 else 255
    if aux.dtype == np.float32:
        finite = aux[::4, ::4]
        finite = finite[np.isfinite(finite)]
        return float(finite.mean()) if finite.size else math.nan
    means = tuple(round(m) for m in cv2.mean(aux)[: 1 if aux.ndim == 2 else 3])
    return means[0] if aux.ndim == 2 else means
