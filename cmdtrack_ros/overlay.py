"""Pictures of what the tracker did: boxes over both streams, frame by frame or as one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

NO_RESULT = "DROPPED"  # shown for a frame that the tracker did not answer
TRUTH_COLOUR = (255, 255, 255)
STATE_COLOURS = {
    "TRACKING": (60, 220, 90),
    "UNCERTAIN": (255, 190, 40),
    "LOST": (240, 70, 70),
    "IDLE": (150, 150, 150),
    NO_RESULT: (150, 150, 150),
}
BACKGROUND = (24, 26, 30)
TEXT = (225, 228, 232)
DIM = (140, 146, 154)
RGB_BAR, AUX_BAR = (90, 160, 250), (250, 140, 70)
PANEL_HEIGHT = 360  # px; smaller images are enlarged to about this, so that text stays readable
FIGURES_WIDTH = 560  # px of picture width at which the line of figures has type of its plain size


@dataclass(frozen=True)
class Shown:
    """One frame's result.

    box, truth: (4,) xywh px of the RGB image, or None. state: name of a TargetState, or NO_RESULT.
    """

    index: int
    state: str
    score: float
    box: np.ndarray | None
    truth: np.ndarray | None = None
    iou: float | None = None
    weight_rgb: float = 0.0
    weight_aux: float = 0.0


def draw(rgb: np.ndarray | None, aux: np.ndarray | None, shown: Shown) -> np.ndarray:
    """Both streams side by side under a line of figures.

    rgb, aux: HxWx3 uint8 RGB pictures (aux already encoded for display), either may be None.
    Returns HxWx3 uint8 RGB; its size depends on the sizes and the number of the streams only.
    """
    panels = [_panel(picture, shown) for picture in (rgb, aux) if picture is not None]
    height = max(p.shape[0] for p in panels)
    row = np.hstack(
        [
            cv2.copyMakeBorder(p, 0, height - p.shape[0], 0, 0, cv2.BORDER_CONSTANT, value=BACKGROUND)
            for p in panels
        ]
    )
    return np.vstack([_figures(row.shape[1], shown), row])


def contact_sheet(
    pictures: Sequence[np.ndarray], title: str, columns: int = 3, width: int = 1920
) -> np.ndarray:
    """Pictures of one size in a grid of `columns`, `width` px wide, under a title: HxWx3 uint8 RGB."""
    gap = 10
    tile_width = (width - gap * (columns + 1)) // columns
    tile_height = round(pictures[0].shape[0] * tile_width / pictures[0].shape[1])
    rows = -(-len(pictures) // columns)
    sheet = np.full((56 + rows * (tile_height + gap), width, 3), BACKGROUND, np.uint8)
    end = _put(sheet, title, (gap + 4, 37), TEXT, 1.7)
    _put(sheet, "solid: tracker   dashed: truth", (max(end + 40, width - 420), 37), DIM, 1.3)
    for i, picture in enumerate(pictures):
        y, x = 56 + (i // columns) * (tile_height + gap), gap + (i % columns) * (tile_width + gap)
        interpolation = cv2.INTER_AREA if tile_width < picture.shape[1] else cv2.INTER_CUBIC
        sheet[y : y + tile_height, x : x + tile_width] = cv2.resize(
            picture, (tile_width, tile_height), interpolation=interpolation
        )
    return sheet


def _panel(picture: np.ndarray, shown: Shown) -> np.ndarray:
    scale = max(round(PANEL_HEIGHT / picture.shape[0]), 1)
    canvas = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    if shown.truth is not None and np.isfinite(shown.truth).all():
        _dashed(canvas, shown.truth * scale)
    if shown.box is not None and np.isfinite(shown.box).all():
        x, y, w, h = shown.box * scale
        corners = (round(x), round(y)), (round(x + w), round(y + h))
        # A dark rim keeps the box visible on light ground.
        cv2.rectangle(canvas, *corners, (0, 0, 0), 5, cv2.LINE_AA)
        cv2.rectangle(canvas, *corners, STATE_COLOURS[shown.state], 3, cv2.LINE_AA)
    return canvas


def _dashed(canvas: np.ndarray, box: np.ndarray, dash: int = 9) -> None:
    x, y, w, h = (round(float(v)) for v in box)
    for x0, y0, x1, y1 in (
        (x, y, x + w, y),
        (x + w, y, x + w, y + h),
        (x + w, y + h, x, y + h),
        (x, y + h, x, y),
    ):
        length = max(abs(x1 - x0), abs(y1 - y0))
        for start in range(0, length, 2 * dash):
            a, b = start / length, min(start + dash, length) / length
            ends = [(round(x0 + (x1 - x0) * t), round(y0 + (y1 - y0) * t)) for t in (a, b)]
            cv2.line(canvas, *ends, (0, 0, 0), 3, cv2.LINE_AA)
            cv2.line(canvas, *ends, TRUTH_COLOUR, 1, cv2.LINE_AA)


def _figures(width: int, shown: Shown) -> np.ndarray:
    """The line above the panels; its type grows with the width, to be readable on a reduced sheet too."""
    size = width / FIGURES_WIDTH
    bar = np.full((round(30 * size) // 2 * 2, width, 3), BACKGROUND, np.uint8)
    y = round(21 * size)
    x = _put(bar, f"{shown.index:04d}", (round(8 * size), y), DIM, size)
    x = _put(bar, shown.state, (x + round(14 * size), y), STATE_COLOURS[shown.state], size)
    x = _put(bar, f"score {shown.score:.2f}", (x + round(14 * size), y), TEXT, size)
    if shown.iou is not None and np.isfinite(shown.iou):
        x = _put(bar, f"IoU {shown.iou:.2f}", (x + round(14 * size), y), TEXT, size)
    if shown.weight_rgb + shown.weight_aux > 0:
        _weights(bar, x + round(16 * size), y, size, shown)
    return bar


def _weights(bar: np.ndarray, x: int, y: int, size: float, shown: Shown) -> None:
    """How much each stream counts, as one bar of two colours."""
    x = _put(bar, "RGB", (x, y), RGB_BAR, size) + round(6 * size)
    length, top = round(90 * size), y - round(12 * size)
    split = x + round(length * shown.weight_rgb)
    cv2.rectangle(bar, (x, top), (split, y), RGB_BAR, -1)
    cv2.rectangle(bar, (split, top), (x + length, y), AUX_BAR, -1)
    _put(bar, "AUX", (x + length + round(6 * size), y), AUX_BAR, size)


def _put(
    canvas: np.ndarray, text: str, at: tuple[int, int], colour: tuple[int, int, int], size: float
) -> int:
    """Write `text`, `size` 1 being about 12 px high; returns the x where it ends."""
    font, scale, thickness = cv2.FONT_HERSHEY_DUPLEX, 0.52 * size, max(round(1.1 * size), 1)
    cv2.putText(canvas, text, at, font, scale, colour, thickness, cv2.LINE_AA)
    return at[0] + cv2.getTextSize(text, font, scale, thickness)[0][0]
