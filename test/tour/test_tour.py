"""The tour: each stop through real DDS into a real node, as a user starts it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not importable: run `make test`, or source ROS 2")

from cmdtrack_ros.drawing import STATE_COLOURS
from cmdtrack_ros.ros.messages import Detection2DArray
from cmdtrack_ros.track import TargetState
from synthetic import make_block, make_folder, run_cli

pytestmark = pytest.mark.ros

FRAMES = 24
NEEDS_VISION_MSGS = pytest.mark.skipif(Detection2DArray is None, reason="vision_msgs is not installed (apt has it)")


def green(sheet: np.ndarray) -> int:
    """How many pixels have the colour that the node gives a target which it is TRACKING."""
    wanted = np.array(STATE_COLOURS[TargetState.TRACKING][::-1])
    return int((np.abs(sheet.astype(int) - wanted) < 40).all(axis=2).sum())


@pytest.mark.parametrize(
    "stop, targets",
    [
        ("thermal", ["face"]),
        ("depth", ["click"]),
        pytest.param("event", ["face"], marks=NEEDS_VISION_MSGS),
        ("rgb", ["left", "right"]),
    ],
)
def test_stop_shows_its_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: str, targets: list[str]) -> None:
    """Named through the door of this stop alone, found in the recording, and shown on the node's own pictures."""
    monkeypatch.delenv("CMDTRACK_DATA", raising=False)
    done = run_cli("tour", "--output", tmp_path, "--only", stop, "--frames", FRAMES)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    (name, found), *others = summary["stops"].items()
    assert (name, others, summary["failures"]) == (stop, [], {}) and found["real"] is False
    assert list(found["targets"]) == targets and found["frames"] == FRAMES
    for target in found["targets"].values():
        share = target["answered"] / (FRAMES - target["first_frame"])  # a busy machine drops some, which count 0
        assert target["answered"] and target["mean_iou"] > 0.6 * share
        assert target["states"][-1]["state"] == "TRACKING"
    assert 0 < found["latency_ms"]["p50"] <= found["latency_ms"]["p95"]
    if stop == "depth":
        assert found["targets"]["click"]["states"][0]["state"] == "UNCERTAIN", "a proposal is to be confirmed first"
        assert found["position"]["compared"] and found["position"]["median_m"] < 0.05
    sheet = cv2.imread(str(tmp_path / found["picture"]))
    assert 0 < found["overlays"] <= FRAMES and sheet.shape[1] == 1920 and green(sheet) > 500
    page = (tmp_path / "index.html").read_text()
    assert found["picture"] in page and found["target_given_by"] in page
    assert all(column in done.stdout for column in ("mean IoU", "latency", "states"))


def write_recordings(folder: Path, frames: int = 12) -> Path:
    """The layout of the folder of real recordings; its depth camera sees nothing at all."""
    block = make_block(folder / "test" / "rgbt" / "0117_1605_leftman", frames)
    leaflet = make_folder(folder / "test" / "rgbd" / "leaflet_blue_225", frames=frames)
    for file in (leaflet / "depth").iterdir():
        cv2.imwrite(str(file), np.zeros_like(cv2.imread(str(file), cv2.IMREAD_UNCHANGED)))
    star = folder / "test" / "rgbe" / "star_motion"
    for name, copy in (("visible", star / "vis_imgs"), ("infrared", star / "event_imgs")):
        shutil.copytree(block / name, copy)
    shutil.copy(block / "init.txt", star / "groundtruth.txt")
    for name in ("otb_Crossing", "otb_Man"):
        shutil.copytree(block / "visible", folder / "test" / "rgb" / name / "img")
        shutil.copy(block / "init.txt", folder / "test" / "rgb" / name / "groundtruth_rect.txt")
    return folder


def test_stop_that_shows_nothing_is_named(tmp_path: Path) -> None:
    data, out = write_recordings(tmp_path / "data"), tmp_path / "tour"
    done = run_cli("tour", "--output", out, "--only", "depth", "--data", data, "--rate", "0.3")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "stop depth: no position came on ~/target_pose" in done.stderr
    assert "no position came" in (out / "index.html").read_text()
    assert json.loads((out / "summary.json").read_text())["stops"] == {}


def test_missing_recording_is_named_before_a_node_starts(tmp_path: Path) -> None:
    data, out = write_recordings(tmp_path / "data"), tmp_path / "tour"
    shutil.rmtree(data / "test" / "rgbe")
    done = run_cli("tour", "--output", out, "--data", data)
    assert done.returncode == 1 and "star_motion" in done.stderr and not out.exists()


def test_detector_without_its_messages_fails_at_its_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cmdtrack_ros.errors import CmdtrackError
    from cmdtrack_ros.ros.replay import operator
    from cmdtrack_ros.tour import run_tour

    monkeypatch.setattr(operator, "Detection2DArray", None)
    shown = run_tour(tmp_path, frames=2, only=["event"])
    with pytest.raises(CmdtrackError, match="stop event: a detector needs vision_msgs"):
        list(shown)
    assert "needs vision_msgs" in (tmp_path / "index.html").read_text()
