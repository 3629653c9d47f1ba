"""Sequence folders: every layout, its annotations, its stamps, and what is wrong with a broken one."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from cmdtrack_ros.data import LAYOUT_NAMES, find_sequences, load_dataset, load_sequence
from cmdtrack_ros.data.sequences import LAYOUTS
from cmdtrack_ros.errors import DataError
from cmdtrack_ros.modalities import Modality

COUNT = 4
BOXES = np.array([[10.0, 20, 30, 40], [11, 21, 30, 40], [12.5, 22, 31, 41], [13, 23, 30, 40]])


def images(
    folder: Path,
    pattern: str,
    count: int = COUNT,
    first: int = 1,
    value: int = 0,
    dtype: type = np.uint8,
    channels: int = 3,
) -> None:
    """Images whose every pixel is `value` + their number, so that a test sees which one was read."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        shape = (24, 32, channels) if channels > 1 else (24, 32)
        assert cv2.imwrite(str(folder / (pattern % (first + i))), np.full(shape, value + first + i, dtype))


def rows(path: Path, boxes: np.ndarray, separator: str = ",") -> None:
    path.write_text("".join(separator.join(f"{v:g}" for v in box) + "\n" for box in boxes))


def corners(boxes: np.ndarray) -> np.ndarray:
    return np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])


def make_lasher(path: Path) -> None:
    images(path / "visible", "v%03d.jpg", value=100)
    images(path / "infrared", "i%03d.jpg", value=50)
    for name in ("init.txt", "visible.txt", "infrared.txt"):
        rows(path / name, BOXES)


def make_rgbt234(path: Path) -> None:
    images(path / "visible", "%05dv.jpg", value=100)
    images(path / "infrared", "%05di.jpg", value=50)
    rows(path / "visible.txt", BOXES)
    rows(path / "infrared.txt", BOXES + [1, 1, 0, 0])
    rows(path / "init.txt", BOXES[:1])


def make_gtot(path: Path) -> None:
    images(path / "v", "%05d.png", value=100)
    images(path / "i", "%05d.bmp", value=50, channels=1)
    rows(path / "groundTruth_v.txt", corners(BOXES), " ")
    rows(path / "groundTruth_i.txt", corners(BOXES + [1, 1, 0, 0]), " ")


def make_vtuav(path: Path) -> None:
    images(path / "rgb", "%06d.jpg", count=31, value=100)
    images(path / "ir", "%06d.jpg", count=31, value=50)
    rows(path / "rgb.txt", BOXES, " ")
    rows(path / "ir.txt", BOXES + [1, 1, 0, 0], " ")


def make_depthtrack(path: Path) -> None:
    images(path / "color", "%08d.jpg", value=100)
    images(path / "depth", "%08d.png", value=3000, dtype=np.uint16, channels=1)
    lines = [",".join(f"{v:g}" for v in box) for box in BOXES]
    (path / "groundtruth.txt").write_text("\n".join([*lines[:2], "nan,nan,nan,nan", lines[3]]))


def make_visevent(path: Path) -> None:
    images(path / "vis_imgs", "frame%04d.bmp", value=100)
    images(path / "event_imgs", "frame%04d.bmp", value=50)
    rows(path / "groundtruth.txt", BOXES)
    (path / "absent_label.txt").write_text("1\n1\n0\n1\n")


def make_otb(path: Path) -> None:
    images(path / "img", "%d.jpg", count=COUNT, first=8, value=100)
    rows(path / "groundtruth_rect.txt", BOXES, "\t")


def make_vot(path: Path) -> None:
    images(path / "color", "%08d.jpg", value=100)
    images(path / "depth", "%08d.png", value=3000, dtype=np.uint16, channels=1)
    (path / "sequence").write_text("name=x\nfps=10\nchannels.color=color/%08d.jpg\nchannels.depth=depth/%08d.png\n")
    rows(path / "groundtruth.txt", np.hstack([corners(BOXES)[:, [0, 1, 2, 1]], corners(BOXES)[:, [2, 3, 0, 3]]]))
    (path / "anchor.value").write_text("1\n0\n0\n-1\n")


MAKERS = {
    "lasher": make_lasher,
    "rgbt234": make_rgbt234,
    "gtot": make_gtot,
    "vtuav": make_vtuav,
    "depthtrack": make_depthtrack,
    "visevent": make_visevent,
    "otb": make_otb,
    "vot": make_vot,
}
STEP = {"vtuav": 10}
ABSENT = {"depthtrack": [2], "visevent": [2]}
FIRST = {"otb": 8}


@pytest.mark.parametrize("name", LAYOUT_NAMES)
@pytest.mark.parametrize("asked", ["auto", "by name"])
def test_every_layout_is_told_apart_and_read(tmp_path: Path, name: str, asked: str) -> None:
    MAKERS[name](tmp_path / "seq")
    sequence = load_sequence(tmp_path / "seq", "auto" if asked == "auto" else name)
    assert sequence.layout == name
    expected = BOXES.copy()
    expected[ABSENT.get(name, [])] = np.nan
    np.testing.assert_allclose(sequence.boxes[sequence.labelled], expected)
    assert np.isnan(sequence.boxes[~sequence.labelled]).all()
    last = len(sequence) - 1
    number = FIRST.get(name, 1) + last
    frame = sequence.frame(last)
    assert frame.rgb.shape == (24, 32, 3) and abs(int(frame.rgb[0, 0, 0]) - 100 - number) <= 1
    if sequence.modality is Modality.RGB:
        assert frame.aux is None
    elif sequence.modality is Modality.DEPTH:
        assert frame.aux.dtype == np.uint16 and frame.aux.shape == (24, 32) and frame.aux[0, 0] == 3000 + number
    else:
        assert frame.aux.dtype == np.uint8 and abs(int(frame.aux.flat[0]) - 50 - number) <= 1
    assert int(sequence.labelled.sum()) == COUNT and len(sequence) == (31 if name in STEP else COUNT)


def test_two_annotations_are_both_kept(tmp_path: Path) -> None:
    for name in ("rgbt234", "gtot", "vtuav"):
        MAKERS[name](tmp_path / name)
        sequence = load_sequence(tmp_path / name)
        np.testing.assert_allclose(sequence.aux_boxes[sequence.labelled], BOXES + [1, 1, 0, 0])
    MAKERS["lasher"](tmp_path / "lasher")
    assert load_sequence(tmp_path / "lasher").aux_boxes is None


def test_rows_of_eight_numbers_after_a_box_in_vtuav_are_no_polygon(tmp_path: Path) -> None:
    make_vtuav(tmp_path)
    rows(tmp_path / "rgb.txt", np.hstack([BOXES, np.full((COUNT, 4), 7.0)]), " ")
    sequence = load_sequence(tmp_path)
    np.testing.assert_allclose(sequence.boxes[sequence.labelled], BOXES)


def test_vot_polygons_anchors_and_rate(tmp_path: Path) -> None:
    make_vot(tmp_path)
    sequence = load_sequence(tmp_path)
    np.testing.assert_array_equal(sequence.anchors, [1, 0, 0, -1])
    np.testing.assert_allclose(np.diff(sequence.stamps), 0.1)


def test_natural_order_and_colour_order(tmp_path: Path) -> None:
    make_otb(tmp_path)  # 8.jpg, 9.jpg, 10.jpg, 11.jpg: text order would begin with 10
    assert [p.name for p in load_sequence(tmp_path).rgb_files] == ["8.jpg", "9.jpg", "10.jpg", "11.jpg"]
    for file in (tmp_path / "img").iterdir():
        file.unlink()
    for i in range(COUNT):
        cv2.imwrite(str(tmp_path / "img" / f"{i}.png"), np.full((8, 8, 3), (0, 0, 255), np.uint8))  # red in BGR
    assert load_sequence(tmp_path).frame(0).rgb[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("separator", [",", " ", "\t", ", "])
def test_separators(tmp_path: Path, separator: str) -> None:
    make_otb(tmp_path)
    rows(tmp_path / "groundtruth_rect.txt", BOXES, separator)
    np.testing.assert_allclose(load_sequence(tmp_path).boxes, BOXES)


def test_stamps_come_from_meta_or_are_thirty_hertz(tmp_path: Path) -> None:
    make_otb(tmp_path)
    np.testing.assert_allclose(np.diff(load_sequence(tmp_path).stamps), 1 / 30)
    for meta, expected in (
        ({"fps": 20}, [0, 0.05, 0.1, 0.15]),
        ({"fps": 20, "frame_step": 2}, [0, 0.1, 0.2, 0.3]),
        ({"stamps": [5, 6, 7.5, 8]}, [5, 6, 7.5, 8]),
    ):
        (tmp_path / "meta.json").write_text(json.dumps(meta))
        np.testing.assert_allclose(load_sequence(tmp_path).stamps, expected)
    for meta in ({"fps": 0}, {"fps": "fast"}, {"stamps": [1, 2]}, {"stamps": [1, 2, 2, 3]}):
        (tmp_path / "meta.json").write_text(json.dumps(meta))
        with pytest.raises(DataError, match=str(tmp_path)):
            load_sequence(tmp_path)


def test_a_single_thermal_stream_is_no_colour(tmp_path: Path) -> None:
    make_otb(tmp_path)
    (tmp_path / "meta.json").write_text('{"modality": "thermal only"}')
    sequence = load_sequence(tmp_path)
    assert sequence.modality is Modality.THERMAL
    assert sequence.frame(0).rgb is None and sequence.frame(0).aux is not None


def test_nothing_is_decoded_before_it_is_asked_for(tmp_path: Path) -> None:
    make_lasher(tmp_path)
    (tmp_path / "visible" / "v003.jpg").write_bytes(b"not an image")
    sequence = load_sequence(tmp_path)
    assert sequence.frame(1).rgb is not None
    with pytest.raises(DataError, match="v003.jpg"):
        sequence.frame(2)


def test_wrong_folder_says_what_was_expected_and_found(tmp_path: Path) -> None:
    images(tmp_path / "pictures", "%d.png")
    with pytest.raises(DataError) as error:
        load_sequence(tmp_path)
    for layout in LAYOUT_NAMES:
        assert layout in str(error.value)
    assert "pictures/" in str(error.value) and "visible" in str(error.value)
    with pytest.raises(DataError, match="depthtrack: {color,depth}") as one:
        load_sequence(tmp_path, "depthtrack")
    assert "lasher" not in str(one.value)
    with pytest.raises(DataError, match="no such folder"):
        load_sequence(tmp_path / "nowhere")
    with pytest.raises(DataError, match="expected auto or one of"):
        load_sequence(tmp_path, "coco")


def test_missing_frame_in_the_middle_is_named(tmp_path: Path) -> None:
    make_lasher(tmp_path)
    (tmp_path / "infrared" / "i002.jpg").unlink()
    with pytest.raises(DataError, match="frame number 2 is missing before infrared/i003.jpg"):
        load_sequence(tmp_path)
    (tmp_path / "visible" / "v002.jpg").unlink()  # now both streams agree, but not with the annotation
    with pytest.raises(DataError, match="4 annotation rows for 3 images.*frame number 2 is missing"):
        load_sequence(tmp_path)


def test_annotation_shorter_than_the_frames(tmp_path: Path) -> None:
    make_depthtrack(tmp_path)
    rows(tmp_path / "groundtruth.txt", BOXES[:3])
    with pytest.raises(DataError, match="groundtruth.txt: 3 annotation rows for 4 images"):
        load_sequence(tmp_path)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("1,2,3\n" * 4, "line 1: expected 4 numbers"),
        ("1,2,3,4\nx,y,z,w\n", "line 2: expected numbers"),
        ("", "file is empty"),
        ("1,2,3,4,5,6,7,8\n" * 4, "line 1: expected 4 numbers"),
    ],
)
def test_bad_annotation_rows_are_named(tmp_path: Path, text: str, expected: str) -> None:
    make_otb(tmp_path)
    (tmp_path / "groundtruth_rect.txt").write_text(text)
    with pytest.raises(DataError, match=f"groundtruth_rect.txt.*{expected}"):
        load_sequence(tmp_path)


def test_boxes_without_area_are_absent(tmp_path: Path) -> None:
    make_otb(tmp_path)
    boxes = BOXES.copy()
    boxes[1] = 0
    rows(tmp_path / "groundtruth_rect.txt", boxes)
    np.testing.assert_array_equal(np.isnan(load_sequence(tmp_path).boxes[:, 0]), [False, True, False, False])


def test_empty_image_folder_and_colour_depth(tmp_path: Path) -> None:
    make_depthtrack(tmp_path)
    images(tmp_path / "depth", "%08d.png", channels=3)
    with pytest.raises(DataError, match="00000001.png: expected a depth image of one channel"):
        load_sequence(tmp_path).frame(0)
    shutil.rmtree(tmp_path / "depth")
    (tmp_path / "depth").mkdir()
    with pytest.raises(DataError, match="depth: expected images"):
        load_sequence(tmp_path)


def test_data_sets(tmp_path: Path) -> None:
    for name in ("b10", "b2"):
        make_otb(tmp_path / name)
    make_gtot(tmp_path / "group" / "a1")
    assert [s.name for s in load_dataset(tmp_path)] == ["b2", "b10", "a1"]
    assert [s.name for s in load_dataset(tmp_path, "gtot")] == ["a1"]
    assert [p.name for p in find_sequences(tmp_path / "b2")] == ["b2"]
    with pytest.raises(DataError, match="Expected vtuav"):
        load_dataset(tmp_path, "vtuav")
    workspace = tmp_path / "workspace" / "sequences"
    make_vot(workspace / "two")
    make_vot(workspace / "one")
    (workspace / "list.txt").write_text("two\none\n")
    assert [s.name for s in load_dataset(tmp_path / "workspace")] == ["two", "one"]
    (workspace / "list.txt").write_text("two\nthree\n")
    with pytest.raises(DataError, match="three.*no such folder"):
        load_dataset(tmp_path / "workspace")


def test_sequences_travel_to_other_processes(tmp_path: Path) -> None:
    make_lasher(tmp_path)
    copy = pickle.loads(pickle.dumps(load_sequence(tmp_path)))
    assert copy.frame(3).rgb is not None and len(copy) == COUNT


def test_real_recordings(shared_data: Path) -> None:
    found = {s.name: s for s in load_dataset(shared_data / "test")}
    assert {name: len(s) for name, s in found.items()} == {
        "otb_Crossing": 120,
        "otb_Man": 134,
        "vot_bag": 196,
        "leaflet_blue_225": 75,
        "mug_flower_437": 55,
        "star_motion": 300,
        "0117_1605_greyman": 131,
        "0117_1605_leftman": 131,
        "1230_1202_woman": 48,
    }
    assert found["mug_flower_437"].frame(0).aux.dtype == np.uint16
    assert set(np.unique(found["star_motion"].frame(5).aux)) <= {0, 128, 255}
    np.testing.assert_allclose(np.diff(found["star_motion"].stamps), 1 / 40)
    for sequence in found.values():
        frame = sequence.frame(len(sequence) - 1)
        assert frame.aux is None or frame.aux.shape[:2] == frame.rgb.shape[:2]
        assert np.isfinite(sequence.boxes[0]).all()


def test_layout_table_names_no_folder_twice() -> None:
    keys = [(layout.rgb, layout.aux, layout.rgb_stem) for layout in LAYOUTS.values()]
    assert len(set(keys)) == len(keys)
