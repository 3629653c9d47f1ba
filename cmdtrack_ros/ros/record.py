"""Keeps the last seconds of a tracker's images, and writes them as a bag when it loses its target.

A node of its own process, so that the tracker pays nothing for it. It learns the image topics, remapped as they may
be, from the tracker's diagnostics, and keeps images and results as they were received. The bag starts at the oldest
image that the target was followed on, and notes the box that it had there: `cmdtrack evaluate-bag` starts from it.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.srv import GetParameters
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message, serialize_message

from cmdtrack_ros.boxes import visible
from cmdtrack_ros.cameras import camera_info_topic
from cmdtrack_ros.data.bags import AUX_NOTE, BOX_NOTE, RGB_NOTE, RawMessage, Ring, header_stamp, write_messages
from cmdtrack_ros.data.bags.messages import CAMERA_INFO, TF_STATIC
from cmdtrack_ros.errors import CmdtrackError, ConfigError
from cmdtrack_ros.msg import TrackState
from cmdtrack_ros.ros.camera_info import CameraInfoInput
from cmdtrack_ros.ros.diagnostics import DiagnosticsPublisher
from cmdtrack_ros.ros.health import RECORDING, Health
from cmdtrack_ros.ros.inputs import ImageInput
from cmdtrack_ros.ros.messages import from_track_state
from cmdtrack_ros.ros.rosout import forward_logging
from cmdtrack_ros.ros.transport import use_profile
from cmdtrack_ros.streams.registration import Registration
from cmdtrack_ros.streams.stamps import RESTART_NS
from cmdtrack_ros.track import TargetState, Track

try:
    from tf2_msgs.msg import TFMessage
except ImportError:
    TFMessage = None

_TRACK_TYPE = "cmdtrack_ros/msg/TrackState"
_QUEUE_DEPTH = 30  # about a second, while the machine is busy
_SETTLE_PERIOD = 0.2  # s; how finely the end of a recording is kept
_PATIENCE = 5.0  # s without a tracker until it is said
_AUX_LEAD_NS = 1_000_000_000  # aux images from before the first RGB image: its partner may have come earlier
_OPTIONS = ("pairing", "slop", "latest_gap", "aux_offset", "event_window")  # of `cmdtrack evaluate-bag`, too
_REGISTRATION = tuple(field.name for field in fields(Registration))
_INFOS = ("rgb_camera_info", "aux_camera_info")
_PARAMETERS = ("modality", *_OPTIONS, *_INFOS, *_REGISTRATION)  # what a replay has to be told
_REGISTRATION_FILE = "registration.yaml"  # in the bag's folder, where the method needs numbers
_PRIMITIVES = {"double": "float64", "float": "float32", "boolean": "bool"}  # IDL's names, and .msg's
_NAMES_KEPT = 64  # of targets
_MOUNTS_KEPT = 64  # messages of /tf_static
_STREAMS = {"RGB": (RGB_NOTE, "rgb_topic"), "auxiliary": (AUX_NOTE, "aux_topic")}
_BEFORE_LOSS = (TargetState.TRACKING, TargetState.UNCERTAIN)


@dataclass(frozen=True)
class RecordOptions:
    """What is kept, and what may lie on the disk.

    Attributes:
        tracker: name of the tracker node, with its namespace.
        seconds: kept from before the loss.
        after: seconds recorded after it.
        memory_mb: MiB that the kept messages may take; while a bag is written, up to twice that.
        interval: seconds between the beginnings of two bags, at least.
        bags, disk_mb: how many bags of this tracker stay in the folder, and MiB of them; the oldest go first.
        use_sim_time: times of recording are those of /clock.
    """

    tracker: str = "/tracker"
    seconds: float = 20.0
    after: float = 3.0
    memory_mb: int = 1024
    interval: float = 30.0
    bags: int = 20
    disk_mb: int = 8192
    use_sim_time: bool = False


class Start(NamedTuple):
    """Where a bag begins: the number of its first RGB image among the kept messages, and the target's box there."""

    number: int
    track: Track


class LossRecorder:
    """See the module's text. Its bags are <folder>/<tracker>_lost_<date>_<time>.

    What hinders it is a cause in /diagnostics, and it goes on as soon as it can.
    """

    def __init__(self, folder: Path, options: RecordOptions) -> None:
        self._folder, self._options = folder, options
        namespace, _, name = options.tracker.rstrip("/").rpartition("/")
        if not name:
            raise ConfigError(f"tracker: expected the name of a node such as /tracker, got {options.tracker!r}")
        overrides = [Parameter("use_sim_time", value=options.use_sim_time)]
        self.node = Node(f"{name}_recorder", namespace=namespace, parameter_overrides=overrides)
        self._tracker = f"{self.node.get_namespace().rstrip('/')}/{name}"
        self._prefix = f"{self._tracker[1:].replace('/', '_')}_lost_"
        self._health = Health(self.node.get_logger())
        self._diagnostics = DiagnosticsPublisher(self.node, (RECORDING,))
        self._ring = Ring(options.seconds + options.after, options.memory_mb * 2**20)
        self._newest_ns = 0
        self._inputs: dict[str, ImageInput] = {}
        self._infos: list[CameraInfoInput] = []  # while the images are registered by them
        self._mounts: dict[bytes, None] = {}  # messages of /tf_static
        self._parameters: dict[str, Any] = {}
        self._states: dict[str, TargetState] = {}
        self._heard = time.monotonic()  # of the tracker
        self._loss: tuple[float, str] | None = None  # when the recording ends, and the target's name
        self._last_loss = -options.interval
        self._writer: threading.Thread | None = None
        self._failure: str | None = None
        self._written = self._skipped = 0
        qos = QoSProfile(depth=_QUEUE_DEPTH, reliability=ReliabilityPolicy.RELIABLE)
        self._track_topic = f"{self._tracker}/track"
        self.node.create_subscription(TrackState, self._track_topic, self._on_track, qos, raw=True)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, _QUEUE_DEPTH)
        if TFMessage is not None:
            kept = QoSProfile(depth=_QUEUE_DEPTH, durability=DurabilityPolicy.TRANSIENT_LOCAL)
            self.node.create_subscription(TFMessage, TF_STATIC, self._on_mounts, kept, raw=True)
        self._ask = self.node.create_client(GetParameters, f"{self._tracker}/get_parameters")
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.node.create_timer(_SETTLE_PERIOD, self._settle, clock=steady)
        self.node.create_timer(1.0, self._look_after, clock=steady)

    def close(self) -> None:
        """Write what is being recorded, with what has come so far, and end."""
        self._finish_writing()
        if self._loss:
            self._write()
            self._finish_writing()
        for stream in (*self._inputs.values(), *self._infos):
            stream.close()
        self.node.destroy_node()

    # What comes in.

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == f"{self._tracker[1:]}: inputs":
                values = {pair.key: pair.value for pair in status.values}
                topics = {name: values[key] for name in _STREAMS if (key := f"{name} topic") in values}
                if topics:
                    self._follow(topics)

    def _follow(self, topics: dict[str, str]) -> None:
        """Keep the images of these topics; a tracker that is not active names none, and changes nothing."""
        if topics == {name: stream.topic for name, stream in self._inputs.items()}:
            return
        for stream in self._inputs.values():
            stream.close()
        self._ring.clear()
        self._inputs = {}
        for name, topic in topics.items():
            stream = ImageInput(self.node, name, _STREAMS[name][1], topic, "auto", "auto", _QUEUE_DEPTH, raw=True)
            stream.registerCallback(partial(self._on_image, stream))
            self._inputs[name] = stream
        self.node.get_logger().info(f"keeping the last {self._options.seconds:g} s of {', '.join(topics.values())}")

    def _follow_calibrations(self) -> None:
        """Hear the CameraInfo of the images where these are registered by it; to be called about once a second."""
        wanted = self._parameters.get("registration") == "camera_info" and len(self._inputs) == len(_INFOS)
        topics = [
            self.node.resolve_topic_name(self._parameters.get(name) or camera_info_topic(stream.topic))
            for name, stream in zip(_INFOS, self._inputs.values() if wanted else ())
        ]
        if topics != [info.topic for info in self._infos]:
            for info in self._infos:
                info.close()
            streams = self._inputs.values()
            self._infos = [CameraInfoInput(self.node, n, s.topic, t) for n, s, t in zip(_INFOS, streams, topics)]
        for info in self._infos:
            info.follow_publishers()

    def _on_mounts(self, data: bytes) -> None:
        if len(self._mounts) < _MOUNTS_KEPT:
            self._mounts[bytes(data)] = None

    def _calibrations(self, time_ns: int) -> list[RawMessage]:
        """What the images are registered by, as recorded at this time."""
        if not self._infos:
            return []
        found = [(info.topic, CAMERA_INFO, serialize_message(info.message)) for info in self._infos if info.message]
        found += [(TF_STATIC, "tf2_msgs/msg/TFMessage", data) for data in self._mounts]
        return [RawMessage(topic, kind, time_ns, data) for topic, kind, data in found]

    def _on_image(self, stream: ImageInput, data: bytes) -> None:
        self._keep(stream.subscribed_topic, stream.message_type, data)

    def _on_track(self, data: bytes) -> None:
        self._heard = time.monotonic()
        self._keep(self._track_topic, _TRACK_TYPE, data)
        track = _track(data)
        before = self._states.get(track.target_id)
        if len(self._states) > _NAMES_KEPT:
            self._states.clear()
        self._states[track.target_id] = track.state
        if track.state == TargetState.LOST and before in _BEFORE_LOSS:
            self._begin(track.target_id)

    def _keep(self, topic: str, kind: str, data: bytes) -> None:
        now = self.node.get_clock().now().nanoseconds
        if now < self._newest_ns - RESTART_NS:  # a recording that starts over
            self._ring.clear()
        self._newest_ns = now
        self._ring.add(RawMessage(topic, kind, now, bytes(data)), time.monotonic())

    # What goes out.

    def _begin(self, target: str) -> None:
        now = time.monotonic()
        if self._loss:  # it will be in this bag
            return
        if now - self._last_loss < self._options.interval:
            self._skipped += 1
            self.node.get_logger().info(
                f"target '{target}' is lost again within {self._options.interval:g} s: no other bag is written"
            )
            return
        self._last_loss = now
        self._loss = now + self._options.after, target

    def _settle(self) -> None:
        """Write the bag of a loss when its time has come, and the one before is done."""
        if self._loss and time.monotonic() >= self._loss[0] and not self._writing():
            self._write()

    def _write(self) -> None:
        """Start a thread that writes what is kept now."""
        (_, target), self._loss = self._loss, None
        topics = {name: stream.subscribed_topic for name, stream in self._inputs.items()}
        messages = self._ring.messages()
        calibrations = self._calibrations(messages[0].time_ns) if messages else []
        what = (messages, calibrations, topics, target, dict(self._parameters))
        self._writer = threading.Thread(target=self._write_bag, args=what, name="bag_writer")
        self._writer.start()

    def _write_bag(
        self,
        messages: list[RawMessage],
        calibrations: list[RawMessage],
        topics: dict[str, str],
        target: str,
        parameters: dict[str, Any],
    ) -> None:
        path = self._folder / f"{self._prefix}{time.strftime('%Y%m%d_%H%M%S')}"
        rgb = topics.get("RGB", "")
        start = find_start(messages, rgb, self._track_topic, target)
        if start is not None:
            messages = cut(messages, start, rgb)
        messages = calibrations + messages
        command = replay_command(path, start, parameters)
        notes = {_STREAMS[name][0]: topic for name, topic in topics.items()}
        notes |= {"target_id": target, "replay": command}
        if start is not None:
            notes[BOX_NOTE] = ",".join(f"{value:.2f}" for value in start.track.box)
        if "modality" in parameters:
            notes["modality"] = parameters["modality"]
        try:
            size = sum(len(message.data) for message in messages)
            make_room(self._folder, self._prefix, self._options.bags - 1, self._options.disk_mb * 2**20 - size)
            write_messages(path, messages, notes, {_TRACK_TYPE: definition(TrackState)})
            (path / _REGISTRATION_FILE).write_text(registration_file(parameters))
        except (CmdtrackError, OSError) as error:
            self._failure = str(error)
            return
        self._failure = None
        self._written += 1
        self.node.get_logger().info(f"target '{target}' was lost. To see why: {command}")

    def _writing(self) -> bool:
        return self._writer is not None and self._writer.is_alive()

    def _finish_writing(self) -> None:
        if self._writer:
            self._writer.join()

    # What is wrong.

    def _look_after(self) -> None:
        for stream in self._inputs.values():
            stream.follow_publishers()
        self._follow_calibrations()
        if self._ask.service_is_ready():
            request = GetParameters.Request(names=list(_PARAMETERS))
            self._ask.call_async(request).add_done_callback(self._on_parameters)
        self._check()
        level, message, causes = self._health.report(RECORDING, "recording" if self._loss else "waiting for a loss")
        values = {
            "folder": self._folder,
            "kept (s)": f"{self._ring.span():.1f}",
            "kept (MiB)": f"{self._ring.bytes / 2**20:.0f}",
            "bags written": self._written,
            "losses without a bag of their own": self._skipped,
        }
        self._diagnostics.publish("none", {RECORDING: (level, message, values | causes)})

    def _on_parameters(self, future: Any) -> None:
        if future.exception() is None and future.result() is not None:
            values = future.result().values
            self._parameters = {n: parameter_value_to_python(v) for n, v in zip(_PARAMETERS, values)}

    def _check(self) -> None:
        text = None
        if not self._inputs or time.monotonic() - self._heard > _PATIENCE:
            text = (
                f"no results on {self._track_topic}, or {self._tracker} is not active: is that the tracker's name "
                "(`ros2 node list`), and does it get images?"
            )
        self._health.condition("nothing to record", text)
        text = None
        if self._ring.shortened:
            text = (
                f"{self._options.memory_mb} MiB hold the last {self._ring.span():.1f} s, {self._options.seconds:g} s "
                "were asked for: raise --memory-mb, or let the camera publish compressed images"
            )
        self._health.condition("recording shortened", text)
        if not self._writing():
            self._health.condition("cannot record", self._failure or hindrance(self._folder, self._ring.bytes))


def find_start(messages: list[RawMessage], rgb_topic: str, track_topic: str, target: str) -> Start | None:
    """The oldest RGB image that the target was followed on: TRACKING, else UNCERTAIN. None where there is none."""
    images = {header_stamp(m.data): number for number, m in enumerate(messages) if m.topic == rgb_topic}
    tracks = [_track(message.data) for message in messages if message.topic == track_topic]
    for state in _BEFORE_LOSS:
        for track in tracks:
            if track.state == state and track.target_id == target and track.has_rgb and visible(track.box):
                number = images.get(track.stamp_ns)
                if number is not None:
                    return Start(number, track)
    return None


def cut(messages: list[RawMessage], start: Start, rgb_topic: str) -> list[RawMessage]:
    """The messages from the start's image on, and of the other topics those of a second before, too."""
    since = messages[start.number].time_ns - _AUX_LEAD_NS
    return [
        message
        for number, message in enumerate(messages)
        if number >= start.number or (message.topic != rgb_topic and message.time_ns >= since)
    ]


def replay_command(path: Path, start: Start | None, parameters: dict[str, Any]) -> str:
    """What to type for a bag to be tracked again as the node was told to."""
    words = ["cmdtrack evaluate-bag", str(path), "--output out/lost"]
    if start is None:  # nobody knows where the target was
        words.append("--init-box x,y,w,h")
    words += [f"--{name.replace('_', '-')} {parameters[name]}" for name in _OPTIONS if name in parameters]
    words += [f"--{name.replace('_', '-')} {parameters[name]}" for name in _INFOS if parameters.get(name)]
    method = parameters.get("registration", "none")
    words.append(f"--registration {method if method in ('none', 'resize') else path / _REGISTRATION_FILE}")
    return " ".join(words)


def registration_file(parameters: dict[str, Any]) -> str:
    """The parameters of the registration, as a file that `cmdtrack evaluate-bag` and the node read."""
    values = {n: list(v) if hasattr(v, "__len__") and not isinstance(v, str) else v for n, v in parameters.items()}
    own = {name: values[name] for name in _REGISTRATION if name in values and values[name] != []}
    return yaml.safe_dump({"/**": {"ros__parameters": own}})


def make_room(folder: Path, prefix: str, count: int, size: int) -> None:
    """Remove the oldest bags in `folder` whose names start with `prefix` until there are at most `count`, of
    `size` bytes together. Folders that are no bags stay."""
    folder.mkdir(parents=True, exist_ok=True)
    bags = sorted(path for path in folder.glob(f"{prefix}*") if (path / "metadata.yaml").is_file())
    sizes = [sum(file.stat().st_size for file in bag.iterdir()) for bag in bags]
    while bags and (len(bags) > count or sum(sizes) > size):
        shutil.rmtree(bags.pop(0))
        sizes.pop(0)


def hindrance(folder: Path, size: int) -> str | None:
    """Why a bag of `size` bytes could not be written into `folder`; None where it could."""
    remedy = "give `cmdtrack record` a folder that can be written"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".cmdtrack_record"
        probe.touch()
        probe.unlink()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return f"{folder}: {error.strerror}; {remedy}"
    if free < size:
        return f"{folder}: {free >> 20} MiB are free on its disk, a bag takes {size >> 20}: make room, or {remedy}"
    return None


def record(folder: Path, options: RecordOptions, started: Callable[[str], None] = lambda _: None) -> None:
    """Record losses until the process is interrupted.

    Args:
        started: told what is being done.
    """
    use_profile()
    rclpy.init()
    recorder = LossRecorder(folder, options)
    forward_logging(recorder.node.get_logger())
    started(f"recording losses of {options.tracker} into {folder}")
    executor = SingleThreadedExecutor()
    executor.add_node(recorder.node)
    try:
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        recorder.close()
        executor.shutdown()
        rclpy.try_shutdown()


def _track(data: bytes) -> Track:
    return from_track_state(deserialize_message(bytes(data), TrackState))


def definition(message_type: Any) -> str:
    """A .msg text of a message class: what its bytes are, whatever file it was built from."""

    def word(kind: str) -> str:
        if kind.startswith("sequence<"):
            return f"{word(kind[9:-1])}[]"
        return _PRIMITIVES.get(kind, kind)

    fields = message_type.get_fields_and_field_types()
    return "".join(f"{word(kind)} {name}\n" for name, kind in fields.items())
