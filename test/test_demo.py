"""The demo, offline tracking, and the pictures that both leave."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from cmdtrack_ros.data.bags import load_bag
from cmdtrack_ros.data.video import VideoFile
from cmdtrack_ros.demo import ANNOTATION, DdsRun, _slower, demo_sequence, interpolated_boxes
from cmdtrack_ros.drawing import BACKGROUND, STATE_COLOURS, Shown, contact_sheet, draw
from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.evaluation.pictures import track_recording
from cmdtrack_ros.modalities import Modality
from cmdtrack_ros.models.student import Student, StudentConfig
from cmdtrack_ros.models.weights import Provenance, save_weights

FRAMES = 12


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that load and run; what they track is nothing."""
    path = tmp_path_factory.mktemp("weights") / "untrained.safetensors"
    save_weights(Student(StudentConfig()), path, Provenance({}, {}, {}))
    return path


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A bright block that moves over noise, seen by two cameras, in the LasHeR layout."""
    folder = tmp_path / "block"
    noise = np.random.default_rng(0).integers(0, 90, (120, 160), np.uint8)
    for name, letter in (("visible", "v"), ("infrared", "i")):
        (folder / name).mkdir(parents=True)
        for i in range(FRAMES):
            image = noise.copy()
            image[40:70, 30 + 2 * i : 60 + 2 * i] += 150
            assert cv2.imwrite(str(folder / name / f"{letter}{i:03d}.png"), image)
    (folder / "init.txt").write_text("".join(f"{30 + 2 * i},40,30,30\n" for i in range(FRAMES)))
    (folder / "meta.json").write_text('{"fps": 10}')
    return folder


def run_cli(*arguments: str | Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "cmdtrack_ros.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
    )


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


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


def test_offline_tracking_leaves_its_files(recording: Path, untrained: Path, tmp_path: Path) -> None:
    done = run_cli("track", recording, "--output", tmp_path / "out", "--weights", untrained, "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert "block: 12 frames" in done.stdout and "mean IoU" in done.stdout
    rows = table(tmp_path / "out" / "track.csv")
    assert [int(row["frame"]) for row in rows] == list(range(FRAMES))
    assert [float(rows[0][k]) for k in ("x", "y", "width", "height", "iou")] == [30, 40, 30, 30, 1]
    assert len(VideoFile(tmp_path / "out" / "overlay.mp4")) == FRAMES
    assert cv2.imread(str(tmp_path / "out" / "contact_sheet.png")).shape[1] == 1920


def test_tracking_needs_a_box(recording: Path, untrained: Path, tmp_path: Path) -> None:
    (recording / "init.txt").write_text("nan,nan,nan,nan\n" * FRAMES)
    from cmdtrack_ros.data import load_sequence

    with pytest.raises(ConfigError, match="--init-box"):
        next(track_recording(load_sequence(recording), tmp_path / "out", weights=untrained))
    for box in ("1,2,3", "1,2,0,4", "a,b,c,d"):
        done = run_cli("track", recording, "--init-box", box)
        assert done.returncode == 1 and "expected x,y,w,h" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.ros
def test_demo_goes_through_dds(recording: Path, untrained: Path, tmp_path: Path) -> None:
    """Node, player and recorder are processes of their own; results meet their frames by stamp."""
    out = tmp_path / "demo"
    done = run_cli("demo", "--output", out, "--sequence", recording, "--weights", untrained, "--rate", "0.5")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["recording"], summary["modality"], summary["pairs"]) == ("block", "thermal", FRAMES)
    assert summary["answered"] == summary["results"] and summary["answered"] + summary["dropped"] == FRAMES
    assert summary["answered"] >= FRAMES / 2  # 5 Hz; a busy machine may drop some
    assert summary["unpaired"] <= 1 and 0 <= summary["mean_iou"] <= 1
    assert 0 < summary["latency_ms"]["p50"] <= summary["latency_ms"]["p95"] < 5000
    assert len(summary["weights"]["sha256"]) == 64
    rows = table(out / "track.csv")
    assert len(rows) == FRAMES and sum(row["state"] != "DROPPED" for row in rows) == summary["answered"]
    stamps = np.array([float(row["stamp"]) for row in rows if row["stamp"]])
    frames = np.array([int(row["frame"]) for row in rows if row["stamp"]])
    np.testing.assert_allclose(stamps - stamps[0], (frames - frames[0]) * 0.2, atol=1e-3)
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
    from cmdtrack_ros.ros.replay.recorder import Result

    sequence = demo_sequence()
    result = Result(0, "TRACKING", np.ones(4), 1.0, 0.5, 0.5, True, 0.0, 0.2, 0.0667)
    report = PlayReport(240, 4.0, 0.0, 0)

    def slower(count: int, seconds: float, rate: float = 1.0) -> float | None:
        results = [replace(result, processing=seconds)] * count
        return _slower(sequence, DdsRun(results, {}, report, rate))

    assert slower(114, 0.0667) is None  # enough were answered: nothing to mend, whatever it took
    assert slower(60, 2 / 29.97) == pytest.approx(0.35, rel=1e-3)
    assert slower(60, 0.001, rate=0.4) == pytest.approx(0.28)  # always less than what was too fast
    assert slower(3, 60.0) == 0.05 and slower(0, 0) is None


def test_overlay_shows_box_and_state() -> None:
    rgb, aux = np.full((200, 300, 3), 90, np.uint8), np.full((200, 300, 3), 30, np.uint8)
    box = np.array([50.0, 60, 80, 70])
    picture = draw(rgb, aux, Shown(3, "LOST", 0.2, box, box + 20, 0.4, 0.7, 0.3))
    assert picture.shape[1] == 2 * 600 and picture.dtype == np.uint8  # 200 rows are enlarged by two
    top = picture.shape[0] - 400
    for left in (0, 600):  # on both panels
        np.testing.assert_array_equal(picture[top + 2 * 60, left + 2 * 100], STATE_COLOURS["LOST"])
    np.testing.assert_array_equal(picture[top + 10, 10], [90, 90, 90])
    alone = draw(rgb, None, Shown(3, "TRACKING", 0.2, None))
    assert alone.shape[1] == 600
    np.testing.assert_array_equal(alone[-1, -1], [90, 90, 90])


def test_contact_sheet_keeps_the_order() -> None:
    tiles = [np.full((100, 200, 3), 20 * i, np.uint8) for i in range(5)]
    sheet = contact_sheet(tiles, "five", columns=2, width=620)
    centres = [sheet[56 + (i // 2) * 155 + 72, 10 + (i % 2) * 305 + 140] for i in range(5)]
    assert [int(c[0]) for c in centres] == [0, 20, 40, 60, 80]
    np.testing.assert_array_equal(sheet[56 + 2 * 155 + 72, 10 + 305 + 140], BACKGROUND)
