"""Boxes and crops."""

import numpy as np
import pytest

from cmdtrack_ros.boxes import Crop, clip_box, iou, visible_fraction


def test_iou_of_known_boxes():
    a = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [np.nan, 0, 10, 10], [0, 0, 0, 10]], float)
    b = np.array([[0, 0, 10, 10], [5, 0, 10, 10], [10, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]], float)
    np.testing.assert_allclose(iou(a, b), [1, 1 / 3, 0, 0, 0])


@pytest.mark.parametrize(
    "box, expected",
    [
        ([10, 20, 30, 40], [10, 20, 30, 40]),
        ([-10, -10, 30, 40], [0, 0, 20, 30]),
        ([90, 70, 30, 40], [90, 70, 10, 10]),
        ([200, 200, 30, 40], [98, 78, 2, 2]),
    ],
)
def test_clip_box_stays_in_the_image(box, expected):
    np.testing.assert_allclose(clip_box(np.array(box, float), 100, 80), expected)


def test_visible_fraction():
    assert visible_fraction(np.array([-5.0, 0, 10, 10]), 100, 100) == pytest.approx(0.5)
    assert visible_fraction(np.array([np.nan, 0, 10, 10]), 100, 100) == 0.0
    assert visible_fraction(np.array([300.0, 0, 10, 10]), 100, 100) == 0.0


def test_crop_at_scale_one_copies_pixels_and_fills_outside():
    image = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    cut = Crop(center_x=10, center_y=30, side=40, size=40).cut(image, (1, 2, 3))
    np.testing.assert_array_equal(cut[:, 10:], image[10:50, :30])
    assert (cut[:, :9] == (1, 2, 3)).all()


@pytest.mark.parametrize("side", [16, 64, 200])
def test_crop_puts_content_where_to_crop_says(side):
    """A bright block appears in the crop at the place the geometry gives, enlarged or shrunk."""
    image = np.zeros((300, 300, 3), np.uint8)
    box = np.array([140.0, 120, 12, 20])
    image[120:140, 140:152] = 255
    crop = Crop(center_x=146, center_y=130, side=side, size=64)
    cut = crop.cut(image, (0, 0, 0))[..., 0].astype(float)
    rows, columns = np.indices(cut.shape)
    center = np.array([(columns * cut).sum(), (rows * cut).sum()]) / cut.sum() + 0.5
    x, y, w, h = crop.to_crop(box)
    if side >= 64:
        # Shrunk crops are cut at whole pixels of the image.
        np.testing.assert_allclose(center, [x + w / 2, y + h / 2], atol=max(0.5 * crop.scale, 0.1))
        assert cut.sum() / 255 == pytest.approx(w * h, rel=0.1)
    else:
        assert (cut[12:-12, 12:-12] == 255).all()


def test_crop_maps_boxes_back():
    crop = Crop.around(np.array([30.0, 40, 20, 10]), factor=4, size=256)
    boxes = np.array([[31.5, 42, 18, 9], [0, 0, 5, 5]])
    np.testing.assert_allclose(crop.to_image(crop.to_crop(boxes)), boxes)


def test_crop_entirely_outside_is_filled():
    cut = Crop(center_x=-500, center_y=-500, side=200, size=32).cut(np.full((50, 50, 3), 9, np.uint8), (7, 7, 7))
    assert (cut == 7).all()
