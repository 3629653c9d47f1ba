"""An event camera over DDS. event_camera_msgs is no wheel: scripts/real_ros.py builds it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not importable: run `make test`, or source ROS 2")
pytest.importorskip("event_camera_msgs.msg", reason="event_camera_msgs is not importable (apt, or scripts/real_ros.py)")

from event_camera_msgs.msg import EventPacket  # noqa: E402
from events import packet  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from rclpy.serialization import serialize_message  # noqa: E402
from robot import HEIGHT, WIDTH, Robot, good_rgb, running, scene, to_time  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402

from cmdtrack_ros.data.bags import BagOptions, RawMessage, load_bag, write_messages  # noqa: E402
from cmdtrack_ros.data.events import simulate_events  # noqa: E402
from cmdtrack_ros.modalities import AuxEncoder  # noqa: E402
from cmdtrack_ros.msg import TrackState  # noqa: E402
from cmdtrack_ros.streams.events import EVENT_PACKET  # noqa: E402
from cmdtrack_ros.streams.images import to_rgb  # noqa: E402
from cmdtrack_ros.streams.pairing import stamp_ns  # noqa: E402

pytestmark = pytest.mark.ros

MS = 1_000_000


class EventCamera:
    """Packets of what changes between two frames of the scene; metavision_driver sends them best effort."""

    def __init__(self, robot: Robot, reliability: ReliabilityPolicy = ReliabilityPolicy.BEST_EFFORT) -> None:
        robot.node.destroy_publisher(robot.aux)
        qos = QoSProfile(depth=100, reliability=reliability)
        self.publisher = robot.aux = robot.node.create_publisher(EventPacket, "aux/image", qos)
        self.seq = 0

    def packet(self, stamp: int, events: np.ndarray, encoding: str = "evt3", **changes: object) -> EventPacket:
        fields = packet(stamp, events, encoding, WIDTH, HEIGHT, self.seq)
        self.seq += 1
        message = EventPacket(
            height=HEIGHT, width=WIDTH, seq=fields.seq, encoding=encoding, events=fields.events.tobytes()
        )
        message.header.stamp, message.header.frame_id = to_time(stamp), "event_camera"
        for name, value in changes.items():
            setattr(message, name, value)
        return message

    def __call__(self, i: int, stamp: int) -> EventPacket:
        """Publishes the events up to the stamp, and returns the first packet after it."""
        picture = simulate_events(scene(i - 1)[0], scene(i)[0])
        y, x = np.nonzero((picture != 255).any(-1))
        events = np.stack([np.linspace(1000, 29_000, len(x)).astype(int), x, y, picture[y, x, 0] == 255], 1)
        self.publisher.publish(self.packet(stamp - 30 * MS, events))
        return self.packet(stamp + MS, np.array([[31_000, 0, 0, 1]]))


def test_event_packets(tmp_path: Path, repository: Path) -> None:
    robot, pictures = Robot("/event_camera"), []
    events = EventCamera(robot)
    # A drawn scene is not what the score was calibrated with.
    scores = {"score_doubtful": 0.01, "score_confident": 0.02}
    with running(tmp_path, repository, robot, modality="event", aux_timeout=1.0, **scores) as tracker:
        robot.wait("a result of both", lambda: any(r.has_rgb and r.has_aux for r in robot.play(1, aux=events)))
        robot.send_target(scene(robot.frame)[1])
        subscription = robot.node.create_subscription(Image, "tracker/aux_picture", pictures.append, 10)
        robot.wait("the network's picture", lambda: robot.play(2, aux=events) and pictures)
        results = robot.play(6, aux=events)
        assert all(r.has_rgb and r.has_aux and r.pair_gap == 0.0 for r in results[-6:])
        assert results[-1].state == TrackState.STATE_TRACKING
        stamps = {(p.header.stamp.sec, p.header.stamp.nanosec): p for p in pictures}
        last = stamps.get((results[-1].header.stamp.sec, results[-1].header.stamp.nanosec), pictures[-1])
        colours = np.frombuffer(last.data, np.uint8).reshape(HEIGHT, WIDTH, 3)
        red, blue = (colours[..., 0] > 250) & (colours[..., 2] < 5), (colours[..., 2] > 250) & (colours[..., 0] < 5)
        assert red.any() and blue.any() and (red | blue | (colours == 255).all(-1)).all()
        robot.node.destroy_subscription(subscription)

        rng = np.random.default_rng(0)
        bad = (
            lambda stamp: events.packet(stamp, rng.integers(0, 1 << 16, 4001).astype(np.uint16), "libcaer_cmp"),
            lambda stamp: events.packet(stamp, rng.integers(0, 1 << 16, 4001).astype(np.uint16)),
            lambda stamp: events.packet(stamp, np.array([[0, 1, 1, 1]]), width=0),
        )
        for number in range(9):
            events.publisher.publish(bad[number % 3](robot.node.get_clock().now().nanoseconds))
            assert robot.play(1, aux=events)[-1].has_rgb
        results = robot.play(6, aux=events)
        assert results[-1].has_aux and results[-1].state == TrackState.STATE_TRACKING
        tracker.wait_for("bad auxiliary image: event packet .*expected encoding evt3 or evt2")

        results = []
        robot.wait(
            "results of events alone",
            lambda: (
                results.extend(robot.play(3, rgb=None, aux=events, answered=False))
                or sum(r.has_aux and not r.has_rgb for r in results) >= 3
            ),
        )
        assert robot.play(6, aux=events)[-1].has_rgb


def test_node_and_bag_cut_the_same_frames(tmp_path: Path, repository: Path) -> None:
    """What the cameras send goes to the node, and as it is into a bag."""
    robot, pictures, messages = Robot("/event_bag"), [], []
    events = EventCamera(robot, ReliabilityPolicy.RELIABLE)

    def noted(topic: str, kind: str, message: object) -> object:
        messages.append(RawMessage(topic, kind, 10**18 + len(messages), serialize_message(message)))
        return message

    publish = events.publisher.publish
    events.publisher.publish = lambda message: publish(noted("/aux", EVENT_PACKET, message))

    def noted_rgb(i: int, stamp: int) -> Image:
        return noted("/rgb", "sensor_msgs/msg/Image", good_rgb(i, stamp))

    with running(tmp_path, repository, robot, modality="event", aux_timeout=5.0):
        subscription = robot.node.create_subscription(Image, "tracker/aux_picture", pictures.append, 100)
        robot.wait("a picture", lambda: robot.play(1, noted_rgb, events) and pictures)
        robot.play(12, noted_rgb, events)
        robot.node.destroy_subscription(subscription)
    sequence = load_bag(
        write_messages(tmp_path / "bag", messages, {}, {}), BagOptions(rgb_topic="/rgb", aux_topic="/aux")
    )
    shown = {stamp_ns(picture): to_rgb(picture) for picture in pictures}
    of_bag = {pair.stamp: sequence.aux(index) for index, pair in enumerate(sequence.pairs)}
    both = [stamp for stamp, frame in of_bag.items() if stamp in shown and frame is not None]
    assert len(both) >= 10
    # The first frames differ: the node may not have heard the first images, of whose interval their window is.
    assert all(np.array_equal(shown[stamp], AuxEncoder("event")(of_bag[stamp])) for stamp in both[-8:])
