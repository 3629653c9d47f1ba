"""Bags that are registered by the CameraInfo and tf in them, and bags of event packets: as the node sees them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from events import packet
from rosbags.rosbag2 import StoragePlugin, Writer

from cmdtrack_ros.cameras import camera_from
from cmdtrack_ros.data.bags import BagOptions, load_bag
from cmdtrack_ros.data.bags.messages import CAMERA_INFO, IMAGE, message_types
from cmdtrack_ros.data.bags.writer import METADATA_VERSION
from cmdtrack_ros.errors import ConfigError, DataError
from cmdtrack_ros.evaluation.replay import ReplayOptions, replay_offline
from cmdtrack_ros.evaluation.sync import examine_bag
from cmdtrack_ros.modalities import Modality
from cmdtrack_ros.streams.events import EVENT_PACKET, EventSlicer
from cmdtrack_ros.streams.frames import FixedFrames, rotation_from, turns_of
from cmdtrack_ros.streams.registration import Registrar, Registration, Rig
from cmdtrack_ros.training.config import Source
from cmdtrack_ros.training.sources import load_sequences

STORE = message_types()
TYPES = STORE.types
START = 1_700_000_000 * 10**9
MS = 1_000_000
RGB, AUX = "/front/color/image_raw", "/front/depth/image_raw"
INFOS = {"rgb_camera_info": "/front/color/camera_info", "aux_camera_info": "/front/depth/camera_info"}
HEIGHT, WIDTH = 48, 64


def header(stamp: int, frame: str = "") -> Any:
    return TYPES["std_msgs/msg/Header"](TYPES["builtin_interfaces/msg/Time"](*divmod(stamp, 10**9)), frame)


def camera_info(frame: str, focal: float, distortion: tuple[float, ...] = ()) -> Any:
    k = np.array([focal, 0, WIDTH / 2, 0, focal, HEIGHT / 2, 0, 0, 1.0])
    roi = TYPES["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    p = np.zeros(12)
    d = np.array(distortion)
    return TYPES[CAMERA_INFO](header(START, frame), HEIGHT, WIDTH, "plumb_bob", d, k, np.eye(3).ravel(), p, 0, 0, roi)


def transform(parent: str, child: str, translation: tuple, turns: tuple = (0.0, 0.0, 0.0)) -> Any:
    half = turns[2] / 2  # about z alone
    q = TYPES["geometry_msgs/msg/Quaternion"](0.0, 0.0, float(np.sin(half)), float(np.cos(half)))
    t = TYPES["geometry_msgs/msg/Vector3"](*translation)
    return TYPES["geometry_msgs/msg/TransformStamped"](
        header(START, parent), child, TYPES["geometry_msgs/msg/Transform"](t, q)
    )


def image(pixels: np.ndarray, encoding: str, stamp: int) -> Any:
    (height, width), data = pixels.shape[:2], np.ascontiguousarray(pixels).view(np.uint8).ravel()
    return TYPES[IMAGE](header(stamp), height, width, encoding, 0, pixels.strides[0], data)


def write(path: Path, messages: list[tuple[int, str, Any]], **notes: str) -> Path:
    with Writer(path, version=METADATA_VERSION, storage_plugin=StoragePlugin.MCAP) as writer:
        for name, note in notes.items():
            writer.set_custom_data(name, note)
        connections: dict[str, Any] = {}
        for time, topic, message in messages:
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
            writer.write(connections[topic], time, STORE.serialize_cdr(message, kind))
    return path


def sensor(number: int) -> np.ndarray:
    """Depth in mm; a slope, so that every shift shows."""
    return (2000 + 10 * np.arange(WIDTH) + 20 * np.arange(HEIGHT)[:, None] + number).astype(np.uint16)


def rig_bag(path: Path, left_out: str = "", infos: dict[str, str] = INFOS) -> Path:
    """RGB and depth of two lenses, their calibrations and how they are mounted, as a driver and tf publish them."""
    mounts = [
        transform("base", "bracket", (1.0, 2.0, 3.0), (0, 0, 0.4)),
        transform("bracket", "rgb_optical", (0.0, 0.0, 0.1)),
        transform("bracket", "aux_optical", (0.2, 0.0, 0.0), (0, 0, 0.05)),
    ]
    messages = [(START, "/tf_static", TYPES["tf2_msgs/msg/TFMessage"](mounts))]
    for i in range(5):
        stamp = START + i * 100 * MS
        messages += [
            (stamp, infos["rgb_camera_info"], camera_info("rgb_optical", 60.0, (0.05, 0.0, 0.0, 0.0))),
            (stamp, infos["aux_camera_info"], camera_info("aux_optical", 50.0)),
            (stamp, RGB, image(np.full((HEIGHT, WIDTH, 3), i, np.uint8), "rgb8", stamp)),
            (stamp, AUX, image(sensor(i), "16UC1", stamp)),
        ]
    return write(path, [entry for entry in messages if entry[1] != left_out], modality="depth")


BAG = BagOptions(RGB, AUX, registration=Registration("camera_info"))
TRANSLATION, TURNS = (0.2, 0.0, -0.1), (0.0, 0.0, 0.05)  # of aux_optical in rgb_optical, by the three transforms


def moved(number: int) -> np.ndarray:
    """The sensor's image where the RGB camera sees it, by the geometry written out here."""
    rgb = camera_from(camera_info("", 60.0, (0.05, 0.0, 0.0, 0.0)), "rgb")
    rig = Rig(rgb, camera_from(camera_info("", 50.0), "aux"), rotation_from(*TURNS), np.array(TRANSLATION))
    return Registrar(BAG.registration, rig)(sensor(number), (HEIGHT, WIDTH), "depth")


def test_camera_info_and_tf_of_a_bag_register_its_images(tmp_path: Path) -> None:
    sequence = load_bag(rig_bag(tmp_path / "bag"), BAG)
    expected = moved(3)
    assert (expected > 0).mean() > 0.3 and not np.array_equal(expected, sensor(3))
    assert np.array_equal(sequence.aux(3), expected)


def test_parameters_go_before_tf_and_topics_can_be_named(tmp_path: Path) -> None:
    elsewhere = {"rgb_camera_info": "/calibration/a", "aux_camera_info": "/calibration/b"}
    mounted = replace(BAG.registration, aux_translation=TRANSLATION, aux_rotation=TURNS)
    path = rig_bag(tmp_path / "bag", "/tf_static", elsewhere)
    sequence = load_bag(path, replace(BAG, registration=mounted, **elsewhere))
    assert np.array_equal(sequence.aux(3), moved(3))


def test_training_registers_as_the_sequence_does(tmp_path: Path) -> None:
    path = rig_bag(tmp_path / "bag")
    source = Source(kind="bags", path=path, rgb_topic=RGB, aux_topic=AUX, registration="camera_info")
    with pytest.raises(DataError, match="no box for any image; expected boxes.txt in its folder"):
        load_sequences(source, path, tmp_path)
    (path / "boxes.txt").write_text("5,5,20,20\n" * 5)
    (sequence,) = load_sequences(source, path, tmp_path)
    assert sequence.boxes.tolist() == [[5, 5, 20, 20]] * 5
    assert np.array_equal(sequence.aux(3), moved(3))


@pytest.mark.parametrize(
    "left_out, says",
    [
        (INFOS["rgb_camera_info"], f"no CameraInfo of {RGB} on {INFOS['rgb_camera_info']}.*has: /front/depth/"),
        (INFOS["aux_camera_info"], f"no CameraInfo of {AUX} on {INFOS['aux_camera_info']}.*has: /front/color/"),
        ("/tf_static", "tf knows no way from 'aux_optical' to 'rgb_optical'"),
    ],
)
def test_what_a_bag_does_not_say_is_named(tmp_path: Path, left_out: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        load_bag(rig_bag(tmp_path / "bag", left_out), BAG)


def test_replay_registers_as_the_sequence_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cmdtrack_ros.tracking.pipeline import Pipeline

    seen: list[np.ndarray] = []
    process = Pipeline.process

    def watched(self: Pipeline, *arguments: Any) -> Any:
        tracks = process(self, *arguments)
        seen.append(self.images[1])
        return tracks

    monkeypatch.setattr(Pipeline, "process", watched)
    path = rig_bag(tmp_path / "bag")
    replay_offline(path, ReplayOptions(BAG, initial_box=np.array([10.0, 10, 20, 20])))
    assert len(seen) == 5 and all(np.array_equal(image, moved(i)) for i, image in enumerate(seen))


def test_turns_and_fixed_frames() -> None:
    for turns in ((0.1, -0.4, 2.0), (0.0, 0.0, 0.0), (-3.0, 1.2, -1.0)):
        assert np.allclose(rotation_from(*turns_of(rotation_from(*turns))), rotation_from(*turns))
    frames = FixedFrames()
    frames.add(TYPES["tf2_msgs/msg/TFMessage"]([transform("a", "b", (1.0, 0.0, 0.0), (0, 0, np.pi / 2))]))
    frames.add(TYPES["tf2_msgs/msg/TFMessage"]([transform("b", "c", (0.0, 2.0, 0.0))]))
    forth, back = frames.between("a", "c"), frames.between("c", "a")
    assert forth is not None and back is not None
    assert np.allclose(forth.translation, [-1, 0, 0]), "b's y is a's -x"
    assert np.allclose(back.rotation @ forth.translation + back.translation, 0)
    assert frames.between("a", "elsewhere") is None


# Event packets.


def event_bag(path: Path, encoding: str = "evt3", gap: int | None = None) -> Path:
    """A block that moves over the sensor, in packets of 10 ms, beside RGB images at 20 Hz; packet `gap` is garbage."""
    messages: list[tuple[int, str, Any]] = []
    for i in range(60):
        stamp = START + i * 10 * MS
        y, x = (value.ravel() for value in np.mgrid[10:26, i : i + 4])
        events = np.stack([np.linspace(0, 9000, x.size).astype(int), x % WIDTH, y, y % 2], 1)
        fields = packet(stamp, events, encoding, WIDTH, HEIGHT, i)
        words = np.frombuffer(fields.events, np.uint8)
        encoding_said = "libcaer" if i == gap else encoding
        message = TYPES[EVENT_PACKET](header(stamp), HEIGHT, WIDTH, i, 0, encoding_said, False, words)
        messages.append((stamp + 10 * MS, AUX, message))
        if i % 5 == 2:
            picture, stamp = np.full((HEIGHT, WIDTH, 3), i, np.uint8), stamp + 3 * MS
            messages.append((stamp, RGB, image(picture, "rgb8", stamp)))
    return write(path, sorted(messages, key=lambda entry: entry[0]))


EVENTS = BagOptions(RGB, AUX)


def cut_by_the_node(path: Path, window: float) -> dict[int, np.ndarray]:
    """Stamp -> frame, of the slicer that the node has, fed by hand."""
    from cmdtrack_ros.data.bags import Bag

    slicer, frames = EventSlicer(), {}
    slicer.configure(window)
    with Bag(path) as bag:
        for raw in bag.messages():
            message = bag.decode(raw)
            stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            for frame in slicer.add_packet(message) if raw.topic == AUX else slicer.add_rgb(stamp):
                frames[frame.stamp] = frame.pixels
    return frames


@pytest.mark.parametrize("encoding", ["evt3", "evt2"])
@pytest.mark.parametrize("window", [0.0, 0.02])
def test_event_packets_of_a_bag_are_cut_as_the_node_cuts_them(tmp_path: Path, encoding: str, window: float) -> None:
    path = event_bag(tmp_path / "bag", encoding)
    sequence = load_bag(path, replace(EVENTS, event_window=window))
    expected = cut_by_the_node(path, window)
    assert sequence.modality is Modality.EVENT and len(sequence) == 12
    with_events = [index for index in range(12) if sequence.aux(index) is not None]
    assert len(with_events) >= 11, "the last packet ends before the last image's frame is complete"
    for index in reversed(with_events):  # in any order
        assert np.array_equal(sequence.aux(index), expected[sequence.pairs[index].stamp])
        assert sequence.pairs[index].gap == 0
    shown = sequence.aux(6)
    assert set(np.unique(shown)) == {0, 128, 255}


def test_longer_windows_show_more(tmp_path: Path) -> None:
    path = event_bag(tmp_path / "bag")
    short, long = (load_bag(path, replace(EVENTS, event_window=window)) for window in (0.01, 0.2))
    assert (long.aux(8) != 128).sum() > 2 * (short.aux(8) != 128).sum() > 0


def test_replay_of_event_packets_sees_the_frames_of_the_sequence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from cmdtrack_ros.tracking.pipeline import Pipeline

    seen: dict[int, np.ndarray] = {}
    process = Pipeline.process

    def watched(self: Pipeline, pair: Any, *arguments: Any) -> Any:
        tracks = process(self, pair, *arguments)
        seen[pair.stamp] = self.images[1]
        return tracks

    monkeypatch.setattr(Pipeline, "process", watched)
    path = event_bag(tmp_path / "bag", gap=30)
    sequence = load_bag(path, EVENTS)
    assert "expected encoding evt3 or evt2 (the first of 1)" in caplog.text
    replay = replay_offline(path, ReplayOptions(EVENTS, initial_box=np.array([10.0, 10, 16, 16])))
    assert replay.counters["paired"] >= 11
    for index, pair in enumerate(sequence.pairs):
        expected = sequence.aux(index)
        assert expected is None if seen[pair.stamp] is None else np.array_equal(seen[pair.stamp], expected)


@pytest.mark.ros
def test_packets_are_played_with_new_stamps_at_their_own_rate_alone(tmp_path: Path) -> None:
    """Frames would be cut out of other events: times within a packet are not scaled."""
    from cmdtrack_ros.ros.replay.player import play
    from cmdtrack_ros.ros.replay.session import replay_through_node

    path, log = event_bag(tmp_path / "bag"), tmp_path / "node.log"
    options = ReplayOptions(EVENTS, initial_box=np.array([10.0, 10, 16, 16]))
    with pytest.raises(ConfigError, match=f"bag: {AUX} holds event packets.* rate 1 alone, got 0.5"):
        replay_through_node(path, options, log, rate=0.5)
    assert not log.exists(), "said before the node is started"
    with pytest.raises(ConfigError, match="got 2"):
        play(path, rate=2.0, restamp="now")
    assert play(path, rate=10.0, topics=[RGB]).messages == 12


def test_what_packets_cannot_be_used_for_is_said(tmp_path: Path) -> None:
    path = event_bag(tmp_path / "bag")
    with pytest.raises(DataError, match="holds event packets.*expected two topics of images"):
        examine_bag(path, EVENTS)
    with pytest.raises(DataError, match=f"{AUX} is {EVENT_PACKET}; expected sensor_msgs/msg/Image or"):
        load_bag(path, BagOptions(rgb_topic=AUX))
