"""The tracker node: pairs two image streams, follows one target, publishes its box.

Callbacks run in a single-threaded executor and only store: the newest pair goes into a mailbox that one
worker thread, the owner of the network, empties. (rclpy has no component composition; the node is a process
of its own.)

Topics (the image topics are parameters, all can be remapped):
    rgb/image, aux/image    sensor_msgs Image or CompressedImage (also compressedDepth), in
    ~/target                TargetBox in: starts or moves the target. A stamp names the frame the user saw:
                            the target is started there and caught up through frames since.
                            Width and height 0: release it.
    ~/track                 TrackState out, one per RGB image, with that image's header. While RGB is silent
                            and aux is not, one per aux image, with that one's header.
    ~/detections            vision_msgs/Detection2DArray out, where vision_msgs is installed
    ~/overlay               Image out, while somebody subscribes
    /diagnostics            DiagnosticArray out, every second

When stamps jump back (a bag that loops) pairing starts afresh. A target given by `initial_box` is started again
when the recording is back at the frame it was started on; any other target stays where it was last seen.

A target from before a break (deactivation, a pause of the images, a jump back) is LOST until new images confirm it.
`initial_box` counts once after each configuration, and not where launch has started the process again after a crash.
"""

from __future__ import annotations

import signal
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import rclpy
from lifecycle_msgs.srv import ChangeState
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import Executor, ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image

from cmdtrack_ros.drawing import operator_picture
from cmdtrack_ros.errors import CmdtrackError
from cmdtrack_ros.modalities import AuxEncoding
from cmdtrack_ros.msg import TargetBox, TrackState
from cmdtrack_ros.ros.camera_info import CameraInfoInput
from cmdtrack_ros.ros.diagnostics import DiagnosticsPublisher, gpu_memory, steps_ms
from cmdtrack_ros.ros.filters import MESSAGE_FILTERS
from cmdtrack_ros.ros.health import STATUSES, Health
from cmdtrack_ros.ros.inputs import ImageInput
from cmdtrack_ros.ros.messages import Detection2DArray, to_detections, to_track_state
from cmdtrack_ros.ros.parameters import Parameters, Settings, rcl_reason
from cmdtrack_ros.ros.respawn import RespawnMark
from cmdtrack_ros.ros.rosout import forward_logging
from cmdtrack_ros.ros.supervision import Supervisor
from cmdtrack_ros.ros.worker import Worker
from cmdtrack_ros.ros.world import WorldPublisher
from cmdtrack_ros.streams.images import fill_image
from cmdtrack_ros.streams.mailbox import History, Mailbox
from cmdtrack_ros.streams.pairing import NearestPairFilter, Pair, PairOptions, stamp_ns
from cmdtrack_ros.track import Track
from cmdtrack_ros.tracking.pipeline import TARGET_REFUSED, Pipeline, Target
from cmdtrack_ros.tracking.requests import TargetRequests
from cmdtrack_ros.tracking.tracker import TrackerConfig, load_tracker

_FLUSH_PERIOD = 0.01  # s; how finely `aux_timeout` is kept
_RESULT_QUEUE_DEPTH = 10


def _encoding(settings: Settings) -> AuxEncoding:
    low, high = settings.thermal_range or (float("nan"), float("nan"))
    return AuxEncoding(low, high, settings.depth_max, settings.depth_unit, settings.range_smoothing)


def _pairing(settings: Settings) -> PairOptions:
    options = PairOptions(settings.slop, settings.aux_timeout, settings.aux_offset, settings.queue_size)
    return options.for_streams(1 if settings.modality == "rgb" else 2)


class TrackerNode(LifecycleNode):
    """See the module's text. Tracking is on while the lifecycle state is active."""

    def __init__(self) -> None:
        super().__init__("tracker")
        self._settings: Settings | None = None
        self._parameter_table = Parameters(self, lambda: self._settings is not None, self._apply_live)
        # Waits must not stop with simulated time.
        self._steady_clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._refuse_impossible_transitions()
        self._health = Health(self.get_logger())
        self._diagnostics = DiagnosticsPublisher(self)
        self._pipeline: Pipeline | None = None
        self._mark = RespawnMark(self.get_fully_qualified_name())
        self._worker: Worker | None = None
        self._supervisor: Supervisor | None = None  # while active
        self._inputs: dict[str, ImageInput] = {}
        self._camera_infos: list[CameraInfoInput] = []
        self._world: WorldPublisher | None = None  # while active, with depth
        self._opened = ExitStack()  # what `_stop` closes, last first
        # In every state, for the operator; and a lifecycle node without any timer sometimes stops answering services.
        self.create_timer(1.0, self._report_health, clock=self._steady_clock)

    def autostart(self) -> None:
        """Configure and activate where the parameter says so; after a refusal the node stays for repair."""
        if not self.get_parameter("autostart").value:
            return
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def _refuse_impossible_transitions(self) -> None:
        """Answer a request that the present state does not allow; of rclpy's own handler it ends the process."""
        service = self._service_change_state
        change_state = service.callback

        def answer(request: ChangeState.Request, response: ChangeState.Response) -> ChangeState.Response:
            asked = request.transition
            possible = {entry[0]: entry[1] for entry in self._state_machine.available_transitions}
            if asked.label in possible.values() if asked.label else asked.id in possible:
                return change_state(request, response)
            choice = " or ".join(f"{label} ({number})" for number, label in possible.items())
            self.get_logger().warning(
                f"refused lifecycle transition {asked.label or asked.id}: the node is "
                f"{self._state_machine.current_state[1]}, expected {choice or 'none any more'}"
            )
            response.success = False
            return response

        service.callback = answer

    def run(self, executor: Executor) -> None:
        """Start by itself where it shall, and serve callbacks until the context ends, whatever one of them raises."""
        self._survive(self.autostart)
        while self.context.ok():
            self._survive(executor.spin)

    def _survive(self, action: Callable[[], None]) -> None:
        try:
            action()
        except ExternalShutdownException:
            pass
        except Exception:
            if self.context.ok():  # else it was about to publish when the node was interrupted
                self._health.event("internal error", traceback.format_exc())

    # Lifecycle: rclpy swallows what these raise, hence `_attempt`.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._attempt("configure", self._configure)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        super().on_activate(state)
        return self._attempt("activate", self._activate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._attempt("clean up", self._clean_up)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._attempt("shut down", self._shut_down)

    def _attempt(self, what: str, action: Callable[[], None]) -> TransitionCallbackReturn:
        try:
            action()
            if what == "configure":
                self._health.condition("configure failed", None)
            return TransitionCallbackReturn.SUCCESS
        except (CmdtrackError, OSError) as error:
            self._transition_failed(what, str(error))
        except Exception:
            if self.context.ok():  # else interrupted meanwhile
                self._transition_failed(what, f"\n{traceback.format_exc()}")
        return TransitionCallbackReturn.FAILURE

    def _transition_failed(self, what: str, why: str) -> None:
        if what == "configure":
            self._health.condition("configure failed", why)
        else:
            self._health.event("transition failed", f"cannot {what}: {why}")

    def _configure(self) -> None:
        settings = self._parameter_table.settings()
        tracker = load_tracker(
            settings.weights or None,
            modality=settings.modality,
            sha256=settings.weights_sha256 or None,
            engine=settings.engine,
            device=settings.device,
            precision=settings.precision,
            threads=settings.threads,
            encoding=_encoding(settings),
            config=TrackerConfig(state=settings.states()),
        )
        topics = (self.resolve_topic_name(settings.rgb_topic), self.resolve_topic_name(settings.aux_topic))
        self._pipeline = Pipeline(
            tracker,
            registration=settings.registration,
            max_pixels=settings.max_pixels,
            topics=topics,
            report=self._report_fault,
        )
        self._respawned = bool(settings.initial_box) and self._mark.found()
        self._requests = TargetRequests(
            History(settings.target_history, settings.target_history_mb * 2**20),
            lambda text: self._health.event(TARGET_REFUSED, text),
            initial=None
            if self._respawned or not settings.initial_box
            else Target(np.array(settings.initial_box), "initial"),
            taken=self._leave_mark,
        )
        self._track_out = self.create_lifecycle_publisher(TrackState, "~/track", _RESULT_QUEUE_DEPTH)
        self._overlay_out = self.create_lifecycle_publisher(Image, "~/overlay", 2)
        self._detections_out = None
        if Detection2DArray is None:
            self.get_logger().info("vision_msgs is not installed: ~/detections is not published")
        else:
            self._detections_out = self.create_lifecycle_publisher(
                Detection2DArray, "~/detections", _RESULT_QUEUE_DEPTH
            )
        if not MESSAGE_FILTERS:
            self.get_logger().info("message_filters is not installed: using a stand-in for its Subscriber")
        self._settings = settings
        fell_back = settings.device == "cuda" and tracker.engine.device != "cuda"
        text = f"device: cuda was asked for, and no GPU found that the engine can use: {tracker.engine.name} runs"
        self._health.condition("engine fallback", text if fell_back else None)

    def _activate(self) -> None:
        settings = self._settings
        if self._worker and self._worker.left_behind:
            raise CmdtrackError("the network still works on a pair of before: clean up and configure, or restart")
        self._mailbox: Mailbox[tuple[int, Pair]] = Mailbox(settings.process_every_pair)
        self._pipeline.doubt()
        self._say_old_target()
        with ExitStack() as opened:  # closed here if one of these fails
            self._open_inputs(settings, opened)
            self._open_world(settings, opened)
            self._supervisor = Supervisor(
                self._health,
                self._inputs,
                self._pairing_filter,
                self._mailbox,
                _pairing(settings),
                lambda: self.get_clock().now().nanoseconds,
            )
            opened.callback(self._end_supervision)
            target_in = self.create_subscription(TargetBox, "~/target", self._on_target, QoSProfile(depth=5))
            opened.callback(self.destroy_subscription, target_in)
            self._flush_timer = self.create_timer(_FLUSH_PERIOD, self._pairing_filter.flush, clock=self._steady_clock)
            opened.callback(self.destroy_timer, self._flush_timer)
            self._flush_timer.cancel()  # runs only while an image waits
            opened.callback(self._close_requests)
            self._worker = Worker(self._mailbox, self._track_pair, self._health, self.context.ok)
            opened.callback(self._worker.stop)
            self._opened = opened.pop_all()
        self.get_logger().info(f"active: {settings.modality}, " + ", ".join(i.topic for i in self._inputs.values()))

    def _open_inputs(self, settings: Settings, opened: ExitStack) -> None:
        topics = {"RGB": ("rgb_topic", settings.rgb_topic), "auxiliary": ("aux_topic", settings.aux_topic)}
        if settings.modality == "rgb":
            del topics["auxiliary"]
        opened.callback(self._inputs.clear)
        for name, (parameter, topic) in topics.items():
            stream = ImageInput(self, name, parameter, topic, settings.reliability, settings.queue_size)
            opened.callback(stream.close)
            self._inputs[name] = stream
        self._pairing_filter = NearestPairFilter(
            list(self._inputs.values()),
            _pairing(settings),
            clock=None if settings.process_every_pair else time.monotonic_ns,
        )
        self._pairing_filter.registerCallback(self._on_pair)
        for stream in self._inputs.values():
            stream.registerCallback(self._wait_for_partner)

    def _open_world(self, settings: Settings, opened: ExitStack) -> None:
        self._world = None
        if settings.modality != "depth":
            return
        info = CameraInfoInput(self, "rgb_camera_info", self._inputs["RGB"].topic, settings.rgb_camera_info)
        opened.callback(info.close)
        self._camera_infos = [info]
        opened.callback(self._camera_infos.clear)
        self._world = WorldPublisher(self, self._health, info, _encoding(settings), settings.target_frame)
        opened.callback(self._world.close)

    def _stop(self) -> None:
        """End the worker and close the inputs; safe to call when nothing runs."""
        self._opened.close()

    def _end_supervision(self) -> None:
        if self.context.ok():  # else nobody hears that it is over
            self._supervisor.close()
        self._supervisor = None

    def _clean_up(self) -> None:
        for publisher in (self._track_out, self._overlay_out, self._detections_out):
            if publisher:
                self.destroy_lifecycle_publisher(publisher)
        self._pipeline = self._worker = None  # a worker left behind goes with its network
        for cause in ("network hangs", "engine fallback"):
            self._health.condition(cause, None)
        self._settings = None
        self._forget_target()

    def _shut_down(self) -> None:
        self._stop()
        if self._settings:
            self._clean_up()
        self._forget_target()

    def _forget_target(self) -> None:
        """The end is in order: `initial_box` counts again."""
        self._health.clear("tracking")
        with suppress(OSError):  # then the next node says that it waits for a target
            self._mark.remove()

    # Executor thread: store and return.

    def _apply_live(self, settings: Settings) -> None:
        self._settings = settings
        self._pipeline.configure(settings.states())
        if self._inputs:
            self._pairing_filter.configure(_pairing(settings))
            self._supervisor.configure(_pairing(settings))

    def _wait_for_partner(self, message: object) -> None:
        if self._pairing_filter.waiting:
            self._flush_timer.reset()
        else:
            self._flush_timer.cancel()

    def _on_pair(self, pair: Pair) -> None:
        if pair.restarted:
            self.get_logger().info("stamps jumped back: pairing starts afresh")
        self._mailbox.put((self._requests.offer(pair), pair))

    def _on_target(self, message: TargetBox) -> None:
        release = message.width == 0 and message.height == 0
        box = np.array([message.x, message.y, message.width, message.height])
        self._requests.request(None if release else Target(box, message.target_id), stamp_ns(message) or None)

    def _close_requests(self) -> None:
        if self._requests.close() and not (self._worker and self._worker.left_behind):
            self._pipeline.release()

    def _say_old_target(self) -> None:
        text = None
        if self._pipeline.unconfirmed:
            text = (
                "the target is from before a break of the images or of the node's activity: it is LOST until new "
                "images confirm it at its place; name it anew through ~/target where it has moved"
            )
        elif self._respawned:
            text = (
                "the node was started again after a crash, and what 'initial_box' meant has moved since: name the "
                "target through ~/target, or end the node in order and start it anew to have 'initial_box' taken"
            )
        self._health.condition("old target", text)

    def _report_health(self) -> None:
        summaries = dict.fromkeys(STATUSES, self._state_machine.current_state[1])
        values: dict[str, dict[str, Any]] = {name: {} for name in STATUSES}
        self._survive(self._check_health)
        if self._supervisor:
            values = self._supervisor.values()
            summaries["tracking"] = self._pipeline.state.name
        if self._pipeline:
            values["tracking"]["state"] = self._pipeline.state.name
            values["device"] |= {"engine": self._pipeline.engine.name, **gpu_memory()}
        reports = {}
        for name in STATUSES:
            level, message, causes = self._health.report(name, summaries[name])
            reports[name] = (level, message, values[name] | causes)
        self._diagnostics.publish(self._pipeline.engine.device if self._pipeline else "none", reports)

    def _check_health(self) -> None:
        if self._worker:
            self._worker.check()
        if self._supervisor:
            self._look_after_inputs()
            self._requests.expire()
            self._say_old_target()
            self._supervisor.check(self._settings.data_timeout)

    def _look_after_inputs(self) -> None:
        for stream in (*self._inputs.values(), *self._camera_infos):
            stream.follow_publishers()
        if all(stream.seconds_silent() > self._settings.data_timeout for stream in self._inputs.values()):
            self._pairing_filter.flush(everything=True)  # the end of a replay: no partner will come

    # Worker thread: owns the pipeline.

    def _track_pair(self, item: tuple[int, Pair]) -> None:
        began = time.monotonic_ns()
        number, pair = item
        try:
            due = self._requests.due(number, pair)
            if due.release:
                self._pipeline.release()
                self.get_logger().info("target released")
            track = self._pipeline.process(pair, due.target, due.since)
        except Exception:
            self._requests.refuse("an internal error, see the log")
            raise
        self._requests.settle(track)
        if track is None or not self._worker.runs_here():
            return
        if track.started:
            self._respawned = False
            box = np.round(track.box, 1).tolist()
            self.get_logger().info(f"target '{track.target_id}' at {box}: {track.state.name}")
        self._publish(pair, track, began)

    def _report_fault(self, cause: str, text: str) -> None:
        if cause == TARGET_REFUSED:  # the requests report it, by the target's name
            self._requests.refuse(text)
        else:
            self._health.event(cause, text)

    def _leave_mark(self) -> None:
        try:
            self._mark.leave()
        except OSError as error:
            self._health.condition(
                "no respawn guard",
                f"{error}: a node that is started again after a crash will take 'initial_box' anew; set ROS_HOME to a "
                "folder that can be written",
            )

    def _publish(self, pair: Pair, track: Track, began: int) -> None:
        """Send out the result of a pair that the worker took at `began` (ns)."""
        latency = (self.get_clock().now().nanoseconds - track.stamp_ns) * 1e-9
        ready = time.monotonic_ns()
        track = replace(track, latency=latency)
        self._track_out.publish(to_track_state(pair.header, track))
        if self._detections_out:
            self._detections_out.publish(to_detections(pair.header, track))
        if self._world:
            self._world.publish(pair, [track], self._pipeline.aux)
        if self._overlay_out.get_subscription_count():
            picture = operator_picture(*self._pipeline.pictures(), track)
            self._overlay_out.publish(fill_image(Image(header=pair.header), picture, "rgb8"))
        steps = steps_ms(pair, began, ready, latency) | {"publication": (time.monotonic_ns() - ready) * 1e-6}
        self._supervisor.note(replace(track, times_ms={**track.times_ms, **steps}))


def main() -> None:
    """Run the node until it is interrupted."""
    cv2.setNumThreads(1)  # crops are too small to share, and a pool's idle threads spin
    try:
        rclpy.init()
        node = TrackerNode()
    except (ParameterException, RuntimeError) as error:  # rclpy's RCLError, a RuntimeError, has no public name
        raise SystemExit(f"tracker_node: cannot start: {rcl_reason(error)}") from error
    forward_logging(node.get_logger())
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        node.run(executor)
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # ros2 launch sends a second one while this cleans up
        executor.shutdown()  # else its finaliser may find the context gone, and print a traceback
        node._shut_down()
        node.destroy_node()
        rclpy.try_shutdown()
