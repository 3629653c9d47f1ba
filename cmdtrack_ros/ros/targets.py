"""The doors by which a target is named: topic, services, clicks and a detector. All lead to `TargetRequests`.

What they accept and refuse is in docs/targets.md.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
from geometry_msgs.msg import Point, PointStamped
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from std_srvs.srv import Trigger

from cmdtrack_ros.msg import TargetBox
from cmdtrack_ros.ros.health import Health
from cmdtrack_ros.ros.messages import Detection2DArray
from cmdtrack_ros.ros.parameters import Settings
from cmdtrack_ros.srv import SetTarget
from cmdtrack_ros.streams.pairing import stamp_ns
from cmdtrack_ros.tracking.pipeline import Pipeline
from cmdtrack_ros.tracking.requests import MAX_WAIT, Outcome, TargetRequests
from cmdtrack_ros.tracking.targets import Given, Target

_QUEUE_DEPTH = 5
_INACTIVE = "the tracker is not active: activate it first (ros2 lifecycle set <node> activate)"
_SWITCHED_OFF = "tracking was switched off"
_PATIENCE = 2 * MAX_WAIT  # s until a service answers that there is no answer; requests wait for MAX_WAIT themselves
# Between two looks at a detector's boxes while the target is LOST: most frames go on with the tracker's own search.
_LOOK_INTERVAL = 0.2


def make_target(
    box: tuple[float, float, float, float], name: str = "", class_id: str = "", given: Given = Given.BOX
) -> Target:
    """A target from a message's numbers: x, y, width, height in RGB pixels."""
    return Target(np.array(box, np.float64), name, class_id, given)


def initial_target(settings: Settings) -> Target | None:
    """The one of parameter `initial_box`."""
    return make_target(settings.initial_box, "initial") if settings.initial_box else None


class TargetDoors:
    """The node's services, which answer in every state, and its target topics, which are open while it is active.

    A service's answer waits for the frame that is meant, hence callbacks that await: in a group of their own, as the
    node's other callbacks must go on meanwhile.
    """

    def __init__(self, node: Node, health: Health) -> None:
        self._node, self._health = node, health
        self._requests: TargetRequests | None = None  # while active
        self._pipeline: Pipeline | None = None  # the same
        self._settings: Settings | None = None
        self._waiting: dict[Future, float] = {}  # answers that are awaited, and until when
        self._answered = node.create_guard_condition(lambda: None)  # wakes the executor, which then goes on with them
        self._clicks: _Clicks | None = None
        self._detector: _Detector | None = None
        group = ReentrantCallbackGroup()
        for kind, name, callback in (
            (SetTarget, "~/set_target", self._set_target),
            (Trigger, "~/stop", self._stop),
            (Trigger, "~/reset", self._reset),
        ):
            node.create_service(kind, name, callback, callback_group=group)

    def open(self, settings: Settings, requests: TargetRequests, pipeline: Pipeline, opened: ExitStack) -> None:
        """Let targets in; what is to be closed is put on `opened`. The pipeline says which targets there are."""
        self._settings, self._requests, self._pipeline = settings, requests, pipeline
        opened.callback(self._close)
        node = self._node
        topic = node.create_subscription(TargetBox, "~/target", self._on_target, QoSProfile(depth=_QUEUE_DEPTH))
        opened.callback(node.destroy_subscription, topic)
        if settings.click_topic:
            self._clicks = _Clicks(node, settings.click_topic, self._on_click)
            opened.callback(self._clicks.close)
        if settings.detections_topic:
            self._detector = _Detector(node, settings, requests, pipeline, self._health)
            opened.callback(self._detector.close)

    def look_after(self) -> None:
        """Follow publishers that come and go, and answer what nobody else does; to be called about once a second."""
        now = time.monotonic()
        for future in [future for future, end in list(self._waiting.items()) if now > end]:
            self._answer(future, Outcome(refused=f"no answer from the tracker within {_PATIENCE:g} s, see its log"))
        if self._clicks:
            self._clicks.follow_publishers()
        if self._detector:
            self._detector.check()

    def _close(self) -> None:
        self._requests = self._pipeline = self._clicks = self._detector = None
        for future in list(self._waiting):
            self._answer(future, Outcome(refused=_SWITCHED_OFF))

    def _on_target(self, message: TargetBox) -> None:
        release = message.width == 0 and message.height == 0
        box = message.x, message.y, message.width, message.height
        target = None if release else make_target(box, message.target_id, message.class_id)
        self._let_detector_start(not release)
        self._requests.request(target, stamp_ns(message) or None, name=message.target_id)

    def _on_click(self, point: Point, stamp: int | None) -> None:
        self._let_detector_start(True)
        self._requests.request(make_target((point.x, point.y, 0.0, 0.0), "click", given=Given.POINT), stamp)

    def _let_detector_start(self, allowed: bool) -> None:
        """Who gives up a target does not want the next detection in its place."""
        if self._detector:
            self._detector.may_start = allowed

    async def _set_target(self, request: SetTarget.Request, response: SetTarget.Response) -> SetTarget.Response:
        box = request.x, request.y, 0.0 if request.point else request.width, 0.0 if request.point else request.height
        given = Given.POINT if request.point else Given.BOX
        target = make_target(box, request.target_id, request.class_id, given)
        stamp = (request.stamp.sec * 10**9 + request.stamp.nanosec) or None
        self._let_detector_start(True)
        outcome = await self._ask(lambda answer: self._requests.request(target, stamp, answer))
        response.accepted, response.reason = outcome.box is not None, outcome.refused
        response.target_id = outcome.name
        if outcome.box is not None:
            response.x, response.y, response.width, response.height = (float(v) for v in outcome.box)
        return response

    async def _stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._let_detector_start(False)
        count = len(self._pipeline.names) if self._pipeline else 0
        outcome = await self._ask(lambda answer: self._requests.request(None, answer=answer))
        done = f"{count} targets are given up" if count > 1 else "the target is given up"
        done = done if count else "there was no target to give up"
        return _told(response, outcome, done)

    async def _reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._let_detector_start(True)
        initial = initial_target(self._settings) if self._settings else None
        outcome = await self._ask(lambda answer: self._requests.reset(initial, answer))
        then = "'initial_box' is started on the next image" if initial else "the tracker waits for a target"
        return _told(response, outcome, f"target, frames and ranges are forgotten; {then}")

    def _ask(self, ask: Callable[[Callable[[Outcome], None]], None]) -> Awaitable[Outcome]:
        """What becomes of a request; its answer may come from any thread."""
        future = Future(executor=self._node.executor)
        self._waiting[future] = time.monotonic() + _PATIENCE
        if self._requests is None:
            self._answer(future, Outcome(refused=_INACTIVE))
        else:
            ask(lambda outcome: self._answer(future, outcome))
        return future

    def _answer(self, future: Future, outcome: Outcome) -> None:
        if self._waiting.pop(future, None) is not None:  # the first answer counts
            future.set_result(outcome)
            self._answered.trigger()


def _told(response: Trigger.Response, outcome: Outcome, done: str) -> Trigger.Response:
    response.success, response.message = not outcome.refused, outcome.refused or done
    return response


class _Clicks:
    """Points on a topic: PointStamped, or the Point without a stamp that rqt_image_view publishes.

    Fast DDS holds one type a topic and process, so the subscription follows the publishers' type.
    """

    def __init__(self, node: Node, topic: str, click: Callable[[Point, int | None], None]) -> None:
        self._node, self._click = node, click
        self.topic = node.resolve_topic_name(topic)
        self._type: type | None = None
        self._subscription: Any = None
        self.follow_publishers()

    def follow_publishers(self) -> None:
        """Subscribe anew if the publishers now call for the other type."""
        types = {publisher.topic_type for publisher in self._node.get_publishers_info_by_topic(self.topic)}
        if self._type and not types:
            return
        wanted = PointStamped if types == {"geometry_msgs/msg/PointStamped"} else Point
        if wanted is self._type:
            return
        self.close()
        self._type = wanted
        self._subscription = self._node.create_subscription(wanted, self.topic, self._receive, _QUEUE_DEPTH)

    def close(self) -> None:
        if self._subscription:
            self._node.destroy_subscription(self._subscription)

    def _receive(self, message: Point | PointStamped) -> None:
        if isinstance(message, PointStamped):
            self._click(message.point, stamp_ns(message) or None)
        else:
            self._click(message, None)


class _Detector:
    """A detector's boxes: the best starts a target where there is none, each is looked at in turn for one that is LOST.

    A target of which is known what kind of thing it is, is looked for among the boxes of that kind.

    One request at a time is on its way.

    Attributes:
        may_start: whether a target may be started; not after somebody gave one up.
    """

    def __init__(
        self, node: Node, settings: Settings, requests: TargetRequests, pipeline: Pipeline, health: Health
    ) -> None:
        self._node, self._requests, self._pipeline, self._health = node, requests, pipeline, health
        self._classes = {name.strip() for name in settings.detections_class.split(",")} - {""}
        self._score = settings.detections_score
        self.topic = node.resolve_topic_name(settings.detections_topic)
        self.may_start = True
        self._asked = False
        self._next_look = -math.inf
        self._turn = 0
        self._subscription: Any = None
        if Detection2DArray is not None:
            qos = QoSProfile(depth=_QUEUE_DEPTH, reliability=ReliabilityPolicy.BEST_EFFORT)  # hears either kind
            self._subscription = node.create_subscription(Detection2DArray, self.topic, self._receive, qos)
        self.check()

    def check(self) -> None:
        """Say what keeps detections from coming."""
        self._health.condition("no detections", self._obstacle())

    def close(self) -> None:
        self._health.condition("no detections", None)
        if self._subscription:
            self._node.destroy_subscription(self._subscription)

    def _obstacle(self) -> str | None:
        if Detection2DArray is None:
            return (
                "parameter 'detections_topic' is set, and vision_msgs is not installed: "
                "sudo apt-get install ros-$ROS_DISTRO-vision-msgs, or set it to '' to go without"
            )
        wanted = "vision_msgs/msg/Detection2DArray"
        types = {publisher.topic_type for publisher in self._node.get_publishers_info_by_topic(self.topic)}
        if wanted in types:
            return None
        found = f"its publishers send {', '.join(sorted(types))}" if types else "it has no publisher"
        return f"{self.topic} (parameter 'detections_topic'): expected {wanted}, {found}. Is the detector running?"

    def _receive(self, message: Any) -> None:
        choice = None if self._asked else self._choice(message)
        if choice:
            self._asked = True
            self._requests.request(choice, stamp_ns(message) or None, self._done)

    def _choice(self, message: Any) -> Target | None:
        """What is to be made of a message now: a target of its own, or a place to look for one that is LOST."""
        if not self._pipeline.names:
            return next(iter(self._matches(message)), None) if self.may_start else None
        lost = self._pipeline.lost
        if not lost or time.monotonic() < self._next_look:
            return None
        found = self._matches(message)
        places = [one._replace(name=target.name) for target in lost for one in found if _may_be(one, target)]
        return places[self._turn % len(places)] if places else None

    def _done(self, outcome: Outcome) -> None:
        self._turn = 0 if outcome.box is not None else self._turn + 1
        self._next_look = time.monotonic() + _LOOK_INTERVAL
        self._asked = False

    def _matches(self, message: Any) -> list[Target]:
        """What passes the filters, best score first."""
        found = []
        for detection in message.detections:
            hypotheses = [r.hypothesis for r in detection.results if self._passes(r.hypothesis)]
            if hypotheses:
                best = max(hypotheses, key=lambda hypothesis: hypothesis.score)
                found.append((best.score, _from_detection(detection, best.class_id)))
        return [target for _, target in sorted(found, key=lambda entry: -entry[0])]

    def _passes(self, hypothesis: Any) -> bool:
        known = not self._classes or hypothesis.class_id in self._classes
        return known and hypothesis.score >= self._score  # NaN does not pass


def _may_be(detection: Target, target: Target) -> bool:
    return not target.class_id or detection.class_id == target.class_id


def _from_detection(detection: Any, class_id: str) -> Target:
    center, width, height = detection.bbox.center.position, detection.bbox.size_x, detection.bbox.size_y
    box = center.x - width / 2, center.y - height / 2, width, height
    return make_target(box, detection.id or class_id, class_id, Given.DETECTION)
