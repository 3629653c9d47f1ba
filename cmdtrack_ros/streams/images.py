"""sensor_msgs images <-> NumPy arrays. Works on messages of rclpy and of rosbags alike; imports no rclpy.

The layout of the bytes (`step`, `is_bigendian`, sizes) is read here, colours are converted by cv_bridge where
it works, else by rosbags-image. The formats of `compressedDepth` are those of image_transport_plugins.
"""

from __future__ import annotations

import array
import io
import logging
import os
import re
import struct
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from cmdtrack_ros.errors import ImageError

logger = logging.getLogger(__name__)

_SAMPLE_TYPES = {
    "8U": np.uint8,
    "8S": np.int8,
    "16U": np.uint16,
    "16S": np.int16,
    "32S": np.int32,
    "32F": np.float32,
    "64F": np.float64,
}
_GENERIC_ENCODING = re.compile(r"(8U|8S|16U|16S|32S|32F|64F)(?:C([1-4]))?")
_COLOUR_ENCODINGS = {
    "rgb8": (np.uint8, 3),
    "bgr8": (np.uint8, 3),
    "rgba8": (np.uint8, 4),
    "bgra8": (np.uint8, 4),
    "rgb16": (np.uint16, 3),
    "bgr16": (np.uint16, 3),
    "rgba16": (np.uint16, 4),
    "bgra16": (np.uint16, 4),
    "uyvy": (np.uint8, 2),
    "yuv422": (np.uint8, 2),
    "yuyv": (np.uint8, 2),
    "yuv422_yuy2": (np.uint8, 2),
    "nv12": (np.uint8, 1),
    "nv21": (np.uint8, 1),
}
_COLOUR_ENCODINGS |= {
    f"bayer_{order}{bits}": (dtype, 1)
    for order in ("rggb", "bggr", "gbrg", "grbg")
    for bits, dtype in ((8, np.uint8), (16, np.uint16))
}
_GREY_ENCODINGS = {"mono8": (np.uint8, 1), "mono16": (np.uint16, 1)}
# Generic names say nothing of the meaning; as an RGB stream they are read the way OpenCV would.
_AS_COLOUR = {"8UC1": "mono8", "8UC3": "bgr8", "8UC4": "bgra8", "16UC1": "mono16"}
MAX_PIXELS = 40_000_000
"""Of an image, at most, unless told otherwise: 4.8 times 4K. A few kilobytes can ask for the machine's whole memory."""
# These readers of Pillow's decode nothing when they are opened; those of WebP and AVIF do, and are left out.
_HEADERS = {"JPEG": JpegImageFile, "PNG": PngImageFile, "TIFF": TiffImageFile, "BMP": BmpImageFile}
# A damaged one is our error to report, with the topic's name.
warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")

# What libjpeg, libpng, libtiff and OpenCV's own decoders print, to tell it from what other threads print meanwhile.
_PRINTED = re.compile(
    rb"(Corrupt JPEG|Premature end|Inconsistent progression|Invalid SOS|Unknown Adobe|Warning: unknown JFIF|libpng |"
    rb"TIFF|LZW|\[ ?(WARN|ERROR|INFO):\d+@|> |\s*$)"
)
# A picture that ends early is filled up with grey; OpenCV returns one of which a part is missing.
_INCOMPLETE = re.compile("premature end|ERROR", re.IGNORECASE)
_PNG = b"\x89PNG\r\n\x1a\n"
_stderr_lock = threading.Lock()

JPEG_FORMAT = "rgb8; jpeg compressed bgr8"
"""The `format` of a CompressedImage from `encode_jpeg`, as image_transport's own publisher words it."""

ENCODINGS = (*_GREY_ENCODINGS, *_COLOUR_ENCODINGS, "8UC1", "16UC1", "32FC1")


def to_rgb(message: Any, max_pixels: int = MAX_PIXELS, warn: Callable[[str], None] | None = None) -> np.ndarray:
    """An RGB camera's Image or CompressedImage -> HxWx3 uint8 RGB (grey becomes three equal channels).

    Args:
        warn: told of damage that leaves a whole picture; None = nobody is.

    Raises:
        ImageError: unknown encoding, impossible sizes or more than `max_pixels`, too little data, or data that
            does not decode to a whole picture.
    """
    if hasattr(message, "format"):
        return _decode_picture(message, cv2.IMREAD_COLOR, max_pixels, warn)
    encoding = _AS_COLOUR.get(message.encoding, message.encoding)
    known = (*_GREY_ENCODINGS, *_COLOUR_ENCODINGS)
    if encoding not in known:
        raise ImageError(f"RGB image: expected one of {', '.join(known)}, got {encoding!r}")
    return _convert(_pixels(message, max_pixels), encoding)


def to_sensor(message: Any, max_pixels: int = MAX_PIXELS, warn: Callable[[str], None] | None = None) -> np.ndarray:
    """An auxiliary camera's Image or CompressedImage -> the sensor's own array; arguments as of `to_rgb`.

    Returns:
        HxW uint8, uint16 (counts, millimetres) or float32 (metres, degrees), or HxWx3 uint8 RGB where the
        camera sends colours.

    Raises:
        ImageError: as for `to_rgb`.
    """
    if hasattr(message, "format"):
        if "compressedDepth" in message.format:
            return _decode_depth(message, max_pixels, warn)
        return _decode_picture(message, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR, max_pixels, warn)
    if message.encoding in _COLOUR_ENCODINGS or message.encoding in ("8UC3", "8UC4"):
        return to_rgb(message, max_pixels, warn)
    pixels = _pixels(message, max_pixels)
    if pixels.ndim == 3 or pixels.dtype not in (np.uint8, np.uint16, np.float32):
        raise ImageError(f"auxiliary image: expected one of {', '.join(ENCODINGS)}, got {message.encoding!r}")
    return pixels


def decode(
    data: np.ndarray, flags: int, what: str, max_pixels: int = MAX_PIXELS, warn: Callable[[str], None] | None = None
) -> np.ndarray:
    """JPEG, PNG, TIFF or BMP as (n,) uint8 -> HxW or HxWxC, BGR, as `cv2.imdecode` does with these flags.

    What the decoders print about damage does not reach stderr, where nobody could tell whose image it is.

    Args:
        warn: told of damage that leaves a whole picture, as some USB cameras always send; begins with `what`.

    Raises:
        ImageError: begins with `what`: data that does not decode to a whole picture, or more pixels than
            `max_pixels` by its header.
    """
    _check_size(*_header_size(data, what), what, max_pixels)
    if data[:8].tobytes() == _PNG:
        _check_png(data.data, what)
    picture, printed = _decode_quietly(data, flags)
    if picture is None or _INCOMPLETE.search(printed):
        raise ImageError(f"{what}: {data.size} bytes do not decode{f' ({printed})' if printed else ''}")
    if printed and warn:
        warn(f"{what}: {printed}")
    return picture


def _check_png(data: memoryview, what: str) -> None:
    """ImageError where a chunk says that it is longer than the data: OpenCV would first take that much memory."""
    at = len(_PNG)
    while at < len(data):
        if len(data) - at < 12:
            raise ImageError(f"{what}: PNG of {len(data)} bytes ends within a chunk")
        length, kind = struct.unpack_from(">I4s", data, at)
        at += 12 + length
        if at > len(data):
            raise ImageError(f"{what}: PNG of {len(data)} bytes ends within chunk {kind!r} of {length} bytes")
        if kind == b"IEND":
            return


def _decode_quietly(data: np.ndarray, flags: int) -> tuple[np.ndarray | None, str]:
    """`cv2.imdecode`, None where it fails, and the first line that a decoder printed, or an empty text."""
    with _stderr_lock:
        try:
            stderr = os.dup(2)
        except OSError:  # closed: there is nothing to keep clean
            return _imdecode(data, flags)
        with os.fdopen(os.memfd_create("decoder"), "r+b") as sink:
            os.dup2(sink.fileno(), 2)
            try:
                picture, error = _imdecode(data, flags)
            finally:
                os.dup2(stderr, 2)
                os.close(stderr)
            sink.seek(0)
            lines = sink.readlines()
    ours = [line for line in lines if _PRINTED.match(line)]
    if len(ours) < len(lines):
        os.write(2, b"".join(line for line in lines if line not in ours))
    return picture, ours[0].decode(errors="replace").strip() if ours else error


def _imdecode(data: np.ndarray, flags: int) -> tuple[np.ndarray | None, str]:
    try:
        return cv2.imdecode(data, flags), ""
    except cv2.error as error:
        return None, str(error)


def _header_size(data: np.ndarray, what: str) -> tuple[int, int]:
    """Width and height that a picture's header names."""
    for header in _HEADERS.values():
        try:
            return header(io.BytesIO(data.data)).size
        except Exception:  # another format, or damaged: Pillow raises whatever its parsers meet
            continue
    raise ImageError(f"{what}: {data.size} bytes do not decode, expected {', '.join(_HEADERS)}")


def _check_size(width: int, height: int, what: str, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(
            f"{what}: {width}x{height} pixels are more than the limit of {max_pixels:,} (max_pixels); damaged header?"
        )


def fill_image(message: Any, pixels: np.ndarray, encoding: str) -> Any:
    """Fill a sensor_msgs/Image (all but its header) from HxW or HxWxC; returns the message."""
    pixels = np.ascontiguousarray(pixels)
    message.height, message.width = pixels.shape[:2]
    message.encoding = encoding
    message.is_bigendian = sys.byteorder == "big"
    message.step = pixels.strides[0]
    message.data = _as_message_data(pixels)
    return message


def encode_jpeg(rgb: np.ndarray, quality: int) -> np.ndarray:
    """HxWx3 uint8 RGB -> (n,) uint8, a JPEG file; quality: 1 to 100, OpenCV's scale and image_transport's."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return data.ravel()


def fill_jpeg(message: Any, rgb: np.ndarray, quality: int) -> Any:
    """Fill a sensor_msgs/CompressedImage (all but its header) from HxWx3 uint8 RGB; returns the message."""
    message.format = JPEG_FORMAT
    message.data = _as_message_data(encode_jpeg(rgb, quality))
    return message


def _as_message_data(values: np.ndarray) -> array.array:
    data = array.array("B")  # the one type that rclpy takes over without looking at every byte
    data.frombytes(values.data.cast("B"))
    return data


def _layout(encoding: str) -> tuple[np.dtype, int]:
    """Type of one sample and samples per pixel."""
    if encoding in _COLOUR_ENCODINGS or encoding in _GREY_ENCODINGS:
        dtype, channels = (_COLOUR_ENCODINGS | _GREY_ENCODINGS)[encoding]
        return np.dtype(dtype), channels
    match = _GENERIC_ENCODING.fullmatch(encoding)
    if not match:
        raise ImageError(f"image: expected an encoding such as {', '.join(ENCODINGS)}, got {encoding!r}")
    return np.dtype(_SAMPLE_TYPES[match[1]]), int(match[2] or 1)


def _pixels(message: Any, max_pixels: int) -> np.ndarray:
    """HxW or HxWxC in the machine's byte order, from a message with any `step`; a view where possible."""
    height, width, step, encoding = message.height, message.width, message.step, message.encoding
    dtype, channels = _layout(encoding)
    if height == 0 or width == 0:
        raise ImageError(f"{encoding} image: expected at least one pixel, got {width}x{height}")
    _check_size(width, height, f"{encoding} image", max_pixels)
    rows = height * 3 // 2 if encoding in ("nv12", "nv21") else height  # the colour plane follows the grey one
    row_bytes = width * channels * dtype.itemsize
    if step < row_bytes:
        raise ImageError(f"{encoding} image {width}x{height}: expected step >= {row_bytes}, got {step}")
    data = np.frombuffer(message.data, np.uint8)
    needed = step * (rows - 1) + row_bytes
    if data.size < needed:
        raise ImageError(
            f"{encoding} image {width}x{height}, step {step}: expected {step * rows} bytes of data, got {data.size}"
        )
    shape = (rows, row_bytes)
    lines = np.lib.stride_tricks.as_strided(data, shape, (step, 1), writeable=False)
    samples = np.ascontiguousarray(lines).view(dtype)
    if dtype.itemsize > 1 and bool(message.is_bigendian) != (sys.byteorder == "big"):
        samples = samples.byteswap()
    return samples if channels == 1 else samples.reshape(rows, width, channels)


def _convert(pixels: np.ndarray, encoding: str) -> np.ndarray:
    if encoding == "rgb8":
        return pixels
    if encoding in ("uyvy", "yuv422", "yuyv", "yuv422_yuy2") and pixels.shape[1] % 2:
        raise ImageError(f"{encoding} image: expected an even width, got {pixels.shape[1]}")
    if encoding in ("nv12", "nv21") and (pixels.shape[0] % 3 or pixels.shape[1] % 2):
        raise ImageError(
            f"{encoding} image: expected an even width and height, got {pixels.shape[1]} x {pixels.shape[0] * 2 // 3}"
        )
    packed = SimpleNamespace(
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=int(sys.byteorder == "big"),
        step=pixels.strides[0],
        data=pixels,
    )
    try:
        return np.ascontiguousarray(_converter()(packed))
    except Exception as error:  # cv2.error, CvBridgeError and rosbags' own have no common base
        raise ImageError(f"{encoding} image {packed.width}x{packed.height}: cannot convert to rgb8: {error}") from error


def load_converter() -> None:
    """Import what converts colours now and not at the first image that needs it, which says so where there is none."""
    with suppress(ImageError):
        _converter()


@cache
def _converter() -> Callable[[Any], np.ndarray]:
    """cv_bridge if a probe image comes through it right, else rosbags-image."""
    try:
        from cv_bridge import CvBridge

        bridge = CvBridge()

        def convert(message: Any) -> np.ndarray:
            return bridge.imgmsg_to_cv2(message, "rgb8")

        probe = SimpleNamespace(height=1, width=1, encoding="bgr8", is_bigendian=0, step=3, data=b"\x01\x02\x03")
        if convert(probe).ravel().tolist() == [3, 2, 1]:
            return convert
        logger.warning("cv_bridge converts wrongly here; using rosbags-image")
    except ImportError:
        logger.info("cv_bridge is not installed; using rosbags-image")
    except Exception as error:  # its compiled part raises others than ImportError beside NumPy 2
        logger.warning("cv_bridge does not work here (%s); using rosbags-image", error)
    try:
        from rosbags.image import image_to_cvimage
    except ImportError as error:
        raise ImageError(
            "no image converter: install cv_bridge (apt: ros-$ROS_DISTRO-cv-bridge) or rosbags-image (pip)"
        ) from error
    return lambda message: image_to_cvimage(message, "rgb8")


def _decode_picture(message: Any, flags: int, max_pixels: int, warn: Callable[[str], None] | None) -> np.ndarray:
    """A CompressedImage -> HxW or HxWx3 RGB."""
    data = np.frombuffer(message.data, np.uint8)
    picture = decode(data, flags, f"compressed image ({message.format!r})", max_pixels, warn)
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB) if picture.ndim == 3 else picture


def _decode_depth(message: Any, max_pixels: int, warn: Callable[[str], None] | None) -> np.ndarray:
    """compressedDepth: 12 bytes of header (int32, 2 float32), then PNG or RVL -> HxW uint16 mm or float32 m.

    Depth in metres is stored as its inverse: Z = A / (stored - B), 0 = no reading (NaN).
    """
    what = f"compressed depth image ({message.format!r})"
    data = np.frombuffer(message.data, np.uint8)
    encoding = message.format.split(";")[0].strip()
    if encoding not in ("16UC1", "mono16", "32FC1"):
        raise ImageError(f"{what}: expected 16UC1 or 32FC1, got {encoding!r}")
    if data.size <= 12:
        raise ImageError(f"{what}: expected a 12-byte header and an image, got {data.size} bytes")
    _, quant_a, quant_b = struct.unpack("<iff", data[:12].tobytes())
    if message.format.rstrip().endswith("rvl"):
        stored = _decode_rvl(data[12:], what, max_pixels)
    else:
        stored = decode(data[12:], cv2.IMREAD_UNCHANGED, what, max_pixels, warn)
    if stored.dtype != np.uint16 or stored.ndim != 2:
        raise ImageError(f"{what}: expected one 16-bit channel, got {stored.dtype} of shape {stored.shape}")
    if encoding != "32FC1":
        return stored
    with np.errstate(divide="ignore", invalid="ignore"):
        metres = quant_a / (stored.astype(np.float32) - quant_b)
    return np.where(stored == 0, np.nan, metres).astype(np.float32)


def _decode_rvl(data: np.ndarray, what: str, max_pixels: int) -> np.ndarray:
    """RVL (Wilson, "Fast Lossless Depth Image Compression", ISS 2017): runs of zeros and of differences,
    each number in 4-bit pieces of which the top bit says that more follow."""
    if data.size < 8:
        raise ImageError(f"{what}: expected 8 bytes of RVL sizes, got {data.size}")
    width, height = struct.unpack("<ii", data[:8].tobytes())
    if width <= 0 or height <= 0:
        raise ImageError(f"{what}: RVL sizes {width}x{height} are impossible")
    _check_size(width, height, what, max_pixels)
    numbers = _rvl_numbers(data[8:])
    out = np.zeros(width * height, np.uint16)
    filled, at, previous = 0, 0, 0
    while filled < out.size:
        if at + 1 >= numbers.size:
            raise ImageError(f"{what}: RVL data ends after {filled} of {out.size} pixels")
        zeros, nonzeros = int(numbers[at]), int(numbers[at + 1])
        if min(zeros, nonzeros) < 0:  # more bits than a number has
            raise ImageError(f"{what}: RVL data has an impossible run of pixels")
        coded = numbers[at + 2 : at + 2 + nonzeros]
        filled += zeros
        if coded.size < nonzeros or filled + nonzeros > out.size:
            raise ImageError(f"{what}: RVL data does not fit {width}x{height} pixels")
        if nonzeros:
            deltas = (coded >> 1) ^ -(coded & 1)
            values = previous + np.cumsum(deltas)
            out[filled : filled + nonzeros] = values
            previous = int(values[-1])
        filled += nonzeros
        at += 2 + nonzeros
    return out.reshape(height, width)


def _rvl_numbers(data: np.ndarray) -> np.ndarray:
    """All variable-length numbers of an RVL stream, int64: 3 bits a nibble, low bits first."""
    # Words are 32-bit little-endian with the first nibble on top.
    words = np.concatenate([data, np.zeros(-data.size % 4, np.uint8)]).reshape(-1, 4)[:, ::-1]
    nibbles = np.empty((words.size, 2), np.uint8)
    nibbles[:, 0], nibbles[:, 1] = words.ravel() >> 4, words.ravel() & 15
    nibbles = nibbles.ravel()
    ends = np.flatnonzero(nibbles < 8)
    if ends.size == 0:
        return np.zeros(0, np.int64)
    starts = np.concatenate([[0], ends[:-1] + 1])
    within = np.arange(ends[-1] + 1) - np.repeat(starts, ends - starts + 1)
    pieces = (nibbles[: ends[-1] + 1] & 7).astype(np.int64) << np.minimum(3 * within, 60)
    return np.add.reduceat(pieces, starts)
