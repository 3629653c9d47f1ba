"""The tracker node: pairs two image streams, follows one target or several, publishes their boxes.

Callbacks run in a single-threaded executor and only store: the newest pair goes into a mailbox that one
worker thread, the owner of the network, empties. (rclpy has no component composition; the node is a process
of its own.)

Topics (the image topics are parameters, all can be remapped):
    rgb/image, aux/image    sensor_msgs Image or CompressedImage (also compressedDepth), in; aux also
                            event_camera_msgs/EventPacket, where that is installed
    ~/target                TargetBox in: starts or moves a target. A stamp names the frame the user saw:
                            the target is started there and caught up through frames since.
                            Width and height 0: release it.
    ~/set_target            SetTarget service: the same, or a point, with an answer
    ~/stop, ~/reset         Trigger services: give up the target; forget all and start `initial_box` again
    (click_topic, detections_topic: further sources of targets, see docs/targets.md)
    ~/track                 TrackState out, one per target and RGB image, with that image's header. While RGB is
                            silent and aux is not, one per aux image, with that one's header.
    ~/detections            vision_msgs/Detection2DArray out, where vision_msgs is installed
    ~/overlay               Image out, while somebody subscribes; ~/overlay/compressed: the same as JPEG
    ~/annotations           foxglove_msgs/ImageAnnotations out, where foxglove_msgs is installed
    ~/aux_picture           Image out, while somebody subscribes: the auxiliary image as the network sees it
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
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import fields, replace
from functools import partial
from typing import Any

import cv2
import numpy as np
import rclpy
from lifecycle_msgs.srv import ChangeState
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import Executor, ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import Image

from cmdtrack_ros.drawing import labelled_picture
from cmdtrack_ros.errors import CmdtrackError
from cmdtrack_ros.msg import TrackState
from cmdtrack_ros.ros.camera_info import CameraInfoInput
from cmdtrack_ros.ros.diagnostics import DiagnosticsPublisher, gpu_memory, steps_ms
from cmdtrack_ros.ros.events import to_image
from cmdtrack_ros.ros.filters import MESSAGE_FILTERS
from cmdtrack_ros.ros.health import STATUSES, Health
from cmdtrack_ros.ros.inputs import ImageInput
from cmdtrack_ros.ros.messages import Detection2DArray, to_detections, to_track_state
from cmdtrack_ros.ros.overlay import Overlay
from cmdtrack_ros.ros.parameters import Parameters, Settings, rcl_reason
from cmdtrack_ros.ros.qos import qos_overrides
from cmdtrack_ros.ros.registration import RegistrationDesk
from cmdtrack_ros.ros.respawn import RespawnMark
from cmdtrack_ros.ros.rosout import forward_logging
from cmdtrack_ros.ros.supervision import Supervisor
from cmdtrack_ros.ros.targets import TargetDoors, initial_target
from cmdtrack_ros.ros.worker import Worker, end_process_left_behind
from cmdtrack_ros.ros.world import WorldPublisher
from cmdtrack_ros.streams.events import EventFrames
from cmdtrack_ros.streams.images import fill_image, load_converter
from cmdtrack_ros.streams.mailbox import History, Mailbox
from cmdtrack_ros.streams.pairing import NearestPairFilter, Pair, PairOptions
from cmdtrack_ros.streams.registration import Registrar
from cmdtrack_ros.track import TargetState, Track
from cmdtrack_ros.tracking.pipeline import TARGET_REFUSED, Pipeline
from cmdtrack_ros.tracking.requests import TargetRequests
from cmdtrack_ros.tracking.tracker import TrackerConfig, load_tracker

_FLUSH_PERIOD = 0.01  # s; how finely `aux_timeout` is kept
_RESULT_QUEUE_DEPTH = 10


def _pairing(settings: Settings) -> PairOptions:
    options = PairOptions(**{field.name: getattr(settings, field.name) for field in fields(PairOptions)})
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
        self._supervisor: Supervisor | None = None  # while active, as the next
        self._registration: RegistrationDesk | None = None
        self._inputs: dict[str, ImageInput] = {}
        self._targets = TargetDoors(self, self._health)
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
            encoding=settings.encoding(),
            config=TrackerConfig(state=settings.states()),
        )
        self._topics = (self.resolve_topic_name(settings.rgb_topic), self.resolve_topic_name(settings.aux_topic))
        self._pipeline = Pipeline(
            tracker,
            max_targets=settings.max_targets,
            registration=settings.registering(),
            max_pixels=settings.max_pixels,
            topics=self._topics,
            report=self._report_fault,
            go_on=self._goes_on,
        )
        self._respawned = bool(settings.initial_box) and self._mark.found()
        self._requests = TargetRequests(
            History(settings.target_history, settings.target_history_mb * 2**20),
            lambda text: self._health.event(TARGET_REFUSED, text),
            initial=None if self._respawned else initial_target(settings),
            taken=self._leave_mark,
            max_targets=settings.max_targets,
        )
        self._track_out = self.result_publisher(TrackState, "~/track", _RESULT_QUEUE_DEPTH)
        self._overlay = Overlay(self, settings.overlay_quality)
        self._aux_picture_out = self.result_publisher(Image, "~/aux_picture", 2)
        self._detections_out = None
        if Detection2DArray is None:
            self.get_logger().info("vision_msgs is not installed: ~/detections is not published")
        else:
            self._detections_out = self.result_publisher(Detection2DArray, "~/detections", _RESULT_QUEUE_DEPTH)
        if not MESSAGE_FILTERS:
            self.get_logger().info("message_filters is not installed: using a stand-in for its Subscriber")
        load_converter()
        self._settings = settings
        fell_back = settings.device == "cuda" and tracker.engine.device != "cuda"
        text = f"device: cuda was asked for, and no GPU found that the engine can use: {tracker.engine.name} runs"
        self._health.condition("engine fallback", text if fell_back else None)

    def result_publisher(self, message_type: type, topic: str, depth: int) -> Any:
        """A publisher of results, whose QoS the user may override."""
        overrides = qos_overrides(self, self.resolve_topic_name(topic), "publisher")
        return self.create_lifecycle_publisher(message_type, topic, depth, qos_overriding_options=overrides)

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
            rgb_info = next(iter(self._camera_infos), None)
            self._registration = RegistrationDesk(self, settings, self._pipeline, self._health, self._topics, rgb_info)
            opened.callback(self._registration.close)
            self._targets.open(settings, self._requests, self._pipeline, opened)
            self._flush_timer = self.create_timer(_FLUSH_PERIOD, self._pairing_filter.flush, clock=self._steady_clock)
            opened.callback(self.destroy_timer, self._flush_timer)
            self._flush_timer.cancel()  # runs only while an image waits
            opened.callback(self._close_requests)
            self._worker = Worker(self._mailbox, self._track_pair, self._health, self.context.ok)
            opened.callback(self._worker.stop)
            self._opened = opened.pop_all()
        self.get_logger().info(f"active: {settings.modality}, " + ", ".join(i.topic for i in self._inputs.values()))

    def _open_inputs(self, settings: Settings, opened: ExitStack) -> None:
        topics = {
            "RGB": ("rgb_topic", settings.rgb_topic, settings.rgb_transport),
            "auxiliary": ("aux_topic", settings.aux_topic, settings.aux_transport),
        }
        if settings.modality == "rgb":
            del topics["auxiliary"]
        opened.callback(self._inputs.clear)
        for name, (parameter, topic, transport) in topics.items():
            stream = ImageInput(self, name, parameter, topic, settings.reliability, transport, settings.queue_size)
            opened.callback(stream.close)
            self._inputs[name] = stream
        filters: list[Any] = list(self._inputs.values())
        self._event_frames: EventFrames | None = None
        if settings.modality == "event":
            report = partial(self._health.event, "bad auxiliary image")
            self._event_frames = EventFrames(
                *filters, settings.event_window, _pairing(settings), to_image, report, settings.max_pixels
            )
            filters[1] = self._event_frames
        self._pairing_filter = NearestPairFilter(
            filters, _pairing(settings), clock=None if settings.process_every_pair else time.monotonic_ns
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
        self._world = WorldPublisher(self, self._health, info, settings.encoding(), settings.target_frame)
        opened.callback(self._world.close)

    def _stop(self) -> None:
        """End the worker and close the inputs; safe to call when nothing runs."""
        self._opened.close()

    def _end_supervision(self) -> None:
        if self.context.ok():  # else nobody hears that it is over
            self._supervisor.close()
        self._supervisor = None

    def _clean_up(self) -> None:
        for publisher in (self._track_out, self._aux_picture_out, self._detections_out):
            if publisher:
                self.destroy_lifecycle_publisher(publisher)
        self._overlay.close()
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
        self._pipeline.configure(settings.states(), settings.encoding())
        self._overlay.quality = settings.overlay_quality
        if self._inputs:
            self._pairing_filter.configure(_pairing(settings))
            self._supervisor.configure(_pairing(settings))
            if self._event_frames:
                self._event_frames.configure(settings.event_window, _pairing(settings))
            self._registration.configure(settings)
            if self._world:
                self._world.configure(settings.encoding())
        else:
            self._pipeline.register(Registrar(settings.registering()))

    def _wait_for_partner(self, message: object) -> None:
        if self._pairing_filter.waiting:
            self._flush_timer.reset()
        else:
            self._flush_timer.cancel()

    def _on_pair(self, pair: Pair) -> None:
        if pair.restarted:
            self.get_logger().info("stamps jumped back: pairing starts afresh")
        self._mailbox.put((self._requests.offer(pair), pair))

    def _close_requests(self) -> None:
        released = self._requests.close()
        if self._worker and self._worker.left_behind:
            return
        for name in released:
            self._pipeline.release(name)

    def _say_old_target(self) -> None:
        text = None
        if old := self._pipeline.unconfirmed:
            which = "the target" if self._settings.max_targets == 1 else f"target {' and '.join(map(repr, old))}"
            text = (
                f"{which} is from before a break of the images or of the node's activity: it is LOST until new "
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
            values["inputs"] |= self._registration.values()
            summaries["tracking"] = _in_words(self._pipeline.states)
        if self._pipeline:
            values["tracking"]["state"] = _in_words(self._pipeline.states)
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
            self._registration.check()
            self._requests.expire()
            self._targets.look_after()
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
        pipeline = self._pipeline
        try:
            due = self._requests.due(number, pair, pipeline.names)
            for name in due.released:
                pipeline.release(name)
                self.get_logger().info(f"target '{name}' released" if name else "target released")
            tracks = pipeline.process(pair, due.targets, due.since)
        except Exception:
            self._requests.refuse("an internal error, see the log")
            raise
        if tracks or self._goes_on():  # else the requests are told that tracking ends
            self._requests.settle(tracks, pipeline.refused, pipeline.coming)
        if not tracks or not self._goes_on():
            return
        for track in tracks:
            if track.started:
                self._respawned = False
                box = np.round(track.box, 1).tolist()
                self.get_logger().info(f"target '{track.target_id}' at {box}: {track.state.name}")
        self._publish(pair, tracks, began)

    def _goes_on(self) -> bool:
        return self._worker is not None and self._worker.runs_here()

    def _report_fault(self, cause: str, text: str) -> None:
        if cause != TARGET_REFUSED:  # which the requests report, by the target's name
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

    def _publish(self, pair: Pair, tracks: list[Track], began: int) -> None:
        """Send out the results of a pair that the worker took at `began` (ns), oldest target first."""
        latency = (self.get_clock().now().nanoseconds - tracks[0].stamp_ns) * 1e-9
        ready = time.monotonic_ns()
        tracks = [replace(track, latency=latency) for track in tracks]
        for track in tracks:
            self._track_out.publish(to_track_state(pair.header, track))
        if self._detections_out:
            self._detections_out.publish(to_detections(pair.header, tracks))
        if self._world:
            self._world.publish(pair, tracks, self._pipeline.images[1])
        self._overlay.publish(pair, tracks, self._pipeline.pictures)
        if self._aux_picture_out.get_subscription_count() and (labelled := self._pipeline.aux_picture()):
            self._aux_picture_out.publish(fill_image(Image(header=pair.header), labelled_picture(*labelled), "rgb8"))
        steps = steps_ms(pair, began, ready, latency) | {"publication": (time.monotonic_ns() - ready) * 1e-6}
        self._supervisor.note([replace(track, times_ms={**track.times_ms, **steps}) for track in tracks])


def _in_words(states: Mapping[str, TargetState]) -> str:
    """The state of one target, or of how many each is."""
    if len(states) < 2:
        return next(iter(states.values()), TargetState.IDLE).name
    return ", ".join(f"{count} {state.name}" for state, count in Counter(states.values()).items())


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
    end_process_left_behind()
