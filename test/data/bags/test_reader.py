"""Bags as sequences: what was written comes back, bags of others are read, damage is named."""

from __future__ import annotations

import pickle
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import get_types_from_msg

from cmdtrack_ros.data.bags import RGB_TOPIC, Bag, BagOptions, is_bag, load_bag, write_bag
from cmdtrack_ros.data.bags.messages import IMAGE, message_types
from cmdtrack_ros.errors import DataError
from cmdtrack_ros.modalities import Modality
from synthetic import RandomSequence, write_free_running_bag

START = 1_600_000_000 * 10**9


@pytest.mark.parametrize("modality", list(Modality))
def test_a_written_bag_reads_back_equal(tmp_path: Path, modality: Modality) -> None:
    source = RandomSequence(modality)
    bag = load_bag(write_bag(source, tmp_path / "bag"))
    assert (bag.name, bag.modality, len(bag)) == (source.name, modality, len(source))
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


def test_bags_of_others(tmp_path: Path) -> None:
    """sqlite3, other topics, padded rows, metres, and truth as detections."""
    store = message_types()
    store.register(get_types_from_msg("float64 x\nfloat64 y\n", "vision_msgs/msg/Point2D"))
    store.register(get_types_from_msg("vision_msgs/Point2D position\nfloat64 theta\n", "vision_msgs/msg/Pose2D"))
    store.register(
        get_types_from_msg(
            "vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y\n", "vision_msgs/msg/BoundingBox2D"
        )
    )
    store.register(
        get_types_from_msg(
            "std_msgs/Header header\nvision_msgs/BoundingBox2D bbox\nstring id\n", "vision_msgs/msg/Detection2D"
        )
    )
    store.register(
        get_types_from_msg(
            "std_msgs/Header header\nvision_msgs/Detection2D[] detections\n", "vision_msgs/msg/Detection2DArray"
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
                writer.write(connections[topic], (100 + i) * 10**9, store.serialize_cdr(message, message.__msgtype__))
    colour = BagOptions(rgb_topic="/cam/color")
    both = replace(colour, aux_topic="/cam/depth")
    bag = load_bag(tmp_path / "bag", replace(both, truth_topic="/truth", modality="depth"))
    np.testing.assert_array_equal(bag.aux(1), depth)
    assert bag.rgb(2).shape == (6, 5, 3) and (bag.rgb(2) == 2).all()
    np.testing.assert_array_equal(bag.boxes, [[2, 2, 2, 4], [np.nan] * 4, [2, 2, 2, 4]])
    with pytest.raises(DataError, match="say what /cam/depth is"):
        load_bag(tmp_path / "bag", both)
    (tmp_path / "truth.txt").write_text("1,2,3,4\n" * 3)
    listed = replace(colour, truth_file=tmp_path / "truth.txt")
    assert load_bag(tmp_path / "bag", listed).boxes[2, 3] == 4
    (tmp_path / "truth.txt").write_text("1,2,3,4\n" * 2)
    with pytest.raises(DataError, match="2 annotation rows for 3 images"):
        load_bag(tmp_path / "bag", listed)


def test_a_missing_topic_lists_those_there_are(tmp_path: Path) -> None:
    path = write_bag(RandomSequence(), tmp_path / "bag")
    with pytest.raises(DataError) as error:
        load_bag(path, BagOptions(rgb_topic="/camera/image"))
    for part in ("/camera/image", "/rgb/image (sensor_msgs/msg/Image)", "/aux/image", "/ground_truth"):
        assert part in str(error.value)
    with pytest.raises(DataError, match="/ground_truth is cmdtrack_ros/msg/TargetBox; expected sensor_msgs/msg/Image"):
        load_bag(path, BagOptions(aux_topic="/ground_truth"))
    with pytest.raises(DataError, match="/rgb/image is sensor_msgs/msg/Image; expected cmdtrack_ros/msg/TargetBox"):
        load_bag(path, BagOptions(truth_topic="/rgb/image"))


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.95])
def test_truncated_mcap_is_named(tmp_path: Path, keep: float) -> None:
    path = write_bag(RandomSequence(), tmp_path / "bag")
    storage = next(path.glob("*.mcap"))
    data = storage.read_bytes()
    storage.write_bytes(data[: int(len(data) * keep)])
    for damaged in (path, storage):
        with pytest.raises(DataError, match=f"{damaged}.*damaged or truncated"):
            load_bag(damaged)


def test_damaged_messages_are_named(tmp_path: Path) -> None:
    source = RandomSequence()
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


@pytest.mark.parametrize("stamp", [0, START + 3_600 * 10**9], ids=["zero", "an hour ahead"])
def test_an_image_whose_stamp_leaps_is_left_out(tmp_path: Path, stamp: int, caplog: pytest.LogCaptureFixture) -> None:
    times = [START + i * 10**8 for i in range(8)]
    bag = load_bag(write_free_running_bag(tmp_path / "bag", times, times, wrong={3: stamp}))
    kept = [0, 1, 2, 4, 5, 6, 7]
    assert [(pair.rgb, pair.aux) for pair in bag.pairs] == [(number, number) for number in kept]
    assert [bag.rgb(index)[0, 0, 0] for index in range(len(bag))] == kept
    assert "1 images are left out" in caplog.text
    assert f"(the first: {RGB_TOPIC}, message 3, {stamp / 1e9:.3f} s)" in caplog.text
