"""Sensor arrays to network pictures."""

import cv2
import numpy as np
import pytest

from cmdtrack_ros.errors import ConfigError, ImageError
from cmdtrack_ros.modalities import AuxEncoder, AuxEncoding, Modality, event_picture, shows


def test_eight_bit_thermal_passes_unchanged():
    image = np.random.default_rng(0).integers(0, 255, (20, 30), np.uint8)
    picture = AuxEncoder(Modality.THERMAL)(image)
    np.testing.assert_array_equal(picture, np.repeat(image[..., None], 3, 2))


def test_sixteen_bit_thermal_with_a_fixed_range():
    """Centikelvin: 20 to 40 degrees Celsius are black to white."""
    encoder = AuxEncoder("thermal", AuxEncoding(thermal_low=29315, thermal_high=31315))
    picture = encoder(np.array([[29315, 30315, 31315, 40000]], np.uint16))
    np.testing.assert_array_equal(picture[0, :, 0], [0, 127, 255, 255])


def test_thermal_range_follows_slowly():
    """One hot object that enters must not darken the scene at once."""
    scene = np.full((40, 40), 1000, np.uint16)
    scene[:20] = 2000
    hot = scene.copy()
    hot[:, :8] = 60000
    smooth, flickering = (AuxEncoder("thermal", AuxEncoding(smoothing=s)) for s in (0.9, 0.0))
    before = smooth(scene)[0, 30, 0]
    flickering(scene)
    assert before == 255
    assert smooth(hot)[0, 30, 0] > 20
    assert flickering(hot)[0, 30, 0] < 10


def thermal(low: float, high: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low, high, (80, 80)).astype(np.float32)


@pytest.mark.parametrize("value", [1e30, -1e30, 3.4e38, np.nan, np.inf, -np.inf])
def test_one_garbage_image_moves_no_range(value):
    encoder = AuxEncoder("thermal")
    for seed in range(3):
        encoder(thermal(20, 30, seed))
    before = encoder.picture(thermal(20, 30))
    encoder(np.full((80, 80), value, np.float32))
    assert encoder.remarks
    np.testing.assert_array_equal(encoder.picture(thermal(20, 30)), before)
    encoder(thermal(20, 30))
    assert not encoder.remarks


@pytest.mark.parametrize("start, end", [((20, 30), (200, 300)), ((1e29, 1e30), (20, 30)), ((20, 30), (20, 20.1))])
def test_a_sensor_that_changes_its_range_is_followed_by_the_second_image(start, end):
    """Another gain, or garbage at the start."""
    encoder = AuxEncoder("thermal")
    encoder(thermal(*start))
    encoder(thermal(*end, 1))
    assert encoder.remarks
    picture = encoder(thermal(*end, 2))
    assert not encoder.remarks and picture.min() == 0 and picture.max() == 255


@pytest.mark.parametrize("dtype, dead, hot", [(np.uint16, 0, 65535), (np.float32, -300, 1000)])
def test_bad_pixels_stretch_no_range(dtype, dead, hot):
    """Nor do they take a real hot object for one of them."""
    scene = thermal(7000, 7400).astype(dtype)
    scene[10:30, 10:30] = 9500
    clean = AuxEncoder("thermal")(scene).astype(int)
    damaged = scene.copy()
    lot = np.random.default_rng(1).random(scene.shape)
    damaged[lot < 0.025], damaged[lot > 0.975] = dead, hot
    picture = AuxEncoder("thermal")(damaged).astype(int)
    good = (lot >= 0.025) & (lot <= 0.975)
    assert clean[20, 20, 0] == 255 and np.abs(picture - clean)[good].mean() < 3


def test_depth_in_metres_and_millimetres_agree():
    metres = np.random.default_rng(1).uniform(0.5, 4, (32, 32)).astype(np.float32)
    millimetres = np.round(metres * 1000).astype(np.uint16)
    a = AuxEncoder("depth")((millimetres / 1000).astype(np.float32))
    b = AuxEncoder("depth")(millimetres)
    np.testing.assert_allclose(a.astype(int), b.astype(int), atol=8)


def test_depth_without_reading_is_black_and_near_is_blue():
    depth = np.full((16, 16), 2.0, np.float32)
    depth[:8] = 0.5
    depth[0, 0], depth[0, 1], depth[0, 2] = np.nan, np.inf, 0
    picture = AuxEncoder("depth")(depth)
    assert (picture[0, :3] == 0).all()
    assert picture[4, 4].argmax() == 2


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize("low, high", [(0.0, 10.0), (0.73, 3.21), (2.0, 2.0)])
def test_depth_colours_are_those_of_the_formula(dtype, low, high):
    """What the networks were trained with: levels cut off below, JET, black without a reading."""
    millimetres = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    image = millimetres if dtype is np.uint16 else millimetres.astype(np.float32) * np.float32(0.001)
    encoder = AuxEncoder("depth")
    encoder._range = low, high
    metres = millimetres.astype(np.float32) * np.float32(0.001)
    levels = np.clip((metres - low) * (255.0 / max(high - low, 1e-6)), 0, 255).astype(np.uint8)
    expected = cv2.applyColorMap(levels, cv2.COLORMAP_JET)[..., ::-1].copy()
    expected[0, 0] = 0
    np.testing.assert_array_equal(encoder.picture(image), expected)


@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_depth_image_without_any_reading_is_black(value):
    assert (AuxEncoder("depth")(np.full((8, 8), value, np.float32)) == 0).all()


def test_event_stack_is_polarity_on_white():
    picture = AuxEncoder("event")(np.array([[0, 128, 255]], np.uint8))
    red, green, blue = np.moveaxis(picture[0].astype(int), -1, 0)
    assert (picture[0, 1] == 255).all()
    assert blue[0] - red[0] > 200 and red[2] - blue[2] > 200 and green[0] < 50 and green[2] < 50


@pytest.mark.parametrize(
    "modality, image, word",
    [
        ("thermal", np.zeros((0, 4), np.uint8), "shape"),
        ("thermal", np.zeros((4, 4), np.int32), "int32"),
        ("depth", np.zeros((4, 4, 3), np.uint16), "one channel"),
        ("event", np.zeros((4, 4), np.float32), "float32"),
        ("rgb", np.zeros((4, 4), np.uint16), "uint16"),
        ("depth", np.zeros((4, 4, 2), np.uint8), "HxWx3"),
    ],
)
def test_unusable_images_are_named(modality, image, word):
    with pytest.raises(ImageError, match=word):
        AuxEncoder(modality)(image)


@pytest.mark.parametrize(
    "values",
    [
        {"thermal_low": 5.0},
        {"thermal_low": 5.0, "thermal_high": 4.0},
        {"depth_max": 0.0},
        {"depth_unit": -1.0},
        {"smoothing": 1.0},
    ],
)
def test_unusable_encodings_are_refused(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        AuxEncoding(**values)


@pytest.mark.parametrize("modality", ["thermal", "depth"])
def test_the_range_does_not_depend_on_the_size_of_the_image(modality: str) -> None:
    """Though large images are sampled more coarsely."""
    scene = cv2.GaussianBlur(np.random.default_rng(0).integers(500, 5000, (480, 640), np.uint16), (0, 0), 20)
    large = cv2.resize(scene, (3840, 2160), interpolation=cv2.INTER_NEAREST)
    small, sampled = (AuxEncoder(modality)(image)[-1].astype(int) for image in (scene, large))
    assert np.abs(sampled[::6] - small).mean() < 3


@pytest.mark.parametrize(
    "unit, values, fixed, says",
    [
        ("centikelvin", [29315, 31315], (20.0, 40.0), "20.0 to 40.0 C"),
        ("decikelvin", [2931, 3131], (19.95, 39.95), "19.9 to 39.9 C"),
        ("celsius", [20, 40], (20.0, 40.0), "20.0 to 40.0 C"),
        ("counts", [7000, 9000], (7000.0, 9000.0), "7000 to 9000"),
    ],
)
def test_thermal_range_in_degrees(unit: str, values: list, fixed: tuple[float, float], says: str) -> None:
    image = np.array([values] * 2, np.uint16)
    encoder = AuxEncoder("thermal", AuxEncoding(*fixed, thermal_unit=unit))
    assert encoder.range_text(image) == says
    assert encoder(image)[0, :, 0].tolist() == [0, 255]


def test_a_range_in_words_and_set_anew() -> None:
    encoder = AuxEncoder("depth")
    image = np.repeat(np.array([1000, 2000], np.uint16), 32 * 64).reshape(64, 64)
    encoder.observe(image)
    assert encoder.range_text(image) == "1.00 to 4.50 m"
    encoder.configure(AuxEncoding(depth_max=2.0))
    assert encoder.range_text(image) == "1.00 to 2.00 m", "at once, not smoothed"
    assert encoder.range_text(np.zeros((64, 64), np.uint8)) == ""
    assert AuxEncoder("depth").range_text(np.zeros((4, 4), np.uint16)) == "no reading"


def surrounded(target, ground):
    """Pictures of a target of 20x20 px, and of that with 10 px of ground about it."""
    around = np.full((40, 40, 3), ground, np.uint8)
    around[10:30, 10:30] = target
    return around[10:30, 10:30], around


@pytest.mark.parametrize("modality", Modality)
def test_a_covered_lens_shows_nothing(modality):
    for value in (0, 128, 255):
        assert not shows(*surrounded(value, value), modality)


@pytest.mark.parametrize("modality", [Modality.RGB, Modality.THERMAL])
def test_what_is_dark_or_saturated_still_shows(modality):
    dark = np.random.default_rng(0).integers(0, 3, (20, 20, 3), np.uint8)
    assert shows(*surrounded(dark, 0), modality)
    assert shows(*surrounded(255, 254), modality), "a target of one grey before another"


def test_depth_shows_where_it_has_a_reading():
    hole = AuxEncoder("depth").picture(np.pad(np.zeros((20, 20), np.uint16), 10, constant_values=1500))
    assert not shows(hole[10:30, 10:30], hole, Modality.DEPTH)
    near = AuxEncoder("depth").picture(np.pad(np.full((20, 20), 900, np.uint16), 10))
    assert shows(near[10:30, 10:30], near, Modality.DEPTH)


@pytest.mark.parametrize("count, shown", [(0, False), (11, False), (12, True), (200, True)])
def test_events_show_from_three_in_a_hundred_pixels(count, shown):
    """Polarity in one channel, or drawn; whatever fires beside the target."""
    stack = np.full((40, 40), 128, np.uint8)
    stack[9] = 0
    fired = np.random.default_rng(0).permutation(400)[:count]
    stack[10 + fired // 20, 10 + fired % 20] = np.where(fired % 2, 0, 255)
    picture = event_picture(stack)
    assert shows(picture[10:30, 10:30], picture, Modality.EVENT) == shown
    compressed = cv2.imdecode(cv2.imencode(".jpg", picture)[1], cv2.IMREAD_COLOR)
    assert count or not shows(compressed[10:30, 10:30], compressed, Modality.EVENT)
