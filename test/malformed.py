"""Images with something wrong in them, the same for every run: fields of sensor_msgs/Image and CompressedImage."""

from __future__ import annotations

import array
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

Fields = dict[str, Any]
HEIGHT, WIDTH = 60, 80
ENCODINGS = ("rgb8", "bgr8", "mono8", "mono16", "16UC1", "32FC1", "bayer_rggb8", "nv12", "yuv422", "8UC3", "rgba16")
ODD_ENCODINGS = ("", "foo8", "32SC1", "64FC1", "8UC2", "32FC4", "16SC3", "rgb8 ", "RGB8", "\N{SNOWMAN}", "8UC99", "x" * 300)
FORMATS = ("jpeg", "png", "rgb8; jpeg compressed bgr8", "mono16; png compressed ", "16UC1; compressedDepth png")
ODD_FORMATS = ("", "gif", "16UC1; compressedDepth rvl", "32FC1; compressedDepth png", "; ; ;", "\N{SNOWMAN}", "x" * 300)
HUGE = (0, 1, 2, 3, 65535, 2**31 - 1, 2**32 - 1)  # of a size's or step's field


def malformed_images(count: int, seed: int) -> Iterator[Fields]:
    """`count` raw images, each with one to three fields changed for the worse; a few happen to be whole."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        fields: Fields = {
            "height": HEIGHT,
            "width": WIDTH,
            "encoding": str(rng.choice(ENCODINGS)),
            "is_bigendian": 0,
            "step": 3 * WIDTH,
            "data": rng.integers(0, 256, 3 * WIDTH * HEIGHT, np.uint8),
        }
        for change in rng.choice(_IMAGE_CHANGES, rng.integers(1, 4)):
            change(fields, rng)
        yield _packed(fields)


def malformed_compressed(count: int, seed: int) -> Iterator[Fields]:
    """`count` JPEG and PNG files, cut, changed, or under another name."""
    rng = np.random.default_rng(seed)
    smooth = cv2.GaussianBlur(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8), (0, 0), 3)
    counts = smooth[..., 0].astype(np.uint16) * 200
    files = [cv2.imencode(suffix, picture)[1] for suffix, picture in ((".jpg", smooth), (".png", smooth), (".png", counts))]
    files.append(np.concatenate([np.zeros(12, np.uint8), files[2]]))  # as of compressedDepth
    for _ in range(count):
        fields: Fields = {"format": str(rng.choice(FORMATS)), "data": files[rng.integers(len(files))].copy()}
        for change in rng.choice(_COMPRESSED_CHANGES, rng.integers(1, 4)):
            change(fields, rng)
        yield _packed(fields)


def _packed(fields: Fields) -> Fields:
    # The one type that rclpy takes over without looking at every byte.
    return fields | {"data": array.array("B", fields["data"].tobytes())}


def _name(fields: Fields, rng: np.random.Generator) -> None:
    fields["encoding"] = str(rng.choice(ODD_ENCODINGS))


def _size(fields: Fields, rng: np.random.Generator) -> None:
    fields[str(rng.choice(("height", "width")))] = int(rng.choice(HUGE))


def _step(fields: Fields, rng: np.random.Generator) -> None:
    fields["step"] = int(rng.choice((*HUGE, WIDTH, 3 * WIDTH + 1)))


def _order(fields: Fields, rng: np.random.Generator) -> None:
    fields["is_bigendian"] = int(rng.integers(1, 256))


def _cut(fields: Fields, rng: np.random.Generator) -> None:
    fields["data"] = fields["data"][: rng.integers(0, fields["data"].size + 1)]


def _noise(fields: Fields, rng: np.random.Generator) -> None:
    """Some bytes changed, the header's among them more often than not."""
    data = fields["data"]
    if data.size:
        where = np.minimum(rng.exponential(min(data.size, 200), 20).astype(int), data.size - 1)
        data[where] = rng.integers(0, 256, where.size)


def _format(fields: Fields, rng: np.random.Generator) -> None:
    fields["format"] = str(rng.choice((*ODD_FORMATS, *FORMATS)))


def _random(fields: Fields, rng: np.random.Generator) -> None:
    fields["data"] = rng.integers(0, 256, rng.integers(0, 500), np.uint8)


_IMAGE_CHANGES = (_name, _size, _step, _order, _cut)
_COMPRESSED_CHANGES = (_cut, _noise, _noise, _format, _random)
