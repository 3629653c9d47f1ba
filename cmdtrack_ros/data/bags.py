"""Recordings as rosbag2 (MCAP or sqlite3), written and read without ROS.

Bags hold what a robot's cameras would publish: sensor_msgs/Image (or CompressedImage) on one topic a stream,
and, where known, the true box of each frame as cmdtrack_ros/msg/TargetBox.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import cv2
import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer, WriterError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore
from tqdm import tqdm

from cmdtrack_ros.data.sequences import Sequence, read_boxes
from cmdtrack_ros.errors import DataError, ImageError
from cmdtrack_ros.modalities import Modality
from cmdtrack_ros.ros.images import to_rgb, to_sensor

RGB_TOPIC = "/rgb/image"
AUX_TOPIC = "/aux/image"
TRUTH_TOPIC = "/ground_truth"
IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
TARGET_BOX = "cmdtrack_ros/msg/TargetBox"
DETECTIONS = "vision_msgs/msg/Detection2DArray"
# As in msg/TargetBox.msg (a test compares the two): bags are read where that file isn't installed, too.
TARGET_BOX_DEFINITION = """
std_msgs/Header header
string target_id
float64 x
float64 y
float64 width
float64 height
"""
# rosbag2 metadata of this version is read by Humble and by all later distributions.
METADATA_VERSION = 8
_FOREVER = QosTime(9223372036, 854775807)
_RELIABLE = Qos(
    QosHistory.KEEP_LAST,
    10,
    QosReliability.RELIABLE,
    QosDurability.VOLATILE,
    _FOREVER,
    _FOREVER,
    QosLiveliness.AUTOMATIC,
    _FOREVER,
    avoid_ros_namespace_conventions=False,
)


def message_types() -> Typestore:
    """The message definitions of ROS 2 and our own."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    store.register(get_types_from_msg(TARGET_BOX_DEFINITION, TARGET_BOX))
    return store


@dataclass(frozen=True)
class BagOptions:
    """How a sequence becomes a bag.

    rgb_topic, aux_topic, truth_topic: names; messages have the types that real cameras publish.
    compressed: colour as JPEG (CompressedImage on <rgb_topic>/compressed).
    aux_offset: seconds added to every aux stamp, as by a sensor that answers later.
    aux_jitter: standard deviation in seconds of a random offset of each aux stamp; order is kept.
    aux_drop: probability that an aux image is missing.
    seed: of jitter and drops.
    start: ROS time in seconds of the first frame (0 would mean "no stamp" to most nodes).
    """

    rgb_topic: str = RGB_TOPIC
    aux_topic: str = AUX_TOPIC
    truth_topic: str = TRUTH_TOPIC
    compressed: bool = False
    aux_offset: float = 0.0
    aux_jitter: float = 0.0
    aux_drop: float = 0.0
    seed: int = 0
    start: float = 1_600_000_000.0


class RawMessage(NamedTuple):
    """One message of a bag as it lies there. time_ns: when it was recorded; data: serialised (CDR)."""

    topic: str
    type: str
    time_ns: int
    data: bytes


def write_bag(
    sequence: Sequence,
    path: str | Path,
    options: BagOptions = BagOptions(),
    *,
    overwrite: bool = False,
    progress: bool = False,
) -> Path:
    """Write `sequence` as an MCAP bag in the new folder `path`; record time = stamp of each message.

    overwrite: replace a bag of that name; a folder that is no bag is never replaced (DataError).
    """
    path = Path(path)
    _make_room(path, overwrite)
    store = message_types()
    try:
        with Writer(path, version=METADATA_VERSION, storage_plugin=StoragePlugin.MCAP) as writer:
            writer.set_custom_data("name", sequence.name)
            writer.set_custom_data("modality", sequence.modality.value)
            _write_messages(writer, store, sequence, options, progress)
    except (WriterError, OSError) as error:
        raise DataError(f"{path}: the bag cannot be written ({error})") from error
    return path


def _make_room(path: Path, overwrite: bool) -> None:
    if not path.exists():
        return
    if not overwrite:
        raise DataError(f"{path}: exists already; give another name or ask for it to be replaced")
    if not (path / "metadata.yaml").is_file() and any(path.iterdir() if path.is_dir() else [path]):
        raise DataError(f"{path}: is not a bag and will not be replaced")
    shutil.rmtree(path)


def _write_messages(
    writer: Writer, store: Typestore, sequence: Sequence, options: BagOptions, progress: bool
) -> None:
    connections: dict[str, Connection] = {}
    for time_ns, stream, index in tqdm(_schedule(sequence, options), "bag", unit="msg", disable=not progress):
        topic, message = _message(store, sequence, options, stream, index, time_ns)
        if topic not in connections:
            connections[topic] = writer.add_connection(
                topic, message.__msgtype__, typestore=store, offered_qos_profiles=[_RELIABLE]
            )
        writer.write(connections[topic], time_ns, store.serialize_cdr(message, message.__msgtype__))


def _schedule(sequence: Sequence, options: BagOptions) -> list[tuple[int, str, int]]:
    """(time in ns, stream, frame index) of every message, in the order of recording."""
    seconds = sequence.stamps - sequence.stamps[0]
    times = [round(options.start * 1e9) + round(s * 1e9) for s in seconds]
    has = {"rgb": sequence.rgb(0) is not None, "aux": sequence.aux(0) is not None}
    # Sorted by time, then as listed here: the true box comes before the image it belongs to.
    entries = [(t, "truth", i) for i, t in enumerate(times) if np.isfinite(sequence.boxes[i]).all()]
    entries += [(t, "rgb", i) for i, t in enumerate(times) if has["rgb"]]
    if has["aux"]:
        kept, shifts = _aux_faults(seconds, options)
        entries += [(times[i] + round(shifts[i] * 1e9), "aux", i) for i in range(len(times)) if kept[i]]
    order = {"truth": 0, "rgb": 1, "aux": 2}
    return sorted(entries, key=lambda entry: (entry[0], order[entry[1]]))


def _aux_faults(seconds: np.ndarray, options: BagOptions) -> tuple[np.ndarray, np.ndarray]:
    """Which aux images are kept, and by how many seconds each stamp is off."""
    rng = np.random.default_rng(options.seed)
    jitter = rng.normal(0.0, 1.0, len(seconds)) * options.aux_jitter
    if len(seconds) > 1:
        # Under half a frame either way, stamps stay in order.
        limit = 0.45 * float(np.diff(seconds).min())
        jitter = np.clip(jitter, -limit, limit)
    return rng.random(len(seconds)) >= options.aux_drop, options.aux_offset + jitter


def _message(
    store: Typestore, sequence: Sequence, options: BagOptions, stream: str, index: int, time_ns: int
) -> tuple[str, Any]:
    if stream == "truth":
        return options.truth_topic, _target_box(store, sequence.boxes[index], sequence.name, time_ns)
    if stream == "aux":
        return options.aux_topic, _image(store, sequence.aux(index), sequence.modality, "aux", time_ns)
    rgb = sequence.rgb(index)
    if options.compressed:
        return f"{options.rgb_topic}/compressed", _compressed(store, rgb, time_ns)
    return options.rgb_topic, _image(store, rgb, Modality.RGB, "rgb", time_ns)


def _header(store: Typestore, frame: str, time_ns: int) -> Any:
    stamp = store.types["builtin_interfaces/msg/Time"](time_ns // 10**9, time_ns % 10**9)
    return store.types["std_msgs/msg/Header"](stamp, frame)


def _target_box(store: Typestore, box: np.ndarray, name: str, time_ns: int) -> Any:
    return store.types[TARGET_BOX](_header(store, "rgb", time_ns), name, *(float(v) for v in box))


def _image(store: Typestore, image: np.ndarray, modality: Modality, frame: str, time_ns: int) -> Any:
    image = np.ascontiguousarray(image)
    return store.types[IMAGE](
        _header(store, frame, time_ns),
        image.shape[0],
        image.shape[1],
        encoding_of(image, modality),
        0,
        image.strides[0],
        image.view(np.uint8).reshape(-1),
    )


def _compressed(store: Typestore, rgb: np.ndarray, time_ns: int) -> Any:
    _, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 95])
    return store.types[COMPRESSED_IMAGE](
        _header(store, "rgb", time_ns), "rgb8; jpeg compressed bgr8", data.ravel()
    )


def encoding_of(image: np.ndarray, modality: Modality) -> str:
    """sensor_msgs encoding of an array: colour rgb8; gray mono8 or mono16; depth 16UC1 (mm) or 32FC1 (m)."""
    kind = (image.dtype.name, 1 if image.ndim == 2 else image.shape[2])
    names = {
        ("uint8", 3): "rgb8",
        ("uint8", 1): "mono8",
        ("float32", 1): "32FC1",
        ("uint16", 1): "16UC1" if modality is Modality.DEPTH else "mono16",
    }
    if kind not in names:
        raise DataError(
            f"{modality} image of {kind[0]} with {kind[1]} channels: expected one of {list(names)}"
        )
    return names[kind]


def is_bag(path: str | Path) -> bool:
    """Whether `path` looks like a rosbag2: a folder with metadata.yaml, or a storage file."""
    path = Path(path)
    return (path / "metadata.yaml").is_file() or (path.is_file() and path.suffix in (".mcap", ".db3"))


def header_stamp(data: bytes) -> int:
    """Stamp in ns of a serialised message whose first field is a std_msgs/Header."""
    seconds, nanoseconds = struct.unpack_from(_stamp_format(data), data, 4)
    return seconds * 10**9 + nanoseconds


def with_stamp(data: bytes, time_ns: int) -> bytes:
    """The same serialised message (first field a std_msgs/Header) with another stamp."""
    out = bytearray(data)
    struct.pack_into(_stamp_format(data), out, 4, time_ns // 10**9, time_ns % 10**9)
    return bytes(out)


def _stamp_format(data: bytes) -> str:
    # CDR: four bytes of encapsulation, the lowest bit of the second one tells little endian.
    return "<iI" if data[1] & 1 else ">iI"


class Bag:
    """A rosbag2 open for reading; messages are read as they are asked for. Use it as a context manager.

    DataError for what is no bag, or is truncated, or lacks a topic (the message lists those it has).
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise DataError(f"{self.path}: expected a bag, there is no such file or folder")
        if not is_bag(self.path):
            raise DataError(
                f"{self.path}: expected a rosbag2 (a folder with metadata.yaml, or a .mcap or .db3 file)"
            )
        try:
            self._reader = AnyReader([self.path], default_typestore=message_types())
            self._reader.open()
        except Exception as error:  # rosbags raises whatever its parsers meet in a damaged file
            raise DataError(f"{self.path}: is no readable bag: damaged or truncated ({error})") from error
        self.types = {c.topic: c.msgtype for c in self._reader.connections}
        self.counts = {topic: info.msgcount for topic, info in self._reader.topics.items()}

    def __enter__(self) -> Bag:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._reader.close()

    @property
    def start_ns(self) -> int:
        return self._reader.start_time

    @property
    def duration_ns(self) -> int:
        return max(self._reader.end_time - self._reader.start_time, 0)

    @property
    def custom(self) -> dict[str, str]:
        """What the writer noted: `name` and `modality` in our own bags."""
        return self._reader.readers[0].storage.metadata.custom or {}

    def require(self, topic: str) -> str:
        """Type of `topic`; DataError with the list of topics when the bag lacks it."""
        if topic not in self.types:
            has = ", ".join(f"{name} ({kind})" for name, kind in sorted(self.types.items())) or "none"
            raise DataError(f"{self.path}: no topic {topic}; the bag has: {has}")
        return self.types[topic]

    def has_header(self, message_type: str) -> bool:
        """Whether messages of this type begin with a std_msgs/Header, and so carry a stamp."""
        fields = self._reader.typestore.fielddefs[message_type][1]
        return bool(fields) and fields[0][1][1] == "std_msgs/msg/Header"

    def messages(
        self, topics: Iterable[str] | None = None, start_ns: int | None = None
    ) -> Iterator[RawMessage]:
        """Messages of `topics` (all when None) in the order of recording, from `start_ns` on."""
        wanted = None if topics is None else set(topics)
        for topic in wanted or ():
            self.require(topic)
        connections = [c for c in self._reader.connections if wanted is None or c.topic in wanted]
        try:
            for connection, time_ns, data in self._reader.messages(connections, start=start_ns):
                yield RawMessage(connection.topic, connection.msgtype, time_ns, data)
        except Exception as error:  # as above
            raise DataError(f"{self.path}: damaged or truncated ({error})") from error

    def decode(self, message: RawMessage) -> Any:
        """The message as an object with the fields of its type; arrays are read-only."""
        try:
            return self._reader.deserialize(message.data, message.type)
        except Exception as error:  # as above
            raise DataError(f"{self.path}, {message.topic}: a message does not decode ({error})") from error


class _ImageTopic:
    """Images of one topic by number. Reading in order streams through the bag; a jump seeks."""

    def __init__(self, bag: Bag, topic: str, convert: Callable[[Any], np.ndarray]) -> None:
        self.path, self.topic, self._convert = bag.path, topic, convert
        kind = bag.require(topic)
        if kind not in (IMAGE, COMPRESSED_IMAGE):
            raise DataError(f"{bag.path}: {topic} is {kind}; expected {IMAGE} or {COMPRESSED_IMAGE}")
        self.stamps, self._recorded = _stamp_index(bag, topic)
        self._bag: Bag | None = None
        self._messages: Iterator[RawMessage] | None = None
        self._next = 0

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_bag": None, "_messages": None, "_next": 0}

    def __getitem__(self, index: int) -> np.ndarray:
        self._bag = self._bag or Bag(self.path)
        if self._messages is None or index != self._next:
            self._messages = self._bag.messages([self.topic], int(self._recorded[index]))
            # Messages recorded at the very same time come before it.
            for _ in range(int(np.count_nonzero(self._recorded[:index] == self._recorded[index]))):
                next(self._messages)
        self._next = index + 1
        message = self._bag.decode(next(self._messages))
        try:
            return self._convert(message)
        except ImageError as error:
            raise DataError(f"{self.path}, {self.topic}, message {index}: {error}") from error


def _stamp_index(bag: Bag, topic: str) -> tuple[np.ndarray, np.ndarray]:
    """Header stamp and time of recording (both int64 ns) of every message of a topic."""
    times = [(header_stamp(m.data), m.time_ns) for m in bag.messages([topic])]
    if not times:
        raise DataError(f"{bag.path}: {topic} holds no message")
    stamps, recorded = np.array(times, np.int64).T
    return stamps, recorded


class BagSequence(Sequence):
    """Two image topics of a bag. Colour drives; each frame has the aux image nearest in time."""

    def __init__(
        self,
        name: str,
        modality: Modality,
        boxes: np.ndarray,
        stamps: np.ndarray,
        rgb: _ImageTopic | None,
        aux: _ImageTopic | None,
        aux_index: np.ndarray,
    ) -> None:
        """aux_index: (n,) number of each frame's aux image, -1 = none within the slop."""
        super().__init__(name, modality, boxes, stamps)
        self._rgb, self._aux, self._aux_index = rgb, aux, aux_index

    def rgb(self, index: int) -> np.ndarray | None:
        return None if self._rgb is None else self._rgb[index]

    def aux(self, index: int) -> np.ndarray | None:
        number = int(self._aux_index[index])
        return None if number < 0 else self._aux[number]


def load_bag(
    path: str | Path,
    *,
    rgb_topic: str | None = None,
    aux_topic: str | None = None,
    truth_topic: str | None = None,
    truth_file: str | Path | None = None,
    modality: Modality | str | None = None,
    slop: float = 0.03,
) -> BagSequence:
    """Open a bag as a sequence.

    rgb_topic, aux_topic, truth_topic: None = `/rgb/image`, `/aux/image`, `/ground_truth` if the bag has them.
        The truth is cmdtrack_ros/TargetBox or vision_msgs/Detection2DArray, matched to frames by stamp.
    truth_file: one box a line for each colour image, instead of a topic.
    modality: of the aux topic; None = what our writer noted in the bag.
    slop: seconds that two images of one frame may be apart.
    """
    with Bag(path) as bag:
        rgb_topic = rgb_topic or next(
            (t for t in (RGB_TOPIC, f"{RGB_TOPIC}/compressed") if t in bag.types), None
        )
        aux_topic = aux_topic or (AUX_TOPIC if AUX_TOPIC in bag.types else None)
        truth_topic = truth_topic or (TRUTH_TOPIC if TRUTH_TOPIC in bag.types else None)
        if rgb_topic is None and aux_topic is None:
            bag.require(RGB_TOPIC)
        rgb = None if rgb_topic is None else _ImageTopic(bag, rgb_topic, to_rgb)
        aux = None if aux_topic is None else _ImageTopic(bag, aux_topic, to_sensor)
        stamps = (rgb or aux).stamps
        if not (np.diff(stamps) > 0).all():
            raise DataError(f"{path}: stamps of {rgb_topic or aux_topic} do not increase")
        name = bag.custom.get("name") or Path(path).stem
        kind = _aux_modality(bag, modality, aux_topic)
        boxes = _truth(bag, stamps, truth_topic, truth_file)
    index = np.full(len(stamps), -1) if aux is None else nearest(stamps, aux.stamps, round(slop * 1e9))
    return BagSequence(name, kind, boxes, stamps / 1e9, rgb, aux, index)


def _aux_modality(bag: Bag, modality: Modality | str | None, aux_topic: str | None) -> Modality:
    if aux_topic is None:
        return Modality.RGB
    word = modality or bag.custom.get("modality")
    if word not in {m.value for m in Modality}:
        raise DataError(f"{bag.path}: say what {aux_topic} is: modality thermal, depth or event")
    return Modality(word)


def nearest(stamps: np.ndarray, others: np.ndarray, slop_ns: int) -> np.ndarray:
    """For each of `stamps` the index of the closest of `others` (int64 ns, increasing), -1 beyond `slop_ns`.

    A partner serves one frame only: that which is closest to it.
    """
    right = np.clip(np.searchsorted(others, stamps), 1, max(len(others) - 1, 1))
    right = np.minimum(right, len(others) - 1)
    left = np.maximum(right - 1, 0)
    index = np.where(np.abs(others[left] - stamps) <= np.abs(others[right] - stamps), left, right)
    gap = np.abs(others[index] - stamps)
    best = np.full(len(others), np.iinfo(np.int64).max)
    np.minimum.at(best, index, gap)
    return np.where((gap <= slop_ns) & (gap == best[index]), index, -1)


def _truth(bag: Bag, stamps: np.ndarray, topic: str | None, file: str | Path | None) -> np.ndarray:
    if file is not None:
        boxes = read_boxes(Path(file))
        if len(boxes) != len(stamps):
            raise DataError(f"{file}: {len(boxes)} annotation rows for {len(stamps)} images in {bag.path}")
        return boxes
    boxes = np.full((len(stamps), 4), np.nan)
    if topic is None:
        return boxes
    kind = bag.require(topic)
    if kind not in (TARGET_BOX, DETECTIONS):
        raise DataError(f"{bag.path}: {topic} is {kind}; expected {TARGET_BOX} or {DETECTIONS}")
    rows = {stamp: i for i, stamp in enumerate(stamps.tolist())}
    for raw in bag.messages([topic]):
        row = rows.get(header_stamp(raw.data))
        if row is not None:
            boxes[row] = _box(bag.decode(raw))
    return boxes


def _box(message: Any) -> tuple[float, float, float, float]:
    """x, y, w, h of a TargetBox or of the first detection; NaN when there is none."""
    if hasattr(message, "width"):
        return message.x, message.y, message.width, message.height
    if not len(message.detections):
        return (np.nan,) * 4
    box = message.detections[0].bbox
    center = getattr(box.center, "position", box.center)  # vision_msgs before version 4 has no `position`
    return center.x - box.size_x / 2, center.y - box.size_y / 2, box.size_x, box.size_y
