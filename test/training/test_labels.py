"""Labels by trackers that agree: what is kept of them, and how they are trained on."""

import json

import cv2
import numpy as np
import pytest

from cmdtrack_ros.boxes import iou
from cmdtrack_ros.errors import ConfigError, DataError
from cmdtrack_ros.training.config import Source, Split
from cmdtrack_ros.training.foreign import Candidates, ForeignNetwork, ForeignTracker, Smoothing
from cmdtrack_ros.training.labels import agreed_track, write_labels
from cmdtrack_ros.training.series import load_labelled, open_series
from cmdtrack_ros.training.sources import SequenceSource, open_sources
from cmdtrack_ros.training.split import SplitFolder
from synthetic import Drawn, draw_stills


class Brightest(ForeignNetwork):
    """Answers with the bounds of what is bright, wherever it was told to look; from its n-th search on, beside it."""

    name, smoothing, cells = "brightest", Smoothing(penalty=0, window=0, rate=1), 1

    def __init__(self, lost_after: int = 10**6):
        self.left = lost_after

    def encode(self, picture, box):
        return np.zeros(1)

    def features(self, picture):
        return picture[::16, ::16].transpose(2, 0, 1).astype(np.float32)

    def search(self, picture, template, near):
        self.left -= 1
        x, y, w, h = cv2.boundingRect((picture.max(2) > 130).astype(np.uint8))
        return Candidates(np.array([[x + (200 if self.left < 0 else 0), y, w, h]], float), np.ones(1))


def make_series(folder, frames=10, step=6):
    """A bright block that moves over a dark ground, alike in both streams."""
    for name in ("visible", "infrared"):
        (folder / name).mkdir(parents=True)
        for i in range(frames):
            image = np.full((96, 128, 3), 60, np.uint8)
            image[30:60, 10 + step * i : 50 + step * i] = 220
            cv2.imwrite(str(folder / name / f"{i:02d}.png"), image)
    return folder


def test_track_is_kept_where_two_networks_agree_and_the_way_back_does():
    sequence = Drawn(12)
    boxes = agreed_track(sequence, [Brightest(), Brightest()], 5, sequence.boxes[5])
    assert iou(boxes, sequence.boxes).min() > 0.8
    # The second one loses it four frames after the start, on the way ahead: what comes later is not known.
    boxes = agreed_track(sequence, [Brightest(), Brightest(lost_after=4)], 5, sequence.boxes[5])
    assert boxes is None or np.isnan(boxes[10:]).all()
    boxes = agreed_track(sequence, [Brightest(), Brightest(lost_after=4)], 0, sequence.boxes[0])
    assert boxes is None, "five frames are too few"


def test_aux_image_whose_range_does_not_count_is_remarked_where_it_is_what_the_network_sees():
    sequence = Drawn(4)
    usual, off = np.linspace(20, 30, 96 * 128, dtype=np.float32).reshape(96, 128), np.full((96, 128), 1e30, np.float32)
    tracker = ForeignTracker(Brightest(), "thermal")
    tracker.init(None, usual, sequence.boxes[0])
    (remark,) = tracker.update(None, off).remarks
    assert remark.cause == "aux range outlier"
    assert not tracker.update(sequence.rgb(1), off).remarks, "it looks at RGB"


def test_track_whose_way_back_ends_elsewhere_is_dropped():
    sequence = Drawn(12)
    # Eleven frames ahead, and lost on the way back.
    assert agreed_track(sequence, [Brightest(lost_after=14), Brightest()], 0, sequence.boxes[0]) is None


def test_what_stands_still_is_not_kept():
    sequence = Drawn(12)
    sequence.places[:] = sequence.places[0]
    assert agreed_track(sequence, [Brightest(), Brightest()], 0, sequence.boxes[0]) is None


def test_labels_are_written_once_and_trained_on(tmp_path):
    folder, file = make_series(tmp_path / "series" / "walk"), tmp_path / "labels.json"
    arguments = [folder], tmp_path, SplitFolder(None, tmp_path), [Brightest(), Brightest()], 8
    assert write_labels(file, *arguments) == {"series/walk": 1}
    written = file.stat().st_mtime_ns
    assert write_labels(file, *arguments) == {"series/walk": 1}
    assert file.stat().st_mtime_ns == written
    [sequence] = load_labelled(file, tmp_path)
    assert sequence.name == "walk#0"
    truth = np.array([[10 + 6 * i, 30, 40, 30] for i in range(10)])
    assert (iou(sequence.boxes, truth) > 0.7).sum() >= 9
    [(source, _)], _ = open_sources([Source(kind="labelled", path="labels.json")], tmp_path)
    assert isinstance(source, SequenceSource)
    pair = source.sample(np.random.default_rng(0))
    assert pair.template.rgb is not None
    assert pair.template.aux is not None


def test_what_is_evaluated_is_not_labelled_for_training(tmp_path):
    folder = make_series(tmp_path / "walk", 3)
    for split in (Split(test=["walk"]), Split(validation=["walk/visible/02*"])):
        with pytest.raises(ConfigError, match="walk: is not for training"):
            write_labels(
                tmp_path / "l.json", [folder], tmp_path, SplitFolder(split, tmp_path), [Brightest(), Brightest()], 1
            )


def test_bad_input_is_named(tmp_path):
    with pytest.raises(ConfigError, match="expected two or more, which must agree, got 1"):
        write_labels(tmp_path / "l.json", [], tmp_path, SplitFolder(None, tmp_path), [Brightest()], 1)
    draw_stills(tmp_path / "s", 2)
    (tmp_path / "s" / "set" / "infrared" / "1.png").unlink()
    with pytest.raises(DataError, match="infrared/1.png: no such file"):
        open_series(tmp_path / "s" / "set")
    make_series(tmp_path / "walk", 3)
    for text, message in (("{", "cannot be read as labels"), ("[]", "expected {series"), ("{}", "it has none")):
        (tmp_path / "l.json").write_text(text)
        with pytest.raises(DataError, match=message):
            load_labelled(tmp_path / "l.json", tmp_path)
    (tmp_path / "l.json").write_text(json.dumps({"walk": [[None, [1, 2, 9, 9]]]}))
    with pytest.raises(DataError, match="2 boxes for the 3 frames"):
        load_labelled(tmp_path / "l.json", tmp_path)
