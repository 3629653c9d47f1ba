"""Looks on running trackers from outside: what they publish, and what their diagnostics say."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy

from cmdtrack_ros.msg import TrackState
from cmdtrack_ros.ros.health import STATUSES
from cmdtrack_ros.ros.messages import from_track_state
from cmdtrack_ros.track import Track

_TRACK_TYPE = "cmdtrack_ros/msg/TrackState"
_LEVELS = {DiagnosticStatus.WARN: "WARN", DiagnosticStatus.ERROR: "ERROR"}
_SCAN_PERIOD = 0.5  # s between looks for new trackers
_STALE = 2.0  # s without a result, or without diagnostics, after which the last one says nothing of now
_SETTLED = 1.5  # s without a new tracker, after which all there are were found: diagnostics come every second


@dataclass
class Seen:
    """What is known of one tracker.

    Attributes:
        name: of the node, with its namespace.
        tracks: its results for the newest image, one a target; empty before the first.
        before: those for the image before.
        arrivals: when its last results came, one moment an image, seconds of the monotonic clock.
        summary: what its "tracking" status says: the target's state or the node's.
        values: of all its statuses.
        causes: level, cause, and what to do.
        reported: when its diagnostics came last; NaN before the first.
    """

    name: str
    tracks: list[Track] = field(default_factory=list)
    before: list[Track] = field(default_factory=list)
    arrivals: deque[float] = field(default_factory=lambda: deque(maxlen=60))
    summary: str = ""
    values: dict[str, str] = field(default_factory=dict)
    causes: list[tuple[str, str, str]] = field(default_factory=list)
    reported: float = math.nan

    def newest(self) -> list[Track]:
        """The targets, oldest first, of an image whose results are all here; empty where no result came lately."""
        if self.silent():
            return []
        return self.tracks if len(self.tracks) >= len(self.before) else self.before

    def silent(self) -> bool:
        """No result came lately."""
        return not self.arrivals or time.monotonic() - self.arrivals[-1] > _STALE

    def gone(self) -> bool:
        """Neither results nor diagnostics come any more."""
        return self.silent() and time.monotonic() - self.reported > _STALE

    def rate(self) -> float:
        """Images with results, per second."""
        recent = [at for at in self.arrivals if at > time.monotonic() - _STALE]
        return (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 1 else 0.0

    def complete(self) -> bool:
        """Its diagnostics are known, and a result, where results come."""
        idle = float(self.values.get("output rate (Hz)", 0)) == 0
        return math.isfinite(self.reported) and (bool(self.tracks) or idle)


class Watcher:
    """Finds the trackers of this ROS domain, those that come later too, and keeps what they say.

    Args:
        names: of the nodes to look at; empty for all.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._names = {f"/{name.strip('/')}" for name in names}
        self._seen: dict[str, Seen] = {}
        self._subscribed: set[str] = set()
        self._node = rclpy.create_node("tracker_watch")
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 100)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._scanned = -math.inf
        self._grown = time.monotonic()

    def trackers(self) -> list[Seen]:
        """By name; those that fell silent stay."""
        return [self._seen[name] for name in sorted(self._seen)]

    def spin(self, seconds: float) -> None:
        """Listen for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if time.monotonic() - self._scanned > _SCAN_PERIOD:
                self._scan()
            self._executor.spin_once(timeout_sec=min(left, _SCAN_PERIOD))

    def wait(self, seconds: float) -> None:
        """Listen until all trackers, or those that were named, were heard; for `seconds` at most."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._heard_all():
            self.spin(0.05)

    def close(self) -> None:
        self._executor.shutdown()
        self._node.destroy_node()

    def _heard_all(self) -> bool:
        complete = {name for name, seen in self._seen.items() if seen.complete()}
        if self._names:
            return complete == self._names
        return bool(complete) and len(complete) == len(self._seen) and time.monotonic() - self._grown > _SETTLED

    def _scan(self) -> None:
        self._scanned = time.monotonic()
        qos = QoSProfile(depth=30, reliability=ReliabilityPolicy.BEST_EFFORT)
        for topic, kinds in self._node.get_topic_names_and_types():
            name = topic.removesuffix("/track")
            if _TRACK_TYPE not in kinds or name == topic or topic in self._subscribed:
                continue
            if self._node.count_publishers(topic) and self._wanted(name):
                self._subscribed.add(topic)
                self._node.create_subscription(TrackState, topic, partial(self._on_track, self._of(name)), qos)

    def _wanted(self, name: str) -> bool:
        return not self._names or name in self._names

    def _of(self, name: str) -> Seen:
        if name not in self._seen:
            self._seen[name] = Seen(name)
            self._grown = time.monotonic()
        return self._seen[name]

    def _on_track(self, seen: Seen, message: TrackState) -> None:
        track = from_track_state(message)
        if seen.tracks and seen.tracks[-1].stamp_ns == track.stamp_ns:  # another target in the same image
            seen.tracks.append(track)
            return
        seen.before, seen.tracks = seen.tracks, [track]
        seen.arrivals.append(time.monotonic())

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        by_name = {status.name: status for status in message.status}
        for name in [name.removesuffix(": tracking") for name in by_name if name.endswith(": tracking")]:
            statuses = [by_name.get(f"{name}: {concern}") for concern in STATUSES]
            if all(statuses) and self._wanted(f"/{name}"):  # other nodes may have a status "tracking", too
                self._report(self._of(f"/{name}"), statuses)

    def _report(self, seen: Seen, statuses: list[DiagnosticStatus]) -> None:
        seen.reported = time.monotonic()
        seen.values = {pair.key: pair.value for status in statuses for pair in status.values}
        seen.summary = statuses[STATUSES.index("tracking")].message
        seen.causes = [
            (_LEVELS.get(status.level, "ERROR"), cause, seen.values.get(cause, ""))
            for status in statuses
            if status.level != DiagnosticStatus.OK
            for cause in status.message.split("; ")
        ]


@contextmanager
def watching(names: Sequence[str] = ()) -> Iterator[Watcher]:
    """A watcher with rclpy started for it and ended after it; an interrupt ends the block quietly."""
    rclpy.init()
    watcher = Watcher(names)
    try:
        yield watcher
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        watcher.close()
        rclpy.try_shutdown()


def watch(names: Sequence[str], period: float, show: Callable[[list[Seen]], None]) -> None:
    """Show what is seen every `period` seconds, until the process is interrupted."""
    with watching(names) as watcher:
        while rclpy.ok():
            watcher.spin(period)
            show(watcher.trackers())
