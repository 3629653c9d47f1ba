"""Sequences written as rosbag2: messages as of cameras, faults as asked for, nothing precious replaced."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cmdtrack_ros.data.bags import Bag, BagOptions, WriterOptions, header_stamp, load_bag, write_bag
from cmdtrack_ros.data.bags.messages import COMPRESSED_IMAGE, IMAGE, TARGET_BOX
from cmdtrack_ros.errors import ConfigError, DataError
from cmdtrack_ros.modalities import Modality
from cmdtrack_ros.streams.pairing import PairOptions
from synthetic import RandomSequence

ENCODINGS = {Modality.THERMAL: "mono16", Modality.DEPTH: "16UC1", Modality.EVENT: "rgb8"}


def test_messages_are_what_cameras_publish(tmp_path: Path) -> None:
    for modality, encoding in ENCODINGS.items():
        path = write_bag(RandomSequence(modality), tmp_path / modality.value)
        with Bag(path) as bag:
            assert bag.types == {"/ground_truth": TARGET_BOX, "/rgb/image": IMAGE, "/aux/image": IMAGE}
            assert bag.counts == {"/ground_truth": 11, "/rgb/image": 12, "/aux/image": 12}
            image = bag.decode(next(bag.messages(["/aux/image"])))
            assert (image.encoding, image.height, image.width) == (encoding, 24, 33)
            assert image.step * image.height == len(image.data) and image.is_bigendian == 0
            assert image.header.stamp.sec == 1_600_000_000
            times = [m.time_ns for m in bag.messages()]
            assert times == sorted(times)


def test_stamp_offset_jitter_and_drops(tmp_path: Path) -> None:
    source = RandomSequence(count=200, size=(4, 4))
    options = WriterOptions(aux_offset=0.012, aux_jitter=0.004, aux_drop=0.25, seed=5)

    def aux_stamps(name: str, used: WriterOptions) -> np.ndarray:
        with Bag(write_bag(source, tmp_path / name, used)) as bag:
            return np.array([header_stamp(m.data) for m in bag.messages(["/aux/image"])])

    stamps = aux_stamps("a", options)
    assert 120 < len(stamps) < 175 and (np.diff(stamps) > 0).all()
    np.testing.assert_array_equal(stamps, aux_stamps("b", options))
    assert len(aux_stamps("c", WriterOptions(aux_drop=0.25, seed=6))) != len(stamps)
    exact = 1_600_000_000 + (source.stamps - source.stamps[0])
    shift = stamps / 1e9 - exact[np.abs(stamps[:, None] / 1e9 - 0.012 - exact).argmin(axis=1)]
    assert abs(shift.mean() - 0.012) < 0.001 and 0.003 < shift.std() < 0.005
    bag = load_bag(tmp_path / "a", BagOptions(pairing=PairOptions(slop=0.02)))
    assert sum(bag.aux(i) is None for i in range(len(bag))) >= 200 - len(stamps)


def test_compressed_colour(tmp_path: Path) -> None:
    source = RandomSequence()
    source.rgb = lambda i: np.full((24, 33, 3), (200, 20 + i, 60), np.uint8)
    path = write_bag(source, tmp_path / "bag", WriterOptions(compressed=True))
    with Bag(path) as bag:
        assert bag.types["/rgb/image/compressed"] == COMPRESSED_IMAGE
    np.testing.assert_allclose(load_bag(path).rgb(7).astype(int), source.rgb(7), atol=3)


def test_only_bags_are_replaced(tmp_path: Path) -> None:
    path = write_bag(RandomSequence(), tmp_path / "bag")
    with pytest.raises(DataError, match="exists already"):
        write_bag(RandomSequence(), path)
    write_bag(RandomSequence(count=3), path, overwrite=True)
    assert len(load_bag(path)) == 3
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1").write_text("precious")
    with pytest.raises(DataError, match="not a bag and will not be replaced"):
        write_bag(RandomSequence(), tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter1").is_file()


def test_frames_that_lack_an_image_leave_no_message(tmp_path: Path) -> None:
    write_bag(RandomSequence(count=10), tmp_path / "gaps", WriterOptions(aux_drop=0.5, seed=1))
    paired = load_bag(tmp_path / "gaps")
    alone = [i for i in range(10) if paired.aux(i) is None]
    assert 0 < len(alone) < 10
    again = load_bag(write_bag(paired, tmp_path / "again"))
    assert len(again) == 10 and [i for i in range(10) if again.aux(i) is None] == alone


@pytest.mark.parametrize(
    "name, value", [("seed", -1), ("aux_drop", 1.5), ("aux_jitter", float("nan")), ("aux_offset", 1e12), ("start", 5e9)]
)
def test_numbers_out_of_range_are_named(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{name}: expected .*, got"):
        WriterOptions(**{name: value})
