"""A window with the tracker's live picture, in which a target is chosen.

    ros2 run cmdtrack_ros select_target [--node /tracker] [--topic /camera/color/image_raw]

Drag a box around the target, or click on it to have a box proposed. The choice goes to `~/set_target` with the stamp of
the picture that was shown when the button went down, so a slow hand still means what it saw; the picture stands still
meanwhile. The answer and the targets that are followed are shown.

Keys: Esc drops the box that is being dragged, s gives up all targets (`~/stop`), r starts over (`~/reset`), q ends.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
import rclpy
from rcl_interfaces.srv import GetParameters
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from std_srvs.srv import Trigger

from cmdtrack_ros.drawing import TEXT, WHITE, draw_box, draw_text, operator_picture
from cmdtrack_ros.errors import CmdtrackError, ConfigError, ImageError
from cmdtrack_ros.msg import TrackState
from cmdtrack_ros.ros.inputs import ImageInput
from cmdtrack_ros.ros.messages import from_track_state
from cmdtrack_ros.srv import SetTarget
from cmdtrack_ros.streams.images import MAX_PIXELS, to_rgb
from cmdtrack_ros.track import Track

TITLE = "select target"
_HELP = "drag a box or click on the target | s stop, r reset, q quit"
_CLICK_SIDE = 4  # px; what is dragged by less is a click
_IMAGES = {"sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"}
_PATIENCE = 10.0  # s to wait for the tracker node


class Chosen(NamedTuple):
    """x, y, width, height in px of the picture; a point where width and height are 0."""

    x: float
    y: float
    width: float = 0.0
    height: float = 0.0


class Mouse:
    """Turns the left button's events into a choice.

    Attributes:
        drag: (4,) xywh px, the box while it is dragged, else None.
    """

    def __init__(self) -> None:
        self._start: tuple[int, int] | None = None
        self.drag: np.ndarray | None = None

    @property
    def pressed(self) -> bool:
        return self._start is not None

    def drop(self) -> None:
        """Forget the box that is being dragged."""
        self._start = self.drag = None

    def event(self, kind: int, x: int, y: int) -> Chosen | None:
        """An event of OpenCV's mouse callback; the choice where the button came up with one."""
        if kind == cv2.EVENT_LBUTTONDOWN:
            self._start, self.drag = (x, y), None
        elif self._start and kind in (cv2.EVENT_MOUSEMOVE, cv2.EVENT_LBUTTONUP):
            corner, size = np.minimum(self._start, (x, y)), np.abs(np.subtract(self._start, (x, y)))
            self.drag = np.concatenate([corner, size]).astype(np.float64)
            if kind == cv2.EVENT_LBUTTONUP:
                start, box = self._start, self.drag
                self.drop()
                return Chosen(*box.tolist()) if min(box[2:]) >= _CLICK_SIDE else Chosen(*map(float, start))
        return None


class Selector:
    """What the window shows and does; without the window itself.

    Args:
        node: to subscribe and to ask with; whoever calls spins it.
        tracker: full name of the tracker node.
        topic: of the pictures; they must be the tracker's RGB images.
    """

    def __init__(self, node: Node, tracker: str, topic: str) -> None:
        self._node, self._tracker = node, tracker
        self.mouse = Mouse()
        self.told = _HELP
        self._newest: Any = None  # message
        self._shown: tuple[Any, np.ndarray] | None = None  # message and its picture
        self._tracks: list[Track] = []  # of one image
        self._images = ImageInput(node, "RGB", "--topic", topic, "auto", "auto", depth=1)
        self._images.registerCallback(self._on_image)
        node.create_timer(1.0, self._images.follow_publishers)
        node.create_subscription(TrackState, f"{tracker}/track", self._on_track, QoSProfile(depth=5))
        self._set_target = node.create_client(SetTarget, f"{tracker}/set_target")
        self._triggers = {key: node.create_client(Trigger, f"{tracker}/{name}") for key, name in _TRIGGERS.items()}

    def on_mouse(self, kind: int, x: int, y: int, *_: object) -> None:
        """OpenCV's mouse callback."""
        chosen = self.mouse.event(kind, x, y)
        if chosen and self._shown:
            self._ask(chosen, self._shown[0].header.stamp)

    def on_key(self, key: int) -> bool:
        """What a key does; False ends it all."""
        letter = chr(key) if 0 <= key < 128 else ""
        if key == _ESCAPE:
            self.mouse.drop()
        elif letter in self._triggers:
            self._call(self._triggers[letter], Trigger.Request(), lambda answer: answer.message)
        return letter != "q"

    def picture(self) -> np.ndarray | None:
        """HxWx3 uint8 RGB as it is to be shown now; None before there is one."""
        if not self.mouse.pressed and self._newest is not None:
            self._convert(self._newest)
        if self._shown is None:
            return None
        picture = self._shown[1]
        canvas = operator_picture(picture, None, self._tracks)
        if self.mouse.drag is not None:
            draw_box(canvas, self.mouse.drag, WHITE, dash=6)
        draw_text(canvas, self.told, (8, canvas.shape[0] - 8), TEXT, max(canvas.shape[1] / 900, 0.6))
        return canvas

    def _convert(self, message: Any) -> None:
        try:
            self._shown = message, to_rgb(message, MAX_PIXELS)
        except ImageError as error:
            self.told = f"{self._images.topic}: {error}"
        self._newest = None

    def _ask(self, chosen: Chosen, stamp: Any) -> None:
        request = SetTarget.Request(stamp=stamp, target_id="selected", **chosen._asdict())
        request.point = chosen.width == 0
        self._call(self._set_target, request, _said)

    def _call(self, client: Any, request: Any, say: Callable[[Any], str]) -> None:
        if not client.service_is_ready():
            self.told = f"{client.srv_name} is not there: is the tracker running?"
            return
        self.told = f"{client.srv_name} ..."
        client.call_async(request).add_done_callback(lambda future: self._tell(say(future.result())))

    def _tell(self, text: str) -> None:
        self.told = text
        self._node.get_logger().info(text)

    def _on_image(self, message: Any) -> None:
        self._newest = message

    def _on_track(self, message: TrackState) -> None:
        track = from_track_state(message)
        others = [one for one in self._tracks if one.stamp_ns == track.stamp_ns and one.target_id != track.target_id]
        self._tracks = [*others, track]


_ESCAPE = 27
_TRIGGERS = {"s": "stop", "r": "reset"}


def _said(answer: SetTarget.Response) -> str:
    if not answer.accepted:
        return f"refused: {answer.reason}"
    return f"followed from {answer.x:.0f}, {answer.y:.0f}, {answer.width:.0f} x {answer.height:.0f}"


def find_topic(node: Node, tracker: str, spin: Callable[[Any], None]) -> str:
    """The topic of a tracker's RGB images, by its parameter and what it is subscribed to, remapped or not.

    Args:
        spin: lets `node` work until a future is done.

    Raises:
        ConfigError: no such node, or what is found is not clear.
    """
    client = node.create_client(GetParameters, f"{tracker}/get_parameters")
    if not client.wait_for_service(_PATIENCE):
        raise ConfigError(
            f"no node {tracker} within {_PATIENCE:g} s: start the tracker, or name it with --node; `ros2 node list` "
            "shows what there is"
        )
    future = client.call_async(GetParameters.Request(names=["rgb_topic"]))
    spin(future)
    values = future.result().values if future.done() else []
    if not values:
        raise ConfigError(f"{tracker} has no parameter 'rgb_topic': is it a tracker? Name it with --node")
    namespace, _, name = tracker.rpartition("/")
    subscribed = node.get_subscriber_names_and_types_by_node(name, namespace or "/")
    images = sorted(topic for topic, types in subscribed if _IMAGES & set(types))
    asked = values[0].string_value
    asked = asked if asked.startswith("/") else f"{namespace}/{asked}"
    if asked in images:
        return asked
    if len(images) == 1:
        return images[0]
    raise ConfigError(
        f"which topic has the RGB images of {tracker}? Name it with --topic: it is subscribed to "
        f"{', '.join(images) or 'none, as it is not active'}"
    )


def check_window() -> None:
    """ConfigError where this machine cannot show a window."""
    if re.search(r"^\s*GUI:\s*NONE", cv2.getBuildInformation(), re.MULTILINE):
        raise ConfigError(
            f"the OpenCV of {sys.executable} has no windows (opencv-python-headless or -contrib-python-headless): "
            "uninstall it and take apt's python3-opencv or pip's opencv-contrib-python, or name the target by "
            "`ros2 service call`: docs/targets.md"
        )
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise ConfigError(
            "no display (DISPLAY and WAYLAND_DISPLAY are not set): run it on a computer with a screen in the same "
            "ROS_DOMAIN_ID, or name the target by `ros2 service call`: docs/targets.md"
        )


def main() -> None:
    """Show the window until it is closed."""
    rclpy.init()
    parser = argparse.ArgumentParser(prog="select_target", description="Choose the tracker's target in a window.")
    parser.add_argument("--node", default="/tracker", help="full name of the tracker node; default: /tracker")
    parser.add_argument("--topic", default="", help="topic of its RGB images; default: what the tracker says")
    arguments = parser.parse_args(rclpy.utilities.remove_ros_args(sys.argv)[1:])
    node = Node("select_target")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        check_window()
        tracker = arguments.node if arguments.node.startswith("/") else f"/{arguments.node}"
        topic = arguments.topic or find_topic(
            node, tracker, lambda future: executor.spin_until_future_complete(future, _PATIENCE)
        )
        _show(Selector(node, tracker, topic), executor)
    except CmdtrackError as error:
        raise SystemExit(f"select_target: {error}") from error
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()


def _show(selector: Selector, executor: SingleThreadedExecutor) -> None:
    threading.Thread(target=executor.spin, daemon=True).start()
    cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
    cv2.setMouseCallback(TITLE, selector.on_mouse)
    going = True
    while going and rclpy.ok() and cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) > 0:
        picture = selector.picture()
        if picture is not None:
            cv2.imshow(TITLE, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        going = selector.on_key(cv2.waitKey(15) & 0xFF)
    cv2.destroyAllWindows()
