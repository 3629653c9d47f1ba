"""The painter: boxes, the line of figures, sheets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cmdtrack_ros.drawing import (
    BACKGROUND,
    STATE_COLOURS,
    TARGET_COLOURS,
    WHITE,
    contact_sheet,
    draw_box,
    frame_picture,
    operator_picture,
    target_colours,
)
from cmdtrack_ros.errors import ImageError
from cmdtrack_ros.track import TargetState, Track

BOX = np.array([20.0, 30, 60, 40])


def drawn(box: np.ndarray = BOX, **options: int) -> np.ndarray:
    canvas = np.full((100, 120, 3), 90, np.uint8)
    draw_box(canvas, box, WHITE, **options)
    return canvas


def test_every_option_of_a_box_shows() -> None:
    def darkest(canvas: np.ndarray) -> int:
        return int(canvas.min())

    def white(canvas: np.ndarray) -> int:
        return int((canvas == 255).all(-1).sum())

    plain = drawn(rim=0)
    np.testing.assert_array_equal(plain[30, 50], WHITE)  # the upper edge, half way
    assert darkest(plain) == 90 and (plain[35:65, 25:75] == 90).all(), "no rim, and nothing inside"
    assert darkest(drawn(rim=4)) == 0 and darkest(drawn()) < 90, "a rim, which is there unless told otherwise"
    assert white(drawn(thickness=5, rim=0)) > 1.5 * white(plain)
    dashed = drawn(rim=0, dash=10)
    assert 0.3 < white(dashed) / white(plain) < 0.8
    np.testing.assert_array_equal(dashed[30, 25], WHITE)
    np.testing.assert_array_equal(dashed[30, 35], (90, 90, 90))
    assert darkest(drawn(rim=4, dash=10)) == 0


@pytest.mark.parametrize("box", [[np.nan] * 4, [20, 30, 0, 40], [0, 0, 0, 0]])
def test_where_there_is_no_box_nothing_is_drawn(box: list[float]) -> None:
    assert (drawn(np.array(box, float), dash=5) == 90).all()


def test_overlay_shows_box_and_state() -> None:
    rgb, aux = np.full((200, 300, 3), 90, np.uint8), np.full((200, 300, 3), 30, np.uint8)
    box = np.array([50.0, 60, 80, 70])
    lost = Track(box, 0.2, TargetState.LOST, 0.7, 0.3)
    picture = frame_picture(rgb, aux, lost, box + 20, 3)
    assert picture.shape[1] == 2 * 600 and picture.dtype == np.uint8  # 200 rows are enlarged by two
    top = picture.shape[0] - 400
    for left in (0, 600):  # on both panels
        np.testing.assert_array_equal(picture[top + 2 * 60, left + 2 * 100], STATE_COLOURS[TargetState.LOST])
    np.testing.assert_array_equal(picture[top + 10, 10], [90, 90, 90])
    alone = frame_picture(rgb, None, None, np.full(4, np.nan), 3)
    assert alone.shape[1] == 600
    np.testing.assert_array_equal(alone[-1, -1], [90, 90, 90])
    assert (alone[top:] == 90).all() and (alone[:top] != BACKGROUND).any(), "no answer, and it says so"


def test_operator_sees_box_and_state_on_rgb_or_else_on_aux() -> None:
    rgb, aux = np.full((480, 640, 3), 90, np.uint8), np.full((480, 640, 3), 30, np.uint8)
    track = Track(np.array([50.0, 60, 80, 70]), 0.2, TargetState.LOST, 0.7, 0.3)
    for shown, grey in (((rgb, aux), 90), ((None, aux), 30)):
        picture = operator_picture(*shown, [track])
        np.testing.assert_array_equal(picture[60, 100], STATE_COLOURS[TargetState.LOST])
        assert (picture[-1] == grey).all() and (picture[:10] != grey).any()
    idle = Track(np.zeros(4), 0.0, TargetState.IDLE)
    assert (operator_picture(rgb, aux, [idle]) == 90).all()
    assert (rgb == 90).all() and (aux == 30).all(), "what is shown is a copy"
    with pytest.raises(ImageError, match="got neither"):
        operator_picture(None, None, [track])


def test_operator_tells_several_targets_by_their_colours() -> None:
    ground = np.full((480, 640, 3), 90, np.uint8)
    names = ["1", "2", "walker"]
    tracks = [Track(np.array([50.0 + 150 * i, 60, 80, 70]), 0.5, target_id=name) for i, name in enumerate(names)]
    colours = target_colours(names)
    assert len(set(colours)) == 3 and target_colours(names[:1]) == colours[:1]
    assert len(set(target_colours([str(i) for i in range(len(TARGET_COLOURS) + 4)]))) == len(TARGET_COLOURS)
    picture = operator_picture(ground, None, tracks)
    for track, colour in zip(tracks, colours):
        x, y = track.box[:2].astype(int)
        np.testing.assert_array_equal(picture[y, x + 40], colour)
        assert (picture[y - 16 : y - 4, x : x + 30] != 90).any(), "its name"
    lost = operator_picture(ground, None, [replace(tracks[0], state=TargetState.LOST), *tracks[1:]])
    solid, dashed = ((shown[130, 50:130] == colours[0]).all(1).sum() for shown in (picture, lost))
    assert 0 < dashed < 0.8 * solid
    assert (lost != picture).any() and (ground == 90).all()


def test_contact_sheet_keeps_the_order() -> None:
    tiles = [np.full((100, 200, 3), 20 * i, np.uint8) for i in range(5)]
    sheet = contact_sheet(tiles, "five", columns=2, width=620)
    centers = [sheet[56 + (i // 2) * 155 + 72, 10 + (i % 2) * 305 + 140] for i in range(5)]
    assert [int(c[0]) for c in centers] == [0, 20, 40, 60, 80]
    np.testing.assert_array_equal(sheet[56 + 2 * 155 + 72, 10 + 305 + 140], BACKGROUND)
