"""How frames lie to each other: rotations, and the tree of tf's fixed transforms. No rclpy."""

from __future__ import annotations

import math
from collections import deque
from typing import Any, NamedTuple

import cv2
import numpy as np


class Pose(NamedTuple):
    """A frame in another one: a point p of it is rotation (3, 3) @ p + translation (3,) there, m."""

    rotation: np.ndarray
    translation: np.ndarray


def rotation_from(roll: float, pitch: float, yaw: float) -> np.ndarray:
    """(3, 3), of turns about the fixed axes x, y, z (rad), as tf's static_transform_publisher takes them."""
    x, y, z = (cv2.Rodrigues(np.array(axis, np.float64))[0] for axis in ((roll, 0, 0), (0, pitch, 0), (0, 0, yaw)))
    return z @ y @ x


def turns_of(rotation: np.ndarray) -> tuple[float, float, float]:
    """Roll, pitch, yaw (rad) of which `rotation_from` makes a (3, 3) rotation."""
    roll = math.atan2(rotation[2, 1], rotation[2, 2])
    pitch = math.atan2(-rotation[2, 0], math.hypot(rotation[2, 1], rotation[2, 2]))
    return roll, pitch, math.atan2(rotation[1, 0], rotation[0, 0])


def rotation_of(q: Any) -> np.ndarray:
    """(3, 3) of a unit quaternion; https://en.wikipedia.org/wiki/Quaternions_and_spatial_rotation."""
    x, y, z, w = q.x, q.y, q.z, q.w
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + 2 * w * skew + 2 * skew @ skew


def pose_of(transform: Any) -> Pose:
    """Of a geometry_msgs/Transform."""
    at = transform.translation
    return Pose(rotation_of(transform.rotation), np.array([at.x, at.y, at.z]))


class FixedFrames:
    """The transforms of /tf_static messages; a later one of the same child takes the place of an earlier one."""

    def __init__(self) -> None:
        self._parents: dict[str, tuple[str, Pose]] = {}

    def add(self, message: Any) -> None:
        """Take a tf2_msgs/TFMessage."""
        for transform in message.transforms:
            self._parents[transform.child_frame_id] = transform.header.frame_id, pose_of(transform.transform)

    def between(self, target: str, source: str) -> Pose | None:
        """The frame `source` in the frame `target`; None where no transforms connect them."""
        found = {source: Pose(np.eye(3), np.zeros(3))}
        waiting = deque(found)
        while waiting and target not in found:
            at = waiting.popleft()
            for neighbour, step in self._neighbours(at):
                if neighbour not in found:
                    rotation, translation = found[at]
                    found[neighbour] = Pose(step.rotation @ rotation, step.rotation @ translation + step.translation)
                    waiting.append(neighbour)
        return found.get(target)

    def _neighbours(self, frame: str) -> list[tuple[str, Pose]]:
        """Parent and children of a frame, and the frame in each."""
        near = [self._parents[frame]] if frame in self._parents else []
        for child, (parent, pose) in self._parents.items():
            if parent == frame:
                back = pose.rotation.T
                near.append((child, Pose(back, -back @ pose.translation)))
        return near
