"""Boxes, labels and weight bars on pictures: the only painter. Pictures are HxWx3 uint8 RGB."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from cmdtrack_ros.boxes import iou, visible
from cmdtrack_ros.errors import ImageError
from cmdtrack_ros.track import TargetState, Track

Colour = tuple[int, int, int]

WHITE, BLACK, GREY = (255, 255, 255), (0, 0, 0), (150, 150, 150)
TRUTH_COLOUR = WHITE
STATE_COLOURS: dict[TargetState, Colour] = {
    TargetState.TRACKING: (60, 220, 90),
    TargetState.UNCERTAIN: (255, 190, 40),
    TargetState.LOST: (240, 70, 70),
    TargetState.IDLE: GREY,
}
TARGET_COLOURS: tuple[Colour, ...] = (
    (0, 200, 255),
    (255, 100, 220),
    (255, 215, 0),
    (120, 140, 255),
    (90, 255, 170),
    (255, 140, 60),
    (190, 90, 255),
    (160, 220, 40),
    (255, 110, 110),
    (60, 220, 200),
    (230, 190, 255),
    (210, 160, 110),
)
"""Of several targets in one picture, by their names."""
NO_RESULT = "DROPPED"  # shown for a frame that the tracker did not answer
BACKGROUND, TEXT, DIM = (24, 26, 30), (225, 228, 232), (140, 146, 154)
RGB_BAR, AUX_BAR = (90, 160, 250), (250, 140, 70)
PANEL_HEIGHT = 360  # px; smaller images are enlarged to about this, so that text stays readable
LABEL_HEIGHT = 26  # px of the strip under a label
FIGURES_WIDTH = 560  # px of picture width at which the line of figures has type of its plain size


def draw_box(
    canvas: np.ndarray, box: np.ndarray, colour: Colour, thickness: int = 2, *, rim: int = 2, dash: int = 0
) -> None:
    """Draw a box (4,) xywh px in place; nothing where there is none.

    thickness: px. rim: px of a dark edge on both sides together, which keeps the box visible on light ground.
    dash: length of dashes in px, 0 = a solid line.
    """
    if not visible(box):
        return
    x, y, w, h = box
    left, top, right, bottom = (round(float(v)) for v in (x, y, x + w, y + h))
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    strokes = [(BLACK, thickness + rim), (colour, thickness)] if rim else [(colour, thickness)]
    for ink, width in strokes:
        if not dash:
            cv2.rectangle(canvas, (left, top), (right, bottom), ink, width)  # upright edges need no smoothing
            continue
        for start, end in zip(corners, np.roll(corners, -1, axis=0)):
            for piece in _dashes(start, end, dash):
                cv2.line(canvas, *piece, ink, width, cv2.LINE_AA)


def _dashes(start: np.ndarray, end: np.ndarray, dash: int) -> Iterator[list[list[int]]]:
    length = int(np.abs(end - start).max())
    for begin in range(0, length, 2 * dash):
        a, b = begin / length, min(begin + dash, length) / length
        yield [np.round(start + (end - start) * share).astype(int).tolist() for share in (a, b)]


def draw_text(canvas: np.ndarray, text: str, at: tuple[int, int], colour: Colour, size: float = 1.0) -> int:
    """Write in place from the lower left corner `at`, size 1 about 12 px high; returns the x of its end."""
    font, scale, thickness = cv2.FONT_HERSHEY_DUPLEX, 0.52 * size, max(round(1.1 * size), 1)
    cv2.putText(canvas, text, at, font, scale, colour, thickness, cv2.LINE_AA)
    return at[0] + cv2.getTextSize(text, font, scale, thickness)[0][0]


def operator_picture(rgb: np.ndarray | None, aux: np.ndarray | None, tracks: Sequence[Track]) -> np.ndarray:
    """What an operator watches: boxes and states on the RGB picture, or on the aux one without RGB.

    A target alone has its state's colour, and figures above; several have a colour each, and name, state and score at
    their boxes, which are dashed while LOST.
    """
    shown = aux if rgb is None else rgb
    if shown is None:
        raise ImageError("expected an RGB or an aux picture to draw on, got neither")
    image = shown.copy()
    unit = max(image.shape[0] / 480, 0.5)
    targets = [track for track in tracks if track.state is not TargetState.IDLE]
    if len(targets) > 1:
        for track, colour in zip(targets, target_colours([track.target_id for track in targets])):
            _draw_target(image, track, colour, unit)
        return image
    for track in targets:
        draw_box(image, track.box, STATE_COLOURS[track.state], max(round(2 * unit), 1))
        bar = _figures(image.shape[1], track, None, "")
        top = image[: bar.shape[0]]
        top[:] = cv2.addWeighted(top, 0.3, bar[: top.shape[0]], 0.7, 0)
    return image


def target_colours(names: Sequence[str]) -> list[Colour]:
    """A colour for each name, oldest target first: the same in every picture, unless an older one has it."""
    taken: list[int] = []
    for name in names:
        first = zlib.crc32(name.encode())
        places = [(first + i) % len(TARGET_COLOURS) for i in range(len(TARGET_COLOURS))]
        taken.append(next((place for place in places if place not in taken), places[0]))
    return [TARGET_COLOURS[place] for place in taken]


def _draw_target(image: np.ndarray, track: Track, colour: Colour, unit: float) -> None:
    dash = round(9 * unit) if track.state is TargetState.LOST else 0
    draw_box(image, track.box, colour, max(round(2 * unit), 1), dash=dash)
    x, top = round(float(track.box[0])), round(float(track.box[1] - 6 * unit))
    if top < round(14 * unit):  # no room above: below
        top = round(float(track.box[1] + track.box[3] + 16 * unit))
    for text, ink in (
        (track.target_id, colour),
        (track.state.name, STATE_COLOURS[track.state]),
        (f"{track.score:.2f}", TEXT),
    ):
        x = _draw_rimmed(image, text, (x, top), ink, unit) + round(6 * unit)


def _draw_rimmed(image: np.ndarray, text: str, at: tuple[int, int], colour: Colour, size: float) -> int:
    """As :func:`draw_text`, readable on any ground."""
    for offset in (-1, 1):
        draw_text(image, text, (at[0] + offset, at[1] + offset), BLACK, size)
    return draw_text(image, text, at, colour, size)


def labelled_picture(picture: np.ndarray, text: str) -> np.ndarray:
    """A copy of an HxWx3 picture with a text on a dark strip at its lower edge."""
    canvas = picture.copy()
    if text:
        strip = canvas[-LABEL_HEIGHT:]
        strip //= 3
        draw_text(canvas, text, (8, canvas.shape[0] - 8), WHITE)
    return canvas


def frame_picture(
    rgb: np.ndarray | None, aux: np.ndarray | None, track: Track | None, truth: np.ndarray, index: int
) -> np.ndarray:
    """Both streams side by side under a line of figures.

    track: None for a frame without an answer. truth: (4,) xywh px, NaN where it is not known. index: of the
    frame. The picture's size depends on the sizes and the number of the streams only.
    """
    panels = [_panel(picture, track, truth) for picture in (rgb, aux) if picture is not None]
    height = max(p.shape[0] for p in panels)
    row = np.hstack(
        [cv2.copyMakeBorder(p, 0, height - p.shape[0], 0, 0, cv2.BORDER_CONSTANT, value=BACKGROUND) for p in panels]
    )
    return np.vstack([_figures(row.shape[1], track, truth, f"{index:04d}"), row])


def contact_sheet(
    pictures: Sequence[np.ndarray],
    title: str,
    columns: int = 3,
    width: int = 1920,
    legend: str = "solid: tracker   dashed: truth",
) -> np.ndarray:
    """Pictures of one size in a grid of `columns`, `width` px wide, under a title and what the lines mean."""
    gap = 10
    tile_width = (width - gap * (columns + 1)) // columns
    tile_height = round(pictures[0].shape[0] * tile_width / pictures[0].shape[1])
    rows = -(-len(pictures) // columns)
    sheet = np.full((56 + rows * (tile_height + gap), width, 3), BACKGROUND, np.uint8)
    end = draw_text(sheet, title, (gap + 4, 37), TEXT, 1.7)
    draw_text(sheet, legend, (max(end + 40, width - 420), 37), DIM, 1.3)
    for i, picture in enumerate(pictures):
        y, x = 56 + (i // columns) * (tile_height + gap), gap + (i % columns) * (tile_width + gap)
        interpolation = cv2.INTER_AREA if tile_width < picture.shape[1] else cv2.INTER_CUBIC
        sheet[y : y + tile_height, x : x + tile_width] = cv2.resize(
            picture, (tile_width, tile_height), interpolation=interpolation
        )
    return sheet


def edges_over(rgb: np.ndarray, aux: np.ndarray) -> np.ndarray:
    """The edges of a registered aux picture in red over the RGB picture, greyed: both HxWx3 uint8 of one size."""
    grey = cv2.GaussianBlur(cv2.cvtColor(aux, cv2.COLOR_RGB2GRAY), (0, 0), 1.2).astype(np.float32)
    strength = cv2.magnitude(cv2.Scharr(grey, cv2.CV_32F, 1, 0), cv2.Scharr(grey, cv2.CV_32F, 0, 1))
    share = np.clip(strength / max(float(np.percentile(strength, 95)), 1e-6), 0, 1)[..., None]
    ground = cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return (ground * (1 - share) + share * np.array((255, 60, 40))).astype(np.uint8)


def side_by_side(pictures: Sequence[np.ndarray], titles: Sequence[str]) -> np.ndarray:
    """Pictures of one size in a row, each under its title."""
    size = pictures[0].shape[1] / FIGURES_WIDTH
    columns = []
    for picture, title in zip(pictures, titles):
        bar = np.full((round(30 * size), picture.shape[1], 3), BACKGROUND, np.uint8)
        draw_text(bar, title, (round(8 * size), round(21 * size)), TEXT, size)
        columns.append(np.vstack([bar, picture]))
    return np.hstack(columns)


def _panel(picture: np.ndarray, track: Track | None, truth: np.ndarray) -> np.ndarray:
    scale = max(round(PANEL_HEIGHT / picture.shape[0]), 1)
    canvas = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    draw_box(canvas, truth * scale, TRUTH_COLOUR, 1, dash=9)
    if track is not None:
        draw_box(canvas, track.box * scale, STATE_COLOURS[track.state], 3)
    return canvas


def _figures(width: int, track: Track | None, truth: np.ndarray | None, label: str) -> np.ndarray:
    """The line above the panels; its type grows with the width, to be readable on a reduced sheet too."""
    size = width / FIGURES_WIDTH
    bar = np.full((round(30 * size) // 2 * 2, width, 3), BACKGROUND, np.uint8)
    x, y, gap = round(8 * size), round(21 * size), round(14 * size)
    if label:
        x = draw_text(bar, label, (x, y), DIM, size) + gap
    if track is None:
        draw_text(bar, NO_RESULT, (x, y), GREY, size)
        return bar
    x = draw_text(bar, track.state.name, (x, y), STATE_COLOURS[track.state], size) + gap
    x = draw_text(bar, f"score {track.score:.2f}", (x, y), TEXT, size) + gap
    if truth is not None and visible(truth):
        x = draw_text(bar, f"IoU {iou(track.box, truth):.2f}", (x, y), TEXT, size) + gap
    if track.weight_rgb + track.weight_aux > 0:
        _draw_weights(bar, x, y, size, track)
    return bar


def _draw_weights(bar: np.ndarray, x: int, y: int, size: float, track: Track) -> None:
    """How much each stream counts, as one bar of two colours."""
    x = draw_text(bar, "RGB", (x, y), RGB_BAR, size) + round(6 * size)
    length, top = round(90 * size), y - round(12 * size)
    split = x + round(length * track.weight_rgb)
    cv2.rectangle(bar, (x, top), (split, y), RGB_BAR, -1)
    cv2.rectangle(bar, (split, top), (x + length, y), AUX_BAR, -1)
    draw_text(bar, "AUX", (x + length + round(6 * size), y), AUX_BAR, size)
