"""The target in space over real DDS: a patch before a wall, whose distances are known."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not importable: run `make test`, or source ROS 2")

from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped  # noqa: E402
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
    with running(tmp_path, repository, robot, modality="depth") as tracker:
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

        before = len(ears.poses)
        ears.see(garbage)
        ears.see()
        assert len(ears.poses) > before and all(abs(p.pose.position.z - NEAR) < 0.02 for p in ears.poses[before:])
        robot.wait("a real change", lambda: ears.see(garbage) or abs(ears.poses[-1].pose.position.z - 0.5) < 0.02)

        del ears.markers[:]
        robot.send_target((0, 0, 0, 0))
        robot.wait(
            "the deletion", lambda: ears.see() or len([m for m in ears.markers if m.action == Marker.DELETE]) == 4
        )
        before = len(ears.poses)
        ears.see()
        assert robot.tracks[-1].state == TrackState.STATE_IDLE and len(ears.poses) == before
