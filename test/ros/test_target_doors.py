"""Services, clicks and detections over real DDS: what each door starts, what it answers, and what it refuses."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not importable: run `make test`, or source ROS 2")

from builtin_interfaces.msg import Time  # noqa: E402
from geometry_msgs.msg import Point, PointStamped  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState  # noqa: E402
from robot import Robot, Tracker, assert_tracks_again, image, running, scene, to_time  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from cmdtrack_ros.boxes import iou  # noqa: E402
from cmdtrack_ros.data.sequences import load_sequence  # noqa: E402
from cmdtrack_ros.msg import TrackState  # noqa: E402
from cmdtrack_ros.srv import SetTarget  # noqa: E402
from cmdtrack_ros.streams.pairing import stamp_ns  # noqa: E402
from cmdtrack_ros.tracking.states import PROPOSAL_FRAMES  # noqa: E402

pytestmark = pytest.mark.ros

INITIAL = scene(0)[1]


def ask(robot: Robot, kind: type, service: str, **fields: object) -> object:
    """Call a service of the tracker while the cameras run: answers wait for frames."""
    client = robot.node.create_client(kind, f"tracker/{service}")
    robot.wait(service, client.service_is_ready)
    future = client.call_async(kind.Request(**fields))
    robot.wait(f"an answer of {service}", lambda: future.done() or robot.play(1, answered=False) is None)
    robot.node.destroy_client(client)
    robot.play(1)  # what is still on its way comes before this one's result
    return future.result()


def set_target(robot: Robot, box: tuple, stamp: Time | None = None, **fields: object) -> SetTarget.Response:
    x, y, width, height = map(float, box)
    fields |= {"stamp": stamp or Time(), "x": x, "y": y, "width": width, "height": height}
    return ask(robot, SetTarget, "set_target", **fields)


def overlap(result: object, first: int, last: int) -> float:
    """The best with the target in frames `first` to `last`."""
    box = np.array([result.x, result.y, result.width, result.height])
    return max(float(iou(box, np.array(scene(frame)[1], float))) for frame in range(first, last + 1))


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[tuple[Tracker, Robot]]:
    robot, folder = Robot("/doors"), tmp_path_factory.mktemp("doors")
    box = "[" + ", ".join(f"{float(v)}" for v in INITIAL) + "]"
    with running(folder, repository, robot, initial_box=box, click_topic="clicks") as tracker:
        robot.connect()
        yield tracker, robot


def test_set_target_answers_with_the_box_or_with_what_is_wrong(tracking: tuple[Tracker, Robot]) -> None:
    _, robot = tracking
    first = robot.frame
    answer = set_target(robot, scene(first)[1], target_id="by service")
    assert answer.accepted and answer.reason == "" and overlap(answer, first, robot.frame) > 0.5
    assert answer.target_id == "by service"
    assert_tracks_again(robot)
    for box, stamp, reason in (
        ((0, 0, 0, 0), None, "width and height above 0"),
        ((400, 10, 40, 40), None, "only 0% of it lies in the 320x240 image"),
        ((100, 90, 48, 48), to_time(stamp_ns(robot.tracks[-1]) - 3600 * 10**9), "s behind the newest image"),
    ):
        answer = set_target(robot, box, stamp, target_id="refused")
        assert not answer.accepted and reason in answer.reason and answer.width == 0 and answer.target_id == ""
    assert [r.target_id for r in robot.play(2)] == ["by service"] * 2


def test_stop_gives_up_and_reset_starts_the_initial_box(tracking: tuple[Tracker, Robot]) -> None:
    _, robot = tracking
    set_target(robot, scene(robot.frame)[1], target_id="other")
    answer = ask(robot, Trigger, "stop")
    assert answer.success and answer.message == "the target is given up"
    assert {r.state for r in robot.play(3)} == {TrackState.STATE_IDLE}
    assert ask(robot, Trigger, "stop").message == "there was no target to give up"
    robot.frame = 0  # where the initial box is right
    answer = ask(robot, Trigger, "reset")
    assert answer.success and "'initial_box' is started" in answer.message
    robot.wait("the initial target", lambda: robot.play(1)[-1].target_id == "initial")
    assert_tracks_again(robot)


def test_point_is_uncertain_until_frames_confirm_it(tracking: tuple[Tracker, Robot]) -> None:
    _, robot = tracking
    ask(robot, Trigger, "stop")
    x, y, w, h = scene(robot.frame)[1]
    first, frame = len(robot.tracks), robot.frame
    answer = set_target(robot, (x + w / 2, y + h / 2, 0, 0), point=True)
    assert answer.accepted and overlap(answer, frame, robot.frame) > 0.5
    robot.wait("it to be confirmed", lambda: robot.play(1)[-1].state == TrackState.STATE_TRACKING)
    states = [r.state for r in robot.tracks[first:] if r.state != TrackState.STATE_IDLE]
    assert states[:PROPOSAL_FRAMES] == [TrackState.STATE_UNCERTAIN] * PROPOSAL_FRAMES
    refused = set_target(robot, (900, 100, 0, 0), point=True)
    assert not refused.accepted and "inside of the 320x240 image" in refused.reason


@pytest.mark.parametrize("kind", [Point, PointStamped])
def test_click_starts_a_target(tracking: tuple[Tracker, Robot], kind: type) -> None:
    _, robot = tracking
    ask(robot, Trigger, "stop")
    clicks = robot.node.create_publisher(kind, "clicks", 5)
    robot.wait("the node's subscription of this type", clicks.get_subscription_count)
    first = robot.frame
    shown = robot.play(20)[0]  # the user is late
    seen = first if kind is PointStamped else robot.frame - 1
    x, y, w, h = scene(seen)[1]
    point = Point(x=x + w / 2, y=y + h / 2)
    clicks.publish(PointStamped(header=shown.header, point=point) if kind is PointStamped else point)
    robot.wait("the target", lambda: robot.play(1)[-1].target_id == "click")
    assert overlap(robot.tracks[-1], robot.frame - 2, robot.frame - 1) > 0.5
    robot.node.destroy_publisher(clicks)


def test_services_answer_while_the_node_is_inactive(tracking: tuple[Tracker, Robot]) -> None:
    _, robot = tracking
    robot.call(ChangeState, "change_state", transition=Transition(id=Transition.TRANSITION_DEACTIVATE))
    began = time.monotonic()
    answer = robot.call(Trigger, "stop")
    assert not answer.success and "not active" in answer.message and time.monotonic() - began < 10
    robot.call(ChangeState, "change_state", transition=Transition(id=Transition.TRANSITION_ACTIVATE))
    robot.match()
    robot.wait("results", lambda: len(robot.play(1, answered=False)))


def test_choice_of_two_seconds_ago_is_followed_to_the_newest_frame(
    tmp_path: Path, repository: Path, shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real recording at its own rate; the time it takes is printed, as no machine promises one."""
    sequence = load_sequence(shared_data / "train" / "rgbt" / "0113_1714_redcoat")
    frames = [sequence.frame(i) for i in range(140)]
    sent: dict[int, int] = {}  # frame by stamp

    def rgb(i: int, stamp: int) -> Image:
        sent[stamp] = i - start
        return image(frames[i - start].rgb, "rgb8", stamp)

    def aux(i: int, stamp: int) -> Image:
        picture = frames[i - start].aux
        return image(picture, "mono8" if picture.ndim == 2 else "rgb8", stamp)

    robot = Robot("/late")
    with running(tmp_path, repository, robot, target_history_mb=1024):
        start = robot.frame
        robot.wait("a first result", lambda: robot.play(1, rgb, aux, answered=False))
        robot.play(100 - (robot.frame - start), rgb, aux, answered=False)
        newest = max(sent)
        stamp = min((s for s in sent if newest - s <= 2 * 10**9), key=lambda s: s)
        x, y, width, height = map(float, sequence.boxes[sent[stamp]])
        fields = {"stamp": to_time(stamp), "target_id": "late", "x": x, "y": y, "width": width, "height": height}
        client = robot.node.create_client(SetTarget, "tracker/set_target")
        robot.wait("the service", client.service_is_ready)
        began, future = time.monotonic(), client.call_async(SetTarget.Request(**fields))
        found: list[TrackState] = []

        def caught_up() -> bool:
            robot.play(1, rgb, aux, answered=False) if robot.frame - start < len(frames) else robot.spin(0.05)
            found[:] = [track for track in robot.tracks if track.target_id == "late"]
            return bool(found) and future.done()

        robot.wait("the target", caught_up)
        seconds = time.monotonic() - began
        first = found[0]
        truth = sequence.boxes[sent[stamp_ns(first)]]
        overlap = float(iou(np.array([first.x, first.y, first.width, first.height]), truth))
        own = np.median([track.processing_time for track in robot.tracks if track.target_id == "late"])
        with capsys.disabled():
            print(
                f"\nchosen {(newest - stamp) * 1e-9:.1f} s ago: a result {(stamp_ns(first) - stamp) * 1e-9:.1f} s past "
                f"its frame came {seconds:.2f} s after the request, IoU {overlap:.2f}; a frame takes {own * 1e3:.0f} ms"
            )
        assert future.result().accepted and overlap > 0.5
        assert stamp_ns(first) >= newest, "the newest frame, not the one it was drawn on"
        robot.wait("the node to keep up", lambda: stamp_ns(robot.tracks[-1]) == max(sent))
