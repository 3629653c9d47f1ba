"""What the running node takes in: transports, and quality of service that its user overrides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not importable: run `make test`, or source ROS 2")

import cv2  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from robot import HEIGHT, WIDTH, Robot, Tracker, image, jpeg, running, scene, to_time  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402

pytestmark = pytest.mark.ros


def png(i: int, stamp: int) -> CompressedImage:
    message = CompressedImage(format="mono8; png compressed mono8")
    message.header.stamp = to_time(stamp)
    message.data = cv2.imencode(".png", scene(i)[0][..., 1])[1].tobytes()
    return message


def published_anew(robot: Robot, publisher: rclpy.publisher.Publisher, kind: type, topic: str):
    robot.node.destroy_publisher(publisher)
    return robot.node.create_publisher(kind, topic, QoSProfile(depth=100))


def subscription(robot: Robot, topic: str) -> tuple[str, ReliabilityPolicy]:
    (info,) = robot.node.get_subscriptions_info_by_topic(topic) or (None,)
    return (info.topic_type, info.qos_profile.reliability) if info else ("", ReliabilityPolicy.UNKNOWN)


def test_compressed_topics_are_found_and_qos_overrides_outlive_a_new_subscription(
    tmp_path: Path, repository: Path
) -> None:
    robot = Robot("/inputs")
    robot.rgb = published_anew(robot, robot.rgb, CompressedImage, "rgb/image/compressed")
    overrides = {
        "qos_overrides./inputs/aux/image.subscription.reliability": "best_effort",
        "qos_overrides./inputs/tracker/overlay.publisher.reliability": "best_effort",
    }
    with running(tmp_path, repository, robot, reliability="reliable", aux_timeout=1.0, **overrides) as tracker:
        tracker.wait_for("RGB: nobody publishes /inputs/rgb/image, taking /inputs/rgb/image/compressed")
        robot.wait("a result of both", lambda: any(r.has_rgb and r.has_aux for r in robot.play(1, jpeg)))
        robot.send_target(scene(robot.frame)[1])
        assert robot.play(3, jpeg)[-1].state == robot.tracks[-1].STATE_TRACKING
        assert subscription(robot, "/inputs/rgb/image/compressed")[1] == ReliabilityPolicy.RELIABLE
        assert subscription(robot, "/inputs/aux/image") == ("sensor_msgs/msg/Image", ReliabilityPolicy.BEST_EFFORT)
        robot.wait("diagnostics", lambda: robot.play(1, jpeg, answered=False) and robot.diagnostics)
        assert robot.values()["auxiliary subscription"] == "sensor_msgs/msg/Image, best effort"
        (overlay,) = robot.node.get_publishers_info_by_topic("/inputs/tracker/overlay")
        assert overlay.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT

        robot.aux = published_anew(robot, robot.aux, CompressedImage, "aux/image")
        compressed = ("sensor_msgs/msg/CompressedImage", ReliabilityPolicy.BEST_EFFORT)
        robot.wait("a subscription of the other type", lambda: subscription(robot, "/inputs/aux/image") == compressed)
        robot.rgb = published_anew(robot, robot.rgb, Image, "rgb/image")
        robot.wait("the raw topic, now that it is published", lambda: any(r.has_aux for r in robot.play(2, aux=png)))
        assert robot.play(3, aux=png)[-1].has_aux


def test_an_override_that_no_policy_has_keeps_the_node_inactive(tmp_path: Path, repository: Path) -> None:
    overrides = {"qos_overrides./inputs/rgb/image.subscription.depth": "-1"}
    tracker = Tracker(tmp_path, repository, "/inputs", device="cpu", **overrides)
    try:
        tracker.wait_for(
            r"'qos_overrides./inputs/rgb/image.subscription.depth': expected a whole number from 1 to 1000"
        )
        tracker.close()
    finally:
        tracker.process.kill()


def test_thermal_range_is_looked_at_while_it_is_set(tmp_path: Path, repository: Path) -> None:
    kelvin = np.tile(np.linspace(27315, 33315, WIDTH).astype(np.uint16), (HEIGHT, 1))  # 0 to 60 degrees Celsius

    def thermal(_: int, stamp: int) -> Image:
        return image(kelvin, "mono16", stamp)

    def row() -> np.ndarray:
        """Grey along the last picture, above its label."""
        robot.play(2, aux=thermal, answered=False)
        return np.frombuffer(pictures[-1].data, np.uint8).reshape(HEIGHT, WIDTH, 3)[0, :, 0] if pictures else np.ones(1)

    robot, pictures = Robot("/thermal_range"), []
    with running(tmp_path, repository, robot, aux_timeout=1.0):
        subscription = robot.node.create_subscription(Image, "tracker/aux_picture", pictures.append, 10)
        robot.wait("the picture over the image's own range", lambda: row()[0] == 0 and row()[-1] == 255)
        for name, value in (("thermal_unit", "centikelvin"), ("thermal_range", [30.0, 90.0])):
            assert robot.set(name, value).successful
        robot.wait(
            "the picture over 30 to 90 degrees", lambda: row()[-1] in range(126, 129) and row()[WIDTH // 2 - 1] == 0
        )
        assert robot.set("thermal_range", []).successful
        robot.wait("the image's range again", lambda: row()[0] == 0 and row()[-1] == 255)
        robot.node.destroy_subscription(subscription)
