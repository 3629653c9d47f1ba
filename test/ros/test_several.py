"""Several targets over real DDS: a node of its own, two patches in one pair of streams."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not importable: run `make test`, or source ROS 2")

from robot import PATCH, Robot, Tracker, image, running, scene, to_time  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402

from cmdtrack_ros.boxes import iou  # noqa: E402
from cmdtrack_ros.msg import TargetBox, TrackState  # noqa: E402
from cmdtrack_ros.streams.images import to_rgb  # noqa: E402
from cmdtrack_ros.streams.pairing import stamp_ns  # noqa: E402

pytestmark = pytest.mark.ros

SECOND_PATCH = np.ascontiguousarray(PATCH[::-1, ::-1, ::-1])


def two(i: int) -> tuple[np.ndarray, dict[str, tuple[float, float, float, float]]]:
    """The scene with a second patch, and the true boxes."""
    picture, box = scene(i)
    x, y = 210 - (i % 40), 170
    picture[y : y + 48, x : x + 48] = SECOND_PATCH
    return picture, {"first": box, "second": (x, y, 48, 48)}


def rgb(i: int, stamp: int) -> Image:
    return image(two(i)[0], "rgb8", stamp)


def aux(i: int, stamp: int) -> Image:
    return image(np.ascontiguousarray(two(i)[0][..., 1]), "mono8", stamp)


def send(robot: Robot, box: tuple, name: str, class_id: str = "", stamp: int = 0) -> None:
    message = TargetBox(target_id=name, class_id=class_id)
    message.header.stamp = to_time(stamp)
    message.x, message.y, message.width, message.height = (float(v) for v in box)
    robot.target.publish(message)
    robot.spin(0.1)


def by_name(results: list[TrackState]) -> dict[str, TrackState]:
    return {result.target_id: result for result in results}


def is_on(result: TrackState, i: int) -> bool:
    box, truth = np.array([result.x, result.y, result.width, result.height]), two(i)[1][result.target_id]
    return result.state == TrackState.STATE_TRACKING and float(iou(box, np.array(truth, float))) > 0.5


@pytest.fixture
def robot(tmp_path: Path, repository: Path) -> Iterator[Robot]:
    robot = Robot("/several")
    # A drawn scene is not what the score was calibrated with.
    low = {"score_doubtful": 0.01, "score_confident": 0.02, "score_found": 0.02}
    with running(tmp_path, repository, robot, modality="thermal", max_targets=2, target_history=60, **low) as tracker:
        robot.log: Tracker = tracker
        robot.connect()
        yield robot


def test_two_targets_by_their_names(robot: Robot) -> None:
    """Started, refused, one of seconds ago, released: each frame has a result of each, with that frame's header."""
    overlays: list[Image] = []
    robot.node.create_subscription(Image, "tracker/overlay", overlays.append, 10)
    assert {r.state for r in robot.play(2, rgb, aux)} == {TrackState.STATE_IDLE}
    send(robot, two(robot.frame)[1]["first"], "first", "person")
    shown = robot.play(12, rgb, aux)[0]
    at = robot.frame - 12
    send(robot, two(at)[1]["second"], "second", "car", stamp_ns(shown))
    robot.wait("the second target", lambda: "second" in by_name(robot.play(1, rgb, aux)))
    robot.play(1, rgb, aux)  # a first result may have come alone in its call
    before = len(robot.tracks)
    robot.play(4, rgb, aux)
    stamps = [stamp_ns(result) for result in robot.tracks[before:]]
    assert len(stamps) == 8 and stamps[::2] == stamps[1::2] == sorted(set(stamps)), "one a target and frame"
    newest = by_name(robot.tracks[-2:])
    assert {name: result.class_id for name, result in newest.items()} == {"first": "person", "second": "car"}
    assert all(is_on(result, robot.frame - 1) for result in newest.values())
    robot.wait("the values", lambda: {"target 'first'", "target 'second'"} <= robot.values().keys())
    assert robot.values()["state"] == "2 TRACKING"
    assert overlays and (to_rgb(overlays[-1]) != two(robot.frame - 1)[0]).any()

    send(robot, (10, 10, 40, 40), "third")
    robot.play(2, rgb, aux)
    (line,) = robot.log.lines("target refused: target 'third'")
    assert "'first', 'second'" in line and "'max_targets'" in line
    send(robot, (0, 0, 0, 0), "nobody")
    send(robot, (0, 0, 0, 0), "first")
    robot.play(2, rgb, aux)
    last = robot.play(3, rgb, aux)
    assert [result.target_id for result in last] == ["second"] * 3 and is_on(last[-1], robot.frame - 1)
    send(robot, two(robot.frame)[1]["first"], "")
    robot.wait("the next free number", lambda: set(by_name(robot.play(1, rgb, aux))) == {"second", "1"})
    send(robot, (0, 0, 0, 0), "")
    robot.wait("no target", lambda: robot.play(1, rgb, aux)[-1].state == TrackState.STATE_IDLE)
    assert len(robot.play(2, rgb, aux)) == 2
