"""The window's logic with the real node: what the mouse means, what is asked, and machines without windows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not importable: run `make test`, or source ROS 2")

from robot import Robot, assert_tracks_again, running, scene  # noqa: E402

from cmdtrack_ros.errors import ConfigError  # noqa: E402
from cmdtrack_ros.msg import TrackState  # noqa: E402
from cmdtrack_ros.ros.select_target import Chosen, Mouse, Selector, find_topic  # noqa: E402

DOWN, MOVE, UP = cv2.EVENT_LBUTTONDOWN, cv2.EVENT_MOUSEMOVE, cv2.EVENT_LBUTTONUP


def drag(selector: Selector, box: tuple[int, int, int, int]) -> None:
    x, y, w, h = box
    for kind, at in ((DOWN, (x + w, y + h)), (MOVE, (x + 3, y + 3)), (UP, (x, y))):
        selector.on_mouse(kind, *at)


def test_mouse_draws_a_box_from_any_corner_or_clicks() -> None:
    mouse = Mouse()
    assert mouse.event(MOVE, 5, 5) is None and not mouse.pressed
    assert mouse.event(DOWN, 50, 60) is None and mouse.event(MOVE, 20, 100) is None
    assert mouse.drag.tolist() == [20, 60, 30, 40]
    assert mouse.event(UP, 20, 100) == Chosen(20, 60, 30, 40) and mouse.drag is None
    mouse.event(DOWN, 50, 60)
    assert mouse.event(UP, 52, 59) == Chosen(50, 60)
    mouse.event(DOWN, 50, 60)
    mouse.drop()
    assert mouse.event(UP, 90, 90) is None


@pytest.mark.ros
def test_what_is_drawn_is_tracked_from_the_picture_it_was_drawn_on(tmp_path: Path, repository: Path) -> None:
    robot = Robot("/window")
    with running(tmp_path, repository, robot):
        robot.connect()

        def spin(future: object) -> None:
            robot.wait("the parameter", future.done)

        topic = find_topic(robot.node, "/window/tracker", spin)
        assert topic == "/window/rgb/image"
        with pytest.raises(ConfigError, match="has no parameter 'rgb_topic'"):
            find_topic(robot.node, "/window/robot", spin)
        selector = Selector(robot.node, "/window/tracker", topic)
        robot.wait("a picture", lambda: robot.play(1) and selector.picture() is not None)
        assert np.array_equal(selector.picture()[100:150], scene(robot.frame - 1)[0][100:150])
        shown, began = scene(robot.frame - 1)[1], robot.frame
        selector.on_mouse(DOWN, shown[0], shown[1])
        robot.play(25)  # a slow hand; the picture stands still
        assert np.array_equal(selector.picture()[100:130], scene(began - 1)[0][100:130])
        selector.on_mouse(UP, shown[0] + shown[2], shown[1] + shown[3])
        robot.wait("the answer", lambda: robot.play(1) and selector.told.startswith("followed from"))
        assert robot.tracks[-1].target_id == "selected"
        assert_tracks_again(robot)
        selector.picture()
        drag(selector, (0, 0, 320, 239))
        robot.wait("the refusal", lambda: robot.play(1) and selector.told.startswith("refused: target box"))
        assert selector.on_key(ord("s"))
        robot.wait("the end", lambda: robot.play(1)[-1].state == TrackState.STATE_IDLE)
        assert not selector.on_key(ord("q"))


@pytest.mark.ros
def test_machine_without_windows_is_told(repository: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    result = subprocess.run(
        [sys.executable, str(repository / "scripts" / "select_target")], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert "has no windows" in result.stderr or "no display" in result.stderr
    assert "Traceback" not in result.stderr
