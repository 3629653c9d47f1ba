"""Boxes and crops."""

import cv2
import numpy as np
import pytest

from cmdtrack_ros.boxes import Crop, clip_box, iou, mean_colour, visible_fraction
from cmdtrack_ros.modalities import AuxEncoder


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
    cut = Crop(center_x=10, center_y=30, side=40, size=40).cut(image)
    np.testing.assert_array_equal(cut[:, 10:], image[10:50, :30])
    assert (cut[:, :9] == mean_colour(image[::8, ::8])).all()


@pytest.mark.parametrize("side", [16, 64, 200])
def test_crop_puts_content_where_to_crop_says(side):
    """A bright block appears in the crop at the place the geometry gives, enlarged or shrunk."""
    image = np.zeros((300, 300, 3), np.uint8)
    box = np.array([140.0, 120, 12, 20])
    image[120:140, 140:152] = 255
    crop = Crop(center_x=146, center_y=130, side=side, size=64)
    cut = crop.cut(image)[..., 0].astype(float)
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
    cut = Crop(center_x=-500, center_y=-500, side=200, size=32).cut(np.full((50, 50, 3), 9, np.uint8))
    assert (cut == 9).all()


VGA, UHD = (480, 640), (2160, 3840)


def raw_image(modality: str, shape: tuple[int, int]) -> np.ndarray:
    """Smooth values with noise, and for depth some without a reading."""
    rng = np.random.default_rng(0)
    rows, columns = np.indices(shape, np.float32)
    smooth = np.sin(rows / 40) * np.cos(columns / 60) * 0.4 + 0.5 + rng.normal(0, 0.02, shape)
    values = (smooth.clip(0, 1) * (255 if modality == "event" else 9000)).astype(
        np.uint8 if modality == "event" else np.uint16
    )
    if modality == "depth":
        values[rng.random(shape) < 0.05] = 0
    return values


@pytest.mark.parametrize("modality", ["thermal", "depth", "event"])
@pytest.mark.parametrize(
    "shape, center, sides",
    [
        (VGA, (320, 240), (30, 256, 470)),  # within
        (VGA, (0, 240), (100, 400)),  # over each edge
        (VGA, (640, 240), (100, 400)),
        (VGA, (320, 0), (100, 400)),
        (VGA, (320, 480), (100, 400)),
        (VGA, (50.3, 50.7), (100.6, 1500)),  # touching two, and all around
        (VGA, (-300, 900), (200,)),  # outside
        (UHD, (1900, 1100), (120, 1100)),
    ],
)
def test_encoding_the_window_equals_encoding_the_image(modality, shape, center, sides):
    encoder, image = AuxEncoder(modality), raw_image(modality, shape)
    encoder.observe(image)
    whole = encoder.picture(image)
    for side in sides:
        crop = Crop(*center, side, 256)
        np.testing.assert_array_equal(crop.cut(image, encoder.picture), crop.cut(whole))


def test_only_the_window_is_encoded():
    seen = []
    crop = Crop(1900, 1100, 300, 256)
    crop.cut(np.zeros((*UHD, 3), np.uint8), lambda part: seen.append(part.shape) or part)
    assert seen == [(304, 304, 3)]


@pytest.mark.parametrize("low", [0.0, 0.4, 1.7])
def test_window_at_an_edge_is_filled_as_one_beyond_it(low):
    """An enlarged edge pixel is mixed with what lies beside the image: the mean colour, not black."""
    image = np.full((200, 300, 3), 90, np.uint8)
    assert (Crop(low + 30, 100, 60, 256).cut(image) == 90).all()
    assert (Crop(300 - low - 30, 100, 60, 256).cut(image) == 90).all()


@pytest.mark.parametrize("side", [600, 700.5, 1000, 1023])
def test_shrinking_is_close_to_area_averaging(side):
    """On detail as fine as pictures have; sampling without averaging is 5 to 10 levels off here."""
    image = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (1100, 1100, 3), np.uint8), (0, 0), 1)
    image = cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX)
    crop = Crop(550, 550, side, 256)
    scale = 8 * crop.scale  # eight samples a crop pixel in each direction, averaged: the mean over its area
    x, y = (0.5 - crop.origin) * scale - 0.5
    fine = cv2.warpAffine(image, np.array([[scale, 0, x], [0, scale, y]]), (2048, 2048))
    averaged = cv2.resize(fine, (256, 256), interpolation=cv2.INTER_AREA)
    assert np.abs(crop.cut(image).astype(float) - averaged).mean() < 4.5


def test_mean_colour_is_rounded_down():
    assert mean_colour(np.array([[[0, 9, 255], [1, 10, 254]]], np.uint8)) == (0, 9, 254)
    assert mean_colour(np.full((7, 11, 3), 100, np.uint8)[::2, ::3]) == (100, 100, 100)
