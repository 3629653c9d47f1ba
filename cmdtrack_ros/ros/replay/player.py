"""Plays a rosbag2 into DDS at its own rate, where `ros2 bag play` is not installed.

Messages go out as the bytes that lie in the bag: nothing is decoded, so that a small machine keeps pace.
"""

from __future__ import annotations

import importlib
import logging
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import rclpy
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock

from cmdtrack_ros.data.bags import Bag, RawMessage, header_stamp, with_stamp
from cmdtrack_ros.errors import ConfigError, DataError
from cmdtrack_ros.ros.transport import use_profile
from cmdtrack_ros.streams.events import EVENT_PACKET

logger = logging.getLogger(__name__)

PUBLISHER_QUEUE_DEPTH = 30  # about a second of images, for a subscriber that the machine holds up
PREFETCHED_MESSAGES = 256  # messages read ahead
CLOCK_PERIOD_SECONDS = 0.01  # s
DISCOVERY_SETTLE_SECONDS = 0.5  # s from "the publisher sees its subscribers" to "they see it"

Restamp = Literal["keep", "now"]


@dataclass(frozen=True)
class PlayReport:
    """What was done.

    messages: how many were published. seconds: how long that took. late_ms: the largest lag behind schedule.
    stamp_offset_ns: what was added to the stamps of the last pass (at rate 1), 0 where they were kept.
    """

    messages: int
    seconds: float
    late_ms: float
    stamp_offset_ns: int


def play(
    path: str | Path,
    *,
    rate: float = 1.0,
    loop: bool = False,
    clock: bool = False,
    topics: list[str] | None = None,
    restamp: Restamp = "keep",
    wait: float = 0.0,
) -> PlayReport:
    """Publish a bag's messages, reliably, at `rate` times the speed of their recording.

    loop: start over for ever; stamps jump back as with `ros2 bag play --loop`.
    clock: publish the bag's time on /clock, for nodes with use_sim_time.
    topics: only these; DataError when the bag lacks one or its message type is not installed.
    restamp: "keep" the recorded stamps, or "now": moved by one offset (and scaled by `rate`), so that a
        message's stamp is the moment when it is due; gaps between streams stay as recorded at rate 1. Event packets
        are played so at rate 1 alone (:func:`check_rate`).
    wait: seconds to wait for a subscriber on every played topic before the first message.
    """
    if rate <= 0:
        raise ConfigError(f"rate {rate}: expected a factor above 0")
    if clock and restamp == "now":
        raise ConfigError("clock needs the recorded stamps: use it with restamp keep")
    own_context = not rclpy.ok()
    if own_context:
        use_profile()
        rclpy.init()
    node = rclpy.create_node("bag_player")
    try:
        with Bag(path) as bag:
            player = _Player(node, bag, topics, rate, restamp, clock)
        player.wait_for_subscribers(wait)
        return player.run(loop)
    finally:
        node.destroy_node()
        if own_context:
            rclpy.try_shutdown()


def check_rate(bag: Bag, topics: Iterable[str], rate: float) -> None:
    """ConfigError for event packets whose stamps would be scaled: the times of their events would not.

    They are the sensor's own, within the packet; frames would be cut out of other events than in the recording.
    """
    packets = [topic for topic in topics if bag.types.get(topic) == EVENT_PACKET]
    if packets and rate != 1:
        raise ConfigError(
            f"{bag.path}: {packets[0]} holds event packets, which with new stamps are played at rate 1 alone, got "
            f"{rate:g}; `cmdtrack evaluate-bag` without --through-dds waits for a slow machine"
        )


class _Player:
    def __init__(
        self, node: Node, bag: Bag, topics: list[str] | None, rate: float, restamp: Restamp, clock: bool
    ) -> None:
        self._node, self._path, self._rate, self._restamp = node, bag.path, rate, restamp
        self._first_ns = bag.start_ns
        if restamp == "now":
            check_rate(bag, bag.types if topics is None else topics, rate)
        self._publishers = self._advertise(bag, topics)
        self._with_header = {t for t in self._publishers if bag.has_header(bag.types[t])}
        self._offset_ns = 0
        self._clock = node.create_publisher(Clock, "/clock", 10) if clock else None

    def _advertise(self, bag: Bag, topics: list[str] | None) -> dict[str, Publisher]:
        qos = QoSProfile(depth=PUBLISHER_QUEUE_DEPTH, reliability=ReliabilityPolicy.RELIABLE)
        publishers = {}
        for topic in bag.types if topics is None else topics:
            kind = bag.require(topic)
            try:
                publishers[topic] = self._node.create_publisher(_message_class(kind), topic, qos)
            except (ImportError, AttributeError) as error:
                if topics is not None:
                    raise DataError(f"{topic}: its message type {kind} is not installed") from error
                logger.warning("%s is not played: its message type %s is not installed", topic, kind)
        return publishers

    def wait_for_subscribers(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if all(p.get_subscription_count() for p in self._publishers.values()):
                time.sleep(DISCOVERY_SETTLE_SECONDS)
                return
            time.sleep(0.02)
        if seconds:
            missing = [t for t, p in self._publishers.items() if not p.get_subscription_count()]
            logger.warning("no subscriber after %.1f s on %s: playing all the same", seconds, ", ".join(missing))

    def run(self, loop: bool) -> PlayReport:
        began, count, late = time.monotonic(), 0, 0.0
        try:
            while True:
                played, lag = self._play_once()
                count, late = count + played, max(late, lag)
                if not loop or not played:
                    break
            for publisher in self._publishers.values():
                publisher.wait_for_all_acked(Duration(seconds=5.0))
        except (KeyboardInterrupt, ExternalShutdownException):
            logger.info("stopped")
        return PlayReport(count, time.monotonic() - began, late * 1e3, self._offset_ns)

    def _play_once(self) -> tuple[int, float]:
        """Messages published, and the largest lag behind schedule in seconds."""
        count, late = 0, 0.0
        messages = _read_ahead(self._path, list(self._publishers))
        start, start_ns = time.monotonic(), time.time_ns()
        self._offset_ns = start_ns - self._first_ns if self._restamp == "now" else 0
        for message in messages:
            due = (message.time_ns - self._first_ns) / 1e9 / self._rate
            self._sleep_until(start, due)
            late = max(late, time.monotonic() - start - due)
            self._publishers[message.topic].publish(self._stamped(message))
            count += 1
        return count, late

    def _sleep_until(self, start: float, due: float) -> None:
        while (left := due - (time.monotonic() - start)) > 0:
            if self._clock is None:
                time.sleep(left)
            else:
                self._publish_clock(time.monotonic() - start)
                time.sleep(min(left, CLOCK_PERIOD_SECONDS))
        if self._clock is not None:
            self._publish_clock(due)

    def _publish_clock(self, elapsed: float) -> None:
        now = self._first_ns + round(elapsed * self._rate * 1e9)
        message = Clock()
        message.clock.sec, message.clock.nanosec = now // 10**9, now % 10**9
        self._clock.publish(message)

    def _stamped(self, message: RawMessage) -> bytes:
        if self._restamp == "keep" or message.topic not in self._with_header:
            return message.data
        since_first = header_stamp(message.data) - self._first_ns
        return with_stamp(message.data, self._first_ns + self._offset_ns + round(since_first / self._rate))


def _message_class(kind: str) -> Any:
    package, _, name = kind.split("/")
    return getattr(importlib.import_module(f"{package}.msg"), name)


def _read_ahead(path: Path, topics: list[str]) -> Iterator[RawMessage]:
    """Messages of `topics`, PREFETCHED_MESSAGES of them kept ready by a thread; returns when they are."""
    ahead: queue.Queue[RawMessage | Exception | None] = queue.Queue(PREFETCHED_MESSAGES)
    stop = threading.Event()

    def put(item: RawMessage | Exception | None) -> None:
        while not stop.is_set():
            try:
                ahead.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def read() -> None:
        try:
            with Bag(path) as bag:
                for message in bag.messages(topics):
                    put(message)
                    if stop.is_set():
                        return
            put(None)
        except DataError as error:
            put(error)

    reader = threading.Thread(target=read, name="read_ahead", daemon=True)
    reader.start()
    while reader.is_alive() and not ahead.full():
        time.sleep(0.01)
    return _drain(ahead, stop)


def _drain(ahead: queue.Queue[RawMessage | Exception | None], stop: threading.Event) -> Iterator[RawMessage]:
    try:
        while (item := ahead.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        stop.set()
