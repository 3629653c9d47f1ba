"""The real node over real DDS: a process of its own, fed by publishers of this one."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not importable: run `make test`, or source ROS 2")

from lifecycle_msgs.msg import State, Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState, GetState  # noqa: E402
from rcl_interfaces.srv import DescribeParameters, SetParametersAtomically  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import ReliabilityPolicy  # noqa: E402
from robot import (  # noqa: E402
    HEIGHT,
    SCENE,
    STEP,
    WIDTH,
    Robot,
    Tracker,
    assert_tracks_again,
    good_aux,
    good_rgb,
    image,
    jpeg,
    running,
    scene,
    to_time,
)
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402

from cmdtrack_ros.boxes import iou  # noqa: E402
from cmdtrack_ros.drawing import STATE_COLOURS  # noqa: E402
from cmdtrack_ros.modalities import AuxEncoder, AuxEncoding  # noqa: E402
from cmdtrack_ros.msg import TrackState  # noqa: E402
from cmdtrack_ros.ros.health import STATUSES  # noqa: E402
from cmdtrack_ros.streams.images import to_rgb, to_sensor  # noqa: E402
from cmdtrack_ros.streams.pairing import NearestPairer, PairOptions, stamp_ns  # noqa: E402
from cmdtrack_ros.track import ROBOT_STEPS, TargetState  # noqa: E402
from cmdtrack_ros.tracking.pipeline import Pipeline  # noqa: E402
from cmdtrack_ros.tracking.targets import Target  # noqa: E402
from cmdtrack_ros.tracking.tracker import load_tracker  # noqa: E402

pytestmark = pytest.mark.ros


@pytest.fixture(scope="module")
def thermal(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[tuple[Tracker, Robot]]:
    """A thermal tracker with a target, which many tests share: each leaves it tracking."""
    robot, folder = Robot("/thermal"), tmp_path_factory.mktemp("thermal")
    patience = {
        "aux_timeout": 1.0
    }  # a busy machine may bring a partner late, and what is unpaired is not what is tested
    with running(folder, repository, robot, modality="thermal", target_history=20, **patience) as tracker:
        robot.connect()
        robot.send_target(scene(robot.frame)[1])
        assert_tracks_again(robot)
        yield tracker, robot


def test_result_carries_the_rgb_header_and_the_pair(thermal: tuple[Tracker, Robot]) -> None:
    _, robot = thermal
    stamps: list[int] = []

    def rgb(i: int, stamp: int) -> Image:
        stamps.append(stamp)
        return good_rgb(i, stamp)

    began = time.time()
    results = robot.play(10, rgb, lambda i, stamp: good_aux(i, stamp - 4_000_000))
    took = time.time() - began
    assert [stamp_ns(r) for r in results] == stamps
    paired = [r for r in results if r.has_aux]
    assert len(paired) >= 8 and all(r.pair_gap == pytest.approx(-0.004) for r in paired)
    for result in paired:
        assert result.header.frame_id == "camera_optical" and result.target_id == "patch"
        assert result.weight_rgb + result.weight_aux == pytest.approx(1.0, abs=1e-4)
        assert 0 < result.processing_time < result.latency < took
        assert 0 < result.score <= 1


FAULTS = {
    "unknown encoding": (lambda i, s: image(scene(i)[0], "foo8", s), good_aux, "'foo8'"),
    "zero-size image": (lambda i, s: Image(header=good_rgb(i, s).header, encoding="rgb8"), good_aux, "got 0x0"),
    "short data": (lambda i, s: image(scene(i)[0], "rgb8", s, height=2 * HEIGHT), good_aux, "bytes of data, got"),
    "step too small": (lambda i, s: image(scene(i)[0], "rgb8", s, step=10), good_aux, "step >= 960, got 10"),
    "bad aux encoding": (good_rgb, lambda i, s: image(SCENE[..., 0], "bar16", s), "'bar16'"),
    "sizes differ": (
        good_rgb,
        lambda i, s: image(SCENE[::2, ::2, 0], "mono8", s),
        "/thermal/rgb/image is 320x240, /thermal/aux/image 160x120",
    ),
    "both bad": (lambda i, s: image(scene(i)[0], "foo1", s), lambda i, s: image(SCENE, "foo2", s), "'foo2'"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_bad_images_are_named_and_survived(thermal: tuple[Tracker, Robot], name: str) -> None:
    tracker, robot = thermal
    rgb, aux, says = FAULTS[name]
    results = robot.play(6, rgb, aux, answered=name != "both bad")
    robot.wait(f"{says} in the diagnostics", lambda: says in str(robot.values()))
    assert len(tracker.lines(re.escape(says))) <= 1, tracker.text()
    if name == "both bad":
        assert not results
    else:
        assert len(results) == 6, "the good stream goes on alone"
        assert all(r.has_rgb == (rgb is good_rgb) and r.has_aux == (aux is good_aux) for r in results)
    assert_tracks_again(robot)


def test_aux_stops(thermal: tuple[Tracker, Robot]) -> None:
    _, robot = thermal
    results: list[TrackState] = []

    def waits() -> list[float]:
        results.extend(robot.play(3, aux=None))
        return [r.latency - r.processing_time for r in results]

    assert waits()[0] > 0.09, "the first waits for its partner"
    robot.wait("an image that does not, once aux is known silent", lambda: min(waits()) < 0.09)
    assert len(results) % 3 == 0 and not any(r.has_aux for r in results)
    assert all(math.isnan(r.pair_gap) and r.weight_aux == 0 and r.weight_rgb == 1 for r in results)
    assert_tracks_again(robot)


def test_rgb_stops(thermal: tuple[Tracker, Robot]) -> None:
    _, robot = thermal
    results: list[TrackState] = []

    def alone() -> bool:
        results.extend(robot.play(5, rgb=None, answered=False))
        return len(results) >= 3

    robot.wait("aux images alone", alone)
    assert all(r.has_aux and not r.has_rgb for r in results)
    assert_tracks_again(robot)


def test_stamps_that_jump_back_are_followed(thermal: tuple[Tracker, Robot]) -> None:
    tracker, robot = thermal
    past = time.time_ns() - 3_600 * 10**9
    for _ in range(2):
        # The second image confirms the jump. Together, longer than the 0.5 s that tell a restart from lateness.
        robot.play(1, start=past, answered=False)
        results = robot.play(17, start=past + round(STEP * 1e9))
        assert len(results) in (17, 18) and results[-1].has_aux and results[-1].state == TrackState.STATE_TRACKING
    assert len(tracker.lines("stamps jumped back")) == 2
    robot.play(1, answered=False)
    assert robot.play(1)
    assert_tracks_again(robot)


@pytest.mark.parametrize("seconds", [0, -1, 2**31 - 1], ids=["zero", "minus one", "end of int32"])
def test_one_garbage_stamp_costs_its_image_alone(thermal: tuple[Tracker, Robot], seconds: int) -> None:
    tracker, robot = thermal
    jumps = len(tracker.lines("stamps jumped back"))
    assert_tracks_again(robot)
    assert robot.play(1, rgb=lambda i, _: good_rgb(i, seconds * 10**9), answered=False) == []
    assert_tracks_again(robot)
    assert len(tracker.lines("stamps jumped back")) == jumps


def test_rgb_stamps_that_stand_still_are_replaced_by_arrival(thermal: tuple[Tracker, Robot]) -> None:
    _, robot = thermal

    def tracked() -> list[TrackState]:
        results = robot.play(10, rgb=lambda i, _: good_rgb(i, 0), answered=False)
        return [r for r in results if r.has_rgb and r.has_aux and stamp_ns(r) == 0]

    robot.wait("results with the header of the RGB image", tracked)
    assert tracked()[-1].state == TrackState.STATE_TRACKING
    robot.wait(
        "stamps that are gone by again", lambda: [r for r in robot.play(6, answered=False) if r.has_rgb and stamp_ns(r)]
    )
    assert_tracks_again(robot)


def test_target_outside_the_image_is_refused_and_the_old_one_kept(thermal: tuple[Tracker, Robot]) -> None:
    tracker, robot = thermal
    robot.send_target((400, 10, 40, 40), name="outside")
    assert [r.target_id for r in robot.play(3)] == ["patch"] * 3
    tracker.wait_for("only 0% of it lies in the 320x240 image")
    assert len(tracker.lines("only 0% of it lies in the 320x240 image")) == 1
    robot.send_target((10, 10, -5, 40), name="negative")
    robot.send_target((math.nan, 10, 5, 40), name="nan")
    robot.play(3)
    robot.wait("the refusal", lambda: "width and height above 0" in str(robot.values()))
    assert_tracks_again(robot)
    assert robot.tracks[-1].target_id == "patch"


def test_target_on_an_earlier_frame(thermal: tuple[Tracker, Robot]) -> None:
    _, robot = thermal
    results = robot.play(6)
    robot.send_target(scene(robot.frame - len(results))[1], results[0].header.stamp, "earlier")
    results = robot.play(5)
    assert results[-1].target_id == "earlier" and results[-1].state == TrackState.STATE_TRACKING
    robot.send_target(scene(robot.frame)[1], to_time(time.time_ns() - 60 * 10**9), "too old")
    robot.play(3)
    robot.wait("the refusal", lambda: "behind the newest image" in str(robot.values()))
    robot.send_target(scene(robot.frame)[1])
    assert_tracks_again(robot)
    assert robot.tracks[-1].target_id == "patch"


def test_release(thermal: tuple[Tracker, Robot]) -> None:
    _, robot = thermal
    robot.send_target((0, 0, 0, 0))
    idle = robot.play(5)[-1]
    assert idle.state == TrackState.STATE_IDLE and idle.width == 0 and idle.target_id == ""
    robot.send_target(scene(robot.frame)[1])
    assert_tracks_again(robot)


def test_overlay_only_while_subscribed(thermal: tuple[Tracker, Robot]) -> None:
    _, robot = thermal
    overlays: list[Image] = []
    jpegs: list[CompressedImage] = []
    subscription = robot.node.create_subscription(Image, "tracker/overlay", overlays.append, 10)
    compressed = robot.node.create_subscription(CompressedImage, "tracker/overlay/compressed", jpegs.append, 10)

    def stamps(messages: list) -> set[int]:
        return {stamp_ns(message) for message in messages}

    robot.wait("an overlay in both forms", lambda: robot.play(3) and stamps(overlays) & stamps(jpegs))
    both = max(stamps(overlays) & stamps(jpegs))
    plain, jpeg = (next(to_rgb(m) for m in messages if stamp_ns(m) == both) for messages in (overlays, jpegs))
    assert np.abs(plain.astype(int) - jpeg).mean() < 3
    robot.node.destroy_subscription(compressed)
    robot.node.destroy_subscription(subscription)
    assert (overlays[-1].width, overlays[-1].height, overlays[-1].encoding) == (WIDTH, HEIGHT, "rgb8")
    pixels = np.frombuffer(overlays[-1].data, np.uint8).reshape(HEIGHT, WIDTH, 3)
    assert (pixels == STATE_COLOURS[TargetState.TRACKING]).all(-1).sum() > 50, "the box is drawn"
    assert overlays[-1].header in [r.header for r in robot.tracks[-20:]]


def test_parameters_are_described_and_checked_as_a_whole(thermal: tuple[Tracker, Robot]) -> None:
    _, robot = thermal
    slop = robot.call(DescribeParameters, "describe_parameters", names=["slop"]).descriptors[0]
    assert (
        "in s " in slop.description
        and "inclusive" in slop.description
        and slop.floating_point_range[0].to_value == 10.0
    )
    assert robot.set("slop", 0.05).successful
    assert robot.set("slop", 0).successful, "a whole number will do"
    for name, value, reason in (
        ("slop", -1.0, "slop"),
        ("slop", "wide", "expected a number"),
        ("modality", "depth", "configured"),
        ("queue_size", 2.5, "whole number"),
    ):
        result = robot.set(name, value)
        assert not result.successful and reason in result.reason, result
    both = [Parameter("data_timeout", value=1.0), Parameter("aux_timeout", value=-1.0)]
    result = robot.call(
        SetParametersAtomically, "set_parameters_atomically", parameters=[p.to_parameter_msg() for p in both]
    ).result
    assert not result.successful and "aux_timeout" in result.reason
    assert robot.set("slop", 0.03).successful
    assert_tracks_again(robot)


def test_diagnostics(thermal: tuple[Tracker, Robot]) -> None:
    _, robot = thermal
    robot.diagnostics.clear()
    robot.wait("diagnostics", lambda: robot.play(5) and robot.diagnostics)
    statuses = robot.diagnostics[-1].status
    assert [status.name for status in statuses] == [f"thermal/tracker: {name}" for name in STATUSES]
    values = robot.values()
    assert values["state"] == "TRACKING" and 0 < float(values["RGB rate (Hz)"]) < 40
    assert float(values["latency p95 (ms)"]) >= float(values["latency p50 (ms)"]) > 0
    assert {f"{step} p99 (ms)" for step in (*ROBOT_STEPS, "convert", "crop", "network")} <= values.keys()
    assert float(values["latency p50 (ms)"]) > float(values["arrival p50 (ms)"]) > -0.1
    assert "cpu" in values["engine"] and {status.hardware_id for status in statuses} == {"cpu"}
    assert int(values["paired"]) > 5 and {"unpaired", "late", "evicted", "dropped", "restarts"} <= values.keys()


def test_depth_with_best_effort_compressed_and_a_looping_clock(tmp_path: Path, repository: Path) -> None:
    """What a replayed depth camera brings: NaN, best effort, JPEG, simulated time that jumps back."""

    def depth(i: int, stamp: int) -> Image:
        metres = np.full((HEIGHT, WIDTH), 4.0, np.float32)
        x, y, w, h = scene(i)[1]
        metres[y : y + h, x : x + w] = 2.0
        metres[::3] = np.nan
        metres[1::7] = np.inf
        return image(metres if i % 4 else np.full_like(metres, np.nan), "32FC1", stamp)

    box = [float(v) for v in scene(0)[1]]
    robot = Robot("/depth", ReliabilityPolicy.BEST_EFFORT, CompressedImage)
    parameters = {"modality": "depth", "use_sim_time": "true", "slop": "0", "data_timeout": "1"}
    parameters["initial_box"] = f"{box}".replace(" ", "")
    # A drawn scene with striped depth is not what the score was calibrated with.
    parameters |= {"score_doubtful": "0.01", "score_confident": "0.02"}
    with running(tmp_path, repository, robot, **parameters) as tracker:
        tracker.wait_for(r"no RGB images: nothing on /depth/rgb/image for .*/CompressedImage, best effort; 1 publisher")
        start = 1_600_000_000 * 10**9
        for _ in range(3):
            robot.frame = 0
            results = robot.play(18, jpeg, depth, start=start, clock=True)
            assert len(results) >= 14 and all(r.target_id == "initial" for r in results)
            assert sum(r.has_aux for r in results) >= 14
            last, truth = results[-1], scene(robot.frame - 1)[1]
            assert last.state == TrackState.STATE_TRACKING and abs(last.latency) < 2.0
            assert iou(np.array([last.x, last.y, last.width, last.height]), np.array(truth)) > 0.5
        assert len(tracker.lines("target 'initial' at")) >= 3, "each pass starts the target again"
        assert len(tracker.lines("jumped")) >= 2


def test_replay_gives_the_boxes_of_an_offline_run(tmp_path: Path, repository: Path) -> None:
    """No pair is dropped, however slow the network, and pairing does not depend on the machine's speed."""
    rng = np.random.default_rng(5)
    start, recording = 1_600_000_000 * 10**9, []
    for i in range(24):
        rgb, aux = (start + round((i * STEP + d) * 1e9) for d in (0, 0.008 + rng.uniform(-0.004, 0.004)))
        recording.append((rgb, "rgb", good_rgb(i, rgb)))
        if i % 5 != 3:
            recording.append((aux, "aux", good_aux(i, aux)))
    recording.sort(key=lambda entry: entry[0])
    box = scene(0)[1]

    pairer = NearestPairer(PairOptions(slop=0.015, queue_size=100))
    pipeline = Pipeline(load_tracker(modality="thermal", device="cpu", threads=1))
    pairs = [
        pair
        for stamp, name, message in recording
        for pair in (pairer.add_rgb if name == "rgb" else pairer.add_aux)(stamp, message)
    ] + pairer.flush()
    target = Target(np.array(box, float))
    offline = [pipeline.process(pair, [] if i else [target])[0] for i, pair in enumerate(pairs)]

    robot = Robot("/replay")
    parameters = {"modality": "thermal", "process_every_pair": "true", "queue_size": 100, "slop": 0.015}
    parameters["data_timeout"] = 2.0
    parameters["initial_box"] = str([float(v) for v in box]).replace(" ", "")
    with running(tmp_path, repository, robot, **parameters):
        for _, name, message in recording:
            (robot.rgb if name == "rgb" else robot.aux).publish(message)
            robot.spin(STEP / 2)
        robot.wait("all results", lambda: len(robot.tracks) == len(pairs))
        assert [stamp_ns(track) for track in robot.tracks] == [pair.stamp for pair in pairs]
        for track, expected in zip(robot.tracks, offline):
            assert [track.x, track.y, track.width, track.height] == expected.box.tolist()
            assert track.has_aux == expected.has_aux
        assert 10 < sum(track.has_aux for track in robot.tracks) < 24


def test_overlay_is_what_the_network_saw(tmp_path: Path, repository: Path) -> None:
    """RGB silent, a thermal range given: the operator sees the aux image over that range."""
    low, high = 29315, 31315

    def counts(i: int, stamp: int) -> Image:
        return image(scene(i)[0][..., 1].astype(np.uint16) * 3 + 30000, "mono16", stamp)

    robot = Robot("/ranged")
    overlays: list[Image] = []
    robot.node.create_subscription(Image, "tracker/overlay", overlays.append, 10)
    with running(tmp_path, repository, robot, modality="thermal", thermal_range=f"[{low}.0,{high}.0]") as tracker:
        robot.connect()
        robot.play(3, aux=counts)
        robot.wait(
            "the silence of RGB", lambda: any(not t.has_rgb for t in robot.play(10, None, counts, answered=False))
        )
        sent: dict[int, np.ndarray] = {}

        def remembered(i: int, stamp: int) -> Image:
            message = counts(i, stamp)
            sent[stamp] = to_sensor(message)
            return message

        def newest() -> Image | None:
            """The last overlay, where it shows a remembered image."""
            robot.play(5, None, remembered, answered=False)
            return overlays[-1] if overlays and stamp_ns(overlays[-1]) in sent else None

        overlays.clear()
        robot.wait("an overlay", newest)
        shown = overlays[-1]
        encoder = AuxEncoder("thermal", AuxEncoding(low, high))
        expected = encoder(sent[stamp_ns(shown)])
        np.testing.assert_array_equal(to_rgb(shown), expected)  # no target, hence nothing drawn on it
        robot.send_target(scene(robot.frame)[1])
        overlays.clear()
        robot.wait("an overlay", newest)
        below = slice(scene(0)[1][1] + 60, None)  # the target, its box and the line of figures are above
        shown = overlays[-1]
        np.testing.assert_array_equal(to_rgb(shown)[below], encoder(sent[stamp_ns(shown)])[below])
        assert not tracker.lines("internal error")


def test_unusable_start_is_named_and_can_be_mended(tmp_path: Path, repository: Path) -> None:
    robot = Robot("/mended")
    tracker = Tracker(
        tmp_path,
        repository,
        "/mended",
        device="cpu",
        threads=1,
        modality="thermal",
        slop="99.0",
        weights=tmp_path / "none.safetensors",
    )
    try:
        tracker.wait_for("configure failed: .*slop")
        assert robot.call(GetState, "get_state").current_state.id == State.PRIMARY_STATE_UNCONFIGURED
        assert robot.set("slop", 0.03).successful
        configure = Transition(id=Transition.TRANSITION_CONFIGURE)
        assert not robot.call(ChangeState, "change_state", transition=configure).success
        tracker.wait_for("configure failed: .*none.safetensors")
        assert robot.set("weights", "").successful
        assert robot.call(ChangeState, "change_state", transition=configure).success
        for _ in range(2):
            activate = Transition(id=Transition.TRANSITION_ACTIVATE)
            assert robot.call(ChangeState, "change_state", transition=activate).success
            robot.connect()
            robot.send_target(scene(robot.frame)[1])
            assert_tracks_again(robot)
            deactivate = Transition(id=Transition.TRANSITION_DEACTIVATE)
            assert robot.call(ChangeState, "change_state", transition=deactivate).success
            assert not robot.play(3, answered=False)
        cleanup = Transition(id=Transition.TRANSITION_CLEANUP)
        assert robot.call(ChangeState, "change_state", transition=cleanup).success
        assert robot.set("queue_size", 5).successful, "may be changed again"
        tracker.close()
    finally:
        tracker.process.kill()
        robot.close()
