"""Cameras over DDS and the node in a process of its own, for tests."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import SetParameters
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image

from cmdtrack_ros.msg import TargetBox, TrackState
from cmdtrack_ros.streams.images import fill_image
from cmdtrack_ros.streams.pairing import stamp_ns

HEIGHT, WIDTH = 240, 320
STEP = 1 / 30
PATIENCE = 120.0  # s to wait for what must come, however busy the machine
SCENE = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8), (0, 0), 4)
PATCH = cv2.resize(
    np.random.default_rng(2).integers(0, 256, (5, 5, 3), np.uint8), (48, 48), interpolation=cv2.INTER_CUBIC
)


def scene(i: int) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """A patch that drifts over a blurred noise; the RGB image and its box."""
    x, y = 100 + round(20 * math.sin(i / 15)), 90
    picture = SCENE.copy()
    picture[y : y + 48, x : x + 48] = PATCH
    return picture, (x, y, 48, 48)


def to_time(stamp: int) -> Time:
    return Time(sec=stamp // 10**9, nanosec=stamp % 10**9)


def image(pixels: np.ndarray, encoding: str, stamp: int, **changes) -> Image:
    message = fill_image(Image(), pixels, encoding)
    message.header.stamp, message.header.frame_id = to_time(stamp), "camera_optical"
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def good_rgb(i: int, stamp: int) -> Image:
    return image(scene(i)[0], "rgb8", stamp)


def good_aux(i: int, stamp: int) -> Image:
    return image(scene(i)[0][..., 1], "mono8", stamp)


def jpeg(i: int, stamp: int) -> CompressedImage:
    """The scene in colour, as JPEG."""
    message = CompressedImage(format="bgr8; jpeg compressed bgr8")
    message.header.stamp = to_time(stamp)
    message.data = cv2.imencode(".jpg", scene(i)[0][..., ::-1])[1].tobytes()
    return message


class Robot:
    """Cameras, and the ears that hear the node."""

    def __init__(
        self, namespace: str, reliability: ReliabilityPolicy = ReliabilityPolicy.RELIABLE, rgb_type: type = Image
    ) -> None:
        self.context = Context()
        rclpy.init(context=self.context)
        self.node = Node("robot", context=self.context, namespace=namespace)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        qos = QoSProfile(depth=100, reliability=reliability)
        self.rgb = self.node.create_publisher(rgb_type, "rgb/image", qos)
        self.aux = self.node.create_publisher(Image, "aux/image", qos)
        self.clock = self.node.create_publisher(Clock, "/clock", 10)
        self.target = self.node.create_publisher(TargetBox, "tracker/target", 10)
        self.tracks: list[TrackState] = []
        self.diagnostics: list[DiagnosticArray] = []
        self.node.create_subscription(TrackState, "tracker/track", self.tracks.append, 100)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self.diagnostics.append, 10)
        self.frame = 0

    def spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.executor.spin_once(timeout_sec=left)

    def wait(self, what: str, condition: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, f"waited {PATIENCE} s for {what}"
            self.spin(0.02)

    def match(self) -> None:
        self.wait(
            "the node's subscriptions",
            lambda: (
                self.rgb.get_subscription_count()
                and self.aux.get_subscription_count()
                and self.target.get_subscription_count()
                and self.node.count_publishers("tracker/track")
            ),
        )

    def connect(self) -> None:
        self.match()
        # Either side may still miss what is sent before both know of each other.
        self.wait("a first result", lambda: self.play(1, answered=False))

    def play(
        self,
        frames: int,
        rgb: Callable | None = good_rgb,
        aux: Callable | None = good_aux,
        *,
        start: int | None = None,
        clock: bool = False,
        answered: bool = True,
    ) -> list[TrackState]:
        """Publish frames, at most 30 a second, stamped now or from `start` (ns) on; returns the results.

        Each frame waits for the result of the last one, so that a busy machine is slow instead of dropping
        frames; not so with `answered` False.
        """
        before = len(self.tracks)
        for k in range(frames):
            stamp = time.time_ns() if start is None else start + round(k * STEP * 1e9)
            if clock:
                self.clock.publish(Clock(clock=to_time(stamp)))
            for make, publisher in ((rgb, self.rgb), (aux, self.aux)):
                if make:
                    publisher.publish(make(self.frame, stamp))
            self.frame += 1
            self.spin(STEP)
            end = time.monotonic() + 10.0  # best effort may have lost it
            while answered and (not self.tracks or stamp_ns(self.tracks[-1]) != stamp) and time.monotonic() < end:
                self.spin(0.005)
        self.spin(0.2)
        return self.tracks[before:]

    def send_target(self, box: tuple, stamp: Time | None = None, name: str = "patch") -> None:
        message = TargetBox(target_id=name)
        if stamp:
            message.header.stamp = stamp
        message.x, message.y, message.width, message.height = (float(v) for v in box)
        self.target.publish(message)
        self.spin(0.1)

    def call(self, kind: type, service: str, **fields):
        client = self.node.create_client(kind, f"tracker/{service}")
        assert client.wait_for_service(PATIENCE), service
        future = client.call_async(kind.Request(**fields))
        self.wait(service, future.done)
        return future.result()

    def set(self, name: str, value: object) -> SetParametersResult:
        return self.call(
            SetParameters, "set_parameters", parameters=[Parameter(name, value=value).to_parameter_msg()]
        ).results[0]

    def values(self) -> dict[str, str]:
        """What the node reported last, of all its statuses."""
        return {v.key: v.value for status in self.diagnostics[-1].status for v in status.values}

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


class Tracker:
    """The node's process and its log."""

    def __init__(self, folder: Path, repository: Path, namespace: str, **parameters: object) -> None:
        self.log = folder / "node.log"
        options = [part for name, value in parameters.items() for part in ("-p", f"{name}:={value}")]
        command = [
            sys.executable,
            str(repository / "scripts" / "tracker_node"),
            "--ros-args",
            "-r",
            f"__ns:={namespace}",
            *options,
        ]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def text(self) -> str:
        return self.log.read_text()

    def lines(self, pattern: str) -> list[str]:
        return [line for line in self.text().splitlines() if re.search(pattern, line)]

    def wait_for(self, pattern: str) -> None:
        end = time.monotonic() + PATIENCE
        while not self.lines(pattern):
            assert self.process.poll() is None, f"the node ended:\n{self.text()}"
            assert time.monotonic() < end, f"no {pattern!r} in the node's log:\n{self.text()}"
            time.sleep(0.05)

    def close(self) -> None:
        assert self.process.poll() is None, f"the node died:\n{self.text()}"
        self.process.terminate()
        assert self.process.wait(PATIENCE) in (0, -15)
        assert "Traceback" not in self.text(), self.text()


@contextmanager
def running(folder: Path, repository: Path, robot: Robot, **parameters: object) -> Iterator[Tracker]:
    tracker = Tracker(folder, repository, robot.node.get_namespace(), device="cpu", threads=1, **parameters)
    try:
        tracker.wait_for("active:")
        robot.match()
        yield tracker
        tracker.close()
    finally:
        tracker.process.kill()
        robot.close()


def assert_tracks_again(robot: Robot) -> None:
    results = [result for result in robot.play(6) if result.has_rgb]  # one to aux alone may still be on its way
    assert len(results) == 6
    last = results[-1]
    assert last.state == TrackState.STATE_TRACKING and last.has_rgb and last.has_aux
    x, y, w, h = scene(robot.frame - 1)[1]
    assert abs(last.x + last.width / 2 - x - w / 2) < 15 and abs(last.y + last.height / 2 - y - h / 2) < 15
