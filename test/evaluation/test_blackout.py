"""One camera goes black half way: what the comparison holds, and what it needs."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from cmdtrack_ros.data import load_sequence
from cmdtrack_ros.data.derived import Blackout
from cmdtrack_ros.evaluation.blackout import COLUMNS, middle
from synthetic import FRAMES, run_cli


def test_blackout_compares_with_what_the_other_stream_reaches_alone(dataset, tmp_path):
    pytest.importorskip("torch")
    file = tmp_path / "blackout.json"
    done = run_cli("blackout", dataset / "square0", "--output", file)
    assert done.returncode == 0, done.stderr
    runs = json.loads(file.read_text())
    assert set(runs) == {"square0", "mean"} and set(runs["mean"]) == set(COLUMNS)
    assert "RGB black" in done.stdout and f"{runs['mean']['both']:.3f}" in done.stdout
    whole = load_sequence(dataset / "square0")
    dark = Blackout(whole, "aux", middle(whole))
    assert dark.aux(FRAMES // 2 - 1).any() and not dark.aux(FRAMES // 2).any()
    assert dark.aux(0).dtype == np.uint16 and dark.rgb(FRAMES - 1).any()


def test_blackout_needs_two_streams(tmp_path):
    (tmp_path / "rgb" / "img").mkdir(parents=True)
    for i in range(4):
        cv2.imwrite(str(tmp_path / "rgb" / "img" / f"{i + 1:04d}.jpg"), np.zeros((40, 40, 3), np.uint8))
    (tmp_path / "rgb" / "groundtruth_rect.txt").write_text("1,1,20,20\n" * 4)
    failed = run_cli("blackout", tmp_path / "rgb", "--output", tmp_path / "b.json")
    assert failed.returncode == 1 and "two streams" in failed.stderr and "Traceback" not in failed.stderr
