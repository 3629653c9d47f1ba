"""Targets over real DDS: what is refused, what is caught up, and what is not believed after a break or a crash."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not importable: run `make test`, or source ROS 2")

from diagnostic_msgs.msg import DiagnosticStatus  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState  # noqa: E402
from robot import PATIENCE, SCENE, Robot, Tracker, assert_tracks_again, image, running, scene, to_time  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402

from cmdtrack_ros.msg import TrackState  # noqa: E402
from cmdtrack_ros.ros.respawn import RespawnMark  # noqa: E402
from cmdtrack_ros.streams.pairing import stamp_ns  # noqa: E402

pytestmark = pytest.mark.ros

SECOND = 10**9


def status(robot: Robot) -> DiagnosticStatus | None:
    """The newest status of the target of this robot's node."""
    name = f"{robot.node.get_namespace()[1:]}/tracker: tracking"
    found = [s for array in robot.diagnostics for s in array.status if s.name == name]
    return found[-1] if found else None


def says(robot: Robot, cause: str, *parts: str) -> bool:
    """Whether the newest status warns of a cause, in a text with all of the parts."""
    newest = status(robot)
    if newest is None or cause not in newest.message.split("; ") or newest.level != DiagnosticStatus.WARN:
        return False
    text = {v.key: v.value for v in newest.values}[cause]
    return all(part in text for part in parts)


def wait_until_said(robot: Robot, cause: str, *parts: str) -> None:
    robot.wait(f"a warning: {cause}", lambda: says(robot, cause, *parts))


def empty_rgb(_: int, stamp: int) -> Image:
    """The scene after the target has gone."""
    return image(SCENE, "rgb8", stamp)


def empty_aux(_: int, stamp: int) -> Image:
    return image(SCENE[..., 1], "mono8", stamp)


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[tuple[Tracker, Robot]]:
    """A node that follows a target, which each test leaves so."""
    robot, folder = Robot("/targets"), tmp_path_factory.mktemp("targets")
    with running(folder, repository, robot, modality="thermal") as tracker:
        robot.connect()
        robot.send_target(scene(robot.frame)[1])
        assert_tracks_again(robot)
        yield tracker, robot


REFUSED = {
    "in the future": ((100, 90, 48, 48), 3 * SECOND, "s ahead of the newest image"),
    "too old": ((100, 90, 48, 48), -3600 * SECOND, "s behind the newest image"),
    "outside": ((400, 10, 40, 40), 0, "only 0% of it lies in the 320x240 image"),
    "outside, seconds ago": ((400, 10, 40, 40), -SECOND // 2, "only 0% of it lies in the 320x240 image"),
    "too small": ((100, 90, 1, 1), 0, "at least 2 px"),
    "not finite": ((float("nan"), 90, 40, 40), 0, "expected four finite numbers"),
    "huge": ((0, 0, 1e9, 1e9), 0, "up to 100000"),
}


def test_refused_targets_are_named_and_leave_the_old_one_alone(tracking: tuple[Tracker, Robot]) -> None:
    _, robot = tracking
    robot.play(20)
    for case, (box, ago, reason) in REFUSED.items():
        before = robot.tracks[-1]
        robot.send_target(box, to_time(stamp_ns(before) + ago) if ago else None, case)
        results = robot.play(3)
        assert [r.target_id for r in results] == ["patch"] * 3, case
        assert all(r.state == TrackState.STATE_TRACKING and abs(r.x - before.x) < 15 for r in results), case
        wait_until_said(robot, "target refused", f"target '{case}': ", reason)
    robot.wait("the end of it", lambda: not says(robot, "target refused"))


def test_target_of_seconds_ago_is_caught_up_with(tracking: tuple[Tracker, Robot]) -> None:
    _, robot = tracking
    first = robot.frame
    frames = max(range(50, 100), key=lambda n: abs(scene(first + n)[1][0] - scene(first)[1][0]))
    shown = robot.play(frames)[0]
    robot.send_target(scene(first)[1], shown.header.stamp, "patch")
    assert_tracks_again(robot)


def test_target_after_a_pause_of_both_cameras_is_confirmed_first(tracking: tuple[Tracker, Robot]) -> None:
    _, robot = tracking
    robot.spin(2.5)
    states = [r.state for r in robot.play(6)]
    assert states[0] == TrackState.STATE_LOST and states[-1] == TrackState.STATE_TRACKING
    assert_tracks_again(robot)


def change(robot: Robot, transition: int) -> None:
    assert robot.call(ChangeState, "change_state", transition=Transition(id=transition)).success


def test_target_from_before_a_deactivation(tmp_path: Path, repository: Path) -> None:
    robot = Robot("/paused")
    with running(tmp_path, repository, robot, modality="thermal") as tracker:
        robot.connect()
        robot.send_target(scene(robot.frame)[1])
        assert_tracks_again(robot)
        for gone in (False, True):
            change(robot, Transition.TRANSITION_DEACTIVATE)
            change(robot, Transition.TRANSITION_ACTIVATE)
            robot.diagnostics.clear()
            wait_until_said(robot, "old target")
            robot.match()
            robot.wait("results", lambda: len(robot.play(1, empty_rgb, empty_aux, answered=False)))
            results = robot.play(5, empty_rgb, empty_aux)
            assert {r.state for r in results} == {TrackState.STATE_LOST}, "it is not there"
            assert says(robot, "old target")
            if gone:
                robot.send_target(scene(robot.frame)[1])
            robot.wait("the target", lambda: robot.play(1)[-1].state == TrackState.STATE_TRACKING)
            robot.wait("the end of the warning", lambda: not says(robot, "old target"))
            assert_tracks_again(robot)
        assert tracker.lines("old target: the target is from before") and tracker.lines("old target: over")


BOX = str([float(v) for v in scene(0)[1]]).replace(" ", "")


class Started:
    """A node with `initial_box`; its parent is this process, or one in between."""

    def __init__(self, log: Path, repository: Path, namespace: str, other_parent: bool = False) -> None:
        self.log = log
        options = ["device:=cpu", "threads:=1", f"initial_box:={BOX}"]
        command = [sys.executable, str(repository / "scripts" / "tracker_node"), "--ros-args", "-r"]
        command += [f"__ns:={namespace}", *(part for option in options for part in ("-p", option))]
        if other_parent:
            command = ["sh", "-c", f"{shlex.join(command)} & trap 'kill $!; wait $!' TERM; wait $!"]
        with log.open("w") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)

    def is_active(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return "active:" in self.log.read_text()

    def end(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
        self.process.wait(PATIENCE)


def test_respawned_node_does_not_take_its_initial_box(tmp_path: Path, repository: Path) -> None:
    """Killed and started again by the same parent, it waits; ended in order, or started by another, it does not."""
    robot, nodes = Robot("/respawn"), []

    def first_results(name: str, **options: bool) -> list[TrackState]:
        nodes.append(Started(tmp_path / f"{name}.log", repository, "/respawn", **options))
        robot.diagnostics.clear()
        robot.wait("the node", nodes[-1].is_active)
        robot.connect()
        return robot.play(4)

    try:
        assert first_results("first")[-1].target_id == "initial"
        nodes[-1].end(signal.SIGKILL)
        results = first_results("respawned")
        assert {r.state for r in results} == {TrackState.STATE_IDLE}
        wait_until_said(robot, "old target")
        robot.send_target(scene(robot.frame)[1])
        assert_tracks_again(robot)
        robot.wait("the end of the warning", lambda: not says(robot, "old target"))
        nodes[-1].end(signal.SIGKILL)
        assert first_results("another parent", other_parent=True)[-1].target_id == "initial"
        nodes[-1].end(signal.SIGTERM)
        assert first_results("after an end in order")[-1].target_id == "initial"
        nodes[-1].end(signal.SIGTERM)
        assert not RespawnMark("/respawn/tracker").path.exists()
    finally:
        for node in nodes:
            node.process.kill()
        robot.close()


def test_mark_that_cannot_be_written_is_told(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "home"
    blocked.mkdir()
    (blocked / "cmdtrack_ros").write_text("a file where the folder should be")
    monkeypatch.setenv("ROS_HOME", str(blocked))
    monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path))
    robot = Robot("/blocked")
    with running(tmp_path, repository, robot, initial_box=BOX):
        robot.connect()
        wait_until_said(robot, "no respawn guard")
        assert robot.play(3)[-1].target_id == "initial"
