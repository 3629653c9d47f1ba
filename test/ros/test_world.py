"""The target in space over real DDS: a patch before a wall, whose distances are known."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not importable: run `make test`, or source ROS 2")

from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped  # noqa: E402
from rclpy.qos import DurabilityPolicy  # noqa: E402
from robot import HEIGHT, STEP, WIDTH, Robot, good_rgb, image, running, scene  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image  # noqa: E402
from visualization_msgs.msg import Marker, MarkerArray  # noqa: E402

from cmdtrack_ros.msg import TrackState  # noqa: E402

pytestmark = pytest.mark.ros
FOCAL, NEAR, FAR = 300.0, 2.0, 4.0  # px, m, m


def depth(i: int, stamp: int, near: float = NEAR) -> Image:
    """The patch of `scene` at `near` before a wall, with noise and holes."""
    x, y, w, h = scene(i)[1]
    metres = np.full((HEIGHT, WIDTH), FAR)
    metres[y : y + h, x : x + w] = near
    rng = np.random.default_rng(i)
    metres += rng.normal(0, 0.01, metres.shape)
    metres[rng.random(metres.shape) < 0.2] = 0
    return image((metres * 1000).astype(np.uint16), "16UC1", stamp)


def garbage(i: int, stamp: int) -> Image:
    return depth(i, stamp, near=0.5)


class Listener:
    def __init__(self, robot: Robot) -> None:
        self.robot, self.stamp = robot, 0
        self.poses: list[PoseStamped] = []
        self.spreads: list[PoseWithCovarianceStamped] = []
        self.markers: list[Marker] = []
        node = robot.node
        self.info = node.create_publisher(CameraInfo, "rgb/camera_info", 1)
        node.create_subscription(PoseStamped, "tracker/target_pose", self.poses.append, 100)
        node.create_subscription(
            PoseWithCovarianceStamped, "tracker/target_pose_with_covariance", self.spreads.append, 100
        )
        node.create_subscription(MarkerArray, "tracker/markers", lambda m: self.markers.extend(m.markers), 100)

    def calibrate(self) -> None:
        k = [FOCAL, 0.0, WIDTH / 2 - 0.5, 0.0, FOCAL, HEIGHT / 2 - 0.5, 0.0, 0.0, 1.0]
        self.info.publish(CameraInfo(width=WIDTH, height=HEIGHT, k=k, distortion_model="plumb_bob"))

    def see(self, aux: Callable = depth) -> None:
        self.calibrate()
        # Stamps of 30 Hz, however slow the machine: how far a target moves goes by them.
        self.stamp = self.stamp + round(STEP * 1e9) if self.stamp else time.time_ns()
        self.robot.play(1, good_rgb, aux, start=self.stamp)


def true_position(i: int) -> np.ndarray:
    x, y, w, h = scene(i)[1]
    return np.array([(x + w / 2 - WIDTH / 2) / FOCAL, (y + h / 2 - HEIGHT / 2) / FOCAL, 1]) * NEAR


def test_a_target_before_a_wall(tmp_path: Path, repository: Path) -> None:
    robot = Robot("/world_pose")
    ears = Listener(robot)
    durable = {"qos_overrides./world_pose/tracker/target_pose.publisher.durability": "transient_local"}
    with running(tmp_path, repository, robot, modality="depth", **durable) as tracker:
        robot.wait("a result", lambda: robot.play(1, good_rgb, depth, answered=False))
        robot.send_target(scene(robot.frame)[1])
        robot.wait(
            "the missing calibration", lambda: robot.play(1, good_rgb, depth) and tracker.lines("RGB camera info: ")
        )
        assert tracker.lines("nothing came on /world_pose/rgb/camera_info") and not ears.poses
        robot.wait("a pose", lambda: ears.see() or ears.poses)
        robot.wait("the end of the complaint", lambda: ears.see() or tracker.lines("RGB camera info: over"))

        del ears.poses[:], ears.spreads[:]
        robot.wait("poses", lambda: ears.see() or len(ears.poses) > 3)
        pose, spread = ears.poses[-1], ears.spreads[-1]
        assert pose.header.frame_id == "camera_optical" and pose.pose.orientation.w == 1.0
        position = np.array([pose.pose.position.x, pose.pose.position.y, pose.pose.position.z])
        np.testing.assert_allclose(position, true_position(robot.frame - 1), atol=0.06)
        assert abs(position[2] - NEAR) < 0.02
        covariance = spread.pose.covariance.reshape(6, 6)
        assert (np.linalg.eigvalsh(covariance) > 0).all() and covariance[2, 2] < 0.05**2
        assert {(m.ns, m.id) for m in ears.markers if m.action == Marker.ADD} == {("patch", i) for i in range(4)}

        (offer,) = robot.node.get_publishers_info_by_topic("/world_pose/tracker/target_pose")
        assert offer.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL

        before = len(ears.poses)
        ears.see(garbage)
        ears.see()
        assert len(ears.poses) > before and all(abs(p.pose.position.z - NEAR) < 0.02 for p in ears.poses[before:])
        robot.wait("a real change", lambda: ears.see(garbage) or abs(ears.poses[-1].pose.position.z - 0.5) < 0.02)

        assert robot.set("depth_unit", 0.0011).successful
        robot.wait("the other unit", lambda: ears.see(garbage) or abs(ears.poses[-1].pose.position.z - 0.55) < 0.02)

        del ears.markers[:]
        robot.send_target((0, 0, 0, 0))
        robot.wait(
            "the deletion", lambda: ears.see() or len([m for m in ears.markers if m.action == Marker.DELETE]) == 4
        )
        before = len(ears.poses)
        ears.see()
        assert robot.tracks[-1].state == TrackState.STATE_IDLE and len(ears.poses) == before

        # Registration takes the same calibration: of a second subscription this node would hear before that of aux.
        listeners = robot.node.get_subscriptions_info_by_topic
        assert robot.set("registration", "camera_info").successful
        robot.wait("its subscription", lambda: listeners("/world_pose/aux/camera_info"))
        assert len(listeners("/world_pose/rgb/camera_info")) == 1


ROTATIONS = [np.eye(3)] + [
    np.array(rows, float)
    for rows in (
        [[0, 0, 1], [-1, 0, 0], [0, -1, 0]],  # an optical frame's axes in those of its link (REP 103)
        [[-1, 0, 0], [0, -1, 0], [0, 0, 1]],  # half turns: w is 0
        [[1, 0, 0], [0, -1, 0], [0, 0, -1]],
        [[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]],
    )
]


@pytest.mark.parametrize("rotation", ROTATIONS)
def test_rotation_and_quaternion_are_each_others_inverse(rotation: np.ndarray) -> None:
    from cmdtrack_ros.ros.world import _quaternion
    from cmdtrack_ros.streams.frames import rotation_of

    np.testing.assert_allclose(rotation_of(_quaternion(rotation)), rotation, atol=1e-9)


def test_a_quarter_turn_about_z_turns_x_to_y() -> None:
    from geometry_msgs.msg import Quaternion

    from cmdtrack_ros.streams.frames import rotation_of

    half = 0.5**0.5
    np.testing.assert_allclose(rotation_of(Quaternion(z=half, w=half)) @ [1, 0, 0], [0, 1, 0], atol=1e-9)


class Stage:
    """A WorldPublisher on a node that is nobody's but the test's: publishers keep what they are given.

    Node, health, camera info and tf buffer are stand-ins: only what the publisher asks of them.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, target_frame: str = "") -> None:
        from types import SimpleNamespace

        from geometry_msgs.msg import Quaternion, TransformStamped, Vector3

        from cmdtrack_ros.cameras import Camera
        from cmdtrack_ros.modalities import AuxEncoding
        from cmdtrack_ros.ros import world

        self.out: dict[str, list] = {}
        self.asked: list[tuple] = []
        self.said: dict[str, str | None] = {}
        moved = TransformStamped()
        moved.transform.translation = Vector3(x=1.0, y=2.0, z=3.0)
        # Optical axes to a robot's: z forward becomes x.
        moved.transform.rotation = Quaternion(x=-0.5, y=0.5, z=-0.5, w=0.5)

        def lookup(*question: object) -> TransformStamped:
            self.asked.append(question)
            return moved

        def publisher(_: object, topic: str, *_depth: int, **_overrides: object) -> SimpleNamespace:
            kept = self.out.setdefault(topic, [])
            return SimpleNamespace(publish=kept.append, get_subscription_count=lambda: 1)

        tf2 = SimpleNamespace(
            Buffer=lambda: SimpleNamespace(lookup_transform=lookup),
            TransformListener=lambda *_: None,
            TransformException=LookupError,
        )
        monkeypatch.setattr(world, "tf2_ros", tf2)
        matrix = np.array([[FOCAL, 0, 79.5], [0, FOCAL, 59.5], [0, 0, 1]])
        info = SimpleNamespace(camera=lambda size: Camera(160, 120, matrix), waiting=False)
        health = SimpleNamespace(condition=self.said.__setitem__)
        node = SimpleNamespace(create_publisher=publisher, resolve_topic_name=str)
        monkeypatch.setattr(world, "qos_overrides", lambda *_: None)
        self.publisher = world.WorldPublisher(node, health, info, AuxEncoding(), target_frame)

    def show(self, state: object, stamp: int = 1) -> None:
        from types import SimpleNamespace

        from std_msgs.msg import Header

        from cmdtrack_ros.track import Track

        header = Header(frame_id="camera_optical")
        pair = SimpleNamespace(header=header, rgb=SimpleNamespace(header=header))
        track = Track(np.array([60.0, 40, 40, 40]), 0.9, state, target_id="patch", stamp_ns=stamp)
        self.publisher.publish(pair, [track], np.full((120, 160), 2000, np.uint16))

    @property
    def poses(self) -> list[PoseStamped]:
        return self.out["~/target_pose"]

    def actions(self) -> list[int]:
        return [marker.action for message in self.out["~/markers"] for marker in message.markers]


def test_no_pose_and_no_markers_of_a_target_that_is_lost_or_in_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    from cmdtrack_ros.track import TargetState

    stage = Stage(monkeypatch)
    stage.show(TargetState.TRACKING)
    assert len(stage.poses) == 1 and stage.actions() == [Marker.ADD] * 4
    stage.show(TargetState.UNCERTAIN, 2)  # shown to people, not to a robot
    assert len(stage.poses) == 1 and stage.actions() == [Marker.ADD] * 8
    stage.out["~/markers"].clear()
    stage.show(TargetState.LOST, 3)
    assert len(stage.poses) == 1 and stage.actions() == [Marker.DELETE] * 4
    stage.show(TargetState.LOST, 4)
    assert len(stage.poses) == 1 and len(stage.actions()) == 4


def test_a_pose_in_the_frame_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from cmdtrack_ros.track import TargetState

    stage = Stage(monkeypatch, target_frame="base_link")
    stage.show(TargetState.TRACKING)
    (pose,), (spread,) = stage.poses, stage.out["~/target_pose_with_covariance"]
    assert stage.asked[0][:2] == ("base_link", "camera_optical") and pose.header.frame_id == "base_link"
    at = pose.pose.position
    np.testing.assert_allclose([at.x, at.y, at.z], [1 + 2.0, 2, 3], atol=0.01)  # 2 m ahead of the camera
    variances = np.diag(spread.pose.covariance.reshape(6, 6))[:3]
    assert not np.isclose(variances[0], variances[2])  # depth is along x now
    assert np.isclose(variances[1], variances[2])  # a square box: the same to the side and up
