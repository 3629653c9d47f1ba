"""Where the target is in space: the depth of its surface from a depth image and its box, and the point there.

A box shows more than its target: what is behind it, and what covers it. Its pixels are parted by depth into layers,
each as thick as the box is wide where it stands; one of them is the target. All of this is our choice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from cmdtrack_ros.cameras import Camera

_MOST_SAMPLES = 4096  # pixels of a box that are looked at
_LEAST_PIXELS = 12
_LEAST_SHARE = 0.1  # of the box, by weight, with a reading
_CENTRAL = 0.25  # of a side: standard deviation of the weights
_THICKNESS = (0.02, 0.15)  # bounds of half a layer, relative to its depth
_BINS = 4  # to half a layer
_LAYERS = 4  # at most
_NEARER = (
    0.5  # of the heaviest layer's weight: a nearer one with that much is the target, since what is behind shows too
)
_KNOWN = 2.0  # the weight of the layer where the target was is multiplied by it
_SPEED = 3.0  # m/s along the optical axis, beyond which a change is doubted
_CONFIRMED = 3  # frames in a row that a leap beyond that takes
_DEPTH_ERROR = 0.01  # of the depth: the sensor's own, at least
_BOX_ERROR = 0.05  # of a side: standard deviation of a box's centre


@dataclass(frozen=True)
class Reading:
    """The target's depth in one frame.

    Attributes:
        depth: m along the optical axis, of the target's visible surface (the median of its readings).
        spread: m, standard deviation of the readings about it.
        held: taken from the frame before, because this one's is a leap that the next ones have yet to confirm.
    """

    depth: float
    spread: float
    held: bool = False


@dataclass(frozen=True)
class Place:
    """A target in space, in the camera's optical frame (x right, y down, z forward; m).

    Attributes:
        position: (3,) on the target's visible surface, behind the centre of its box.
        covariance: (3, 3) m^2, positive definite.
        size: (3,) m: width and height of the box at that depth, and thickness (twice the spread).
        held: see :class:`Reading`.
    """

    position: np.ndarray
    covariance: np.ndarray
    size: np.ndarray
    held: bool = False


class TargetDepth:
    """Follows the depth of one target from frame to frame.

    A depth that no motion explains, as that of a hand before the lens or of a garbage image, counts once
    :data:`_CONFIRMED` frames in a row agree on it; until then the last one stands.
    """

    def __init__(self) -> None:
        self._last: Reading | None = None
        self._stamp = 0  # of the last, ns
        self._doubted: Reading | None = None
        self._doubts = 0

    def update(self, metres: np.ndarray, box: np.ndarray, focal: float, stamp_ns: int) -> Reading | None:
        """The target's depth in the next frame.

        Args:
            metres: HxW float32, 0 where there is no reading: the part of the depth image that `inside` names.
            box: (4,) xywh px, in pixels of that part.
            focal: length, px.

        Returns:
            None where too few pixels of the box have a reading.
        """
        half = float(np.clip(min(box[2:]) / (2 * focal), *_THICKNESS))
        seconds = max(stamp_ns - self._stamp, 0) * 1e-9
        now = read_depth(metres, box, half, self._last.depth if self._last else None)
        if now is None:
            return None
        if self._last is None or not _leap(now, self._last, half, seconds):
            return self._take(now, stamp_ns)
        agrees = self._doubted is not None and not _leap(now, self._doubted, half, seconds)
        self._doubted, self._doubts = now, self._doubts + 1 if agrees else 1
        if self._doubts >= _CONFIRMED:
            return self._take(now, stamp_ns)
        return replace(self._last, spread=math.hypot(self._last.spread, _SPEED * seconds), held=True)

    def _take(self, reading: Reading, stamp_ns: int) -> Reading:
        self._last, self._stamp, self._doubted, self._doubts = reading, stamp_ns, None, 0
        return reading


def _leap(now: Reading, before: Reading, half: float, seconds: float) -> bool:
    return abs(now.depth - before.depth) > half * before.depth + _SPEED * seconds


def inside(box: np.ndarray, width: int, height: int) -> tuple[slice, slice]:
    """Rows and columns of an image that a box (4,) xywh px shows; empty where it lies outside."""
    left, top = np.floor(np.clip(box[:2], 0, (width, height))).astype(int)
    right, bottom = np.ceil(np.clip(box[:2] + box[2:], 0, (width, height))).astype(int)
    return slice(int(top), int(bottom)), slice(int(left), int(right))


def read_depth(metres: np.ndarray, box: np.ndarray, half: float, known: float | None = None) -> Reading | None:
    """The depth of what a box is about, in one image; arguments and None as of :meth:`TargetDepth.update`.

    Args:
        half: half the thickness of a layer, relative to its depth.
        known: where the target was before, m; None = unknown.
    """
    step = max(1, math.isqrt(metres.size // _MOST_SAMPLES))
    metres = metres[step // 2 :: step, step // 2 :: step]
    weights = _central_weights(metres.shape, box, step)
    valid = metres > 0
    if valid.sum() < _LEAST_PIXELS or weights[valid].sum() < _LEAST_SHARE * weights.sum():
        return None
    depths, weights = np.log(metres[valid].astype(np.float64)), weights[valid]
    layers = list(_layers(depths, weights, half))
    if known:
        layers = [(at, mass * (_KNOWN if abs(at - math.log(known)) < half else 1)) for at, mass in layers]
    enough = _NEARER * max(mass for _, mass in layers)
    middle = min(at for at, mass in layers if mass >= enough)
    for _ in range(2):  # the layer's bins are coarser than its readings
        ours = np.abs(depths - middle) <= half
        middle = _median(depths[ours], weights[ours])
    depth = math.exp(middle)
    off = np.abs(np.exp(depths[ours]) - depth)
    return Reading(depth, 1.4826 * _median(off, weights[ours]))


def _central_weights(shape: tuple[int, ...], box: np.ndarray, step: int) -> np.ndarray:
    """(h, w) weights of every `step`-th pixel, a bell about the centre of the box."""
    bells = []
    for count, start, side in ((shape[0], box[1], box[3]), (shape[1], box[0], box[2])):
        at = step // 2 + 0.5 + step * np.arange(count)
        bells.append(np.exp(-0.5 * ((at - start - side / 2) / (_CENTRAL * side)) ** 2))
    return np.outer(*bells)


def _layers(depths: np.ndarray, weights: np.ndarray, half: float) -> Iterator[tuple[float, float]]:
    """Middle (logarithm of m) and weight of each layer, the heaviest first."""
    low, bin_width = float(depths.min()), half / _BINS
    bins = ((depths - low) / bin_width).astype(int)
    masses = np.pad(np.bincount(bins, weights), _BINS)
    least = 0.01 * masses.sum()
    for _ in range(_LAYERS):
        within = np.convolve(masses, np.ones(2 * _BINS + 1), "valid")
        best = int(within.argmax())  # the layer's first bin; by index of the bins before padding, its middle
        if within[best] < least:
            return
        part = slice(best, best + 2 * _BINS + 1)
        middle = np.average(np.arange(part.start, part.stop), weights=masses[part]) - _BINS
        yield low + (float(middle) + 0.5) * bin_width, float(within[best])
        masses[part] = 0


def _median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    return float(values[order][np.searchsorted(np.cumsum(weights[order]), weights.sum() / 2)])


def locate(camera: Camera, box: np.ndarray, reading: Reading) -> Place | None:
    """The point at the centre of a box (4,) xywh px, at the depth read there; None where the lens sees nothing.

    The covariance follows from ``position = depth * ray(centre)`` to first order: the depth is off by its spread and
    by a hundredth at least, the box's centre by a twentieth of its sides.
    """
    centre = box[:2] + box[2:] / 2 - 0.5
    ray, right, below = camera.rays(centre + [[0, 0], [1, 0], [0, 1]])
    off = np.array([math.hypot(reading.spread, _DEPTH_ERROR * reading.depth), *(_BOX_ERROR * box[2:])])
    moves = np.column_stack([ray, reading.depth * (right - ray), reading.depth * (below - ray)]) * off
    if not np.isfinite(moves).all():
        return None
    size = [*(box[2:] * reading.depth / camera.focal), 2 * reading.spread]
    return Place(reading.depth * ray, moves @ moves.T, np.array(size), reading.held)
