"""How trackers are driven over a sequence."""

from __future__ import annotations

import numpy as np
import pytest

from cmdtrack_ros.data import load_sequence
from cmdtrack_ros.errors import DataError
from cmdtrack_ros.evaluation import protocols, scoring
from cmdtrack_ros.evaluation.baselines import TrackerSpec, make_tracker
from cmdtrack_ros.evaluation.protocols import Protocol
from synthetic import FRAMES, make_folder


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
    folder = make_folder(tmp_path / "vot")
    (folder / "sequence").write_text("channels.color=color/%08d.jpg\nchannels.depth=depth/%08d.png\n")
    turns = np.zeros(FRAMES)
    turns[4], turns[15] = 1, -1
    np.savetxt(folder / "anchor.value", turns)
    sequence = load_sequence(folder)
    assert protocols.choose(sequence, Protocol.AUTO) is Protocol.MULTISTART
    runs = dict(protocols.multi_start(make_tracker(TrackerSpec("csrt", "rgb"), sequence.modality), sequence))
    assert {anchor: len(run) for anchor, run in runs.items()} == {4: FRAMES - 4, 15: 16}
    assert runs[15].boxes[0].tolist() == sequence.boxes[15].tolist()
    assert abs(runs[15].boxes[-1] - sequence.boxes[0]).max() < 6
    score = scoring.score_sequence(sequence, Protocol.MULTISTART, runs)
    assert score.metrics["robustness"] == 1.0 and score.metrics["accuracy"] > 0.6
    turns[[4, 15]] = 0
    np.savetxt(folder / "anchor.value", turns)
    with pytest.raises(DataError, match="needs an anchor"):
        protocols.anchors(load_sequence(folder))


def test_multi_start_without_anchors_is_refused(tmp_path):
    sequence = load_sequence(make_folder(tmp_path / "plain"))
    with pytest.raises(DataError, match="anchor.value"):
        protocols.choose(sequence, Protocol.MULTISTART)
