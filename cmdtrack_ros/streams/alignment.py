"""How an auxiliary image lies on the RGB image, told from the images themselves: without a checkerboard.

Sensors of different kinds agree in little but where edges are and how they run. So each image becomes a field of
squared gradients, one complex number a pixel: of twice the edge's angle, which forgets which side is the bright one,
and of a length that saturates, so that many faint edges outvote a strong one. Two fields are compared by the sum of
their products; over many frames the sums add up, and what both cameras see by chance does not.

Squared gradients: Bigun and Granlund, "Optimal Orientation Detection of Linear Symmetry", ICCV 1987. Comparing
orientations by correlation: Fitch et al., "Orientation Correlation", BMVC 2002. The rest is our choice.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from cmdtrack_ros.errors import ImageError
from cmdtrack_ros.modalities import Modality

Pairs = Sequence[tuple[np.ndarray, np.ndarray]]
"""RGB images HxWx3 uint8, all of one size, each with the auxiliary image of its moment, likewise."""

_COARSE = 96  # px, width at which the whole range is searched
_FINEST = 384
_SCALES = np.geomspace(0.4, 2.5, 23)  # of the auxiliary image's width on the RGB image's: 9 % apart
_TURNS = np.arange(-12.0, 12.1, 4.0)  # degrees
_SEARCHED = 8  # frames of each half; the refinement takes all
_LEAST_OVERLAP = 0.15  # of what the best place has
_TOLERATED = 0.025  # of the RGB image's width; halves that differ by more found different things
_CLEAR = 8.0  # deviations of a correlation above its mean from which a peak is no chance: chance reaches 5
_CLEAR_ENOUGH = 5.0  # the same for each half by itself, which is believed only where the other finds it, too
_BLOCKS = (6, 8)  # rows and columns that are looked at by themselves
_REACH = 5  # px that a block is looked for around its place, at any width
_MIN_BLOCKS = 4
# How far a step may go, in half widths: shift, size and turn; pixels of cameras are square and cameras look nearly the
# same way, so stretch, shear and perspective are small.
_PRIOR = np.array([0.1, 0.1, 0.05, 0.05, 0.005, 0.005, 0.004, 0.004])


_WATCHED = 160  # px, width at which a registration is watched
_WINDOW = 24  # px of that, how far off it is looked for
_LOOKS = 5  # that a verdict is from
_NOTHING_LIKE = 1.3  # by which another place must beat the present one: repeated things look alike at several
_REMEDY = "Record a scene with edges that both cameras see, while the robot moves"


class NoAgreementError(ImageError):
    """Two streams in which nothing was found that both show."""


@dataclass(frozen=True)
class Alignment:
    """Where the auxiliary image lies.

    Attributes:
        homography: (3, 3) from pixels of the auxiliary image to pixels of the RGB image, centres at whole numbers.
        residual: px of the RGB image, median over the parts of the image that could be looked at by themselves.
        halves: px, mean over the RGB image's corners: by how much the first and the second half of the frames differ,
            each registered from scratch.
        blocks: how many of the 48 parts could be looked at.
        clearness: deviations by which the match stands out of all other places, in the half in which it does so less.
    """

    homography: np.ndarray
    residual: float
    halves: float
    blocks: int
    clearness: float


def structure(image: np.ndarray, modality: Modality | str) -> np.ndarray:
    """What of a sensor's image is compared: HxW float32, in a scale of its own.

    Thermal and RGB: the brightness. Depth: its inverse, in which near edges are strong. Events: how many there are.
    """
    modality = Modality(modality)
    values = image.astype(np.float32)
    if modality is Modality.EVENT:
        return np.abs(values - 128) if image.ndim == 2 else 255 - values.min(axis=2)
    if image.ndim == 3:
        return values.mean(axis=2)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    if modality is not Modality.DEPTH:
        return values
    scale = float(np.median(values[values > 0])) if (values > 0).any() else 1.0
    return np.divide(scale, values, out=np.zeros_like(values), where=values > 0)


def edge_field(picture: np.ndarray, seen: np.ndarray | None = None) -> np.ndarray:
    """Squared gradients of HxW float32 as complex64, at most about 1 long, without what all of a region shares.

    seen: HxW bool, False where the picture shows nothing; edges touching that do not count.
    """
    smooth = cv2.GaussianBlur(picture, (0, 0), 1.0)
    dx, dy = cv2.Scharr(smooth, cv2.CV_32F, 1, 0), cv2.Scharr(smooth, cv2.CV_32F, 0, 1)
    length = cv2.magnitude(dx, dy)
    border = np.zeros(picture.shape, np.uint8)
    border[3:-3, 3:-3] = 1
    if seen is not None:
        border &= cv2.erode(seen.astype(np.uint8), np.ones((7, 7), np.uint8), borderValue=0)
    weight = border / ((length + length.mean() + 1e-6) * (length + 1e-6))
    parts = [(dx * dx - dy * dy) * weight, 2 * dx * dy * weight]
    real, imaginary = (part - border * cv2.GaussianBlur(part, (0, 0), 10) for part in parts)
    return (real + 1j * imaginary).astype(np.complex64)


def at_width(picture: np.ndarray, width: int) -> np.ndarray:
    """HxW float32 reduced or enlarged to a width, its aspect kept."""
    height = max(round(picture.shape[0] * width / picture.shape[1]), 16)
    smaller = width < picture.shape[1]
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)


def align(pairs: Pairs, modality: Modality | str) -> Alignment:
    """Find the homography that lays the auxiliary images on the RGB images.

    Searched: sizes of 0.4 to 2.5 times the RGB image's width, turns up to 12.5 degrees, any shift that leaves them an
    overlap; from there all eight numbers of the homography are refined.

    The first and the second half of the frames are registered from scratch, and neither knows of the other: only what
    both find is believed, and refined with all frames.

    Raises:
        NoAgreementError: nothing stands out, or the halves say different things.
        ImageError: fewer than two pairs.
    """
    if len(pairs) < 2:
        raise ImageError(f"registration: expected two or more pairs of images, got {len(pairs)}")
    seen = [(structure(rgb, Modality.RGB), structure(aux, modality)) for rgb, aux in pairs]
    size, middle = seen[0][0].shape, len(seen) // 2
    found = []
    for half in (seen[:middle], seen[middle:]):
        start, clearness = _search(half[:: -(-len(half) // _SEARCHED)])
        found.append((_refine(half, start)[0], clearness))
    (first, clear), (second, also_clear) = found
    halves = corner_error(first, second, size)
    if halves > _TOLERATED * size[1]:
        raise NoAgreementError(
            f"nothing certain was found: two halves of the recording put the image's corners {halves:.0f} px apart "
            f"(expected at most {_TOLERATED * size[1]:.0f}). {_REMEDY}"
        )
    homography, residual, blocks = _refine(seen, first)
    return Alignment(homography / homography[2, 2], residual, halves, blocks, min(clear, also_clear))


# The coarse search.


@dataclass
class _Peak:
    """The best place so far: its height, how it stands out, and what it means."""

    height: float = -math.inf
    clearness: float = 0.0
    homography: np.ndarray | None = None


def _search(seen: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, float]:
    """Size, turn and shift as a homography, and how clear it is; errors as of `align`."""
    rgb_width, aux_width = seen[0][0].shape[1], seen[0][1].shape[1]
    best = _Peak()
    for size in _SCALES:
        widths = (_COARSE, round(_COARSE * size)) if size <= 1 else (round(_COARSE / size), _COARSE)
        fields = [(edge_field(at_width(a, widths[0])), edge_field(at_width(b, widths[1]))) for a, b in seen]
        for turn, surface in _surfaces(fields):
            row, column = map(int, np.unravel_index(int(surface.argmax()), surface.shape))
            if (height := float(surface[row, column])) > best.height:
                to_fields = _scaling(widths[1] / aux_width)
                placed = _shift(*_wrapped(row, column, fields[0][0].shape, surface.shape)) @ _turning(
                    turn, fields[0][1].shape
                )
                found = np.linalg.inv(_scaling(widths[0] / rgb_width)) @ placed @ to_fields
                best = _Peak(height, (height - surface.mean()) / surface.std(), found)
    if best.homography is None or best.clearness < _CLEAR_ENOUGH:
        raise NoAgreementError(
            f"nothing was found that both cameras show: in one half of the recording the best match stands "
            f"{best.clearness:.1f} deviations out of all others (expected {_CLEAR_ENOUGH:g}). {_REMEDY}"
        )
    return best.homography, best.clearness


def _surfaces(fields: list[tuple[np.ndarray, np.ndarray]]) -> Iterator[tuple[float, np.ndarray]]:
    """For each turn, the agreement at every shift (cyclic), of all frames.

    Unit: deviations of what edges that run at random would give.
    """
    (height, width), (aux_height, aux_width) = fields[0][0].shape, fields[0][1].shape
    shape = (cv2.getOptimalDFTSize(height + aux_height), cv2.getOptimalDFTSize(width + aux_width))
    spectra = [_transform(rgb, shape) for rgb, _ in fields]
    rgb_energy = _transform(sum(np.abs(rgb) ** 2 for rgb, _ in fields), shape)
    for turn in _TURNS:
        matrix = _turning(float(turn), (aux_height, aux_width))[:2]
        phase = np.exp(2j * math.radians(turn)).astype(np.complex64)
        turned = [_warped(aux, matrix) * phase for _, aux in fields]
        product = sum(spectrum * np.conj(_transform(aux, shape)) for spectrum, aux in zip(spectra, turned))
        energy = np.conj(_transform(sum(np.abs(aux) ** 2 for aux in turned) / len(fields), shape))
        chance = np.fft.ifft2(rgb_energy * energy).real
        chance = np.maximum(chance, _LEAST_OVERLAP * chance.max())
        yield float(turn), np.fft.ifft2(product).real / np.sqrt(chance / 2)


def _transform(field: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return np.fft.fft2(field, shape)


def _warped(field: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    size = field.shape[::-1]
    two = cv2.warpAffine(field.view(np.float32).reshape(*field.shape, 2), matrix, size)
    return np.ascontiguousarray(two).view(np.complex64)[..., 0]


def _turning(turn: float, shape: tuple[int, int]) -> np.ndarray:
    """A turn of an image about its centre, from x to y by degrees (clockwise on the screen), (3, 3)."""
    center = (shape[1] - 1) / 2, (shape[0] - 1) / 2
    return np.vstack([cv2.getRotationMatrix2D(center, -turn, 1.0), (0, 0, 1)])


def _wrapped(row: int, column: int, rgb_shape: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, int]:
    """Shift in x and y that a place in a cyclic correlation of this shape stands for: at most the RGB image's sides."""
    x, y = (int(i if i < n else i - cycle) for i, n, cycle in zip((column, row), rgb_shape[::-1], shape[::-1]))
    return x, y


def _shift(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def _scaling(factor: float) -> np.ndarray:
    """An image's pixels at another size: a pixel's centre lies at its index, hence half a pixel of offset."""
    offset = (factor - 1) / 2
    return np.array([[factor, 0, offset], [0, factor, offset], [0, 0, 1.0]])


def corner_error(first: np.ndarray, second: np.ndarray, rgb_shape: tuple[int, ...]) -> float:
    """Mean distance in px by which two homographies put the same things at the four corners of the RGB image."""
    height, width = rgb_shape[:2]
    corners = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], np.float64)
    moved = transformed(first @ np.linalg.inv(second), corners)
    return float(np.linalg.norm(moved - corners, axis=1).mean())


def transformed(homography: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (n, 2) under a homography (3, 3)."""
    return cv2.perspectiveTransform(points.reshape(-1, 1, 2), homography).reshape(-1, 2)


# The refinement.


def _refine(seen: list[tuple[np.ndarray, np.ndarray]], start: np.ndarray) -> tuple[np.ndarray, float, int]:
    """All eight numbers, from a place that is right to some pixels at the coarse width; residual and blocks as of
    `Alignment`; errors as of `align`."""
    width = seen[0][0].shape[1]
    homography, widest = start, min(width, _FINEST)
    for level in dict.fromkeys(min(width, widest) for width in (_COARSE, 2 * _COARSE, 4 * _COARSE, widest)):
        for _ in range(2):
            homography = _step(seen, homography, level)[0]
    _, residual, blocks = _step(seen, homography, widest)
    if blocks < _MIN_BLOCKS:
        raise NoAgreementError(
            f"nothing certain was found: {blocks} of {math.prod(_BLOCKS)} parts of the image agree in both cameras "
            f"(expected {_MIN_BLOCKS}). {_REMEDY}"
        )
    return homography, residual, blocks


def _step(
    seen: list[tuple[np.ndarray, np.ndarray]], homography: np.ndarray, level: int
) -> tuple[np.ndarray, float, int]:
    """A better homography, the median px by which blocks were off before, and how many could be told."""
    rgb_scale = level / seen[0][0].shape[1]
    place = _scaling(rgb_scale) @ homography
    volume, chance = _volumes(seen, place, level)
    points, shifts, sharpness = _block_shifts(volume, chance, seen[0][0].shape, rgb_scale)
    if len(points) < _MIN_BLOCKS:
        return homography, math.nan, len(points)
    height, width = seen[0][0].shape
    half, centre = width / 2, np.array([width - 1, height - 1]) / 2
    correction = _fit((points - centre) / half, shifts / half, sharpness, 1 / (rgb_scale * half))
    normal = np.array([[1 / half, 0, -centre[0] / half], [0, 1 / half, -centre[1] / half], [0, 0, 1]])
    better = np.linalg.inv(normal) @ correction @ normal @ homography
    # Along an edge nothing can be told: only what moves the agreement counts.
    along = np.einsum("ni,nij,nj->n", shifts, sharpness, shifts) / np.trace(sharpness, axis1=1, axis2=2)
    return better, float(np.median(np.sqrt(2 * along))), len(points)


def _volumes(seen: list[tuple[np.ndarray, np.ndarray]], place: np.ndarray, level: int) -> tuple[np.ndarray, np.ndarray]:
    """Agreement of each block at each shift, summed over the frames: (rows, columns, n, n), and what chance gives."""
    span = 2 * _REACH + 1
    volume, chance = np.zeros((*_BLOCKS, span, span)), np.zeros(_BLOCKS)
    everything = np.ones(seen[0][1].shape, np.uint8)
    for rgb, aux in seen:
        field = edge_field(at_width(rgb, level))
        size = field.shape[::-1]
        shown = cv2.warpPerspective(everything, place, size, flags=cv2.INTER_NEAREST) > 0
        moved = edge_field(cv2.warpPerspective(_prefiltered(aux, place), place, size), shown)
        # As pairs of real numbers, whose products OpenCV sums up fast.
        still, padded = (_as_pairs(part) for part in (field, np.pad(moved, _REACH)))
        for i, j in itertools.product(range(span), repeat=2):
            there = padded[i : i + size[1], 2 * j : 2 * (j + size[0])]
            volume[..., i, j] += _by_block(cv2.multiply(still, there))
        chance += _by_block(np.abs(field * moved) ** 2) / 2
    return volume, chance


def _as_pairs(field: np.ndarray) -> np.ndarray:
    """HxW complex64 as Hx2W float32, real and imaginary parts side by side."""
    return np.ascontiguousarray(field).view(np.float32)


def _prefiltered(aux: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Blurred as much as the reduction needs."""
    scale = math.sqrt(abs(np.linalg.det(place[:2, :2])))
    return aux if scale > 0.7 else cv2.GaussianBlur(aux, (0, 0), min(0.5 / max(scale, 0.05), 10.0))


def _by_block(values: np.ndarray) -> np.ndarray:
    """Sums of HxW over `_BLOCKS`."""
    edges = [np.arange(n) * size // n for n, size in zip(_BLOCKS, values.shape)]
    return np.add.reduceat(np.add.reduceat(values, edges[0], axis=0), edges[1], axis=1)


def _block_shifts(
    volume: np.ndarray, chance: np.ndarray, rgb_shape: tuple[int, ...], rgb_scale: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blocks that could be told: their centres (n, 2), by how much the auxiliary image is to be moved there, both in px
    of the RGB image, and how sharply the agreement falls off around that, (n, 2, 2): along an edge it does not."""
    points, shifts, sharpness = [], [], []
    for row, column in itertools.product(range(_BLOCKS[0]), range(_BLOCKS[1])):
        surface, deviation = volume[row, column], math.sqrt(chance[row, column])
        peak = np.unravel_index(int(surface.argmax()), surface.shape)
        if not _inside(peak, surface.shape):
            continue
        if surface[peak] <= _CLEAR * deviation or deviation < 1e-6:
            continue
        shift, curvature = _summit(surface, peak)
        # The moved field was read from that far ahead: it has to go back by that.
        shifts.append((_REACH - shift) / rgb_scale)
        centre = (np.array([column, row]) + 0.5) * np.array(rgb_shape[1::-1]) / np.array(_BLOCKS[::-1])
        points.append(centre - 0.5)
        sharpness.append(curvature / deviation + 1e-6 * np.eye(2))
    return np.array(points).reshape(-1, 2), np.array(shifts).reshape(-1, 2), np.array(sharpness).reshape(-1, 2, 2)


def _inside(place: tuple[np.intp, ...], shape: tuple[int, ...]) -> bool:
    return all(0 < i < n - 1 for i, n in zip(place, shape))


def _summit(surface: np.ndarray, peak: tuple[np.intp, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Where a surface is highest near a peak inside of it, x and y, and how it curves down there, (2, 2) for x, y."""
    row, column = (int(i) for i in peak)
    near = surface[row - 1 : row + 2, column - 1 : column + 2]
    slope = np.array([near[1, 2] - near[1, 0], near[2, 1] - near[0, 1]]) / 2
    mixed = (near[2, 2] + near[0, 0] - near[0, 2] - near[2, 0]) / 4
    bend = np.array(
        [[2 * near[1, 1] - near[1, 2] - near[1, 0], -mixed], [-mixed, 2 * near[1, 1] - near[2, 1] - near[0, 1]]]
    )
    values, vectors = np.linalg.eigh(bend)
    bend = vectors @ np.diag(np.maximum(values, 0)) @ vectors.T
    offset = np.linalg.solve(bend + 1e-3 * (np.trace(bend) + 1e-9) * np.eye(2), slope)
    return np.array([column, row]) + np.clip(offset, -0.7, 0.7), bend


def _fit(points: np.ndarray, shifts: np.ndarray, sharpness: np.ndarray, unit: float) -> np.ndarray:
    """The homography (3, 3) near to none that moves points (n, 2) by shifts, robustly.

    All in half widths about the image's middle. sharpness: (n, 2, 2). unit: a pixel of what was compared.
    """
    x, y = points.T
    one, nil = np.ones_like(x), np.zeros_like(x)
    # (n, 2, 8): what each of the numbers moves at each of the points.
    moves = np.stack(
        [np.stack([one, nil, x, -y, x, y, x * x, x * y], 1), np.stack([nil, one, y, x, -y, x, x * y, y * y], 1)], 1
    )
    information = sharpness / unit**2
    strength = np.ones(len(x))
    for _ in range(10):
        weighted = np.einsum("n,nij,njk->nik", strength, information, moves)
        normal = np.einsum("nji,njk->ik", moves, weighted) + np.diag(1 / _PRIOR**2)
        p = np.linalg.solve(normal, np.einsum("nji,nj->i", weighted, shifts))
        off = moves @ p - shifts
        # Distance in pixels, of which those along an edge do not count.
        strain = np.einsum("ni,nij,nj->n", off, sharpness, off) / np.trace(sharpness, axis1=1, axis2=2)
        strength = 1 / (1 + strain / unit**2) ** 2  # Geman and McClure
    x, y, size, turn, stretch, shear, along, across = p.tolist()
    return np.array(
        [[1 + size + stretch, shear - turn, x], [shear + turn, 1 + size - stretch, y], [-along, -across, 1]]
    )


class ResidualWatch:
    """By how much registered images are off, look after look, cheaply: a shift at low resolution.

    The whole image is looked at, and each quarter of it, so that a camera that was turned is noticed, too.
    """

    def __init__(self) -> None:
        self._looks: deque[list[np.ndarray]] = deque(maxlen=_LOOKS)

    def reset(self) -> None:
        """Forget what was seen, as when images are registered in another way."""
        self._looks.clear()

    def look(self, rgb: np.ndarray, aux: np.ndarray, modality: Modality | str) -> float:
        """The shift in px of the RGB image, over the last five looks; NaN while there are fewer, and where nothing
        stands out: a night without texture tells nothing.

        Args:
            rgb: HxWx3 uint8.
            aux: the sensor's own array, registered, of the same height and width.
        """
        first, second = (
            edge_field(at_width(structure(image, kind), _WATCHED)) for image, kind in ((rgb, "rgb"), (aux, modality))
        )
        if self._looks and self._looks[0][0].shape != first.shape:
            self.reset()
        other = np.conj(np.fft.fft2(second))
        self._looks.append([np.fft.ifft2(np.fft.fft2(part) * other).real for part in _parts(first)])
        if len(self._looks) < _LOOKS:
            return math.nan
        shifts = [_sure_shift(np.sum([look[i] for look in self._looks], axis=0)) for i in range(len(self._looks[0]))]
        sure = [shift for shift in shifts if shift is not None]
        if not sure:
            return math.nan
        return float(np.median([math.hypot(*shift) for shift in sure])) * rgb.shape[1] / _WATCHED


def _parts(field: np.ndarray) -> Iterator[np.ndarray]:
    """The field, and with all but each of its quarters left out."""
    yield field
    height, width = (side // 2 for side in field.shape)
    for rows, columns in itertools.product(
        (slice(0, height), slice(height, None)), (slice(0, width), slice(width, None))
    ):
        part = np.zeros_like(field)
        part[rows, columns] = field[rows, columns]
        yield part


def _sure_shift(surface: np.ndarray) -> tuple[float, float] | None:
    """Where a cyclic correlation stands out, px in x and y; None where it does not."""
    near = np.roll(surface, (_WINDOW, _WINDOW), (0, 1))[: 2 * _WINDOW + 1, : 2 * _WINDOW + 1]
    peak = np.unravel_index(int(near.argmax()), near.shape)
    if not _inside(peak, near.shape) or near[peak] - surface.mean() < _CLEAR * surface.std():
        return None
    here = near[_WINDOW - 1 : _WINDOW + 2, _WINDOW - 1 : _WINDOW + 2]
    if near[peak] < _NOTHING_LIKE * here.max():
        place = np.unravel_index(int(here.argmax()), here.shape)
        peak = (place[0] + _WINDOW - 1, place[1] + _WINDOW - 1)
    x, y = _summit(near, peak)[0] - _WINDOW
    return float(x), float(y)
