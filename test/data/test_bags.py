"""Recordings as rosbag2: what is written comes back, faults are as asked for, damage is named."""

from __future__ import annotations

import pickle
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import get_types_from_msg

from cmdtrack_ros.data.bags import (
    COMPRESSED_IMAGE,
    IMAGE,
    TARGET_BOX,
    TARGET_BOX_DEFINITION,
    Bag,
    BagOptions,
    header_stamp,
    is_bag,
    load_bag,
    message_types,
    nearest,
    with_stamp,
    write_bag,
)
from cmdtrack_ros.data.recordings import open_recording
from cmdtrack_ros.data.sequences import ImageSequence
from cmdtrack_ros.data.video import VideoFile, VideoSequence, VideoWriter
from cmdtrack_ros.errors import ConfigError, DataError
from cmdtrack_ros.modalities import Modality

COUNT = 12
AUX = {
    Modality.THERMAL: ("mono16", np.uint16),
    Modality.DEPTH: ("16UC1", np.uint16),
    Modality.EVENT: ("rgb8", np.uint8),
}


class Recording(ImageSequence):
    """Random pictures, the same for every access."""

    def __init__(
        self, modality: Modality = Modality.THERMAL, count: int = COUNT, size: tuple[int, int] = (24, 33)
    ) -> None:
        boxes = np.arange(count)[:, None] + [2.0, 3.5, 10, 12]
        boxes[4:5] = np.nan
        super().__init__("made up", modality, boxes, 7.0 + np.arange(count) / 25)
        self.size = size

    def rgb(self, index: int) -> np.ndarray:
        return np.random.default_rng(index).integers(0, 256, (*self.size, 3), np.uint8)

    def aux(self, index: int) -> np.ndarray | None:
        if self.modality is Modality.RGB:
            return None
        dtype = AUX[self.modality][1]
        shape = (*self.size, 3) if self.modality is Modality.EVENT else self.size
        return np.random.default_rng(index + 100).integers(0, np.iinfo(dtype).max, shape, dtype)


@pytest.mark.parametrize("modality", list(Modality))
def test_a_written_bag_reads_back_equal(tmp_path: Path, modality: Modality) -> None:
    source = Recording(modality)
    bag = load_bag(write_bag(source, tmp_path / "bag"))
    assert (bag.name, bag.modality, len(bag)) == (source.name, modality, COUNT)
    np.testing.assert_array_equal(bag.boxes, source.boxes)
    np.testing.assert_allclose(np.diff(bag.stamps), np.diff(source.stamps), atol=1e-6)
    for i in (3, 4, 5, 11, 0, 1, 0):  # in order, and not
        frame = bag.frame(i)
        np.testing.assert_array_equal(frame.rgb, source.rgb(i))
        if modality is Modality.RGB:
            assert frame.aux is None
        else:
            assert frame.aux.dtype == source.aux(i).dtype
            np.testing.assert_array_equal(frame.aux, source.aux(i))
    again = pickle.loads(pickle.dumps(bag))
    np.testing.assert_array_equal(again.rgb(2), source.rgb(2))


def test_messages_are_what_cameras_publish(tmp_path: Path) -> None:
    for modality, (encoding, _) in AUX.items():
        path = write_bag(Recording(modality), tmp_path / modality.value)
        with Bag(path) as bag:
            assert bag.types == {"/ground_truth": TARGET_BOX, "/rgb/image": IMAGE, "/aux/image": IMAGE}
            assert bag.counts == {"/ground_truth": COUNT - 1, "/rgb/image": COUNT, "/aux/image": COUNT}
            image = bag.decode(next(bag.messages(["/aux/image"])))
            assert (image.encoding, image.height, image.width) == (encoding, 24, 33)
            assert image.step * image.height == len(image.data) and image.is_bigendian == 0
            assert image.header.stamp.sec == 1_600_000_000
            times = [m.time_ns for m in bag.messages()]
            assert times == sorted(times)


def test_stamp_offset_jitter_and_drops(tmp_path: Path) -> None:
    source = Recording(count=200, size=(4, 4))
    options = BagOptions(aux_offset=0.012, aux_jitter=0.004, aux_drop=0.25, seed=5)

    def aux_stamps(name: str, used: BagOptions) -> np.ndarray:
        with Bag(write_bag(source, tmp_path / name, used)) as bag:
            return np.array([header_stamp(m.data) for m in bag.messages(["/aux/image"])])

    stamps = aux_stamps("a", options)
    assert 120 < len(stamps) < 175 and (np.diff(stamps) > 0).all()
    np.testing.assert_array_equal(stamps, aux_stamps("b", options))
    assert len(aux_stamps("c", BagOptions(aux_drop=0.25, seed=6))) != len(stamps)
    exact = 1_600_000_000 + (source.stamps - source.stamps[0])
    shift = stamps / 1e9 - exact[np.abs(stamps[:, None] / 1e9 - 0.012 - exact).argmin(axis=1)]
    assert abs(shift.mean() - 0.012) < 0.001 and 0.003 < shift.std() < 0.005
    bag = load_bag(tmp_path / "a", slop=0.02)
    assert sum(bag.aux(i) is None for i in range(len(bag))) >= 200 - len(stamps)


def test_compressed_colour(tmp_path: Path) -> None:
    source = Recording()
    source.rgb = lambda i: np.full((24, 33, 3), (200, 20 + i, 60), np.uint8)
    path = write_bag(source, tmp_path / "bag", BagOptions(compressed=True))
    with Bag(path) as bag:
        assert bag.types["/rgb/image/compressed"] == COMPRESSED_IMAGE
    np.testing.assert_allclose(load_bag(path).rgb(7).astype(int), source.rgb(7), atol=3)


def test_bags_of_others(tmp_path: Path) -> None:
    """sqlite3, other topics, padded rows, metres, and truth as detections."""
    store = message_types()
    store.register(get_types_from_msg("float64 x\nfloat64 y\n", "vision_msgs/msg/Point2D"))
    store.register(
        get_types_from_msg("vision_msgs/Point2D position\nfloat64 theta\n", "vision_msgs/msg/Pose2D")
    )
    store.register(
        get_types_from_msg(
            "vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y\n", "vision_msgs/msg/BoundingBox2D"
        )
    )
    store.register(
        get_types_from_msg(
            "std_msgs/Header header\nvision_msgs/BoundingBox2D bbox\nstring id\n",
            "vision_msgs/msg/Detection2D",
        )
    )
    store.register(
        get_types_from_msg(
            "std_msgs/Header header\nvision_msgs/Detection2D[] detections\n",
            "vision_msgs/msg/Detection2DArray",
        )
    )
    types = store.types
    depth = np.linspace(0.5, 4, 6 * 5, dtype=np.float32).reshape(6, 5)

    def header(i: int) -> object:
        return types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](100 + i, 0), "")

    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
        names = {"/cam/color": IMAGE, "/cam/depth": IMAGE, "/truth": "vision_msgs/msg/Detection2DArray"}
        connections = {t: writer.add_connection(t, kind, typestore=store) for t, kind in names.items()}
        for i in range(3):
            rows = np.zeros((6, 20), np.uint8)
            rows[:, :15] = i
            box = types["vision_msgs/msg/BoundingBox2D"](
                types["vision_msgs/msg/Pose2D"](types["vision_msgs/msg/Point2D"](3.0, 4.0), 0.0), 2.0, 4.0
            )
            found = [types["vision_msgs/msg/Detection2D"](header(i), box, "1")] * (i != 1)
            messages = {
                "/cam/color": types[IMAGE](header(i), 6, 5, "bgr8", 0, 20, rows.ravel()),
                "/cam/depth": types[IMAGE](header(i), 6, 5, "32FC1", 0, 20, depth.view(np.uint8).ravel()),
                "/truth": types["vision_msgs/msg/Detection2DArray"](header(i), found),
            }
            for topic, message in messages.items():
                writer.write(
                    connections[topic], (100 + i) * 10**9, store.serialize_cdr(message, message.__msgtype__)
                )
    bag = load_bag(
        tmp_path / "bag",
        rgb_topic="/cam/color",
        aux_topic="/cam/depth",
        truth_topic="/truth",
        modality="depth",
    )
    np.testing.assert_array_equal(bag.aux(1), depth)
    assert bag.rgb(2).shape == (6, 5, 3) and (bag.rgb(2) == 2).all()
    np.testing.assert_array_equal(bag.boxes, [[2, 2, 2, 4], [np.nan] * 4, [2, 2, 2, 4]])
    with pytest.raises(DataError, match="say what /cam/depth is"):
        load_bag(tmp_path / "bag", rgb_topic="/cam/color", aux_topic="/cam/depth")
    (tmp_path / "truth.txt").write_text("1,2,3,4\n" * 3)
    assert (
        load_bag(tmp_path / "bag", rgb_topic="/cam/color", truth_file=tmp_path / "truth.txt").boxes[2, 3] == 4
    )
    (tmp_path / "truth.txt").write_text("1,2,3,4\n" * 2)
    with pytest.raises(DataError, match="2 annotation rows for 3 images"):
        load_bag(tmp_path / "bag", rgb_topic="/cam/color", truth_file=tmp_path / "truth.txt")


def test_a_missing_topic_lists_those_there_are(tmp_path: Path) -> None:
    path = write_bag(Recording(), tmp_path / "bag")
    with pytest.raises(DataError) as error:
        load_bag(path, rgb_topic="/camera/image")
    for part in ("/camera/image", "/rgb/image (sensor_msgs/msg/Image)", "/aux/image", "/ground_truth"):
        assert part in str(error.value)
    with pytest.raises(
        DataError, match="/ground_truth is cmdtrack_ros/msg/TargetBox; expected sensor_msgs/msg/Image"
    ):
        load_bag(path, aux_topic="/ground_truth")
    with pytest.raises(
        DataError, match="/rgb/image is sensor_msgs/msg/Image; expected cmdtrack_ros/msg/TargetBox"
    ):
        load_bag(path, truth_topic="/rgb/image")


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.95])
def test_truncated_mcap_is_named(tmp_path: Path, keep: float) -> None:
    path = write_bag(Recording(), tmp_path / "bag")
    storage = next(path.glob("*.mcap"))
    data = storage.read_bytes()
    storage.write_bytes(data[: int(len(data) * keep)])
    for damaged in (path, storage):
        with pytest.raises(DataError, match=f"{damaged}.*damaged or truncated"):
            load_bag(damaged)


def test_damaged_messages_are_named(tmp_path: Path) -> None:
    source = Recording()
    path = write_bag(source, tmp_path / "bag")
    storage = next(path.glob("*.mcap"))
    data = bytearray(storage.read_bytes())
    where = data.find(struct.pack("<I", 5) + b"rgb8\0")  # the encoding of the first colour image
    assert where > 0
    data[where + 4 : where + 8] = b"zzz9"
    storage.write_bytes(data)
    bag = load_bag(path)
    with pytest.raises(DataError, match="/rgb/image, message 0.*zzz9"):
        bag.rgb(0)
    np.testing.assert_array_equal(bag.rgb(1), source.rgb(1))


def test_what_is_no_bag(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        Bag(tmp_path / "nothing")
    with pytest.raises(DataError, match="expected a rosbag2"):
        Bag(tmp_path)
    (tmp_path / "metadata.yaml").write_text("nonsense: [")
    assert is_bag(tmp_path)
    with pytest.raises(DataError, match="damaged or truncated"):
        Bag(tmp_path)


def test_only_bags_are_replaced(tmp_path: Path) -> None:
    path = write_bag(Recording(), tmp_path / "bag")
    with pytest.raises(DataError, match="exists already"):
        write_bag(Recording(), path)
    write_bag(Recording(count=3), path, overwrite=True)
    assert len(load_bag(path)) == 3
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1").write_text("precious")
    with pytest.raises(DataError, match="not a bag and will not be replaced"):
        write_bag(Recording(), tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter1").is_file()


def test_nearest_partner() -> None:
    stamps = np.array([0, 100, 200, 300])
    np.testing.assert_array_equal(nearest(stamps, np.array([10, 95, 290]), 20), [0, 1, -1, 2])
    np.testing.assert_array_equal(
        nearest(stamps, np.array([60]), 50), [-1, 0, -1, -1]
    )  # one partner, one frame
    np.testing.assert_array_equal(nearest(stamps, np.array([130]), 20), [-1, -1, -1, -1])
    np.testing.assert_array_equal(nearest(stamps, stamps + 20, 20), [0, 1, 2, 3])  # the slop itself counts


def test_stamps_of_serialised_messages() -> None:
    store = message_types()
    for kind in ("little", "big"):
        header = store.types["std_msgs/msg/Header"](
            store.types["builtin_interfaces/msg/Time"](12, 34), "frame"
        )
        box = store.types[TARGET_BOX](header, "me", 1.0, 2.0, 3.0, 4.0)
        data = bytes(store.serialize_cdr(box, TARGET_BOX, little_endian=kind == "little"))
        assert header_stamp(data) == 12_000_000_034
        moved = store.deserialize_cdr(with_stamp(data, 56_000_000_078), TARGET_BOX)
        assert (moved.header.stamp.sec, moved.header.stamp.nanosec) == (56, 78)
        assert (moved.header.frame_id, moved.target_id, moved.height) == ("frame", "me", 4.0)


def test_the_definition_of_target_box_is_the_packages_own(repository: Path) -> None:
    text = (repository / "msg" / "TargetBox.msg").read_text()
    assert get_types_from_msg(text, TARGET_BOX) == get_types_from_msg(TARGET_BOX_DEFINITION, TARGET_BOX)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    with VideoWriter(tmp_path / "film.mp4", 20, quality=5) as writer:
        for i in range(10):
            writer.write(np.full((48, 65, 3), (20 * i, 128, 255 - 20 * i), np.uint8))  # an odd width
    return tmp_path / "film.mp4"


def test_videos(video: Path, tmp_path: Path) -> None:
    film = VideoFile(video)
    assert len(film) == 10
    np.testing.assert_allclose(np.diff(film.stamps), 0.05, atol=1e-3)
    for i in (0, 1, 2, 9, 3, 3):
        assert film[i].shape == (48, 64, 3)
        np.testing.assert_allclose(film[i][20, 20].astype(int), (20 * i, 128, 255 - 20 * i), atol=6)
    sequence = VideoSequence(video, video, "thermal")
    bag = load_bag(write_bag(sequence, tmp_path / "bag"))
    assert bag.modality is Modality.THERMAL and np.isnan(bag.boxes).all()
    np.testing.assert_array_equal(bag.rgb(4), film[4])
    assert open_recording(video).modality is Modality.RGB
    assert len(open_recording(tmp_path / "bag")) == 10


def test_bad_videos(video: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is none"):
        VideoFile(tmp_path / "other.mp4")
    (tmp_path / "text.mp4").write_text("hello")
    with pytest.raises(DataError, match="text.mp4: does not open as a video"):
        VideoFile(tmp_path / "text.mp4")
    with pytest.raises(IndexError):
        VideoFile(video)[10]
    with pytest.raises(DataError, match="2 boxes for 10 frames"):
        VideoSequence(video, boxes=np.zeros((2, 4)))


def run_cli(*arguments: str | Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "cmdtrack_ros.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_bag_verbs(tmp_path: Path, video: Path) -> None:
    done = run_cli("bag", "write", video, tmp_path / "bag", "--simulate-events", "--aux-offset", "0.005")
    assert done.returncode == 0, done.stderr
    shown = run_cli("bag", "info", tmp_path / "bag")
    assert shown.returncode == 0 and "modality: event" in shown.stdout
    assert any(
        line.split() == ["/aux/image", "10", "sensor_msgs/msg/Image"] for line in shown.stdout.splitlines()
    )
    again = run_cli("bag", "write", video, tmp_path / "bag")
    assert again.returncode == 1 and again.stdout == ""
    assert again.stderr.strip().splitlines()[-1].startswith("cmdtrack: ") and "exists already" in again.stderr
    assert "Traceback" not in again.stderr


def test_help_needs_neither_ros_nor_torch() -> None:
    code = (
        "import sys\nfor name in ('rclpy', 'torch'): sys.modules[name] = None\n"
        "from cmdtrack_ros.cli.app import main\nmain(['--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for verb in ("bag", "track", "demo"):
        assert verb in done.stdout


@pytest.mark.ros
def test_player_reaches_subscribers_in_time(tmp_path: Path) -> None:
    """Two processes, real DDS: every message arrives, in order, at the bag's pace, stamped as asked for."""
    import rclpy
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import Image

    source = Recording(count=20, size=(240, 320))
    path = write_bag(source, tmp_path / "bag", BagOptions(aux_offset=0.01))
    rclpy.init()
    node = rclpy.create_node("listener")
    got: dict[str, list[tuple[float, float, bytes]]] = {"/rgb/image": [], "/aux/image": []}

    def listen(topic: str) -> None:
        def store(message: Image) -> None:
            stamp = message.header.stamp.sec + message.header.stamp.nanosec / 1e9
            got[topic].append((time.time(), stamp, bytes(message.data)))

        node.create_subscription(
            Image, topic, store, QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
        )

    for topic in got:
        listen(topic)
    command = [
        sys.executable,
        "-m",
        "cmdtrack_ros.cli",
        "bag",
        "play",
        str(path),
        "--restamp",
        "now",
        "--wait",
        "20",
        "--topics",
        "/rgb/image",
        "--topics",
        "/aux/image",
    ]
    player = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end and (player.poll() is None or min(map(len, got.values())) < len(source)):
            rclpy.spin_once(node, timeout_sec=0.05)
            if player.poll() not in (None, 0):
                break
        text = player.communicate(timeout=20)[0]
        assert player.returncode == 0 and "40 messages" in text, text
    finally:
        player.kill()
        node.destroy_node()
        rclpy.try_shutdown()
    assert {topic: len(messages) for topic, messages in got.items()} == {"/rgb/image": 20, "/aux/image": 20}
    rgb, aux = got["/rgb/image"], got["/aux/image"]
    assert [m[2] for m in rgb] == [source.rgb(i).tobytes() for i in range(20)]
    np.testing.assert_allclose(np.diff([m[1] for m in rgb]), 0.04, atol=1e-5)
    np.testing.assert_allclose([a[1] - r[1] for a, r in zip(aux, rgb)], 0.01, atol=1e-5)
    assert (
        np.median([m[0] - m[1] for m in rgb]) < 0.2
    )  # stamped with the present; late only as far as transport is
    assert abs((rgb[-1][0] - rgb[0][0]) - 19 * 0.04) < 0.4


@pytest.mark.ros
def test_player_refuses_what_makes_no_sense(tmp_path: Path) -> None:
    from cmdtrack_ros.ros.replay.player import play

    path = write_bag(Recording(count=2), tmp_path / "bag")
    with pytest.raises(ConfigError, match="rate 0"):
        play(path, rate=0)
    with pytest.raises(ConfigError, match="restamp keep"):
        play(path, clock=True, restamp="now")
    with pytest.raises(DataError, match="no topic /camera.*the bag has: /aux/image"):
        play(path, topics=["/camera"])
    assert play(path, rate=10.0).messages == 6


@pytest.mark.ros
def test_player_loops_with_a_clock_until_it_is_stopped(tmp_path: Path) -> None:
    import rclpy
    from rosgraph_msgs.msg import Clock

    path = write_bag(Recording(count=10, size=(8, 8)), tmp_path / "bag")
    rclpy.init()
    node = rclpy.create_node("clock_listener")
    times: list[float] = []
    node.create_subscription(
        Clock, "/clock", lambda m: times.append(m.clock.sec + m.clock.nanosec / 1e9), 100
    )
    command = [sys.executable, "-m", "cmdtrack_ros.cli", "bag", "play", str(path), "--loop", "--clock"]
    player = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end and player.poll() is None and np.sum(np.diff(times) < 0) < 2:
            rclpy.spin_once(node, timeout_sec=0.05)
        player.send_signal(signal.SIGINT)
        text = player.communicate(timeout=20)[0]
    finally:
        player.kill()
        node.destroy_node()
        rclpy.try_shutdown()
    assert player.returncode == 0 and "messages in" in text and "Traceback" not in text, text
    assert np.sum(np.diff(times) < 0) >= 2  # it started over, and time jumped back each time
    assert 1_600_000_000 <= min(times) and max(times) < 1_600_000_001
    assert len(times) > 50  # about 100 Hz, also between messages
