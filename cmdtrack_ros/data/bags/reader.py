"""Bags read without ROS: message by message, or as a sequence paired as the node pairs them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import cv2
import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import Reader

from cmdtrack_ros.boxes import parse_box
from cmdtrack_ros.cameras import Camera, camera_from, camera_info_topic, is_rectified
from cmdtrack_ros.data.bags.messages import (
    AUX_NOTE,
    AUX_TOPIC,
    BOX_NOTE,
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    DETECTIONS,
    IMAGE,
    RGB_NOTE,
    RGB_TOPIC,
    TARGET_BOX,
    TF_STATIC,
    TRUTH_FILE,
    TRUTH_TOPIC,
    header_stamp,
    message_types,
)
from cmdtrack_ros.data.sequences import ImageSequence, read_boxes
from cmdtrack_ros.errors import ConfigError, DataError, ImageError
from cmdtrack_ros.modalities import Modality
from cmdtrack_ros.streams.events import EVENT_PACKET, EVENT_WINDOW_RANGE, EventFrame, EventSlicer
from cmdtrack_ros.streams.frames import FixedFrames
from cmdtrack_ros.streams.images import decode, to_rgb, to_sensor
from cmdtrack_ros.streams.pairing import NearestPairer, Pair, PairOptions
from cmdtrack_ros.streams.registration import Registrar, Registration, mounted

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BagOptions:
    """Which topics of a bag are read, and how their images are paired.

    Attributes:
        rgb_topic, aux_topic, truth_topic: None = what the bag notes of itself, else this package's usual names,
            where the bag has them.
            Truth is cmdtrack_ros/TargetBox or vision_msgs/Detection2DArray, matched to images by stamp.
        truth_file: one box a line for each RGB image, instead of a topic; None = `TRUTH_FILE` in the bag's folder,
            where there is one and no truth_topic is named.
        modality: of the aux topic; None = what our writer noted in the bag.
        pairing, event_window: as the node's parameters of the same names.
        registration: of the sequence's aux images, likewise.
        rgb_camera_info, aux_camera_info: CameraInfo for `camera_info`; None = beside the images.
    """

    rgb_topic: str | None = None
    aux_topic: str | None = None
    truth_topic: str | None = None
    truth_file: Path | None = None
    modality: Modality | str | None = None
    pairing: PairOptions = PairOptions()
    registration: Registration = Registration()
    rgb_camera_info: str | None = None
    aux_camera_info: str | None = None
    event_window: float = 0.0

    def __post_init__(self) -> None:
        low, high = EVENT_WINDOW_RANGE
        if not low <= self.event_window <= high:
            raise ConfigError(f"event_window: expected {low} to {high}, got {self.event_window}")


class RawMessage(NamedTuple):
    """One message of a bag as it lies there. time_ns: when it was recorded; data: serialised (CDR)."""

    topic: str
    type: str
    time_ns: int
    data: bytes


def is_bag(path: str | Path) -> bool:
    """Whether `path` looks like a rosbag2: a folder with metadata.yaml, or a storage file."""
    path = Path(path)
    return (path / "metadata.yaml").is_file() or (path.is_file() and path.suffix in (".mcap", ".db3"))


class Bag:
    """A rosbag2 open for reading; messages are read as they are asked for. Use it as a context manager.

    DataError for what is no bag, or is truncated, or lacks a topic (the message lists those it has).
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise DataError(f"{self.path}: expected a bag, there is no such file or folder")
        if not is_bag(self.path):
            raise DataError(f"{self.path}: expected a rosbag2 (a folder with metadata.yaml, or a .mcap or .db3 file)")
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
        """What the writer noted: `name`, `modality` and the like in our own bags."""
        reader = self._reader.readers[0]
        return (reader.storage.metadata.custom or {}) if isinstance(reader, Reader) else {}

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

    def messages(self, topics: Iterable[str] | None = None, start_ns: int | None = None) -> Iterator[RawMessage]:
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


class BagTopics(NamedTuple):
    """The topics of a bag that are in use; None where there is no such stream."""

    rgb: str | None
    aux: str | None
    truth: str | None

    @property
    def images(self) -> list[str]:
        """Topics of images, RGB first."""
        return [topic for topic in (self.rgb, self.aux) if topic is not None]


def choose_topics(bag: Bag, options: BagOptions) -> BagTopics:
    """The topics that the options name, else this package's usual ones; DataError without any image."""

    def usual(*names: str) -> str | None:
        return next((name for name in names if name in bag.types), None)

    rgb = options.rgb_topic or bag.custom.get(RGB_NOTE) or usual(RGB_TOPIC, f"{RGB_TOPIC}/compressed")
    aux = options.aux_topic or bag.custom.get(AUX_NOTE) or usual(AUX_TOPIC)
    topics = BagTopics(rgb, aux, options.truth_topic or usual(TRUTH_TOPIC))
    for topic in topics.images or [RGB_TOPIC]:
        expected = (IMAGE, COMPRESSED_IMAGE, *([EVENT_PACKET] if topic == aux else []))
        if (kind := bag.require(topic)) not in expected:
            raise DataError(f"{bag.path}: {topic} is {kind}; expected {' or '.join(expected)}")
    return topics


@dataclass
class _TopicIndex:
    """Header stamp and time of recording (ns) of every message of a topic."""

    topic: str
    stamps: list[int] = field(default_factory=list)
    recorded: list[int] = field(default_factory=list)


class Arrival(NamedTuple):
    """When an image was taken and recorded. number: of its topic, from 0; stamp, recorded: ns."""

    topic: str
    number: int
    stamp: int
    recorded: int


def image_arrivals(bag: Bag, topics: BagTopics) -> Iterator[Arrival]:
    """Every image of the topics, none decoded, in the order of recording; DataError where one has no stamp."""
    counts = dict.fromkeys(topics.images, 0)
    for message in bag.messages(topics.images):
        number = counts[message.topic]
        counts[message.topic] += 1
        yield Arrival(message.topic, number, _stamp(bag, message, number), message.time_ns)
    for topic, count in counts.items():
        if not count:
            raise DataError(f"{bag.path}: {topic} holds no message")


def _event_arrivals(bag: Bag, topics: BagTopics, options: BagOptions, frames: list[np.ndarray]) -> Iterator[Arrival]:
    """As `image_arrivals`, with the frames that the node would cut from the packets in place of these.

    frames: gets them, as PNG.
    """
    assert topics.aux is not None
    told: list[str] = []
    slicer = EventSlicer(report=told.append)
    slicer.configure(options.event_window, options.pairing)
    numbers = dict.fromkeys(topics.images, 0)
    for message in bag.messages(topics.images):
        number = numbers[message.topic]
        numbers[message.topic] += 1
        stamp = _stamp(bag, message, number)
        cut: list[EventFrame] = []
        try:
            cut = slicer.add_rgb(stamp) if message.topic == topics.rgb else slicer.add_packet(bag.decode(message))
        except ImageError as error:
            told.append(str(error))
        for frame in cut:
            frames.append(cv2.imencode(".png", frame.pixels)[1])
            yield Arrival(topics.aux, len(frames) - 1, frame.stamp, message.time_ns)
        if message.topic == topics.rgb:
            yield Arrival(message.topic, number, stamp, message.time_ns)
    if told:
        logger.warning("%s, %s: %s (the first of %d)", bag.path, topics.aux, told[0], len(told))
    if not frames:
        raise DataError(f"{bag.path}: {topics.aux}: no event frame could be cut from its {numbers[topics.aux]} packets")


def _index_and_pair(
    topics: BagTopics, options: PairOptions, arrivals: Iterator[Arrival], path: Path
) -> tuple[dict[str, _TopicIndex], list[Pair]]:
    """Indices of the image topics, and pairs of message numbers by the stamps alone."""
    index = {topic: _TopicIndex(topic) for topic in topics.images}
    pairer = NearestPairer(options.for_streams(len(index)))
    pairs: list[Pair] = []
    for topic, number, stamp, recorded in arrivals:
        index[topic].stamps.append(stamp)
        index[topic].recorded.append(recorded)
        if topics.rgb is None:
            pairs.append(Pair(None, number, stamp))
        else:
            add = pairer.add_rgb if topic == topics.rgb else pairer.add_aux
            pairs += add(stamp, number)
    pairs += pairer.flush()
    if lost := pairer.counters.late + pairer.counters.outliers:
        text = f"{path}: {lost} images are left out, whose stamps repeat, come after a later one, or leap"
        logger.warning("%s%s", text, _first_left_out(topics, index, pairs))
    return index, pairs


def _first_left_out(topics: BagTopics, index: dict[str, _TopicIndex], pairs: list[Pair]) -> str:
    if topics.rgb is None:
        return ""
    kept = {pair.rgb for pair in pairs}
    stamps = index[topics.rgb].stamps
    lost = (number for number in range(len(stamps)) if number not in kept)
    return next((f" (the first: {topics.rgb}, message {i}, {stamps[i] / 1e9:.3f} s)" for i in lost), "")


def _stamp(bag: Bag, message: RawMessage, number: int) -> int:
    try:
        return header_stamp(message.data)
    except DataError as error:
        raise DataError(f"{bag.path}, {message.topic}, message {number}: {error}") from error


def _check_order(path: str | Path, topics: BagTopics, pairs: list[Pair]) -> None:
    """DataError for the first pair whose stamp is not later than that of the one before."""
    for before, after in pairwise(pairs):
        if after.stamp <= before.stamp:
            raise DataError(
                f"{path}: stamps jump back from {_place(topics, before)} to {_place(topics, after)}; one of the two is "
                "wrong. Leave that message out, or cut the recording there: offline, stamps must increase"
            )


def _place(topics: BagTopics, pair: Pair) -> str:
    topic, number = (topics.aux, pair.aux) if pair.rgb is None else (topics.rgb, pair.rgb)
    return f"{pair.stamp / 1e9:.3f} s ({topic}, message {number})"


class _ImageTopic:
    """Images of one topic by number. Reading in order streams through the bag; a jump seeks."""

    def __init__(self, path: Path, index: _TopicIndex, convert: Callable[[Any], np.ndarray]) -> None:
        self.path, self.topic, self._convert = path, index.topic, convert
        self._recorded = np.array(index.recorded, np.int64)
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


class _EventFrames:
    """Event frames by number, from PNG."""

    def __init__(self, frames: list[np.ndarray]) -> None:
        self._frames = frames

    def __getitem__(self, index: int) -> np.ndarray:
        return decode(self._frames[index], cv2.IMREAD_GRAYSCALE, "event frame")


class BagSequence(ImageSequence):
    """The pairs of two image topics, as the node makes them: one frame for each RGB image, with the aux image
    nearest in time or none; one for each aux image while RGB is silent.

    topics: in use. pairs: of message numbers; of event packets the frames that they were cut into count.
    registrar: lays the aux images on RGB; of frames of the same camera alone, for its maps are kept.
    camera_infos: topics that it was made of, RGB first.
    """

    def __init__(
        self,
        name: str,
        modality: Modality,
        boxes: np.ndarray,
        topics: BagTopics,
        pairs: list[Pair],
        rgb: _ImageTopic | None,
        aux: _ImageTopic | _EventFrames | None,
        registrar: Registrar,
        camera_infos: list[str],
    ) -> None:
        super().__init__(name, modality, boxes, np.array([pair.stamp for pair in pairs], np.int64) / 1e9)
        self.topics, self.pairs, self._rgb, self._aux = topics, pairs, rgb, aux
        self.registrar, self.camera_infos = registrar, camera_infos
        self._size: tuple[int, int] | None = None  # of the RGB images

    def rgb(self, index: int) -> np.ndarray | None:
        return _image(self._rgb, self.pairs[index].rgb)

    def aux(self, index: int) -> np.ndarray | None:
        image = _image(self._aux, self.pairs[index].aux)
        if image is None or self.registrar.registration.registration == "none" or self._rgb is None:
            return image
        if self._size is None:
            height, width = self._rgb[0].shape[:2]
            self._size = height, width
        try:
            return self.registrar(image, self._size, self.modality)
        except ConfigError as error:
            raise DataError(f"{self._rgb.path}: {error}") from error


def _image(images: _ImageTopic | _EventFrames | None, number: int | None) -> np.ndarray | None:
    return None if images is None or number is None else images[number]


def load_bag(path: str | Path, options: BagOptions = BagOptions()) -> BagSequence:
    """Open a bag as a sequence.

    Raises:
        DataError: no bag, no such topic, a topic that holds no image, stamps that jump back, a truth that
            does not fit, nothing that says what the aux topic is, or a calibration that is asked for and missing.
    """
    frames: list[np.ndarray] = []
    with Bag(path) as bag:
        topics = choose_topics(bag, options)
        events = topics.aux is not None and bag.types[topics.aux] == EVENT_PACKET
        arrivals = _event_arrivals(bag, topics, options, frames) if events else image_arrivals(bag, topics)
        index, pairs = _index_and_pair(topics, options.pairing, arrivals, bag.path)
        _check_order(path, topics, pairs)
        modality = Modality.EVENT if events else _aux_modality(bag, topics.aux, options.modality)
        boxes = _truth(bag, topics, index, pairs, _truth_file(Path(path), options))
        name = bag.custom.get("name") or Path(path).stem
        box = bag.custom.get(BOX_NOTE)
        registrar, infos = find_registrar(bag, topics, options)
    rgb = None if topics.rgb is None else _ImageTopic(Path(path), index[topics.rgb], to_rgb)
    aux: _ImageTopic | _EventFrames | None = None
    if topics.aux is not None:
        aux = _EventFrames(frames) if events else _ImageTopic(Path(path), index[topics.aux], to_sensor)
    sequence = BagSequence(name, modality, boxes, topics, pairs, rgb, aux, registrar, infos)
    sequence.noted_box = None if box is None else parse_box(box)
    return sequence


def find_registrar(bag: Bag, topics: BagTopics, options: BagOptions) -> tuple[Registrar, list[str]]:
    """What lays the aux images of a bag on RGB, and the CameraInfo topics that it was made of, RGB first.

    The cameras are as their first CameraInfo says, and mounted as the parameters or the bag's /tf_static say.

    Raises:
        DataError: `camera_info` is asked for, and the bag does not say enough.
    """
    wanted = options.registration
    if wanted.registration != "camera_info" or topics.rgb is None or topics.aux is None:
        return Registrar(wanted), []
    infos = [
        options.rgb_camera_info or camera_info_topic(topics.rgb),
        options.aux_camera_info or camera_info_topic(topics.aux),
    ]
    try:
        rgb, aux = (_camera(bag, info, images) for info, images in zip(infos, topics.images, strict=True))
        return Registrar(wanted, mounted(wanted, rgb, aux, _fixed_frames(bag).between)), infos
    except ConfigError as error:
        raise DataError(f"{bag.path}: registration is camera_info: {error}") from error


def _camera(bag: Bag, info: str, images: str) -> Camera:
    """By the first message of a topic of CameraInfo."""
    found = next(bag.messages([info]), None) if bag.types.get(info) == CAMERA_INFO else None
    if found is None:
        has = ", ".join(sorted(topic for topic, kind in bag.types.items() if kind == CAMERA_INFO)) or "none"
        raise ConfigError(f"no CameraInfo of {images} on {info}; name its topic, the bag has: {has}")
    return camera_from(bag.decode(found), info, is_rectified(images))


def _fixed_frames(bag: Bag) -> FixedFrames:
    frames = FixedFrames()
    for message in bag.messages([TF_STATIC]) if TF_STATIC in bag.types else ():
        frames.add(bag.decode(message))
    return frames


def _aux_modality(bag: Bag, aux_topic: str | None, modality: Modality | str | None) -> Modality:
    if aux_topic is None:
        return Modality.RGB
    word = modality or bag.custom.get("modality")
    if word not in {m.value for m in Modality}:
        raise DataError(f"{bag.path}: say what {aux_topic} is: modality thermal, depth or event")
    return Modality(word)


def _truth_file(path: Path, options: BagOptions) -> Path | None:
    beside = path / TRUTH_FILE
    return beside if not (options.truth_file or options.truth_topic) and beside.is_file() else options.truth_file


def _truth(
    bag: Bag, topics: BagTopics, index: dict[str, _TopicIndex], pairs: list[Pair], file: Path | None
) -> np.ndarray:
    """(n, 4) true boxes of the pairs, NaN where there is none."""
    driving = index[topics.images[0]]
    known = np.full((len(driving.stamps), 4), np.nan)
    if file is not None:
        known = read_boxes(Path(file))
        if len(known) != len(driving.stamps):
            raise DataError(f"{file}: {len(known)} annotation rows for {len(driving.stamps)} images in {bag.path}")
    elif topics.truth is not None:
        kind = bag.require(topics.truth)
        if kind not in (TARGET_BOX, DETECTIONS):
            raise DataError(f"{bag.path}: {topics.truth} is {kind}; expected {TARGET_BOX} or {DETECTIONS}")
        rows = {stamp: row for row, stamp in enumerate(driving.stamps)}
        for number, raw in enumerate(bag.messages([topics.truth])):
            if (row := rows.get(_stamp(bag, raw, number))) is not None:
                known[row] = _box(bag.decode(raw))
    numbers = [pair.aux if topics.rgb is None else pair.rgb for pair in pairs]
    nothing = np.full(4, np.nan)
    return np.array([nothing if number is None else known[number] for number in numbers]).reshape(-1, 4)


def _box(message: Any) -> tuple[float, float, float, float]:
    """x, y, w, h of a TargetBox or of the first detection; NaN when there is none."""
    if hasattr(message, "width"):
        return message.x, message.y, message.width, message.height
    if not len(message.detections):
        return (np.nan,) * 4
    box = message.detections[0].bbox
    center = getattr(box.center, "position", box.center)  # vision_msgs before version 4 has no `position`
    return center.x - box.size_x / 2, center.y - box.size_y / 2, box.size_x, box.size_y
