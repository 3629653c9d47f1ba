"""The target in space, from depth: ~/target_pose, the same with covariance, and ~/markers.

Nothing is computed while nobody listens.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from geometry_msgs.msg import Point, PoseStamped, PoseWithCovarianceStamped, Quaternion
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode
from rclpy.time import Time
from std_msgs.msg import ColorRGBA, Header

from cmdtrack_ros.cameras import Camera
from cmdtrack_ros.errors import CmdtrackError, ConfigError
from cmdtrack_ros.modalities import AuxEncoding
from cmdtrack_ros.ros.camera_info import CameraInfoInput
from cmdtrack_ros.ros.health import Health
from cmdtrack_ros.ros.qos import qos_overrides
from cmdtrack_ros.streams.frames import pose_of
from cmdtrack_ros.streams.pairing import Pair
from cmdtrack_ros.track import TargetState, Track
from cmdtrack_ros.tracking.world import Place, TargetDepth, inside, locate

try:
    from visualization_msgs.msg import Marker, MarkerArray
except ImportError:
    MarkerArray = None
try:
    import tf2_ros
except ImportError:
    tf2_ros = None

_QUEUE_DEPTH = 10
_PATIENCE_SECONDS = 1.0  # without a pose, until it is said
_TRANSFORM_SECONDS = 0.05  # waited for a transform: the worker has other things to do
_TRAIL_SECONDS = 10.0
_MARKER_SECONDS = 2.0  # markers outlive the node by this
_ANY_ANGLE = math.pi**2 / 3  # rad^2: variance of an angle that may be any
_COLOURS = {TargetState.TRACKING: (0.1, 0.9, 0.2), TargetState.UNCERTAIN: (1.0, 0.7, 0.0)}


class NoPoseError(CmdtrackError):
    """Why a target has no place in space."""


@dataclass
class _Target:
    """What is remembered of one target; the trail has stamp (ns) and position."""

    depth: TargetDepth
    trail: deque[tuple[int, np.ndarray]]


@dataclass(frozen=True)
class _Frame:
    """The frame that results are in: its name, and rotation (3, 3) and origin (3,) of the camera in it."""

    name: str
    rotation: np.ndarray
    origin: np.ndarray


class WorldPublisher:
    """Publishes where targets are. `publish` is for the worker, all else for the executor's thread.

    Args:
        info: of the RGB camera.
        target_frame: empty for that of the RGB images.
    """

    def __init__(
        self, node: LifecycleNode, health: Health, info: CameraInfoInput, encoding: AuxEncoding, target_frame: str
    ) -> None:
        self._node, self._health, self._info, self._encoding = node, health, info, encoding
        self._target_frame = target_frame
        self._targets: dict[str, _Target] = {}
        self._shown: set[str] = set()  # names of targets that have markers
        self._missing_since: float | None = None
        self._buffer = self._listener = None
        if target_frame and tf2_ros is None:
            raise ConfigError("parameter 'target_frame': tf2_ros is not installed (apt: ros-$ROS_DISTRO-tf2-ros-py)")
        if target_frame:
            self._buffer = tf2_ros.Buffer()
            self._listener = tf2_ros.TransformListener(self._buffer, node)
        self._pose_out = self._publisher(PoseStamped, "~/target_pose")
        self._spread_out = self._publisher(PoseWithCovarianceStamped, "~/target_pose_with_covariance")
        self._outputs = [self._pose_out, self._spread_out]
        if MarkerArray is None:
            node.get_logger().info("visualization_msgs is not installed: ~/markers is not published")
        else:
            self._markers_out = self._publisher(MarkerArray, "~/markers")
            self._outputs.append(self._markers_out)

    def _publisher(self, message_type: type, topic: str) -> Any:
        # Not the node's lifecycle ones: made while it is active, those would stay silent.
        overrides = qos_overrides(self._node, self._node.resolve_topic_name(topic), "publisher")
        return self._node.create_publisher(message_type, topic, _QUEUE_DEPTH, qos_overriding_options=overrides)

    def configure(self, encoding: AuxEncoding) -> None:
        """Another unit of depth from the next pair on."""
        self._encoding = encoding

    def close(self) -> None:
        """Nothing is published any more."""
        for publisher in self._outputs:
            self._node.destroy_publisher(publisher)
        if self._listener:
            self._listener.unregister()
        for cause in ("RGB camera info", "no target pose"):
            self._health.condition(cause, None)

    def publish(self, pair: Pair, tracks: Sequence[Track], depth: np.ndarray | None) -> None:
        """Where the targets of one pair are; poses are the first one's.

        Args:
            depth: HxW on the RGB image's pixels, in the sensor's own values; None where the pair has none.
        """
        if not any(publisher.get_subscription_count() for publisher in self._outputs):
            self._targets.clear()
            self._shown.clear()
            self._say(None)
            return
        seen = [track for track in tracks if track.state in _COLOURS]
        self._targets = {t.target_id: self._targets[t.target_id] for t in seen if t.target_id in self._targets}
        markers = self._deletions({track.target_id for track in seen})
        why: CmdtrackError | None = None
        for track in seen:
            try:
                camera = self._camera(depth)
                frame = self._frame(pair, camera)
                place = self._place(camera, track, depth)
            except CmdtrackError as error:
                why = error
                continue
            target, position = self._targets[track.target_id], frame.rotation @ place.position + frame.origin
            target.trail.append((track.stamp_ns, position))
            header = Header(stamp=pair.header.stamp, frame_id=frame.name)
            if track is tracks[0] and track.state is TargetState.TRACKING:
                self._publish_pose(header, place, position, frame)
            if MarkerArray is not None:
                markers += _markers(header, track, place, position, frame, target.trail)
                self._shown.add(track.target_id)
        if markers and MarkerArray is not None:
            self._markers_out.publish(MarkerArray(markers=markers))
        self._say(why)

    def _camera(self, depth: np.ndarray | None) -> Camera:
        if depth is None:
            raise NoPoseError("pairs have no depth image: look at the auxiliary stream and its pairing")
        if depth.ndim != 2 or depth.dtype == np.uint8:
            raise NoPoseError(f"expected a depth image of 16 bits or float, got {depth.dtype} of {depth.ndim} axes")
        return self._info.camera((depth.shape[0], depth.shape[1]))

    def _frame(self, pair: Pair, camera: Camera) -> _Frame:
        name = (pair.rgb.header.frame_id if pair.rgb else "") or camera.frame_id or pair.header.frame_id
        if not self._target_frame:
            return _Frame(name, np.eye(3), np.zeros(3))
        try:
            moved = self._buffer.lookup_transform(
                self._target_frame, name, Time.from_msg(pair.header.stamp), Duration(seconds=_TRANSFORM_SECONDS)
            ).transform
        except tf2_ros.TransformException as error:
            raise NoPoseError(f"parameter 'target_frame': no transform from {name!r}: {error}") from error
        return _Frame(self._target_frame, *pose_of(moved))

    def _place(self, camera: Camera, track: Track, depth: np.ndarray) -> Place:
        target = self._targets.get(track.target_id)
        if target is None or track.started:
            target = self._targets[track.target_id] = _Target(TargetDepth(), deque())
        while target.trail and not 0 <= track.stamp_ns - target.trail[0][0] <= _TRAIL_SECONDS * 1e9:
            target.trail.popleft()
        rows, columns = inside(track.box, camera.width, camera.height)
        metres = self._encoding.metres(depth[rows, columns])
        box = track.box - [columns.start, rows.start, 0, 0]
        reading = target.depth.update(metres, box, min(camera.focal), track.stamp_ns)
        place = reading and locate(camera, track.box, reading)
        if place is None:
            raise NoPoseError(
                f"target '{track.target_id}': too few of its pixels have a depth: is it too near, too far, or of a "
                "surface that the sensor does not see?"
            )
        return place

    def _publish_pose(self, header: Header, place: Place, position: np.ndarray, frame: _Frame) -> None:
        pose = PoseStamped(header=header)
        pose.pose.position = _point(position)
        self._pose_out.publish(pose)
        spread = PoseWithCovarianceStamped(header=header)
        spread.pose.pose = pose.pose
        covariance = np.eye(6) * _ANY_ANGLE
        covariance[:3, :3] = frame.rotation @ place.covariance @ frame.rotation.T
        spread.pose.covariance = covariance.ravel()
        self._spread_out.publish(spread)

    def _deletions(self, seen: set[str]) -> list[Any]:
        gone, self._shown = self._shown - seen, self._shown & seen
        return [Marker(ns=name, id=number, action=Marker.DELETE) for name in sorted(gone) for number in range(4)]

    def _say(self, why: CmdtrackError | None) -> None:
        """Let the health have what has been missing for a while."""
        now = time.monotonic()
        self._missing_since = None if why is None else self._missing_since or now
        lasts = why is not None and now - (self._missing_since or now) >= _PATIENCE_SECONDS and not self._info.waiting
        for cause, kind in (("RGB camera info", ConfigError), ("no target pose", NoPoseError)):
            if lasts and isinstance(why, kind):
                self._health.condition(cause, str(why))
            elif not isinstance(why, kind):
                self._health.condition(cause, None)


def _quaternion(rotation: np.ndarray) -> Quaternion:
    """The unit quaternion of a rotation (3, 3): the axis that it leaves as it is, by the largest component first."""
    m = rotation
    k = np.array(
        [
            [m[0, 0] - m[1, 1] - m[2, 2], m[1, 0] + m[0, 1], m[2, 0] + m[0, 2], m[2, 1] - m[1, 2]],
            [0, m[1, 1] - m[0, 0] - m[2, 2], m[2, 1] + m[1, 2], m[0, 2] - m[2, 0]],
            [0, 0, m[2, 2] - m[0, 0] - m[1, 1], m[1, 0] - m[0, 1]],
            [0, 0, 0, np.trace(m)],
        ]
    )
    x, y, z, w = np.linalg.eigh(k, UPLO="U")[1][:, -1].tolist()
    return Quaternion(x=x, y=y, z=z, w=w)


def _point(position: np.ndarray) -> Point:
    x, y, z = position.tolist()
    return Point(x=x, y=y, z=z)


def _markers(
    header: Header,
    track: Track,
    place: Place,
    position: np.ndarray,
    frame: _Frame,
    trail: deque[tuple[int, np.ndarray]],
) -> list[Any]:
    """Box (id 0), point (1), trail (2) and text (3) of one target, in the namespace of its name."""
    colour = dict(zip("rgb", _COLOURS[track.state]))
    kinds = ((Marker.CUBE, 0.3), (Marker.SPHERE, 1.0), (Marker.LINE_STRIP, 0.8), (Marker.TEXT_VIEW_FACING, 1.0))
    lifetime = Duration(seconds=_MARKER_SECONDS).to_msg()
    made = [
        Marker(
            header=header, ns=track.target_id, id=number, type=kind, lifetime=lifetime, color=ColorRGBA(**colour, a=a)
        )
        for number, (kind, a) in enumerate(kinds)
    ]
    box, point, path, text = made
    for marker in (box, point, text):
        marker.pose.position = _point(position)
    box.pose.orientation = _quaternion(frame.rotation)
    box.scale.x, box.scale.y, box.scale.z = np.maximum(place.size, 0.02).tolist()
    point.scale.x = point.scale.y = point.scale.z = 0.1
    path.scale.x, path.points = 0.02, [_point(at) for _, at in trail]
    text.scale.z = 0.15
    text.text = f"{track.target_id} {np.linalg.norm(place.position):.2f} m {track.score:.2f}".strip()
    return made
