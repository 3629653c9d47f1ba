"""Foreign trackers as teachers: what they see of a pair, and whose word counts."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from standin import write_standin

from cmdtrack_ros.boxes import iou
from cmdtrack_ros.errors import ConfigError, WeightsError
from cmdtrack_ros.models.config import StudentConfig
from cmdtrack_ros.training.config import PairConfig, Source
from cmdtrack_ros.training.pairs import PairDataset, make_sample
from cmdtrack_ros.training.sources import SequenceSource, View, ViewPair, open_sources
from cmdtrack_ros.training.teaching import ForeignTeachers, Lesson, choose
from synthetic import draw_stills, make_block

BLOCK = np.array([60.0, 50, 24, 20])


def bright_pair(**changes) -> ViewPair:
    """A bright block on black, in RGB; grey all over in aux."""
    rgb, aux = np.zeros((140, 160, 3), np.uint8), np.full((140, 160, 3), 90, np.uint8)
    rgb[50:70, 60:84] = 255
    view = View(rgb, aux, BLOCK, "block")
    return replace(ViewPair(view, view), **changes)


@pytest.fixture(scope="module")
def standin(tmp_path_factory):
    return write_standin(tmp_path_factory.mktemp("foreign") / "standin")


def samples(teachers, pair=None, count=12, **changes):
    config = PairConfig(**{"negatives": 0.0, "misalignment": 0.0, "shift": 0.7, "zoom": 0.0, "jitter": 0.0} | changes)
    pair = pair or bright_pair()
    return [make_sample(pair, config, StudentConfig(), np.random.default_rng(seed), teachers) for seed in range(count)]


def test_what_runs_foreign_trackers_is_named_where_it_is_missing(standin, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match="standin: onnxruntime is needed for it .pip install onnxruntime"):
        ForeignTeachers([standin])


def test_of_several_the_most_right_is_heard():
    truth = np.array([10.0, 10, 40, 40])
    boxes, scores = truth + np.array([[20.0, 0, 0, 0], [4, 0, 0, 0], [9, 0, 0, 0]]), np.array([0.9, 0.3, 0.5])
    best = choose(boxes, scores, truth)
    np.testing.assert_array_equal(best.box, boxes[1])
    assert (best.score, best.weight) == (0.3, pytest.approx(36 / 44))
    assert choose(boxes[:1], scores[:1], truth).weight == 0  # a third of the truth is not right


def test_without_truth_agreement_is_what_counts():
    boxes = np.array([[0.0, 0, 40, 40], [100, 0, 40, 40], [104, 0, 40, 40], [100, 0, 36, 40]])
    best = choose(boxes, np.array([0.99, 0.5, 0.6, 0.7]), None)
    np.testing.assert_array_equal(best.box, boxes[1])
    assert best.weight == pytest.approx((36 / 44 + 36 / 40) / 3)
    pair = choose(boxes[1:3], np.array([0.5, 0.6]), None)
    assert (pair.score, pair.weight) == (0.6, pytest.approx(36 / 44))
    assert choose(boxes[:2], np.array([0.99, 0.5]), None).weight == 0
    assert choose(boxes[:1], np.array([0.99]), None).weight == 0


@pytest.mark.parametrize("changes", [{}, {"margin": 0.15}, {"zoom": 0.4}, {"jitter": 0.2}])
def test_what_is_taught_lies_where_the_student_sees_the_target(standin, changes):
    """Through shift, zoom, mirror and margin: within a cell of the stand-in's."""
    taught = samples(ForeignTeachers([standin]), **changes)
    ours, theirs = (np.array([sample[name].numpy() for sample in taught]) for name in ("box", "taught_box"))
    centers = [boxes[:, :2] + boxes[:, 2:] / 2 for boxes in (ours, theirs)]
    assert np.ptp(centers[0], axis=0).min() > 0.15
    np.testing.assert_allclose(centers[1], centers[0], atol=0.06)
    scale = theirs[:, 2:] / ours[:, 2:]
    np.testing.assert_allclose(scale[:, 0], scale[:, 1], rtol=1e-3)
    if "zoom" not in changes:
        np.testing.assert_allclose(scale, 1, rtol=1e-3)
    assert all(0.9 < sample["taught_score"] <= 1 for sample in taught)
    if not changes:
        weights = [sample["taught_weight"].item() for sample in taught]
        np.testing.assert_allclose(weights, iou(ours, theirs), atol=0.01)


class Echo:
    """Answers that the target is where it is believed to be."""

    show_features = False

    def teach(self, pair, near):
        return Lesson(near, 1.0, 1.0)


@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_teachers_search_where_the_student_does(margin):
    """Around the middle of the search region, for a target of the size that the region is cut for."""
    config = StudentConfig()
    for sample in samples(Echo(), shift=0.9, zoom=0.3, margin=margin):
        x, y, w, h = sample["taught_box"].tolist()
        assert (x + w / 2, y + h / 2) == pytest.approx((0.5, 0.5), abs=1e-5)
        assert w * h == pytest.approx(config.search_factor**-2, rel=1e-4)
        assert w / h == pytest.approx(float(sample["box"][2] / sample["box"][3]), rel=1e-4)


def test_teachers_see_clean_rgb_whatever_becomes_of_the_streams(standin):
    """Also where the student sees no RGB at all: that is what the other stream is to learn from."""
    teachers = ForeignTeachers([standin])
    spoilt = {"dropped": 1.0, "occluded": 1.0, "edges": 1.0, "degraded": 1.0}
    taught = samples(teachers, **spoilt)
    assert {sample["present"][0].item() for sample in taught} == {0, 1}
    assert np.mean([sample["taught_weight"].item() > 0.5 for sample in taught]) > 0.6


def test_teachers_change_nothing_else(standin):
    for taught, alone in zip(samples(ForeignTeachers([standin]), edges=0.5), samples(None, edges=0.5), strict=True):
        assert set(taught) - set(alone) == {"taught_box", "taught_score", "taught_weight", "taught_true"}
        assert all(torch.equal(taught[name], value) for name, value in alone.items())


def test_features_are_those_of_the_clean_region_as_the_student_sees_it(standin):
    """The stand-in's are mean colours: where they are bright is the target, mirrored or not, spoilt or not."""
    spoilt = {"occluded": 1.0, "edges": 1.0, "degraded": 1.0, "dropped": 0.5}
    found = samples(ForeignTeachers([standin], show_features=True), **spoilt)
    assert all(sample["taught_features"].shape == (3, 16, 16) for sample in found)
    assert all(sample["taught_features_weight"] == 1 for sample in found)
    for sample in found:
        bright = sample["taught_features"].float().mean(0)
        row, column = np.unravel_index(int(bright.argmax()), bright.shape)
        x, y, w, h = sample["box"].tolist()
        assert (column + 0.5) / 16 == pytest.approx(x + w / 2, abs=w / 2 + 0.05)
        assert (row + 0.5) / 16 == pytest.approx(y + h / 2, abs=h / 2 + 0.05)
    assert len({sample["box"][0].item() > 0.5 - sample["box"][2].item() / 2 for sample in found}) == 2


def test_features_need_rgb(standin):
    blind = replace(bright_pair().search, rgb=None)
    for sample in samples(ForeignTeachers([standin], show_features=True), ViewPair(blind, blind), 3):
        assert sample["taught_features_weight"] == 0


def test_nothing_is_taught_of_another_target_or_without_rgb(standin):
    blind = [replace(view, rgb=None) for view in (bright_pair().template, bright_pair().search)]
    for pair in (bright_pair(same=False), ViewPair(*blind), replace(bright_pair(), template=blind[0])):
        for sample in samples(ForeignTeachers([standin]), pair, 3):
            assert sample["taught_weight"] == 0
            assert sample["taught_box"].shape == (4,)


def test_labels_of_trackers_are_no_truth(standin, tmp_path):
    other = write_standin(tmp_path / "other", shift=70.0)
    for folders, taught in (([standin], False), ([standin, standin], True), ([standin, other], False)):
        found = samples(ForeignTeachers(folders), bright_pair(true=False), shift=0.0)
        assert any(sample["taught_weight"] > 0 for sample in found) == taught, folders
        assert all(sample["taught_true"] == 0 for sample in found)
    assert all(sample["taught_true"] == 1 for sample in samples(ForeignTeachers([standin])))


def test_source_of_labels_says_that_they_are_none(tmp_path):
    draw_stills(tmp_path / "series", 3)
    make_block(tmp_path / "walk", 3)
    (tmp_path / "l.json").write_text('{"series/set": [[[30, 40, 30, 30], [32, 40, 30, 30], [34, 40, 30, 30]]]}')
    sources = [Source(kind="labelled", path="l.json"), Source(kind="sequences", path="walk")]
    opened, _ = open_sources(sources, tmp_path)
    assert [source.sample(np.random.default_rng(0)).true for source, _ in opened] == [False, True]


def test_folder_without_a_foreign_network_is_named(tmp_path):
    with pytest.raises(WeightsError, match="expected one \\*backbone"):
        ForeignTeachers([tmp_path])


def test_real_teacher_is_right_on_real_rgb(shared_data):
    """FEAR-XS on RGB recordings: most pairs get a box of it, and most of these are right."""
    from cmdtrack_ros.data import load_sequence

    weights = shared_data.parent / "weights" / "fear-xs"
    if not weights.is_dir():
        pytest.skip(f"no weights of foreign trackers at {weights}")
    source = SequenceSource([load_sequence(shared_data / "test" / "rgbt" / "1230_1202_woman")], max_gap=10)
    data = PairDataset(
        [(source, 1.0)], PairConfig(negatives=0.0, dropped=1.0), StudentConfig(), 1, ForeignTeachers([weights])
    )
    weight = np.array([data[i]["taught_weight"].item() for i in range(16)])
    assert (weight > 0).mean() > 0.7
    assert weight[weight > 0].mean() > 0.65
