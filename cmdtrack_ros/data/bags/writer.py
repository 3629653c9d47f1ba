"""Sequences as rosbag2 (MCAP), written without ROS: what a robot's cameras would have published."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from rosbags.interfaces import Connection, Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer, WriterError
from rosbags.typesys import get_types_from_msg
from rosbags.typesys.store import Typestore
from tqdm import tqdm

from cmdtrack_ros.boxes import visible
from cmdtrack_ros.data.bags.messages import (
    AUX_TOPIC,
    COMPRESSED_IMAGE,
    IMAGE,
    RGB_TOPIC,
    TARGET_BOX,
    TRUTH_TOPIC,
    message_types,
)
from cmdtrack_ros.data.bags.reader import RawMessage
from cmdtrack_ros.data.sequences import ImageSequence
from cmdtrack_ros.errors import ConfigError, DataError
from cmdtrack_ros.modalities import Modality
from cmdtrack_ros.streams.images import JPEG_FORMAT, encode_jpeg
from cmdtrack_ros.streams.pairing import RANGES

# rosbag2 metadata of this version is read by Humble and by all later distributions.
METADATA_VERSION: Final = 8
WRITER_RANGES = {
    "aux_offset": RANGES["aux_offset"],
    "aux_clock": RANGES["aux_offset"],
    "aux_jitter": (0.0, 10.0),
    "aux_drop": (0.0, 1.0),
    "seed": (0, 2**32 - 1),
    "start": (0.0, 4e9),  # a message's seconds end in 2106 at the latest
}
"""Lowest and highest of the numbers of `WriterOptions`."""
_JPEG_QUALITY = 95  # a recording is to be tracked, not only looked at
_INFINITE_DURATION = QosTime(9223372036, 854775807)
_RELIABLE_QOS = Qos(
    QosHistory.KEEP_LAST,
    10,
    QosReliability.RELIABLE,
    QosDurability.VOLATILE,
    _INFINITE_DURATION,
    _INFINITE_DURATION,
    QosLiveliness.AUTOMATIC,
    _INFINITE_DURATION,
    avoid_ros_namespace_conventions=False,
)


@dataclass(frozen=True)
class WriterOptions:
    """How a sequence becomes a bag.

    rgb_topic, aux_topic, truth_topic: names; messages have the types that real cameras publish.
    compressed: RGB as JPEG (CompressedImage on <rgb_topic>/compressed).
    aux_offset: seconds added to every aux stamp, as by a sensor that answers later.
    aux_clock: seconds that the aux camera's clock is ahead: in its stamps, not in the time of recording.
    aux_jitter: standard deviation in seconds of a random offset of each aux stamp; order is kept.
    aux_drop: probability that an aux image is missing.
    seed: of jitter and drops.
    start: ROS time in seconds of the first frame (0 would mean "no stamp" to most nodes).

    ConfigError: a number outside `WRITER_RANGES`.
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
    aux_clock: float = 0.0

    def __post_init__(self) -> None:
        for name, (low, high) in WRITER_RANGES.items():
            if not low <= (value := getattr(self, name)) <= high:
                raise ConfigError(f"{name}: expected {low} to {high}, got {value}")


def write_bag(
    sequence: ImageSequence,
    path: str | Path,
    options: WriterOptions = WriterOptions(),
    *,
    overwrite: bool = False,
    progress: bool = False,
) -> Path:
    """Write `sequence` as an MCAP bag in the new folder `path`.

    The time of recording is each message's stamp, less `aux_clock`.

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


def write_messages(
    path: str | Path, messages: Iterable[RawMessage], notes: Mapping[str, str], definitions: Mapping[str, str]
) -> Path:
    """Write messages as they came, into an MCAP bag in the new folder `path`; what is left of a failure is removed.

    Args:
        notes: what the bag says of itself (`Bag.custom`).
        definitions: texts of the .msg files of types that are no part of ROS 2's common interfaces, by type.

    Raises:
        DataError: there is such a folder, or the bag cannot be written.
    """
    path = Path(path)
    _make_room(path, overwrite=False)
    store = message_types()
    for kind, text in definitions.items():
        if kind not in store.types:
            store.register(get_types_from_msg(text, kind))
    connections: dict[str, Connection] = {}
    try:
        with Writer(path, version=METADATA_VERSION, storage_plugin=StoragePlugin.MCAP) as writer:
            for name, note in notes.items():
                writer.set_custom_data(name, note)
            for message in messages:
                if message.topic not in connections:
                    connections[message.topic] = writer.add_connection(
                        message.topic, message.type, typestore=store, offered_qos_profiles=[_RELIABLE_QOS]
                    )
                writer.write(connections[message.topic], message.time_ns, message.data)
    except (WriterError, OSError) as error:
        shutil.rmtree(path, ignore_errors=True)
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
    writer: Writer, store: Typestore, sequence: ImageSequence, options: WriterOptions, progress: bool
) -> None:
    connections: dict[str, Connection] = {}
    for time_ns, stream, index in tqdm(_schedule(sequence, options), "bag", unit="msg", disable=not progress):
        ahead = round(options.aux_clock * 1e9) if stream == "aux" else 0
        entry = _message(store, sequence, options, stream, index, time_ns + ahead)
        if entry is None:
            continue
        topic, message = entry
        if topic not in connections:
            connections[topic] = writer.add_connection(
                topic, message.__msgtype__, typestore=store, offered_qos_profiles=[_RELIABLE_QOS]
            )
        writer.write(connections[topic], time_ns, store.serialize_cdr(message, message.__msgtype__))


def stamps_in_bag(sequence: ImageSequence, options: WriterOptions) -> list[int]:
    """The stamp (ns) that each frame of the sequence has in its bag."""
    return [round(options.start * 1e9) + round(s * 1e9) for s in sequence.stamps - sequence.stamps[0]]


def _schedule(sequence: ImageSequence, options: WriterOptions) -> list[tuple[int, str, int]]:
    """(time in ns, stream, frame index) of every message, in the order of recording."""
    times = stamps_in_bag(sequence, options)
    # Sorted by time, then as listed here: the true box comes before the image it belongs to.
    entries = [(t, "truth", i) for i, t in enumerate(times) if visible(sequence.boxes[i])]
    entries += [(t, "rgb", i) for i, t in enumerate(times)]
    kept, shifts = _aux_faults(sequence.stamps, options)
    entries += [(t + round(shifts[i] * 1e9), "aux", i) for i, t in enumerate(times) if kept[i]]
    order = {"truth": 0, "rgb": 1, "aux": 2}
    return sorted(entries, key=lambda entry: (entry[0], order[entry[1]]))


def _aux_faults(seconds: np.ndarray, options: WriterOptions) -> tuple[np.ndarray, np.ndarray]:
    """Which aux images are kept, and by how many seconds each stamp is off."""
    rng = np.random.default_rng(options.seed)
    jitter = rng.normal(0.0, 1.0, len(seconds)) * options.aux_jitter
    if len(seconds) > 1:
        # Under half a frame either way, stamps stay in order.
        limit = 0.45 * float(np.diff(seconds).min())
        jitter = np.clip(jitter, -limit, limit)
    return rng.random(len(seconds)) >= options.aux_drop, options.aux_offset + jitter


def _message(
    store: Typestore, sequence: ImageSequence, options: WriterOptions, stream: str, index: int, time_ns: int
) -> tuple[str, Any] | None:
    """Topic and message; None for an image that the frame lacks."""
    if stream == "truth":
        return options.truth_topic, _target_box(store, sequence.boxes[index], sequence.name, time_ns)
    image = sequence.aux(index) if stream == "aux" else sequence.rgb(index)
    if image is None:
        return None
    if stream == "aux":
        return options.aux_topic, _image(store, image, sequence.modality, "aux", time_ns)
    if options.compressed:
        return f"{options.rgb_topic}/compressed", _compressed(store, image, time_ns)
    return options.rgb_topic, _image(store, image, Modality.RGB, "rgb", time_ns)


def _header(store: Typestore, frame: str, time_ns: int) -> Any:
    stamp = store.types["builtin_interfaces/msg/Time"](time_ns // 10**9, time_ns % 10**9)
    return store.types["std_msgs/msg/Header"](stamp, frame)


def _target_box(store: Typestore, box: np.ndarray, name: str, time_ns: int) -> Any:
    return store.types[TARGET_BOX](_header(store, "rgb", time_ns), name, "", *(float(v) for v in box))


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
    return store.types[COMPRESSED_IMAGE](_header(store, "rgb", time_ns), JPEG_FORMAT, encode_jpeg(rgb, _JPEG_QUALITY))


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
        raise DataError(f"{modality} image of {kind[0]} with {kind[1]} channels: expected one of {list(names)}")
    return names[kind]
