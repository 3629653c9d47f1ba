"""Image messages as no camera should send them: valid ones with random damage, the same for the same seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import cv2
import numpy as np

from cmdtrack_ros.streams.images import ENCODINGS, fill_image

HEIGHT, WIDTH = 48, 64
SCENE = cv2.resize(
    np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC
)
VALID = {
    "rgb8": SCENE,
    "bgr8": SCENE,
    "mono8": SCENE[..., 0],
    "mono16": SCENE[..., 0] * np.uint16(257),
    "16UC1": SCENE[..., 0] * np.uint16(15),
    "32FC1": SCENE[..., 0] * np.float32(0.01),
}
FORMATS = {  # by the suffix that OpenCV knows: what a driver writes into `format`
    ".jpg": "rgb8; jpeg compressed bgr8",
    ".png": "bgr8; png compressed bgr8",
    ".tiff": "bgr8; tiff compressed bgr8",
    ".bmp": "bgr8; bmp compressed bgr8",
}
_NUMBERS = (0, 1, 2, 3, 7, 47, 49, 63, 65, 255, 4096, 65535, 70_000, 2**31 - 1, 2**31, 2**32 - 1)
_NAMES = (
    "",
    "foo8",
    "RGB8",
    "rgb8 ",
    "8UC2",
    "8UC",
    "8SC3",
    "32SC1",
    "64FC4",
    "bayer_rggb8",
    "nv12",
    "yuyv",
    "\u00e9" * 9,
)


def malformed_images(count: int, seed: int = 0) -> Iterator[SimpleNamespace]:
    """Messages with the fields of a sensor_msgs/Image but for its header; `data` is bytes, numbers fit their types."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        encoding = str(rng.choice(list(VALID)))
        message = fill_image(SimpleNamespace(), VALID[encoding], encoding)
        message.is_bigendian, message.data = int(message.is_bigendian), message.data.tobytes()
        for _ in range(rng.integers(1, 4)):
            _IMAGE_DAMAGES[rng.integers(len(_IMAGE_DAMAGES))](message, rng)
        yield message


def malformed_compressed(count: int, seed: int = 0) -> Iterator[SimpleNamespace]:
    """Messages with the fields of a sensor_msgs/CompressedImage but for its header; `data` is bytes."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        suffix = str(rng.choice(list(FORMATS)))
        form, data = FORMATS[suffix], cv2.imencode(suffix, SCENE)[1].tobytes()
        if rng.random() < 0.2:
            form, data = "16UC1; compressedDepth png", bytes(12) + cv2.imencode(".png", VALID["16UC1"])[1].tobytes()
        elif rng.random() < 0.2:
            sizes = rng.choice([1, 48, 64, 30_000], 2).astype("<i4").tobytes()
            form, data = "16UC1; compressedDepth rvl", bytes(12) + sizes + rng.bytes(int(rng.integers(0, 3000)))
        for _ in range(rng.integers(1, 4)):
            data = _BYTE_DAMAGES[rng.integers(len(_BYTE_DAMAGES))](data, rng)
        if rng.random() < 0.1:
            form = str(rng.choice(["", "png", "jpeg", "32FC1; compressedDepth", "8UC1; compressedDepth rvl", "\u00e9"]))
        yield SimpleNamespace(format=form, data=data)


def _number(message: SimpleNamespace, rng: np.random.Generator) -> None:
    setattr(message, str(rng.choice(["height", "width", "step"])), int(rng.choice(_NUMBERS)))


def _size(message: SimpleNamespace, rng: np.random.Generator) -> None:
    """One that its data fits."""
    message.height, message.width = (int(side) for side in rng.choice([1, 2, 3, 8, 16, 47, 48], 2))


def _encoding(message: SimpleNamespace, rng: np.random.Generator) -> None:
    message.encoding = str(rng.choice([*ENCODINGS, *_NAMES]))


def _order(message: SimpleNamespace, rng: np.random.Generator) -> None:
    message.is_bigendian = int(rng.choice([1, 2, 255]))


def _data(message: SimpleNamespace, rng: np.random.Generator) -> None:
    message.data = _BYTE_DAMAGES[rng.integers(len(_BYTE_DAMAGES))](message.data, rng)


def _values(message: SimpleNamespace, rng: np.random.Generator) -> None:
    """Every value of a float image the same garbage."""
    value = np.float32(rng.choice([np.nan, np.inf, -np.inf, 1e30, -1e30, 3.4e38]))
    message.data = np.full(len(message.data) // 4, value).tobytes()
    message.encoding, message.step = "32FC1", message.width * 4


def _cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(0, len(data) + 1)]


def _flipped(data: bytes, rng: np.random.Generator) -> bytes:
    damaged = bytearray(data)
    reach = len(damaged) if rng.random() < 0.5 else min(len(damaged), 600)  # the header is where it hurts
    for at in rng.integers(0, max(reach, 1), rng.integers(1, 20)):
        damaged[at : at + 1] = rng.bytes(1)
    return bytes(damaged)


def _inserted(data: bytes, rng: np.random.Generator) -> bytes:
    at = int(rng.integers(0, len(data) + 1))
    return data[:at] + rng.bytes(int(rng.integers(1, 200))) + data[at:]


def _removed(data: bytes, rng: np.random.Generator) -> bytes:
    at = int(rng.integers(0, len(data) + 1))
    return data[:at] + data[at + int(rng.integers(1, 500)) :]


_IMAGE_DAMAGES: tuple[Callable[[SimpleNamespace, np.random.Generator], None], ...] = (
    _number,
    _size,
    _encoding,
    _order,
    _data,
    _values,
)
_BYTE_DAMAGES: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (_cut, _flipped, _inserted, _removed)
