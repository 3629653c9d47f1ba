"""A detector that names targets, over real DDS: filters, and what it may do to a target that there is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not importable: run `make test`, or source ROS 2")

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from robot import SCENE, Robot, Tracker, assert_tracks_again, image, running, scene  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from cmdtrack_ros.msg import TrackState  # noqa: E402
from cmdtrack_ros.ros import targets  # noqa: E402
from cmdtrack_ros.ros.health import Health  # noqa: E402
from cmdtrack_ros.ros.messages import Detection2DArray  # noqa: E402
from cmdtrack_ros.tracking.requests import Outcome  # noqa: E402
from cmdtrack_ros.tracking.targets import Given, Target  # noqa: E402

pytestmark = pytest.mark.ros
needs_vision_msgs = pytest.mark.skipif(Detection2DArray is None, reason="vision_msgs is not installed (apt has it)")


def hidden(_: int, stamp: int) -> Image:
    """The target is gone."""
    return image(SCENE, "rgb8", stamp)


def hidden_aux(_: int, stamp: int) -> Image:
    return image(np.ascontiguousarray(SCENE[..., 1]), "mono8", stamp)


def detections(*found: tuple[str, float, tuple], header: object = None) -> object:
    """Class, score and box xywh of each."""
    from vision_msgs.msg import Detection2D, ObjectHypothesisWithPose

    array = Detection2DArray()
    if header:
        array.header = header
    for class_id, score, (x, y, w, h) in found:
        detection, result = Detection2D(), ObjectHypothesisWithPose()
        result.hypothesis.class_id, result.hypothesis.score = class_id, float(score)
        detection.bbox.center.position.x, detection.bbox.center.position.y = float(x + w / 2), float(y + h / 2)
        detection.bbox.size_x, detection.bbox.size_y = float(w), float(h)
        detection.results = [result]
        array.detections.append(detection)
    return array


@pytest.fixture
def detecting(tmp_path: Path, repository: Path) -> Iterator[tuple[Tracker, Robot, object]]:
    robot = Robot("/detector")
    publisher = robot.node.create_publisher(Detection2DArray, "found", 5)
    parameters = {"detections_topic": "found", "detections_class": "dog,patch", "detections_score": 0.5}
    with running(tmp_path, repository, robot, **parameters) as tracker:
        robot.connect()
        robot.wait("the node's subscription", publisher.get_subscription_count)
        yield tracker, robot, publisher


@needs_vision_msgs
def test_detector_starts_a_target_and_moves_none_that_is_followed(detecting: tuple) -> None:
    _, robot, publisher = detecting
    place = scene(robot.frame)[1]
    for found in (("cat", 0.9, place), ("patch", 0.4, place), ("patch", float("nan"), place)):
        publisher.publish(detections(found))
        assert {r.state for r in robot.play(4)} == {TrackState.STATE_IDLE}, found
    header = robot.tracks[-1].header
    box = scene(robot.frame - 1)[1]
    robot.play(15)  # a slow detector
    publisher.publish(detections(("patch", 0.7, box), ("dog", 0.6, (10, 10, 40, 40)), header=header))
    robot.wait("the target", lambda: robot.play(1)[-1].target_id == "patch")
    assert_tracks_again(robot)
    for _ in range(5):
        publisher.publish(detections(("dog", 0.9, (220, 170, 48, 48))))
        robot.play(2)
    assert robot.tracks[-1].target_id == "patch"
    assert_tracks_again(robot)
    stop(robot)
    publisher.publish(detections(("patch", 0.9, scene(robot.frame)[1])))
    assert {r.state for r in robot.play(5)} == {TrackState.STATE_IDLE}, "somebody gave the target up"


def stop(robot: Robot) -> None:
    client = robot.node.create_client(Trigger, "tracker/stop")
    assert client.wait_for_service(10)
    future = client.call_async(Trigger.Request())
    robot.wait("stop", lambda: robot.play(1, answered=False) is None or future.done())


@needs_vision_msgs
def test_lost_target_is_taken_up_where_it_looks_like_it_only(detecting: tuple) -> None:
    _, robot, publisher = detecting
    publisher.publish(detections(("patch", 0.9, scene(robot.frame)[1])))
    robot.wait("the target", lambda: robot.play(1)[-1].state == TrackState.STATE_TRACKING)
    robot.wait("its loss", lambda: robot.play(1, hidden, hidden_aux)[-1].state == TrackState.STATE_LOST)
    for _ in range(4):
        publisher.publish(detections(("dog", 0.9, (220, 170, 48, 48))))
        assert {r.state for r in robot.play(4, hidden, hidden_aux)} == {TrackState.STATE_LOST}
    away = np.array([200, 150])

    def elsewhere() -> np.ndarray:
        picture, (x, y, w, h) = scene(0)
        target = picture[y : y + h, x : x + w]
        picture = SCENE.copy()
        picture[away[1] : away[1] + h, away[0] : away[0] + w] = target
        return picture

    def rgb(_: int, stamp: int) -> Image:
        return image(elsewhere(), "rgb8", stamp)

    def aux(_: int, stamp: int) -> Image:
        return image(np.ascontiguousarray(elsewhere()[..., 1]), "mono8", stamp)

    def back() -> bool:
        publisher.publish(detections(("dog", 0.9, (220, 170, 48, 48)), ("patch", 0.6, (*away, 48, 48))))
        return robot.play(3, rgb, aux)[-1].state == TrackState.STATE_TRACKING

    robot.wait("the target", back)
    last = robot.tracks[-1]
    assert last.target_id == "patch" and abs(last.x - away[0]) < 10 and abs(last.y - away[1]) < 10


@needs_vision_msgs
def test_each_lost_target_is_looked_for_among_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    robot, asked = Robot("/kinds"), []
    lost = [Target(np.zeros(4), name, kind) for name, kind in (("anna", "person"), ("rex", "dog"), ("it", ""))]
    pipeline = SimpleNamespace(names=("anna", "rex", "it", "bob"), lost=lost)
    requests = SimpleNamespace(
        request=lambda target, stamp, answer: asked.append(target) or answer(Outcome(None, "no"))
    )
    settings = SimpleNamespace(detections_topic="found", detections_class="", detections_score=0.5)
    monkeypatch.setattr(targets, "_LOOK_INTERVAL", 0.0)
    detector = targets._Detector(robot.node, settings, requests, pipeline, Health(robot.node.get_logger()))
    found = detections(("dog", 0.9, (1, 2, 3, 4)), ("person", 0.8, (5, 6, 7, 8)), ("cat", 0.1, (0, 0, 9, 9)))
    for _ in range(5):
        detector._receive(found)
    assert {target.given for target in asked} == {Given.DETECTION}
    turns = [(target.name, target.class_id) for target in asked]
    assert turns[:4] == [("anna", "person"), ("rex", "dog"), ("it", "dog"), ("it", "person")] and turns[4] == turns[0]
    pipeline.lost, pipeline.names = [], ("bob",)
    detector._receive(found)
    assert len(asked) == 5, "where one is followed, none is started"
    pipeline.names = ()
    detector._receive(found)
    assert asked[5].name == "dog", "the best one"
    robot.close()


def test_detector_that_cannot_be_heard_is_told(tmp_path: Path, repository: Path) -> None:
    robot = Robot("/deaf")
    with running(tmp_path, repository, robot, detections_topic="nobody") as tracker:
        wanted = "expected vision_msgs/msg/Detection2DArray, it has no publisher"
        missing = "vision_msgs is not installed: sudo apt-get install ros-"
        tracker.wait_for(f"no detections: .*({missing if Detection2DArray is None else wanted})")
        robot.wait("the diagnostics", lambda: any(_warns(array) for array in robot.diagnostics))


def _warns(array: DiagnosticArray) -> bool:
    return any("no detections" in status.message for status in array.status)
