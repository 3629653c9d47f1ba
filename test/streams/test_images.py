"""Every encoding against known pixels, with padded rows and in both byte orders; no ROS needed."""

from __future__ import annotations

import os
import struct
import sys
import zlib
from contextlib import suppress
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import pytest

from cmdtrack_ros.errors import ImageError
from cmdtrack_ros.streams import images
from cmdtrack_ros.streams.images import fill_image, to_rgb, to_sensor

HEIGHT, WIDTH = 6, 8
RNG = np.random.default_rng(3)
RGB = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
DEPTH = RNG.integers(0, 5000, (HEIGHT, WIDTH), np.uint16)
METRES = np.where(DEPTH < 1000, np.nan, DEPTH * 0.001).astype(np.float32)
RED = (200, 120, 40)  # one colour for the formats that share colour between pixels


def image(pixels: np.ndarray, encoding: str, *, padding: int = 0, bigendian: bool = False, height: int = HEIGHT):
    """A sensor_msgs/Image by duck typing; padded rows hold rubbish."""
    pixels = pixels.astype(pixels.dtype.newbyteorder(">" if bigendian else "<"))
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(pixels.shape[0], -1)
    rows = np.hstack([rows, np.full((rows.shape[0], padding), 0xEE, np.uint8)])
    return SimpleNamespace(
        height=height,
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=int(bigendian),
        step=rows.shape[1],
        data=rows.tobytes(),
    )


def compressed(data: bytes, form: str) -> SimpleNamespace:
    return SimpleNamespace(format=form, data=data)


def plane(value: int) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 1), value, np.uint8)


ALPHA = plane(7)
EXACT = {
    "rgb8": RGB,
    "bgr8": RGB[..., ::-1],
    "rgba8": np.dstack([RGB, ALPHA]),
    "bgra8": np.dstack([RGB[..., ::-1], ALPHA]),
    "8UC3": RGB[..., ::-1],
    "8UC4": np.dstack([RGB[..., ::-1], ALPHA]),
    "rgb16": RGB.astype(np.uint16) * 257,
    "bgr16": RGB[..., ::-1].astype(np.uint16) * 257,
    "rgba16": np.dstack([RGB, ALPHA]).astype(np.uint16) * 257,
    "bgra16": np.dstack([RGB[..., ::-1], ALPHA]).astype(np.uint16) * 257,
}


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize("bigendian", [False, True])
@pytest.mark.parametrize("encoding", EXACT)
def test_colours(encoding: str, padding: int, bigendian: bool) -> None:
    message = image(EXACT[encoding], encoding, padding=padding, bigendian=bigendian)
    for convert in (to_rgb, to_sensor):
        got = convert(message)
        assert got.dtype == np.uint8 and np.array_equal(got, RGB)


@pytest.mark.parametrize("padding", [0, 10])
@pytest.mark.parametrize("bigendian", [False, True])
@pytest.mark.parametrize(
    "encoding, pixels",
    [("mono8", RGB[..., 0]), ("8UC1", RGB[..., 0]), ("mono16", DEPTH), ("16UC1", DEPTH), ("32FC1", METRES)],
)
def test_sensor_values_come_unchanged(encoding: str, pixels: np.ndarray, padding: int, bigendian: bool) -> None:
    got = to_sensor(image(pixels, encoding, padding=padding, bigendian=bigendian))
    assert got.dtype == pixels.dtype and got.dtype.isnative
    assert np.array_equal(got, pixels, equal_nan=pixels.dtype == np.float32)


@pytest.mark.parametrize(
    "encoding, pixels, grey",
    [
        ("mono8", RGB[..., 0], RGB[..., 0]),
        ("8UC1", RGB[..., 0], RGB[..., 0]),
        ("mono16", DEPTH, DEPTH / 257),
        ("16UC1", DEPTH, DEPTH / 257),
    ],
)
def test_grey_cameras_as_colour_stream(encoding: str, pixels: np.ndarray, grey: np.ndarray) -> None:
    got = to_rgb(image(pixels, encoding, padding=2, bigendian=True))
    assert got.shape == (HEIGHT, WIDTH, 3) and got.dtype == np.uint8
    assert np.abs(got.astype(float) - grey[..., None]).max() <= 1


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("order", ["rggb", "bggr", "gbrg", "grbg"])
@pytest.mark.parametrize("padding", [0, 4])
def test_bayer_orders(order: str, bits: int, padding: int) -> None:
    dtype, scale = (np.uint8, 1) if bits == 8 else (np.uint16, 257)
    mosaic = np.empty((HEIGHT, WIDTH), dtype)
    for i, letter in enumerate(order):  # the letters are the first 2x2 pixels, row by row
        mosaic[i // 2 :: 2, i % 2 :: 2] = RED["rgb".index(letter)] * scale
    got = to_rgb(image(mosaic, f"bayer_{order}{bits}", padding=padding, bigendian=bits == 16))
    assert np.abs(got[2:-2, 2:-2].astype(int) - RED).max() <= 1


def yuv(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """ITU-R BT.601, limited range, which cameras and OpenCV use for these formats."""
    r, g, b = colour
    return (
        round(16 + 0.257 * r + 0.504 * g + 0.098 * b),
        round(128 - 0.148 * r - 0.291 * g + 0.439 * b),
        round(128 + 0.439 * r - 0.368 * g - 0.071 * b),
    )


@pytest.mark.parametrize("padding", [0, 8])
@pytest.mark.parametrize("encoding", ["uyvy", "yuv422", "yuyv", "yuv422_yuy2", "nv12", "nv21"])
def test_yuv(encoding: str, padding: int) -> None:
    y, u, v = yuv(RED)
    if encoding in ("uyvy", "yuv422"):
        pixels = np.tile(np.array([[u, y], [v, y]], np.uint8), (HEIGHT, WIDTH // 2, 1))
    elif encoding in ("yuyv", "yuv422_yuy2"):
        pixels = np.tile(np.array([[y, u], [y, v]], np.uint8), (HEIGHT, WIDTH // 2, 1))
    else:
        colours = np.tile(np.array([u, v] if encoding == "nv12" else [v, u], np.uint8), (HEIGHT // 2, WIDTH // 2))
        pixels = np.vstack([np.full((HEIGHT, WIDTH), y, np.uint8), colours])
    got = to_rgb(image(pixels, encoding, padding=padding))
    assert got.shape == (HEIGHT, WIDTH, 3) and np.abs(got.astype(int) - RED).max() <= 4


def test_compressed_colour() -> None:
    smooth = cv2.resize(RGB, (64, 48), interpolation=cv2.INTER_CUBIC)
    for suffix, form, tolerance in (
        (".png", "bgr8; png compressed bgr8", 0),
        (".jpg", "bgr8; jpeg compressed bgr8", 30),
    ):
        message = compressed(cv2.imencode(suffix, smooth[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes(), form)
        for convert in (to_rgb, to_sensor):
            got = convert(message)
            assert got.shape == smooth.shape and np.abs(got.astype(int) - smooth).max() <= tolerance
    thermal = compressed(cv2.imencode(".png", DEPTH)[1].tobytes(), "mono16; png compressed")
    assert np.array_equal(to_sensor(thermal), DEPTH)
    grey = compressed(cv2.imencode(".png", RGB[..., 0])[1].tobytes(), "mono8; png compressed")
    assert np.array_equal(to_sensor(grey), RGB[..., 0])
    assert np.array_equal(to_rgb(grey), np.dstack([RGB[..., 0]] * 3))


def rvl(values: np.ndarray) -> bytes:
    """RVL by the published description, one nibble at a time."""
    nibbles: list[int] = []

    def number(value: int) -> None:
        while True:
            value, low = value >> 3, value & 7
            nibbles.append(low | (8 if value else 0))
            if not value:
                return

    flat, at, previous = [int(v) for v in values.ravel()], 0, 0
    while at < len(flat):
        end = at
        while end < len(flat) and flat[end] == 0:
            end += 1
        number(end - at)
        at = end
        while end < len(flat) and flat[end] != 0:
            end += 1
        number(end - at)
        for value in flat[at:end]:
            delta, previous = value - previous, value
            number(delta * 2 if delta >= 0 else -delta * 2 - 1)
        at = end
    nibbles += [0] * (-len(nibbles) % 8)
    words = [int("".join(f"{n:x}" for n in nibbles[i : i + 8]), 16) for i in range(0, len(nibbles), 8)]
    return struct.pack("<ii", values.shape[1], values.shape[0]) + struct.pack(f"<{len(words)}I", *words)


def pack_depth(stored: np.ndarray, encoding: str, codec: str, a: float = 0.0, b: float = 0.0) -> SimpleNamespace:
    body = rvl(stored) if codec == "rvl" else cv2.imencode(".png", stored)[1].tobytes()
    return compressed(struct.pack("<iff", 0, a, b) + body, f"{encoding}; compressedDepth {codec}".rstrip())


@pytest.mark.parametrize("codec", ["png", "rvl", ""])
def test_compressed_depth_in_millimetres(codec: str) -> None:
    holes = np.where(DEPTH < 1500, 0, DEPTH).astype(np.uint16)
    for depth in (DEPTH, holes, np.zeros_like(DEPTH), np.full_like(DEPTH, 65535)):
        got = to_sensor(pack_depth(depth, "16UC1", codec))
        assert got.dtype == np.uint16 and np.array_equal(got, depth)


@pytest.mark.parametrize("codec", ["png", "rvl"])
def test_compressed_depth_in_metres(codec: str) -> None:
    quantization, far = 100.0, 10.0
    a = quantization * (quantization + 1)
    b = 1 - a / far
    stored = np.nan_to_num(a / METRES + b).astype(np.uint16)
    got = to_sensor(pack_depth(stored, "32FC1", codec, a, b))
    assert got.dtype == np.float32 and np.array_equal(np.isnan(got), np.isnan(METRES))
    assert np.nanmax(np.abs(got - METRES) / METRES) < 0.01


def test_rvl_known_bytes() -> None:
    # 2 zeros, 2 values, +5 (zigzag 10 = 2 | more, 1), +2 (zigzag 4): nibbles 2 2 a 1 4 little-endian
    data = struct.pack("<iff", 0, 0, 0) + struct.pack("<ii", 2, 2) + bytes.fromhex("0040a122")
    assert to_sensor(compressed(data, "16UC1; compressedDepth rvl")).tolist() == [[0, 0], [5, 7]]


GOOD = image(RGB, "rgb8")


@pytest.mark.parametrize(
    "change, says",
    [
        ({"encoding": "foo8"}, "'foo8'"),
        ({"encoding": ""}, "''"),
        ({"height": 0}, "8x0"),
        ({"width": 0}, "0x6"),
        ({"step": 23}, "step >= 24, got 23"),
        ({"data": GOOD.data[:-1]}, "144 bytes of data, got 143"),
        ({"data": b""}, "got 0"),
        ({"height": 70000, "width": 70000}, "70000x70000 pixels are more than the limit of 40,000,000"),
    ],
)
def test_bad_images_name_what_was_expected_and_what_came(change: dict, says: str) -> None:
    for convert in (to_rgb, to_sensor):
        with pytest.raises(ImageError, match=says):
            convert(SimpleNamespace(**{**vars(GOOD), **change}))


def png_bomb(width: int, height: int) -> bytes:
    """A PNG whose header is true to the standard and whose pixels are few."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


def jpeg_bomb(width: int, height: int) -> bytes:
    data = cv2.imencode(".jpg", np.zeros((16, 16), np.uint8))[1].tobytes()
    at = data.index(b"\xff\xc0\x00\x0b\x08") + 5  # start of frame: length, bits, then height and width
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


@pytest.mark.parametrize(
    "message",
    [
        compressed(png_bomb(30000, 30000), "rgb8; png compressed bgr8"),
        compressed(jpeg_bomb(30000, 30000), "rgb8; jpeg compressed bgr8"),
        compressed(bytes(12) + png_bomb(30000, 30000), "16UC1; compressedDepth png"),
        compressed(bytes(12) + struct.pack("<ii", 30000, 30000) + bytes(99), "16UC1; compressedDepth rvl"),
    ],
)
def test_a_bomb_is_refused_by_its_header(message: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ImageError, match="30000x30000 pixels are more than the limit of 40,000,000"):
        to_sensor(message)


def test_the_limit_is_inclusive_and_can_be_set() -> None:
    depth = [pack_depth(DEPTH, "16UC1", codec) for codec in ("png", "rvl")]
    packed = [compressed(cv2.imencode(end, RGB)[1].tobytes(), "") for end in (".png", ".jpg", ".tiff", ".bmp")]
    for message in (*packed, *depth, GOOD, image(DEPTH, "mono16")):
        assert to_sensor(message, HEIGHT * WIDTH).shape[:2] == (HEIGHT, WIDTH)
        with pytest.raises(ImageError, match="8x6 pixels are more than the limit of 47"):
            to_sensor(message, HEIGHT * WIDTH - 1)
    with pytest.raises(ImageError, match="8x6 pixels"):
        to_rgb(packed[0], HEIGHT * WIDTH - 1)


@pytest.mark.filterwarnings("ignore:::PIL.TiffImagePlugin")  # pytest puts its own filters over the module's
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tiff", ".bmp"])
def test_damaged_pictures_never_break_out(suffix: str) -> None:
    rng = np.random.default_rng(0)
    good = cv2.imencode(suffix, RGB)[1].tobytes()
    for length in rng.integers(0, len(good), 200):
        data = bytearray(good[: max(length, 60)])
        for at in rng.integers(0, min(len(data), 60), 3):
            data[at] = rng.integers(0, 256)
        with suppress(ImageError):
            to_sensor(compressed(bytes(data), "8UC3"))


JPEG = cv2.imencode(".jpg", cv2.resize(RGB, (64, 48)))[1].tobytes()


def test_a_jpeg_that_ends_early_is_refused_and_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """libjpeg fills it up with grey, and says so on stderr, where nobody knows whose image it was."""
    for convert in (to_rgb, to_sensor):
        with pytest.raises(ImageError, match="'jpeg'.*premature end of data"):
            convert(compressed(JPEG[: len(JPEG) * 2 // 3] + JPEG[-2:], "jpeg"))
        with pytest.raises(ImageError, match="'jpeg'.* do not decode"):
            convert(compressed(JPEG[: len(JPEG) * 2 // 3], "jpeg"))
    assert capfd.readouterr().err == ""


def test_damage_that_leaves_a_whole_picture_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    """Some USB cameras always send it."""
    told: list[str] = []
    picture = to_rgb(compressed(JPEG[:-2] + bytes(40) + JPEG[-2:], "jpeg"), warn=told.append)
    np.testing.assert_array_equal(picture, to_rgb(compressed(JPEG, "jpeg")))
    assert len(told) == 1 and "extraneous bytes" in told[0]
    assert capfd.readouterr().err == ""


def test_what_others_print_during_decoding_is_kept(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    imdecode = cv2.imdecode

    def busy(*arguments: object) -> np.ndarray:
        os.write(2, b"[INFO] [tracker]: another thread\n")
        return imdecode(*arguments)

    monkeypatch.setattr(cv2, "imdecode", busy)
    to_rgb(compressed(JPEG, "jpeg"))
    assert capfd.readouterr().err == "[INFO] [tracker]: another thread\n"


def test_a_png_chunk_longer_than_the_data_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    data = bytearray(cv2.imencode(".png", RGB)[1].tobytes())
    data[33:37] = b"\xff\xff\xff\xff"  # the length of the chunk after the header
    with pytest.raises(ImageError, match="ends within chunk .* of 4294967295 bytes"):
        to_rgb(compressed(bytes(data), "png"))


@pytest.mark.parametrize("encoding", ["uyvy", "nv12"])
def test_yuv_needs_even_sizes(encoding: str) -> None:
    odd = image(np.zeros((9, 7, 2) if encoding == "uyvy" else (9, 7), np.uint8), encoding)
    with pytest.raises(ImageError, match="even"):
        to_rgb(odd)


def test_depth_is_no_colour_and_64_bit_is_no_sensor() -> None:
    with pytest.raises(ImageError, match="32FC1"):
        to_rgb(image(METRES, "32FC1"))
    with pytest.raises(ImageError, match="64FC1"):
        to_sensor(image(METRES.astype(np.float64), "64FC1"))


RVL_END = pack_depth(DEPTH, "16UC1", "rvl").data


@pytest.mark.parametrize(
    "message",
    [
        compressed(b"", "jpeg"),
        compressed(b"no picture", "jpeg"),
        compressed(b"", "16UC1; compressedDepth png"),
        compressed(bytes(40), "16UC1; compressedDepth png"),
        compressed(RVL_END[:30], "16UC1; compressedDepth rvl"),
        compressed(RVL_END[:14], "16UC1; compressedDepth rvl"),
        compressed(bytes(20), "16UC1; compressedDepth rvl"),
        compressed(RVL_END[:12] + struct.pack("<ii", 1 << 20, 1 << 20), "16UC1; compressedDepth rvl"),
        compressed(RVL_END, "8UC1; compressedDepth rvl"),
        compressed(bytes(12) + cv2.imencode(".png", RGB)[1].tobytes(), "16UC1; compressedDepth png"),
    ],
)
def test_damaged_compressed_images(message: SimpleNamespace) -> None:
    with pytest.raises(ImageError, match="compressed"):
        to_sensor(message)


def test_damaged_rvl_never_breaks_out() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        data = bytearray(RVL_END)
        for at in rng.integers(20, len(data), 5):
            data[at] = rng.integers(0, 256)
        with suppress(ImageError):
            assert to_sensor(compressed(bytes(data), "16UC1; compressedDepth rvl")).shape == DEPTH.shape


@pytest.mark.parametrize(
    "pixels, encoding",
    [(RGB, "rgb8"), (RGB[::2, ::2], "rgb8"), (RGB[..., 0], "mono8"), (DEPTH, "16UC1"), (METRES, "32FC1")],
)
def test_fill_image_comes_back(pixels: np.ndarray, encoding: str) -> None:
    message = fill_image(SimpleNamespace(), pixels, encoding)
    assert (message.height, message.width) == pixels.shape[:2] and len(message.data) == message.step * message.height
    assert np.array_equal(to_sensor(message), pixels, equal_nan=encoding == "32FC1")


class _BrokenBridge:
    def __init__(self) -> None:
        raise AttributeError("_ARRAY_API not found")  # what NumPy 2 makes of a module built for NumPy 1


class _WrongBridge:
    def imgmsg_to_cv2(self, message, encoding):
        return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)


@pytest.mark.parametrize("bridge", [_BrokenBridge, _WrongBridge])
def test_a_cv_bridge_that_does_not_work_is_passed_over(
    bridge: type, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Stands for apt's cv_bridge, which no package registry carries.
    module = ModuleType("cv_bridge")
    module.CvBridge = bridge
    monkeypatch.setitem(sys.modules, "cv_bridge", module)
    images._converter.cache_clear()
    assert np.array_equal(to_rgb(image(RGB[..., ::-1], "bgr8")), RGB)
    assert "cv_bridge" in caplog.text
