"""Registration in the running node: switched live, and watched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not importable: run `make test`, or source ROS 2")

from rclpy.serialization import serialize_message  # noqa: E402
from robot import HEIGHT, WIDTH, Robot, Tracker, image, running  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image  # noqa: E402

from cmdtrack_ros.data.bags import BagOptions, RawMessage, load_bag, write_messages  # noqa: E402
from cmdtrack_ros.evaluation.registration import as_registration  # noqa: E402
from cmdtrack_ros.modalities import AuxEncoder  # noqa: E402
from cmdtrack_ros.streams.images import to_rgb  # noqa: E402
from cmdtrack_ros.streams.registration import Registrar, Registration  # noqa: E402

pytestmark = pytest.mark.ros


def shapes(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    picture = np.full((HEIGHT, WIDTH), 110, np.uint8)
    for _ in range(50):
        centre = (int(rng.integers(WIDTH)), int(rng.integers(HEIGHT)))
        axes = (int(rng.integers(5, WIDTH // 10)), int(rng.integers(5, WIDTH // 10)))
        cv2.ellipse(picture, centre, axes, float(rng.integers(180)), 0, 360, int(rng.integers(256)), -1)
    return picture


MOVED = np.array([[1, 0, -WIDTH // 16], [0, 1, HEIGHT // 20], [0, 0, 1.0]])  # aux pixel -> RGB pixel


def rgb(i: int, stamp: int) -> Image:
    return image(cv2.cvtColor(shapes(i), cv2.COLOR_GRAY2RGB), "rgb8", stamp)


def knocked(i: int) -> np.ndarray:
    return cv2.warpPerspective(255 - shapes(i), np.linalg.inv(MOVED), (WIDTH, HEIGHT), borderValue=110)


def steady_aux(i: int, stamp: int) -> Image:
    return image(255 - shapes(i), "mono8", stamp)


def knocked_aux(i: int, stamp: int) -> Image:
    return image(knocked(i), "mono8", stamp)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[tuple[Tracker, Robot]]:
    robot, folder = Robot("/registration"), tmp_path_factory.mktemp("registration")
    with running(folder, repository, robot, modality="thermal", aux_timeout=1.0) as tracker:
        robot.connect()
        yield tracker, robot


def told(robot: Robot) -> bool:
    return any("registration off" in status.message for status in robot.diagnostics[-1].status)


def residual(robot: Robot) -> float | None:
    text = robot.values().get("registration residual (px)") if robot.diagnostics else None
    return None if text is None else float(text)


def wait_for_picture(robot: Robot, registered: np.ndarray) -> None:
    """Until the node shows this thermal image: its overlay is what the network sees of aux while RGB is silent."""
    expected, pictures = AuxEncoder("thermal")(registered), []
    subscription = robot.node.create_subscription(Image, "tracker/overlay", pictures.append, 10)

    def shown() -> bool:
        robot.play(2, None, lambda i, s: knocked_aux(7, s), answered=False)
        return bool(pictures) and np.array_equal(to_rgb(pictures[-1]), expected)

    robot.wait("the registered picture", shown)
    robot.node.destroy_subscription(subscription)


def test_knocked_camera_is_told_until_it_is_registered_live(node: tuple[Tracker, Robot]) -> None:
    _, robot = node

    def plays(aux, condition) -> bool:
        robot.play(5, rgb, aux)
        return condition()

    robot.wait("a residual", lambda: plays(steady_aux, lambda: residual(robot) is not None))
    assert residual(robot) < 4 and not told(robot), "a steady camera"
    robot.wait("the knock", lambda: plays(knocked_aux, lambda: told(robot)))
    assert residual(robot) == pytest.approx(np.hypot(*MOVED[:2, 2]), abs=6)
    refused = robot.set("registration", "homography")
    assert not refused.successful and "registration_homography" in refused.reason
    found = as_registration(MOVED)
    assert robot.set("registration_homography", list(found.registration_homography)).successful
    assert robot.set("registration", "homography").successful
    robot.wait("the end of it", lambda: plays(knocked_aux, lambda: not told(robot) and (residual(robot) or 99) < 4))
    wait_for_picture(robot, Registrar(found)(knocked(7), (HEIGHT, WIDTH), "thermal"))
    assert robot.set("registration", "none").successful


def test_camera_info_says_what_is_missing(node: tuple[Tracker, Robot]) -> None:
    tracker, robot = node
    assert robot.set("registration", "camera_info").successful

    def plays() -> bool:
        robot.play(5, rgb, steady_aux)
        return bool(tracker.lines("registration: .*camera_info"))

    robot.wait("what is missing", plays)
    assert robot.set("registration", "none").successful
    assert robot.play(5, rgb, steady_aux)[-1].has_aux


def calibration(focal: float, k1: float) -> CameraInfo:
    k = [focal, 0.0, WIDTH / 2, 0.0, focal, HEIGHT / 2, 0.0, 0.0, 1.0]
    info = CameraInfo(width=WIDTH, height=HEIGHT, k=k, d=[k1, 0.0, 0.0, 0.0], distortion_model="plumb_bob")
    info.header.frame_id = f"lens of {focal}"
    return info


def test_camera_info_gives_the_pictures_of_a_bag(node: tuple[Tracker, Robot], tmp_path: Path) -> None:
    """The same messages, in a bag and over DDS."""
    _, robot = node
    wanted = Registration("camera_info", registration_distance=3.0, aux_translation=(0.15, 0.0, 0.0))
    infos = {
        f"/registration/{name}/camera_info": info
        for name, info in (("rgb", calibration(300.0, 0.08)), ("aux", calibration(260.0, -0.05)))
    }
    images = {"/registration/rgb/image": rgb(7, 10**18), "/registration/aux/image": knocked_aux(7, 10**18)}
    messages = [
        RawMessage(topic, f"sensor_msgs/msg/{type(message).__name__}", 10**18, serialize_message(message))
        for topic, message in {**infos, **images}.items()
    ]
    bag = write_messages(tmp_path / "bag", messages, {"modality": "thermal"}, {})
    sequence = load_bag(bag, BagOptions(*images, registration=wanted))
    assert not np.array_equal(sequence.aux(0), knocked(7))

    publishers = [(robot.node.create_publisher(CameraInfo, topic, 10), info) for topic, info in infos.items()]
    for name, value in wanted.as_parameters().items():
        assert robot.set(name, value).successful
    timer = robot.node.create_timer(0.1, lambda: [publisher.publish(info) for publisher, info in publishers])
    robot.play(2, rgb, steady_aux)
    wait_for_picture(robot, sequence.aux(0))
    robot.node.destroy_timer(timer)
    assert robot.set("registration", "none").successful
