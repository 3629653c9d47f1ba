"""`cmdtrack track` as a user calls it."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from cmdtrack_ros.data.video import VideoFile
from synthetic import make_block, read_table, run_cli

FRAMES = 12


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return make_block(tmp_path / "block", FRAMES)


def test_offline_tracking_leaves_its_files(recording: Path, untrained: Path, tmp_path: Path) -> None:
    done = run_cli("track", recording, "--output", tmp_path / "out", "--weights", untrained, "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert "block: 12 frames" in done.stdout and "mean IoU" in done.stdout
    rows = read_table(tmp_path / "out" / "track.csv")
    assert [int(row["frame"]) for row in rows] == list(range(FRAMES))
    assert [float(rows[0][k]) for k in ("x", "y", "width", "height", "iou")] == [30, 40, 30, 30, 1]
    assert len(VideoFile(tmp_path / "out" / "overlay.mp4")) == FRAMES
    assert cv2.imread(str(tmp_path / "out" / "contact_sheet.png")).shape[1] == 1920


def test_tracking_needs_a_box(recording: Path, untrained: Path, tmp_path: Path) -> None:
    (recording / "init.txt").write_text("nan,nan,nan,nan\n" * FRAMES)
    done = run_cli("track", recording, "--output", tmp_path / "out", "--weights", untrained)
    assert done.returncode == 1 and "--init-box" in done.stderr and "Traceback" not in done.stderr
    for box in ("1,2,3", "1,2,0,4", "a,b,c,d"):
        done = run_cli("track", recording, "--init-box", box)
        assert done.returncode == 1 and "expected x,y,w,h" in done.stderr and "Traceback" not in done.stderr
