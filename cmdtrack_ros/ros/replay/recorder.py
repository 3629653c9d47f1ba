"""Collects what a running tracker node publishes, from another process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Protocol

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy

from cmdtrack_ros.msg import TrackState
from cmdtrack_ros.ros.messages import from_track_state
from cmdtrack_ros.ros.transport import use_profile
from cmdtrack_ros.track import Track

_POLL_SECONDS = 0.02


class Guest(Protocol):
    """What lives in the recorder's node and thread while a recording is played."""

    def ready(self) -> bool:
        """Whether it has met all that it talks to, so that the playing may begin."""
        ...


class TrackRecorder:
    """A node, spinning in its own thread, that keeps every result of the tracker `name` and its diagnostics.

    Use it as a context manager.

    Args:
        invite: makes a guest of the recorder's node.
    """

    def __init__(self, name: str = "tracker", invite: Callable[[Node], Guest] | None = None) -> None:
        self.tracks: list[Track] = []
        self.diagnostics: dict[str, str] = {}
        self._name = name
        self._own_context = not rclpy.ok()
        if self._own_context:
            use_profile()
            rclpy.init()
        self._node = rclpy.create_node("track_recorder")
        qos = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)
        self._node.create_subscription(TrackState, f"/{name}/track", self._on_track, qos)
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 100)
        self._state = self._node.create_client(GetState, f"/{name}/get_state")
        self._guest = invite(self._node) if invite else None
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name="track_recorder", daemon=True)

    def __enter__(self) -> TrackRecorder:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown()
        self._thread.join(5.0)
        self._node.destroy_node()
        if self._own_context:
            rclpy.try_shutdown()

    def wait_active(self, topics: list[str], timeout: float, alive: Callable[[], bool]) -> bool:
        """Wait until the node is active, listens to `topics` and is heard; False when it ends or is late."""
        end = time.monotonic() + timeout
        while time.monotonic() < end and alive():
            if (
                all(self._node.count_subscribers(topic) for topic in topics)
                and self._node.count_publishers(f"/{self._name}/track")
                and self._is_active()
                and (self._guest is None or self._guest.ready())
            ):
                return True
            time.sleep(_POLL_SECONDS)
        return False

    def wait_quiet(self, seconds: float, timeout: float) -> None:
        """Wait until no result came for `seconds`."""
        end, count, since = time.monotonic() + timeout, -1, time.monotonic()
        while time.monotonic() < end and time.monotonic() - since < seconds:
            if len(self.tracks) != count:
                count, since = len(self.tracks), time.monotonic()
            time.sleep(0.05)

    def _is_active(self) -> bool:
        if not self._state.service_is_ready():
            return False
        answer = self._state.call_async(GetState.Request())
        end = time.monotonic() + 1.0
        while not answer.done() and time.monotonic() < end:
            time.sleep(0.01)
        return answer.done() and answer.result().current_state.id == State.PRIMARY_STATE_ACTIVE

    def _spin(self) -> None:
        with suppress(ExternalShutdownException):
            self._executor.spin()

    def _on_track(self, message: TrackState) -> None:
        self.tracks.append(from_track_state(message))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if self._name in status.name or self._name in status.hardware_id:
                self.diagnostics.update({pair.key: pair.value for pair in status.values})
