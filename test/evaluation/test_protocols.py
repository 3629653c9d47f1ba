"""How trackers are driven over a sequence."""

from __future__ import annotations

import numpy as np
import pytest

from cmdtrack_ros.data import load_sequence
from cmdtrack_ros.errors import DataError
from cmdtrack_ros.evaluation import protocols, scoring
from cmdtrack_ros.evaluation.baselines import TrackerSpec, make_tracker
from cmdtrack_ros.evaluation.protocols import Protocol
from synthetic import FRAMES, make_folder, make_vot, read_table, run_cli


def test_one_pass_starts_at_the_first_visible_frame(tmp_path):
    sequence = load_sequence(make_folder(tmp_path / "late", absent=(0, 1, 2, 10)))
    run = protocols.one_pass(make_tracker(TrackerSpec("csrt", "rgb"), sequence.modality), sequence)
    assert np.isnan(run.boxes[:3]).all() and np.isnan(run.seconds[:3]).all()
    assert run.boxes[3].tolist() == sequence.boxes[3].tolist()
    score = scoring.score_sequence(sequence, Protocol.LONGTERM, {0: run})
    assert score.metrics["mean_iou"] > 0.7
    assert np.isnan(score.overlaps[[0, 1, 2, 10]]).all()
    # The frame that was given counts nothing in the long-term protocol.
    assert score.longterm[0][3] == 0 and score.longterm[2].sum() == FRAMES - 4


def test_multi_start_runs_both_ways(tmp_path):
    sequence = load_sequence(make_vot(tmp_path / "vot", {4: 1, 15: -1}))
    assert protocols.choose(sequence, Protocol.AUTO) is Protocol.MULTISTART
    runs = dict(protocols.multi_start(make_tracker(TrackerSpec("csrt", "rgb"), sequence.modality), sequence))
    assert {anchor: len(run) for anchor, run in runs.items()} == {4: FRAMES - 4, 15: 16}
    assert runs[15].boxes[0].tolist() == sequence.boxes[15].tolist()
    assert abs(runs[15].boxes[-1] - sequence.boxes[0]).max() < 6
    score = scoring.score_sequence(sequence, Protocol.MULTISTART, runs)
    assert score.order.tolist() == list(range(4, FRAMES)), "the longest run is shown"
    assert score.metrics["robustness"] == 1.0 and score.metrics["accuracy"] > 0.6
    with pytest.raises(DataError, match="needs an anchor"):
        protocols.anchors(load_sequence(make_vot(tmp_path / "none", {})))


def test_multi_start_without_anchors_is_refused(tmp_path):
    sequence = load_sequence(make_folder(tmp_path / "plain"))
    with pytest.raises(DataError, match="anchor.value"):
        protocols.choose(sequence, Protocol.MULTISTART)


def test_evaluation_validation_and_track_give_the_same_boxes(tmp_path):
    """One loop behind three doors: a depth recording whose first frames have no box, with the shipped weights."""
    pytest.importorskip("torch")
    from cmdtrack_ros.boxes import iou
    from cmdtrack_ros.tracking.engines.choose import make_engine
    from cmdtrack_ros.tracking.tracker import Tracker
    from cmdtrack_ros.training import validation

    folder = make_folder(tmp_path / "square", frames=10, absent=(0, 1))
    sequence = load_sequence(folder)
    evaluated = protocols.one_pass(make_tracker(TrackerSpec("ours"), sequence.modality), sequence)
    done = run_cli("track", folder, "--output", tmp_path / "out", "--device", "cpu", "--threads", 1)
    assert done.returncode == 0, done.stderr
    rows = read_table(tmp_path / "out" / "track.csv")
    assert [int(row["frame"]) for row in rows] == list(range(2, 10))
    tracked = np.array([[float(row[k]) for k in ("x", "y", "width", "height")] for row in rows])
    np.testing.assert_allclose(tracked, evaluated.boxes[2:], atol=0.00051)  # the file has three decimals
    assert np.abs(tracked - sequence.boxes[2:]).max() > 0.01, "boxes of a tracker, not the truth"
    tracker = Tracker(make_engine(device="cpu", threads=1), sequence.modality)
    expected = iou(evaluated.boxes[3:], sequence.boxes[3:])
    np.testing.assert_array_equal(validation.overlaps(tracker, sequence), expected)
