"""The demo: its recording, its way through DDS, and the files that it leaves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from cmdtrack_ros.data.bags import load_bag
from cmdtrack_ros.data.video import VideoFile
from cmdtrack_ros.demo import ANNOTATION, demo_sequence, interpolated_boxes, slower_rate
from cmdtrack_ros.modalities import Modality
from cmdtrack_ros.track import Track
from synthetic import make_block, read_table, run_cli

FRAMES = 12


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return make_block(tmp_path / "block", FRAMES)


def test_built_in_recording() -> None:
    sequence = demo_sequence()
    assert (len(sequence), sequence.modality) == (120, Modality.EVENT)
    frame = sequence.frame(60)
    assert frame.rgb.shape == frame.aux.shape == (144, 176, 3)
    assert 0.02 < (frame.aux != 255).any(axis=2).mean() < 0.3  # there are events, and they are sparse
    assert np.isfinite(sequence.boxes).all() and (sequence.boxes[:, :2] >= 0).all()
    assert (sequence.boxes[:, 0] + sequence.boxes[:, 2] <= 176).all()
    assert (sequence.boxes[:, 1] + sequence.boxes[:, 3] <= 144).all()
    assert np.abs(np.diff(sequence.boxes, axis=0)).max() < 3  # px a frame: hand-made boxes do not jump


def test_boxes_between_key_frames_are_linear(tmp_path: Path) -> None:
    (tmp_path / "keys.csv").write_text("# frame,x,y,w,h\n1,0,0,10,10\n3,10,20,10,30\n")
    boxes = interpolated_boxes(tmp_path / "keys.csv", 5)
    np.testing.assert_allclose(boxes[1:4], [[0, 0, 10, 10], [5, 10, 10, 20], [10, 20, 10, 30]])
    assert np.isnan(boxes[[0, 4]]).all()
    assert np.isfinite(interpolated_boxes(ANNOTATION, 120)).all()


@pytest.mark.ros
def test_demo_goes_through_dds(recording: Path, untrained: Path, tmp_path: Path) -> None:
    """Node, player and recorder are processes of their own; results meet their frames by stamp."""
    out = tmp_path / "demo"
    done = run_cli("demo", "--output", out, "--sequence", recording, "--weights", untrained, "--rate", "0.5")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["recording"], summary["modality"], summary["pairs"]) == ("block", "thermal", FRAMES)
    assert summary["answered"] == summary["results"] and summary["answered"] + summary["dropped"] == FRAMES
    assert summary["unpaired"] < summary["answered"], "a busy machine drops some and parts others, but not all"
    assert 0 <= summary["mean_iou"] <= 1 and 0 < summary["latency_ms"]["p50"] <= summary["latency_ms"]["p95"]
    assert len(summary["weights"]["sha256"]) == 64
    rows = read_table(out / "track.csv")
    assert len(rows) == FRAMES and sum(row["state"] != "DROPPED" for row in rows) == summary["answered"]
    stamps = np.array([float(row["stamp"]) for row in rows if row["stamp"]])
    frames = np.array([int(row["frame"]) for row in rows if row["stamp"]])
    np.testing.assert_allclose(stamps - stamps[0], (frames - frames[0]) * 0.1, atol=1e-3)  # as recorded, at any rate
    assert len(VideoFile(out / "overlay.mp4")) == FRAMES and len(load_bag(out / "bag")) == FRAMES
    assert cv2.imread(str(out / "contact_sheet.png")) is not None


@pytest.mark.ros
def test_demo_names_what_is_wrong_before_it_starts(recording: Path, untrained: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    lost = tmp_path / "lost"
    shutil.copytree(recording, lost)
    (lost / "init.txt").write_text("nan,nan,nan,nan\n" + "30,40,30,30\n" * (FRAMES - 1))
    for sequence, weights, expected in (
        (recording, tmp_path / "broken.safetensors", "broken.safetensors"),
        (lost, untrained, "true box of the first frame"),
        (tmp_path / "nowhere", untrained, "no such folder"),
    ):
        done = run_cli("demo", "--output", tmp_path / "demo", "--sequence", sequence, "--weights", weights)
        assert done.returncode == 1 and expected in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "demo").exists()


@pytest.mark.ros
def test_a_slow_machine_gets_a_rate_it_can_keep() -> None:
    from cmdtrack_ros.ros.replay.player import PlayReport
    from cmdtrack_ros.ros.replay.session import Playback

    sequence = demo_sequence()
    report = PlayReport(240, 4.0, 0.0, 0)

    def slower(count: int, seconds: float, rate: float = 1.0) -> float | None:
        tracks = [Track(np.ones(4), 1.0, times_ms={"total": seconds * 1e3}, stamp_ns=1 + i) for i in range(count)]
        return slower_rate(sequence, Playback(tracks * 2, {}, report, rate))  # two targets: two results an image

    assert slower(114, 0.0667) is None  # enough were answered: nothing to mend, whatever it took
    assert slower(60, 2 / 29.97) == pytest.approx(0.35, rel=1e-3)
    assert slower(60, 0.001, rate=0.4) == pytest.approx(0.28)  # always less than what was too fast
    assert slower(3, 60.0) == 0.05 and slower(0, 0) is None
