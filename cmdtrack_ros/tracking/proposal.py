"""A box around a point that somebody clicked on: what stands out there, by colour, in any of the pictures.

GrabCut (Rother et al., "GrabCut: Interactive Foreground Extraction using Iterated Graph Cuts", SIGGRAPH 2004;
OpenCV's) cuts the object out of windows of several sizes around the point, as nobody says how large it is. Which of
the cuts is an object is told by a few numbers; their weights are our own, see `_WEIGHTS`. Measured in docs/targets.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from cmdtrack_ros.boxes import Crop, clip_box, iou
from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.tracking.colours import colours, shared

_GRID = 64  # px of a window's side as it is cut, whatever it shows
_SMALLEST, _GROWTH, _SIZES = 0.1, 1.35, 9  # sides of the windows: share of the image's shorter one, and how they grow
_SMALLEST_SIDE = 20.0  # px of the image
_BORDER = 3  # px of the window that are not the object
_ROUNDS = 3  # of GrabCut
# Ridge regression (1) of a cut's IoU with the true box on `_numbers` and agreement: the training recordings beside
# config/train/split.yaml, 6 frames each, points up to 20 % of the box off its centre.
_WEIGHTS = np.array([0.12, -0.16, -0.31, -0.53, -0.14, 0.33, 0.1, 0.27])


class _Cut(NamedTuple):
    """An object that was cut out: box (4,) xywh in the image, and what tells how likely it is one."""

    box: np.ndarray
    numbers: tuple[float, ...]


def propose(pictures: Sequence[np.ndarray], point: np.ndarray) -> np.ndarray:
    """The box of the object at a point.

    Args:
        pictures: HxWx3 uint8, of one size: the streams as the network sees them.
        point: (2,) x, y in px of them.

    Returns:
        (4,) xywh px, inside the pictures.

    Raises:
        ConfigError: a point outside of the pictures, or one at which nothing stands out.
    """
    height, width = pictures[0].shape[:2]
    if not (0 <= point[0] < width and 0 <= point[1] < height):
        raise ConfigError(f"point {list(map(float, point))}: expected one inside of the {width}x{height} image")
    sides = min(width, height) * _SMALLEST * _GROWTH ** np.arange(_SIZES)
    windows = [Crop(float(point[0]), float(point[1]), float(s), _GRID) for s in sides if s >= _SMALLEST_SIDE]
    cuts = [cut for picture in pictures for window in windows if (cut := _cut_out(picture, window))]
    if not cuts:
        raise ConfigError(
            f"point {list(map(float, point))}: nothing stands out there; click on the target's middle, or drag a box"
        )
    return clip_box(cuts[_best(cuts)].box, width, height)


def _best(cuts: list[_Cut]) -> int:
    """The cut that is most likely an object: by its numbers, and by how many others agree with it."""
    boxes = np.array([cut.box for cut in cuts])
    overlaps = np.sort(iou(boxes[:, None], boxes[None]), axis=1)[:, ::-1]
    agreement = overlaps[:, 1:3].mean(axis=1) if len(cuts) > 1 else np.zeros(1)
    table = np.column_stack([[cut.numbers for cut in cuts], agreement])
    return int(np.argmax(table @ _WEIGHTS))


def _cut_out(picture: np.ndarray, window: Crop) -> _Cut | None:
    """The object at the middle of a window; None where there is none."""
    view = window.cut(picture)
    labels = _first_guess()
    cv2.setRNGSeed(0)  # GrabCut's clusters start at random
    try:
        cv2.grabCut(view, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), _ROUNDS, cv2.GC_INIT_WITH_MASK)
    except cv2.error:  # one colour all over
        return None
    front = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    _, parts, stats, _ = cv2.connectedComponentsWithStats(front, connectivity=4)
    middle = parts[_GRID // 2, _GRID // 2]
    if middle == 0:
        return None
    x, y, w, h = (int(v) for v in stats[middle][:4])
    numbers = _numbers(view, (parts == middle).astype(np.uint8), (x, y, w, h))
    numbers += (float(np.log(window.side / 2 / np.sqrt(picture.shape[0] * picture.shape[1]))),)
    return _Cut(window.to_image(np.array([x, y, w, h], np.float64)), numbers)


def _first_guess() -> np.ndarray:
    """Labels for GrabCut: a disc of a quarter of the window is probably the object, its core surely."""
    rows, columns = np.mgrid[:_GRID, :_GRID] + 0.5 - _GRID / 2
    distance = np.hypot(rows, columns) / _GRID
    labels = np.full((_GRID, _GRID), cv2.GC_PR_BGD, np.uint8)
    labels[distance < 0.25] = cv2.GC_PR_FGD
    labels[distance < 0.06] = cv2.GC_FGD
    inner = np.zeros_like(labels, bool)
    inner[_BORDER:-_BORDER, _BORDER:-_BORDER] = True
    labels[~inner] = cv2.GC_BGD
    return labels


def _numbers(view: np.ndarray, mask: np.ndarray, box: tuple[int, int, int, int]) -> tuple[float, ...]:
    """What tells an object: edges along its outline, quiet surroundings of other colours, place, size."""
    kernel = np.ones((3, 3), np.uint8)
    grown = cv2.dilate(mask, kernel)
    outline = (grown - cv2.erode(mask, kernel)) > 0
    around = (cv2.dilate(mask, kernel, iterations=4) - grown) > 0
    lab = cv2.cvtColor(view, cv2.COLOR_RGB2LAB).astype(np.float32)
    edges = np.hypot(*(np.abs(cv2.Sobel(lab, cv2.CV_32F, dx, 1 - dx, scale=0.25)).max(2) for dx in (1, 0)))
    edge = float(np.log1p(edges[outline].mean()) - np.log1p(edges.mean()))
    spread = float(lab[around].std(0).mean()) / 30 if around.any() else 0.0
    x, y, w, h = box
    off = abs(x + w / 2 - _GRID / 2) / w, abs(y + h / 2 - _GRID / 2) / h
    return edge, spread, shared(colours(view[mask > 0]), colours(view[around])), *off, float(np.sqrt(w * h)) / _GRID
