"""Every tracker that can be evaluated: names, streams, weights, and what it reaches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cmdtrack_ros.data import load_sequence
from cmdtrack_ros.errors import ConfigError, DataError, WeightsError
from cmdtrack_ros.evaluation import protocols, scoring
from cmdtrack_ros.evaluation.baselines import TrackerSpec, inside, make_tracker, parse_spec
from cmdtrack_ros.evaluation.protocols import Protocol
from synthetic import make_folder


@pytest.mark.parametrize(("name", "at_least"), [("csrt", 0.8), ("kcf", 0.7), ("mil", 0.6), ("mosse", 0.1)])
def test_opencv_trackers_follow_a_square(tmp_path, name, at_least):
    sequence = load_sequence(make_folder(tmp_path / "square"))
    for stream in ("rgb", "aux"):
        tracker = make_tracker(TrackerSpec(name, stream), sequence.modality)
        score = scoring.score_sequence(sequence, Protocol.OPE, {0: protocols.one_pass(tracker, sequence)})
        # A plain square in depth has no texture for correlation filters: only that it runs is asked there.
        assert score.metrics["mean_iou"] > (at_least if stream == "rgb" else 0.0)


def test_a_tracker_can_be_started_again(tmp_path):
    sequence = load_sequence(make_folder(tmp_path / "square"))
    tracker = make_tracker(TrackerSpec("csrt", "aux"), sequence.modality)
    first, second = (protocols.one_pass(tracker, sequence) for _ in range(2))
    np.testing.assert_array_equal(first.boxes, second.boxes)


def test_specs():
    assert [parse_spec(text).label for text in ("ours", "ours@aux", "kcf", "kcf@rgb", "mil@aux")] == [
        "ours", "ours@aux", "kcf", "kcf", "mil@aux"
    ]  # fmt: skip
    for text, cause in (
        ("sift", "expected one of"),
        ("kcf@depth", "stream"),
        ("kcf@both", "stream"),
        ("nano", "--nano"),
    ):
        with pytest.raises(ConfigError, match=cause):
            parse_spec(text)
    with pytest.raises(WeightsError, match="backbone"):
        parse_spec("nano", nano=Path("/nonexistent"))
    with pytest.raises(WeightsError, match="nonexistent"):
        parse_spec("vit", vit=Path("/nonexistent"))


def test_second_stream_is_needed_for_aux_trackers():
    with pytest.raises(DataError, match="second stream"):
        make_tracker(TrackerSpec("kcf", "aux"), "rgb")


@pytest.mark.parametrize("box", [[-20, -20, 30, 30], [150, 110, 60, 60], [200, 200, 5, 5], [5, 5, 0.3, 0.3]])
def test_start_boxes_are_cut_to_the_image(box):
    x, y, w, h = inside(np.array(box, float), 160, 120)
    assert 0 <= x and 0 <= y and w >= 2 and h >= 2 and x + w <= 160 and y + h <= 120


def test_nano_reproduces_its_figures_on_real_recordings(shared_data, tmp_path):
    weights = shared_data.parent / "weights" / "nanotrack"
    if not weights.is_dir():
        pytest.skip(f"no NanoTrack weights at {weights}")
    sequence = load_sequence(shared_data / "test" / "rgbt" / "1230_1202_woman")
    for name, expected in (("nano", 0.74), ("nano@aux", 0.82)):
        tracker = make_tracker(parse_spec(name, nano=weights), sequence.modality)
        score = scoring.score_sequence(sequence, Protocol.OPE, {0: protocols.one_pass(tracker, sequence)})
        assert score.metrics["mean_iou"] == pytest.approx(expected, abs=0.01)
