"""The node as a process of its own, cameras that feed it over DDS, and ears that note what it says and when."""

from __future__ import annotations

import heapq
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Log
from rcl_interfaces.srv import SetParameters
from rclpy.context import Context
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from cmdtrack_ros.boxes import iou
from cmdtrack_ros.msg import TargetBox, TrackState
from cmdtrack_ros.ros.messages import from_track_state
from cmdtrack_ros.streams.images import fill_image
from cmdtrack_ros.track import TargetState, Track
from faults.scenes import Scene

ASK_AGAIN = 2.0  # s without an answer
PATIENCE = 60.0  # s to wait for what must come, however busy the machine
AUX_LATER = 0.008  # s from an RGB image to its partner
SLOWEST = 5.0  # Hz of the cameras
FASTER = (10.0, 15.0, 20.0, 30.0)  # Hz, one after the other while the node keeps pace
KEPT_PACE = 0.9  # share of answered images from which on the node keeps pace with the cameras
GOOD = 0.5  # IoU from which on a box is on the target
LEVELS = ("OK", "WARN", "ERROR", "STALE")
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "tracker_node"


class Out(NamedTuple):
    """A message that a camera sends, `delay` seconds after its image was taken."""

    stream: str  # "rgb" or "aux"
    message: Any
    delay: float = 0.0


class Shot(NamedTuple):
    """The moment in which both cameras take an image. stamp: ns. scale: of the images' size, RGB and aux."""

    scene: Scene
    index: int
    stamp: int
    scale: tuple[float, float] = (1.0, 1.0)
    compressed: bool = False

    def rgb(self, pixels: np.ndarray | None = None, stamp: int | None = None, encoding: str = "rgb8") -> Out:
        """The RGB image, or what stands in its place."""
        pixels = _resized(self.scene.rgb[self.index], self.scale[0]) if pixels is None else pixels
        return Out("rgb", self._message(pixels, encoding, self.stamp if stamp is None else stamp))

    def aux(self, pixels: np.ndarray | None = None, stamp: int | None = None, encoding: str = "") -> Out:
        """The auxiliary image, or what stands in its place; a stamp given counts as the RGB image's."""
        pixels = _resized(self.scene.aux[self.index], self.scale[1]) if pixels is None else pixels
        stamp = (self.stamp if stamp is None else stamp) + round(AUX_LATER * 1e9)
        return Out("aux", self._message(pixels, encoding or self.scene.aux_encoding, stamp), AUX_LATER)

    def good(self) -> list[Out]:
        return [self.rgb(), self.aux()]

    def _message(self, pixels: np.ndarray, encoding: str, stamp: int) -> Any:
        message = self._picture(pixels) if self.compressed else fill_image(Image(), pixels, encoding)
        message.header.stamp, message.header.frame_id = to_time(stamp), "camera_optical"
        return message

    @staticmethod
    def _picture(pixels: np.ndarray) -> CompressedImage:
        """JPEG of colours, else a 16-bit PNG."""
        if pixels.ndim == 3:
            data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
            return CompressedImage(format="rgb8; jpeg compressed bgr8", data=data.tobytes())
        counts = np.round(pixels * 100).astype(np.uint16)
        return CompressedImage(format="mono16; png compressed ", data=cv2.imencode(".png", counts)[1].tobytes())


Inject = Callable[[Shot], list[Out]]


def to_time(stamp: int) -> Time:
    return Time(sec=stamp // 10**9, nanosec=stamp % 10**9)


def _resized(pixels: np.ndarray, scale: float) -> np.ndarray:
    if scale == 1.0:
        return pixels
    size = round(pixels.shape[1] * scale), round(pixels.shape[0] * scale)
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if pixels.ndim == 3 else cv2.INTER_NEAREST)


class Cameras:
    """A thread that publishes a scene. What it does with a shot can be replaced by `inject`.

    rate: Hz. number: of the next shot. scale: of the images' size from now on, RGB and aux.
    lateness: the longest that a shot came late since it was last set to 0 (s), for which the machine is to blame.
    """

    def __init__(self, node: Node, scene: Scene, compressed: bool = False, reliable: bool = True) -> None:
        self.node, self.scene, self.compressed, self.reliable = node, scene, compressed, reliable
        self.rate, self.number, self.scale, self.lateness = SLOWEST, 0, (1.0, 1.0), 0.0
        self.inject: Inject | None = None
        self.sent = {"rgb": 0, "aux": 0}
        self.shots: list[tuple[float, int, float]] = []  # when, the frame, the RGB image's scale
        self._by_stamp: dict[int, tuple[int, float]] = {}
        self._due: list[tuple[float, int, Out]] = []
        self._order = 0
        self._running = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._end = threading.Event()
        self.publishers: dict[str, Any] = {}
        self.open()
        self._thread = threading.Thread(target=self._run, name="cameras", daemon=True)
        self._thread.start()

    def open(self) -> None:
        kind = CompressedImage if self.compressed else Image
        reliability = ReliabilityPolicy.RELIABLE if self.reliable else ReliabilityPolicy.BEST_EFFORT
        qos = QoSProfile(depth=30, reliability=reliability)
        silent = PublisherEventCallbacks(use_default_callbacks=False)  # of a node that has yet to subscribe anew
        self.publishers = {
            stream: self.node.create_publisher(kind, f"{stream}/image", qos, event_callbacks=silent)
            for stream in ("rgb", "aux")
        }

    def close_publishers(self) -> None:
        for publisher in self.publishers.values():
            self.node.destroy_publisher(publisher)
        self.publishers = {}

    def start(self) -> None:
        self._running.set()

    def pause(self) -> None:
        """Send nothing more by itself; returns when nothing is being sent."""
        self._running.clear()
        self._idle.wait(PATIENCE)

    def close(self) -> None:
        self._end.set()
        self._running.set()
        self._thread.join(PATIENCE)
        self.close_publishers()

    def take(self) -> Shot:
        """The next shot, stamped now."""
        index = self.scene.index(self.number)
        self.number += 1
        shot = Shot(self.scene, index, time.time_ns(), self.scale, self.compressed)
        self.shots.append((time.monotonic(), index, self.scale[0]))
        return shot

    def publish(self, out: Out, shot: Shot) -> None:
        if isinstance(out.message, (Image, CompressedImage)):
            stamp = out.message.header.stamp
            self._by_stamp[stamp.sec * 10**9 + stamp.nanosec] = shot.index, shot.scale[0]
        self.publishers[out.stream].publish(out.message)
        self.sent[out.stream] += 1

    def truth(self, at: float, stamp: int) -> tuple[int, np.ndarray]:
        """Frame and true box of a result with `stamp` (ns) that came at `at` (s, steady clock)."""
        shown = self._by_stamp.get(stamp)
        if shown is None:  # a stamp of its own: the last image before
            shown = next(((index, scale) for when, index, scale in reversed(self.shots) if when <= at), (0, 1.0))
        index, scale = shown
        return index, self.scene.boxes[index] * scale

    def _run(self) -> None:
        due = time.monotonic()
        while not self._end.is_set():
            if not self._running.is_set():
                self._due.clear()
                self._idle.set()
                self._running.wait(0.1)
                due = time.monotonic()
                continue
            self._idle.clear()
            self.lateness = max(self.lateness, time.monotonic() - due)
            shot = self.take()
            for out in (self.inject or Shot.good)(shot):
                self._order += 1
                heapq.heappush(self._due, (due + out.delay, self._order, (out, shot)))
            due = max(due + 1 / self.rate, time.monotonic())
            self._send_until(due)

    def _send_until(self, end: float) -> None:
        while self._due and self._due[0][0] < end:
            at, _, (out, shot) = heapq.heappop(self._due)
            self._end.wait(max(at - time.monotonic(), 0))
            self.publish(out, shot)
        self._end.wait(max(end - time.monotonic(), 0))


class Result(NamedTuple):
    at: float
    track: Track


class Status(NamedTuple):
    at: float
    name: str
    level: str
    message: str
    values: dict[str, str]


class Line(NamedTuple):
    at: float
    text: str


@dataclass
class Ears:
    """All that the node said so far, with the moment (steady clock, s) when it was heard."""

    results: list[Result] = field(default_factory=list)
    statuses: list[Status] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)

    def on_track(self, message: TrackState) -> None:
        self.results.append(Result(time.monotonic(), from_track_state(message)))

    def on_diagnostics(self, message: DiagnosticArray) -> None:
        now = time.monotonic()
        for status in message.status:
            level = LEVELS[int.from_bytes(status.level, "little")]
            values = {pair.key: pair.value for pair in status.values}
            self.statuses.append(Status(now, status.name, level, status.message, values))

    def on_line(self, message: Log) -> None:
        if "tracker" in message.name:
            self.lines.append(Line(time.monotonic(), message.msg))

    def newest(self) -> list[Status]:
        """The last status of each name."""
        return list({status.name: status for status in self.statuses}.values())

    def shown(self, causes: tuple[str, ...]) -> bool:
        """Whether the newest diagnostics name one of the causes."""
        return any(cause in s.message for s in self.newest() for cause in causes if s.level != "OK")

    def grown(self, key: str, since: float) -> int:
        """By how much a counter of the diagnostics has grown."""
        counts = [(s.at, int(s.values[key])) for s in list(self.statuses) if s.values.get(key, "").isdigit()]
        before = [count for at, count in counts if at < since]
        return counts[-1][1] - (before[-1] if before else 0) if counts else 0


class Stage:
    """Node, cameras and ears; what the acts of the fault table are played on.

    Args:
        scene: what the cameras show.
        folder: where the node's log goes.
        parameters: of the node, beside its modality.
        compressed, reliable: what the cameras send.
    """

    def __init__(
        self,
        scene: Scene,
        folder: Path,
        *,
        compressed: bool = False,
        reliable: bool = True,
        initial: bool = False,
        parameters: dict[str, object] | None = None,
    ) -> None:
        self.scene, self.folder, self.initial = scene, folder, initial
        self.parameters = {"device": "cpu", "threads": 1, "modality": scene.modality.value, **(parameters or {})}
        if initial:
            self.parameters["initial_box"] = str(scene.boxes[0].tolist()).replace(" ", "")
        self.clean: list[float] = []  # mean IoU by frame, without a fault
        self.figures: dict[str, float] = {}
        self.context = Context()
        rclpy.init(context=self.context)
        self.node = Node("robot", context=self.context, namespace="/faults")
        self.ears = Ears()
        self.node.create_subscription(TrackState, "tracker/track", self.ears.on_track, 1000)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self.ears.on_diagnostics, 100)
        qos = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL)  # lines from before both met, too
        self.node.create_subscription(Log, "/rosout", self.ears.on_line, qos)
        self.target = self.node.create_publisher(TargetBox, "tracker/target", 10)
        self._clients: dict[str, Any] = {}
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._spinning = threading.Thread(target=self._spin, name="ears", daemon=True)
        self._spinning.start()
        self.cameras = Cameras(self.node, scene, compressed, reliable)
        self.process: subprocess.Popen | None = None

    def close(self) -> None:
        self.cameras.close()
        self.kill()
        self._executor.shutdown()
        self._spinning.join(PATIENCE)
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def _spin(self) -> None:
        with suppress(ExternalShutdownException):
            self._executor.spin()

    # The node's process.

    @property
    def log(self) -> Path:
        return self.folder / "node.log"

    def start(self, **changed: object) -> None:
        """Start the node's process, and wait until it answers; its log is appended to."""
        options = [
            part for name, value in {**self.parameters, **changed}.items() for part in ("-p", f"{name}:={value}")
        ]
        command = [sys.executable, str(SCRIPT), "--ros-args", "-r", "__ns:=/faults", *options]
        environment = {**os.environ, "ROS_LOG_DIR": str(self.folder)}
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        self.state()

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def last_words(self) -> str:
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else "it said nothing"

    def memory_mb(self) -> float:
        """Resident memory of the node now, 2**20 bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def end(self, number: signal.Signals, within: float) -> None:
        """Send a signal; AssertionError where the process does not end well within that time (s)."""
        self.process.send_signal(number)
        try:
            code = self.process.wait(within)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"did not end within {within:g} s of {number.name}") from None
        assert number == signal.SIGKILL or code in (0, -number), f"exit code {code} after {number.name}"
        assert "Traceback" not in self.log.read_text(errors="replace"), "a traceback in its log"

    # What an operator does.

    def wait(self, what: str, condition: Callable[[], object], patience: float = PATIENCE) -> None:
        """Until `condition`; AssertionError where the node ends before, or at the deadline."""
        end = time.monotonic() + patience
        while not condition():
            assert self.alive(), f"the node ended: {self.last_words()}"
            assert time.monotonic() < end, f"waited {patience:g} s for {what}"
            time.sleep(0.02)

    def call(self, kind: type, service: str, patience: float = PATIENCE, **fields: object) -> Any:
        if service not in self._clients:
            self._clients[service] = self.node.create_client(kind, f"tracker/{service}")
        client = self._clients[service]
        self.wait(f"the service {service}", client.service_is_ready, patience)
        future = client.call_async(kind.Request(**fields))
        self.wait(f"an answer of {service}", future.done, patience)
        return future.result()

    def state(self, patience: float = PATIENCE) -> str:
        """The lifecycle state; asked again where an answer is lost, as of a node that was killed or just starts."""
        end = time.monotonic() + patience
        while True:
            try:
                return self.call(GetState, "get_state", ASK_AGAIN).current_state.label
            except AssertionError:
                if not self.alive() or time.monotonic() > end:
                    raise

    def ask(self, number: int = 0, label: str = "") -> bool:
        """Whether the node made the transition."""
        return self.call(ChangeState, "change_state", transition=Transition(id=number, label=label)).success

    def set(self, name: str, value: object) -> bool:
        parameter = Parameter(name, value=value).to_parameter_msg()
        return self.call(SetParameters, "set_parameters", parameters=[parameter]).results[0].successful

    def wait_active(self) -> None:
        """Until the node is active and its topics are connected."""

        def connected() -> bool:
            publishers = (*self.cameras.publishers.values(), self.target)
            heard = all(publisher.get_subscription_count() for publisher in publishers)
            return heard and self.node.count_publishers(self.node.resolve_topic_name("tracker/track")) > 0

        self.wait("the active node", lambda: self.state() == "active")
        self.wait("the node's topics", connected)

    def send_target(self, box: np.ndarray, stamp: int = 0, name: str = "target") -> None:
        message = TargetBox(target_id=name)
        message.header.stamp = to_time(stamp)
        message.x, message.y, message.width, message.height = (float(v) for v in box)
        self.target.publish(message)

    def name_target(self, name: str = "target") -> None:
        """The true box of the newest answered image."""
        at, track = self.ears.results[-1]
        self.send_target(self.cameras.truth(at, track.stamp_ns)[1], track.stamp_ns, name)

    # How it does.

    def overlap(self, result: Result) -> float:
        """IoU of a result with the true box of its image."""
        box = self.cameras.truth(result.at, result.track.stamp_ns)[1]
        return float(iou(result.track.box[None], box[None]).ravel()[0])

    def follows(self, result: Result) -> bool:
        """Whether a result is on the target, by both streams."""
        track = result.track
        seen = track.state in (TargetState.TRACKING, TargetState.UNCERTAIN)
        return seen and track.has_rgb and track.has_aux and self.overlap(result) >= GOOD

    def between(self, began: float, ended: float) -> list[Result]:
        return [result for result in list(self.ears.results) if began <= result.at < ended]

    def settled(self) -> bool:
        """Whether the last results were all good."""
        recent = self.between(time.monotonic() - 1.0, time.monotonic())
        return len(recent) >= min(3, self.cameras.rate / 3) and all(self.follows(result) for result in recent)

    def settle(self) -> None:
        """Until the node follows the target, named anew if need be; AssertionError where it does not."""
        self.wait("results", lambda: self.between(time.monotonic() - 1.0, time.monotonic()))
        with suppress(AssertionError):
            self.wait("the target", self.settled, 2.5)
            return
        assert self.alive(), f"the node ended: {self.last_words()}"
        self.name_target()
        self.wait("the target that was named", self.settled, 10.0)

    def prepare(self) -> None:
        """Bring the node to follow the target, choose a rate that it keeps, and note how well it does."""
        self.start()
        self.wait_active()
        self.cameras.start()
        self.wait("a first result", lambda: self.ears.results)
        self.settle()
        for rate in FASTER:
            before, self.cameras.rate = self.cameras.rate, rate
            if self._watch_shots(round(1.5 * rate))[1] < KEPT_PACE:
                self.cameras.rate = before
                break
        seen: dict[int, list[float]] = {}
        for result in self._watch_shots(2 * len(self.scene.rgb))[0]:
            index, _ = self.cameras.truth(result.at, result.track.stamp_ns)
            seen.setdefault(index, []).append(self.overlap(result))
        known = sorted(seen)
        means = np.interp(range(len(self.scene.rgb)), known, [np.mean(seen[index]) for index in known])
        self.clean = means.tolist()

    def _watch_shots(self, count: int) -> tuple[list[Result], float]:
        """Results while so many shots are taken, and how many there were for each."""
        began, first = time.monotonic(), len(self.cameras.shots)
        self.wait(f"{count} images", lambda: len(self.cameras.shots) >= first + count, 10 * PATIENCE)
        results = self.between(began, time.monotonic())
        return results, len(results) / count


@contextmanager
def staged(scene: Scene, folder: Path, **options: Any) -> Iterator[Stage]:
    """A stage whose node follows the target."""
    folder.mkdir(parents=True, exist_ok=True)
    stage = Stage(scene, folder, **options)
    try:
        stage.prepare()
        yield stage
    finally:
        stage.close()
