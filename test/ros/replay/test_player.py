"""Bags played through real DDS."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not importable: run `make test`, or source ROS 2")

from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402

from cmdtrack_ros.data.bags import WriterOptions, write_bag  # noqa: E402
from cmdtrack_ros.errors import ConfigError, DataError  # noqa: E402
from cmdtrack_ros.ros.replay.player import play  # noqa: E402
from synthetic import RandomSequence  # noqa: E402

pytestmark = pytest.mark.ros


def test_player_reaches_subscribers_in_time(tmp_path: Path) -> None:
    """Two processes, real DDS: every message arrives, in order, at the bag's pace, stamped as asked for."""
    source = RandomSequence(count=20, size=(240, 320))
    path = write_bag(source, tmp_path / "bag", WriterOptions(aux_offset=0.01))
    rclpy.init()
    node = rclpy.create_node("listener")
    got: dict[str, list[tuple[float, float, bytes]]] = {"/rgb/image": [], "/aux/image": []}

    def listen(topic: str) -> None:
        def store(message: Image) -> None:
            stamp = message.header.stamp.sec + message.header.stamp.nanosec / 1e9
            got[topic].append((time.time(), stamp, bytes(message.data)))

        node.create_subscription(Image, topic, store, QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE))

    for topic in got:
        listen(topic)
    command = [
        sys.executable,
        "-m",
        "cmdtrack_ros.cli",
        "bag",
        "play",
        str(path),
        "--restamp",
        "now",
        "--wait",
        "20",
        "--topics",
        "/rgb/image",
        "--topics",
        "/aux/image",
    ]
    player = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end and (player.poll() is None or min(map(len, got.values())) < len(source)):
            rclpy.spin_once(node, timeout_sec=0.05)
            if player.poll() not in (None, 0):
                break
        text = player.communicate(timeout=60)[0]
        assert player.returncode == 0 and "40 messages" in text, text
    finally:
        player.kill()
        node.destroy_node()
        rclpy.try_shutdown()
    assert {topic: len(messages) for topic, messages in got.items()} == {"/rgb/image": 20, "/aux/image": 20}
    rgb, aux = got["/rgb/image"], got["/aux/image"]
    assert [m[2] for m in rgb] == [source.rgb(i).tobytes() for i in range(20)]
    np.testing.assert_allclose(np.diff([m[1] for m in rgb]), 0.04, atol=1e-5)
    np.testing.assert_allclose([a[1] - r[1] for a, r in zip(aux, rgb)], 0.01, atol=1e-5)
    delays = [m[0] - m[1] for m in rgb]
    assert -0.001 < min(delays) < 0.5, "stamped with the present, and none comes before it is due"


def test_player_refuses_what_makes_no_sense(tmp_path: Path) -> None:
    path = write_bag(RandomSequence(count=2), tmp_path / "bag")
    with pytest.raises(ConfigError, match="rate 0"):
        play(path, rate=0)
    with pytest.raises(ConfigError, match="restamp keep"):
        play(path, clock=True, restamp="now")
    with pytest.raises(DataError, match="no topic /camera.*the bag has: /aux/image"):
        play(path, topics=["/camera"])
    assert play(path, rate=10.0).messages == 6


def test_player_loops_with_a_clock_until_it_is_stopped(tmp_path: Path) -> None:
    path = write_bag(RandomSequence(count=10, size=(8, 8)), tmp_path / "bag")
    rclpy.init()
    node = rclpy.create_node("clock_listener")
    times: list[float] = []
    node.create_subscription(Clock, "/clock", lambda m: times.append(m.clock.sec + m.clock.nanosec / 1e9), 100)
    command = [sys.executable, "-m", "cmdtrack_ros.cli", "bag", "play", str(path), "--loop", "--clock"]
    player = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end and player.poll() is None and np.sum(np.diff(times) < 0) < 2:
            rclpy.spin_once(node, timeout_sec=0.05)
        player.send_signal(signal.SIGINT)
        text = player.communicate(timeout=60)[0]
    finally:
        player.kill()
        node.destroy_node()
        rclpy.try_shutdown()
    assert player.returncode == 0 and "messages in" in text and "Traceback" not in text, text
    assert np.sum(np.diff(times) < 0) >= 2  # it started over, and time jumped back each time
    assert min(times) >= 1_600_000_000 and max(times) < 1_600_000_001
    between = (np.array(times) - 1_600_000_000) / 0.04 % 1  # of the way from one image to the next
    assert np.count_nonzero((between > 0.2) & (between < 0.8)) >= 3
