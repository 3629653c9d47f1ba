"""What led to a loss: kept beside a real tracker, written as a bag, and tracked again from that bag alone."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not importable: run `make test`, or source ROS 2")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.serialization import serialize_message  # noqa: E402
from robot import (  # noqa: E402
    HEIGHT,
    PATIENCE,
    SCENE,
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
)
from sensor_msgs.msg import CameraInfo, CompressedImage, Image  # noqa: E402

from cmdtrack_ros.boxes import iou  # noqa: E402
from cmdtrack_ros.data.bags import Bag, BagOptions, RawMessage, load_bag, write_messages  # noqa: E402
from cmdtrack_ros.evaluation.replay import ReplayOptions, replay_offline  # noqa: E402
from cmdtrack_ros.msg import TrackState  # noqa: E402
from cmdtrack_ros.ros.messages import EventPacket  # noqa: E402
from cmdtrack_ros.ros.record import LossRecorder, RecordOptions, hindrance, make_room, registration_file, replay_command  # noqa: E402
from cmdtrack_ros.streams.events import EVENT_PACKET  # noqa: E402
from cmdtrack_ros.streams.pairing import stamp_ns  # noqa: E402
from cmdtrack_ros.streams.registration import read_registration  # noqa: E402
from cmdtrack_ros.track import TargetState  # noqa: E402

pytestmark = pytest.mark.ros


def cmdtrack(*words: object) -> list[str]:
    return [sys.executable, "-c", "from cmdtrack_ros.cli.app import main; main()", *map(str, words)]


def empty_rgb(_: int, stamp: int) -> Image:
    return image(SCENE, "rgb8", stamp)


def empty_aux(_: int, stamp: int) -> Image:
    return image(SCENE[..., 1], "mono8", stamp)


def bags_in(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("*/metadata.yaml"))


def test_loss_is_tracked_again_from_its_own_box(tmp_path: Path, repository: Path) -> None:
    """Real tracker, real recorder, each in its process; then `cmdtrack watch` and `cmdtrack evaluate-bag`."""
    robot, folder, log = Robot("/rec"), tmp_path / "lost", tmp_path / "record.log"
    options = ["--after", "0.5"]
    with (
        running(tmp_path, repository, robot, modality="thermal", slop=0.02),
        log.open("w") as file,
        subprocess.Popen(
            cmdtrack("record", folder, "--tracker", "/rec/tracker", *options), stdout=file, stderr=file
        ) as recorder,
    ):
        try:
            robot.connect()
            robot.send_target(scene(robot.frame)[1])
            assert_tracks_again(robot)
            robot.wait("the recorder", lambda: robot.play(2) and "/rec/rgb/image, /rec/aux/image" in log.read_text())
            first = robot.frame
            assert_tracks_again(robot)
            robot.play(20)
            check_watch(robot, tmp_path, repository)
            robot.wait("a loss", lambda: robot.play(3, empty_rgb, empty_aux)[-1].state == TrackState.STATE_LOST)
            robot.wait("a bag", lambda: robot.play(3, empty_rgb, empty_aux) and bags_in(folder))
            recorder.send_signal(signal.SIGINT)
            assert recorder.wait(PATIENCE) == 0
        finally:
            recorder.kill()
    (bag,) = bags_in(folder)
    assert bag.name.startswith("rec_tracker_lost_") and "Traceback" not in log.read_text()
    with Bag(bag) as opened:
        assert opened.types["/rec/tracker/track"] == "cmdtrack_ros/msg/TrackState"
        assert opened.custom["target_id"] == "patch" and "--slop 0.02" in opened.custom["replay"]
    sequence = load_bag(bag)
    # The patch lies where the note says, of the 15 places where it may have been.
    assert max(iou(sequence.noted_box, np.array(scene(i)[1])) for i in range(first - 5, first + 10)) > 0.8
    replayed = replay_offline(bag)
    states = [track.state for track in replayed.tracks]
    assert states[0] == TargetState.TRACKING and states[-1] == TargetState.LOST
    assert states.count(TargetState.TRACKING) >= 20
    done = subprocess.run(
        cmdtrack("evaluate-bag", bag, "--output", tmp_path / "out"), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and "frames answered" in done.stdout, done.stderr
    film = subprocess.run(
        cmdtrack("track", bag, "--output", tmp_path / "film"), capture_output=True, text=True, timeout=300
    )
    assert film.returncode == 0 and (tmp_path / "film" / "overlay.mp4").is_file(), film.stderr


def check_watch(robot: Robot, folder: Path, repository: Path) -> None:
    """`cmdtrack watch --once` beside this tracker, while images come, and one that was not started yet."""
    (folder / "other").mkdir()
    other = Tracker(folder / "other", repository, "/other", autostart="false")
    words = cmdtrack("watch", "--once", "/rec/tracker", "other/tracker", "--wait", PATIENCE)
    watch = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        robot.wait("the end of watch", lambda: robot.play(2) and watch.poll() is not None)
        said, error = watch.communicate()
    finally:
        watch.kill()
        other.process.kill()
    assert watch.returncode == 0, error
    lines = said.splitlines()
    assert lines[0].startswith("/other/tracker  unconfigured  ")
    assert lines[1].startswith("/rec/tracker  TRACKING  Hz RGB ") and "latency p50 " in lines[1], said
    assert lines[2].startswith("  target 'patch'  TRACKING  score "), said


def test_watch_without_trackers_says_what_to_check() -> None:
    done = subprocess.run(cmdtrack("watch", "--once", "--wait", "1"), capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and not done.stdout
    (line,) = done.stderr.splitlines()
    assert "no tracker is heard" in line and "ROS_DOMAIN_ID" in line
    done = subprocess.run(cmdtrack("watch", "--once", "/a/b", "--wait", "0.5"), capture_output=True, text=True)
    assert done.returncode == 1 and "/a/b: no tracker" in done.stderr


class Desk:
    """A recorder of this process, and the cameras and the tracker that it hears, all made up."""

    def __init__(self, folder: Path, compressed: bool = False, **options: object) -> None:
        rclpy.init()
        self.make_rgb = jpeg if compressed else good_rgb
        self.recorder = LossRecorder(folder, RecordOptions("/robot/tracker", **{"after": 0.0, **options}))
        self.node = rclpy.create_node("tracker", namespace="robot")
        kind, topic = (CompressedImage, "rgb/image/compressed") if compressed else (Image, "rgb/image")
        self.rgb = self.node.create_publisher(kind, topic, 10)
        self.aux = self.node.create_publisher(Image, "aux/image", 10)
        self.track = self.node.create_publisher(TrackState, "tracker/track", 10)
        self.diagnostics = self.node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.heard: list[DiagnosticStatus] = []
        self.node.create_subscription(DiagnosticArray, "/diagnostics", lambda m: self.heard.extend(m.status), 10)
        self.executor = SingleThreadedExecutor()
        for node in (self.recorder.node, self.node):
            self.executor.add_node(node)
        self.frame = 0

    def wait(self, what: str, condition: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, f"waited {PATIENCE} s for {what}"
            self.executor.spin_once(timeout_sec=0.02)

    def connect(self) -> None:
        names = {"RGB topic": "/robot/rgb/image", "auxiliary topic": "/robot/aux/image"}
        values = [KeyValue(key=key, value=value) for key, value in names.items()]
        status = DiagnosticStatus(name="robot/tracker: inputs", values=values)

        def subscribed() -> bool:
            self.diagnostics.publish(DiagnosticArray(status=[status]))
            publishers = (self.rgb, self.aux, self.track)
            return all(publisher.get_subscription_count() for publisher in publishers)

        self.wait("the recorder's subscriptions", subscribed)

    def play(self, state: TargetState, frames: int = 1) -> None:
        """Images and their results; each is there before the next."""
        for _ in range(frames):
            stamp = (1000 + self.frame) * 10**9
            kept = len(self.recorder._ring.messages())
            self.aux.publish(good_aux(0, stamp - 1000))
            self.rgb.publish(rgb := self.make_rgb(0, stamp))
            box = {"x": 100.0 + self.frame, "y": 90.0, "width": 48.0, "height": 48.0}
            self.track.publish(TrackState(header=rgb.header, state=int(state), target_id="p", has_rgb=True, **box))
            self.wait("the images", lambda kept=kept: len(self.recorder._ring.messages()) >= kept + 3)
            self.frame += 1

    def value(self, key: str) -> str | None:
        """Of the newest status; a cause has one while it lasts."""
        ours = [status for status in self.heard if status.name == "robot/tracker_recorder: recording"]
        return {v.key: v.value for v in ours[-1].values}.get(key) if ours else None

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        self.recorder.close()
        rclpy.shutdown()


@pytest.fixture
def desk_with(tmp_path: Path) -> Iterator[Callable[..., Desk]]:
    made: list[Desk] = []

    def make(folder: Path = tmp_path / "lost", **options: object) -> Desk:
        made.append(Desk(folder, **options))
        return made[-1]

    yield make
    for desk in made:
        desk.close()


def test_bag_starts_at_the_oldest_image_that_was_followed(desk_with: Callable[..., Desk], tmp_path: Path) -> None:
    desk = desk_with()
    desk.connect()
    desk.play(TargetState.IDLE, 2)
    desk.play(TargetState.UNCERTAIN)
    desk.play(TargetState.TRACKING, 3)
    desk.play(TargetState.LOST)
    desk.wait("the bag", lambda: bags_in(tmp_path / "lost"))
    (bag,) = bags_in(tmp_path / "lost")
    with Bag(bag) as opened:
        stamps = [stamp_ns(opened.decode(m)) // 10**9 for m in opened.messages(["/robot/rgb/image"])]
        first = opened.decode(next(opened.messages(["/robot/rgb/image"])))
        assert opened.custom["initial_box"] == "103.00,90.00,48.00,48.00"
        assert bytes(first.data) == bytes(good_rgb(0, 0).data)
    assert stamps == [1003, 1004, 1005, 1006]


def test_compressed_images_are_recorded_under_their_own_topic(desk_with: Callable[..., Desk], tmp_path: Path) -> None:
    """The tracker's diagnostics may still name the topic of raw images, which nobody publishes."""
    desk = desk_with(compressed=True)
    desk.connect()
    desk.play(TargetState.TRACKING, 4)
    desk.play(TargetState.LOST)
    desk.wait("the bag", lambda: bags_in(tmp_path / "lost"))
    (path,) = bags_in(tmp_path / "lost")
    with Bag(path) as bag:
        assert bag.types["/robot/rgb/image/compressed"] == "sensor_msgs/msg/CompressedImage"
        assert "/robot/rgb/image" not in bag.types
    sequence = load_bag(path, BagOptions(modality="thermal"))
    assert sequence.topics.rgb == "/robot/rgb/image/compressed" and sequence.rgb(0).shape == scene(0)[0].shape
    replayed = replay_offline(path, ReplayOptions(BagOptions(modality="thermal")))
    assert [track.has_rgb for track in replayed.tracks] == [True] * 5


def test_calibrations_are_in_the_bag_that_is_registered_by_them(desk_with: Callable[..., Desk], tmp_path: Path) -> None:
    """They came once, long before the images that are kept."""
    desk = desk_with()
    told = {"registration": "camera_info", "aux_translation": array("d", [0.05, 0.0, 0.0]), "modality": "thermal"}
    desk.recorder._ask.service_is_ready = lambda: False  # the tracker that is made up has no parameters
    desk.recorder._parameters = told
    desk.connect()
    k = [300.0, 0.0, WIDTH / 2, 0.0, 300.0, HEIGHT / 2, 0.0, 0.0, 1.0]
    info = CameraInfo(width=WIDTH, height=HEIGHT, k=k, distortion_model="plumb_bob")
    publishers = [desk.node.create_publisher(CameraInfo, f"{name}/camera_info", 1) for name in ("rgb", "aux")]

    def heard() -> bool:
        for publisher in publishers:
            publisher.publish(info)
        return len(desk.recorder._infos) == 2 and all(one.message for one in desk.recorder._infos)

    desk.wait("the calibrations", heard)
    desk.play(TargetState.TRACKING, 2)
    desk.play(TargetState.LOST)
    desk.wait("the bag", lambda: bags_in(tmp_path / "lost"))
    (path,) = bags_in(tmp_path / "lost")
    wanted = read_registration(str(path / "registration.yaml"))
    sequence = load_bag(path, BagOptions(registration=wanted))
    moved = np.array(sequence.aux(0))
    shift = round(0.05 * 300 / wanted.registration_distance)
    raw = load_bag(path).aux(0)
    assert shift == 3 and np.array_equal(moved[20:60, 50:90], raw[20:60, 50 - shift : 90 - shift])


def test_losses_close_together_make_one_bag_and_old_bags_go(desk_with: Callable[..., Desk], tmp_path: Path) -> None:
    folder = tmp_path / "lost"
    theirs, mine = folder / "robot_tracker_lost_mine", folder / "robot_tracker_lost_20200101_000000"
    for path in (theirs, mine):
        path.mkdir(parents=True)
    (theirs / "notes.txt").touch()
    (mine / "metadata.yaml").touch()
    desk = desk_with(folder, bags=1, interval=3600.0)
    desk.connect()
    for _ in range(2):
        desk.play(TargetState.TRACKING)
        desk.play(TargetState.LOST)
        desk.wait("the bag", lambda: bags_in(folder) and mine not in bags_in(folder))
    desk.wait("its count", lambda: desk.value("losses without a bag of their own") == "1")
    assert len(bags_in(folder)) == 1 and (theirs / "notes.txt").exists(), "what is no bag stays"


def test_what_hinders_is_told_and_over_when_it_is(desk_with: Callable[..., Desk], tmp_path: Path) -> None:
    folder = tmp_path / "occupied"
    folder.touch()
    desk = desk_with(folder)
    desk.wait("the cause", lambda: desk.value("nothing to record"))
    assert "/robot/tracker/track" in desk.value("nothing to record")
    assert f"{folder}: " in desk.value("cannot record")
    desk.connect()
    desk.play(TargetState.TRACKING)
    desk.play(TargetState.LOST)
    desk.wait("the failure", lambda: "[Errno 17]" in (desk.value("cannot record") or ""))
    folder.unlink()
    desk.recorder._last_loss = -1e9
    desk.play(TargetState.TRACKING)
    desk.play(TargetState.LOST)
    desk.wait("a bag", lambda: bags_in(folder))
    desk.heard.clear()
    desk.wait("the end of the cause", lambda: desk.heard and not desk.value("cannot record"))


def test_pending_bag_is_written_at_the_end(desk_with: Callable[..., Desk], tmp_path: Path) -> None:
    desk = desk_with(after=3600.0)
    desk.connect()
    desk.play(TargetState.TRACKING)
    desk.play(TargetState.LOST)
    desk.recorder._finish_writing()
    assert not bags_in(tmp_path / "lost")
    desk.recorder.close()
    assert len(bags_in(tmp_path / "lost")) == 1
    desk.recorder.close = lambda: None


@pytest.mark.skipif(EventPacket is None, reason="event_camera_msgs is not importable")
def test_event_packets_are_written_as_they_came(tmp_path: Path) -> None:
    packet = EventPacket(header=good_rgb(0, 7).header, width=640, height=480, encoding="evt3", time_base=9)
    packet.events.extend(range(200))
    message = RawMessage("/events", EVENT_PACKET, 5, serialize_message(packet))
    write_messages(tmp_path / "bag", [message], {}, {})
    with Bag(tmp_path / "bag") as opened:
        read = opened.decode(next(opened.messages(["/events"])))
    assert (read.width, read.encoding, read.time_base) == (640, "evt3", 9) and list(read.events) == list(range(200))


def test_replay_is_told_what_the_tracker_was_told(tmp_path: Path) -> None:
    told = {"registration": "homography", "registration_homography": array("d", range(1, 9)) + array("d", [10.0])}
    words = replay_command(tmp_path, None, {"pairing": "latest", "aux_offset": 0.02, **told})
    assert "--init-box x,y,w,h --pairing latest --aux-offset 0.02 --registration" in words
    (file := Path(words.split()[-1])).write_text(registration_file({**told, "aux_rotation": array("d"), "slop": 0.1}))
    assert read_registration(str(file)).registration_homography == (1, 2, 3, 4, 5, 6, 7, 8, 10)


def test_full_disk_is_said_with_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=3 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert hindrance(tmp_path, 2 * 2**20) is None
    assert "3 MiB are free" in hindrance(tmp_path, 5 * 2**20)


def test_room_is_made_by_size_too(tmp_path: Path) -> None:
    for day in (1, 2, 3):
        bag = tmp_path / f"t_lost_2026010{day}_000000"
        bag.mkdir()
        (bag / "metadata.yaml").write_bytes(bytes(100))
    make_room(tmp_path, "t_lost_", 10, 250)
    assert [bag.name[-8:-7] for bag in bags_in(tmp_path)] == ["2", "3"]
