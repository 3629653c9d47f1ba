"""Result files: written, read again, and named when they are damaged."""

from __future__ import annotations

import numpy as np
import pytest

from cmdtrack_ros.data import load_sequence
from cmdtrack_ros.errors import DataError
from cmdtrack_ros.evaluation import results
from cmdtrack_ros.evaluation.protocols import Protocol, Run
from synthetic import FRAMES, make_folder


@pytest.mark.parametrize("protocol", [Protocol.OPE, Protocol.LONGTERM])
def test_results_are_read_as_they_were_written(tmp_path, protocol):
    sequence = load_sequence(make_folder(tmp_path / "square", absent=(0, 1)))
    boxes = np.round(np.random.default_rng(0).uniform(1, 90, (FRAMES, 4)), 4)
    boxes[:2], boxes[2] = np.nan, sequence.boxes[2]
    boxes[7] = np.nan
    run = Run(boxes, np.linspace(0, 1, FRAMES).round(6), np.full(FRAMES, 0.01))
    results.write_run(tmp_path / "out", "square", protocol, run)
    again = results.read_run(tmp_path / "out", sequence, protocol)
    np.testing.assert_array_equal(again.boxes, boxes)
    kept = np.arange(FRAMES) != 2 if protocol is Protocol.LONGTERM else slice(None)
    np.testing.assert_array_equal(again.scores[kept], run.scores[kept])


@pytest.mark.parametrize(
    "text, message",
    [("1,2,3,4\n" * 5, "expected 24 rows"), ("1,2,3\n" * 24, "row 1: expected x,y,w,h"), ("a b c d\n" * 24, "row 1")],
)
def test_damaged_results_are_named(tmp_path, text, message):
    sequence = load_sequence(make_folder(tmp_path / "square"))
    (tmp_path / "square.txt").write_text(text)
    with pytest.raises(DataError, match=message) as error:
        results.read_run(tmp_path, sequence, Protocol.OPE)
    assert "square.txt" in str(error.value)


def test_other_separators_and_surplus_rows_are_read(tmp_path):
    sequence = load_sequence(make_folder(tmp_path / "square"))
    rows = ["\t".join(f"{v:g}" for v in box) for box in sequence.boxes]
    (tmp_path / "square.txt").write_text("\n".join([*rows, "9 9 9 9"]) + "\n")
    run = results.read_run(tmp_path, sequence, Protocol.OPE)
    np.testing.assert_array_equal(run.boxes, sequence.boxes)
    assert np.isnan(run.scores).all() and np.isnan(run.fps)
