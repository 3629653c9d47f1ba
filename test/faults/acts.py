"""What can be done to the node: an act does it and undoes it, and an AssertionError in it says what went wrong."""

from __future__ import annotations

import array
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
from geometry_msgs.msg import PoseStamped
from lifecycle_msgs.msg import Transition
from sensor_msgs.msg import CameraInfo

from cmdtrack_ros.track import TargetState
from faults.judge import is_said
from faults.stage import FASTER, Inject, Out, Result, Shot, Stage

MALFORMED = 1000  # messages of either kind
MALFORMED_RATE = 100.0  # Hz
MALFORMED_MB = 200.0  # that the node may grow by meanwhile
SECOND = 10**9
WARM_UP = 2000  # pairs after which memory is to stay
GROWTH = 0.05  # of memory that is allowed from then on
IN_FLIGHT = 20  # pairs sent and not yet answered
QUIET = 0.3  # s without images before and after a single bad one
LASTS = 3.0  # s that a fault lasts which is not over at once
MISSING = "/nowhere/none.safetensors"
BAD_PIXELS = 0.05  # share of dead and hot ones
Act = Callable[[Stage], "float | None"]
"""Returns when the fault began (steady clock, s), where that was not when it was called."""


# Acts that change what the cameras send.


def lasting(inject: Inject, seconds: float = LASTS) -> Act:
    """For some seconds each shot is sent as `inject` makes it."""

    def act(stage: Stage) -> None:
        stage.cameras.inject = inject
        time.sleep(seconds)
        stage.cameras.inject = None

    return act


def single(inject: Inject) -> Act:
    """One shot is sent as `inject` makes it, and none for a moment before and after, lest a newer one replace it."""

    def act(stage: Stage) -> float:
        quiet = max(1, round(QUIET * stage.cameras.rate))
        taken: list[float] = []

        def once(shot: Shot) -> list[Out]:
            taken.append(time.monotonic())
            return inject(shot) if len(taken) == quiet + 1 else []

        stage.cameras.inject = once
        stage.wait("the shots", lambda: len(taken) > 2 * quiet)
        stage.cameras.inject = None
        return taken[quiet]

    return act


def aux_clock(seconds: float) -> Act:
    return lasting(lambda shot: [shot.rgb(), shot.aux(stamp=shot.stamp + round(seconds * SECOND))], 4.0)


def both_stamps(stamp: Callable[[Shot], int]) -> Act:
    return lasting(lambda shot: [shot.rgb(stamp=stamp(shot)), shot.aux(stamp=stamp(shot))], 4.0)


def rgb_stamp(stamp: Callable[[Shot], int]) -> Act:
    return single(lambda shot: [shot.rgb(stamp=stamp(shot)), shot.aux()])


def aux_stamp(stamp: Callable[[Shot], int]) -> Act:
    return single(lambda shot: [shot.rgb(), shot.aux(stamp=stamp(shot))])


def rgb_size(height: int, width: int) -> Act:
    return single(lambda shot: [shot.rgb(np.full((height, width, 3), 90, np.uint8)), shot.aux()])


def both_sizes(height: int, width: int) -> Act:
    def inject(shot: Shot) -> list[Out]:
        aux = np.full((height, width), shot.scene.aux[0].flat[0], shot.scene.aux[0].dtype)
        return [shot.rgb(np.full((height, width, 3), 90, np.uint8)), shot.aux(aux)]

    return single(inject)


def aux_like(shot: Shot, value: float) -> np.ndarray:
    """An auxiliary image of one value."""
    return np.full_like(shot.scene.aux[shot.index], value)


def aux_value(value: float) -> Act:
    return single(lambda shot: [shot.rgb(), shot.aux(aux_like(shot, value))])


def with_bad_pixels(shot: Shot) -> list[Out]:
    pixels = shot.scene.aux[shot.index].copy()
    rng = np.random.default_rng(0)  # a sensor's bad pixels stay where they are
    bad = rng.random(pixels.shape) < BAD_PIXELS
    hot = rng.random(pixels.shape) < 0.5
    low, high = (0, 65535) if pixels.dtype == np.uint16 else (-273.15, 1000.0)
    pixels[bad & hot], pixels[bad & ~hot] = high, low
    return [shot.rgb(), shot.aux(pixels)]


def covered(shot: Shot) -> list[Out]:
    """A lens cap on both cameras."""
    return [shot.rgb(np.full_like(shot.scene.rgb[0], 60)), shot.aux(aux_like(shot, np.median(shot.scene.aux[0])))]


def knocked(shot: Shot) -> list[Out]:
    """The auxiliary camera looks an eighth of its image aside."""
    pixels = shot.scene.aux[shot.index]
    return [shot.rgb(), shot.aux(np.roll(pixels, pixels.shape[1] // 8, 1))]


def lens_caps(stage: Stage) -> float:
    """On until the target is lost, and for 3 s more; begins with the loss."""
    put_on = time.monotonic()

    def lost() -> list[float]:
        results = stage.between(put_on, time.monotonic())
        return [result.at for result in results if result.track.state is TargetState.LOST]

    stage.cameras.inject = covered
    try:
        stage.wait("the state LOST", lost, 10.0)
        time.sleep(LASTS)
    finally:
        stage.cameras.inject = None
    return lost()[0]


def fixed_stamps() -> Act:
    begun: list[int] = []

    def stamp(shot: Shot) -> int:
        begun.append(shot.stamp)
        return begun[0]

    def act(stage: Stage) -> None:
        begun.clear()
        both_stamps(stamp)(stage)

    return act


def lossy(share: float) -> Act:
    def act(stage: Stage) -> None:
        rng = random.Random(0)
        lasting(lambda shot: [out for out in shot.good() if rng.random() >= share], 4.0)(stage)

    return act


def late_arrivals(seconds: float) -> Act:
    """Each message is held up to `seconds`; those of one stream do not overtake each other at the camera's rate."""

    def act(stage: Stage) -> None:
        rng = random.Random(0)
        lasting(lambda shot: [out._replace(delay=out.delay + rng.random() * seconds) for out in shot.good()])(stage)

    return act


def unsteady_stamps(seconds: float) -> Act:
    def act(stage: Stage) -> None:
        rng = random.Random(0)

        def inject(shot: Shot) -> list[Out]:
            moved = shot.stamp + round((rng.random() - 0.5) * seconds * SECOND)
            return [shot.rgb(), shot.aux(stamp=moved)]

        lasting(inject)(stage)

    return act


def reversed_order(group: int) -> Act:
    """Each group of shots is held back and sent last first."""

    def act(stage: Stage) -> None:
        counter = itertools.count()

        def inject(shot: Shot) -> list[Out]:
            hold = 2 * (group - 1 - next(counter) % group) / stage.cameras.rate
            return [out._replace(delay=out.delay + hold) for out in shot.good()]

        lasting(inject)(stage)

    return act


def loop(stage: Stage) -> None:
    """A recording of 1.5 s, twice over, with the stamps of an hour ago."""
    length = round(1.5 * stage.cameras.rate)
    begun, counter = time.time_ns() - 3600 * SECOND, itertools.count()

    def inject(shot: Shot) -> list[Out]:
        at = next(counter) % length
        again = shot._replace(index=shot.scene.index(at), stamp=begun + round(at / stage.cameras.rate * SECOND))
        stage.cameras.number = at + 1
        stage.cameras.shots[-1] = (time.monotonic(), again.index, again.scale[0])
        return again.good()

    lasting(inject, 2 * length / stage.cameras.rate)(stage)
    stage.cameras.number = 0  # the live camera goes on where a loop begins


@contextmanager
def calibrated(stage: Stage, *streams: str) -> Iterator[None]:
    """These cameras publish their CameraInfo."""
    height, width = stage.scene.rgb[0].shape[:2]
    k = [float(width), 0.0, width / 2, 0.0, float(width), height / 2, 0.0, 0.0, 1.0]
    info = CameraInfo(width=width, height=height, k=k, distortion_model="plumb_bob")
    publishers = [stage.node.create_publisher(CameraInfo, f"{stream}/camera_info", 10) for stream in streams]
    timer = stage.node.create_timer(0.1, lambda: [publisher.publish(info) for publisher in publishers])
    try:
        yield
    finally:
        stage.node.destroy_timer(timer)
        for publisher in publishers:
            stage.node.destroy_publisher(publisher)


@contextmanager
def heard_poses(stage: Stage) -> Iterator[list[PoseStamped]]:
    """Somebody listens to the target's poses, without whom none are made."""
    poses: list[PoseStamped] = []
    subscription = stage.node.create_subscription(PoseStamped, "tracker/target_pose", poses.append, 10)
    try:
        yield poses
    finally:
        stage.node.destroy_subscription(subscription)


def without_rgb_info(stage: Stage) -> None:
    with heard_poses(stage) as poses:
        time.sleep(4.0)
        assert not poses, "a pose without a calibration"
        with calibrated(stage, "rgb"):
            stage.wait("a pose", lambda: poses)


def without_aux_info(stage: Stage) -> None:
    """The node is to register by both calibrations, and the auxiliary camera's does not come."""

    def texts() -> str:
        return " ".join(value for status in stage.ears.newest() for value in status.values.values())

    with calibrated(stage, "rgb"):
        assert stage.set("aux_translation", [0.0, 0.0, 0.0]) and stage.set("registration", "camera_info")
        stage.wait("the missing topic's name", lambda: "nothing came on /faults/aux/camera_info" in texts(), 10.0)
        assert stage.set("registration", "none"), "could not be set back"


def without_depth(stage: Stage) -> float:
    """The depth camera does not see the target: too near, or of glass."""

    def blind(shot: Shot) -> list[Out]:
        x, y, width, height = shot.scene.boxes[shot.index].astype(int)
        pixels = shot.scene.aux[shot.index].copy()
        pixels[max(y - height, 0) : y + 2 * height, max(x - width, 0) : x + 2 * width] = 0
        return [shot.rgb(), shot.aux(pixels)]

    with calibrated(stage, "rgb"), heard_poses(stage) as poses:
        stage.wait("a pose", lambda: poses)
        began = time.monotonic()
        lasting(blind, 4.0)(stage)
        poses.clear()
        stage.wait("poses again", lambda: poses)
    return began


def rescaled(rgb: float, aux: float, seconds: float = 0.0) -> Act:
    """From now on (or for some seconds) images have another size."""

    def act(stage: Stage) -> None:
        before, stage.cameras.scale = stage.cameras.scale, (rgb, aux)
        time.sleep(seconds or 2 / stage.cameras.rate)  # the first image at least
        if seconds:
            stage.cameras.scale = before

    return act


def publishers_restart(reliable: bool) -> Act:
    def act(stage: Stage) -> None:
        cameras = stage.cameras
        cameras.pause()
        cameras.close_publishers()
        time.sleep(1.0)
        before, cameras.reliable = cameras.reliable, reliable
        cameras.open()
        cameras.reliable = before
        stage.wait(
            "the node's subscriptions", lambda: all(p.get_subscription_count() for p in cameras.publishers.values())
        )
        cameras.start()

    return act


def malformed(messages: Callable[[int], Iterable[SimpleNamespace]]) -> Act:
    """Each shot has one malformed image, of either camera in turn."""

    def spoilt(out: Out, fields: SimpleNamespace) -> Out:
        for name, value in vars(fields).items():
            # An array is the one type that rclpy takes over without looking at every byte.
            setattr(out.message, name, array.array("B", value) if name == "data" else value)
        return out

    def act(stage: Stage) -> None:
        cameras, before = stage.cameras, stage.memory_mb()
        cameras.pause()
        for number, fields in enumerate(messages(MALFORMED)):
            shot = cameras.take()
            for out in shot.good():
                bad = out.stream == ("rgb", "aux")[number % 2]
                cameras.publish(spoilt(out, fields) if bad else out, shot)
            time.sleep(1 / MALFORMED_RATE)
        ended = time.monotonic()
        cameras.start()
        # What is lost among them may stay lost: hardly a whole image has come meanwhile.
        stage.wait("a whole pair", lambda: any(both(result) for result in stage.between(ended, time.monotonic())))
        stage.name_target()
        grown = stage.memory_mb() - before
        assert grown < MALFORMED_MB, f"grew by {grown:.0f} MB"

    def both(result: Result) -> bool:
        return result.track.has_rgb and result.track.has_aux

    return act


def malformed_cdr(stage: Stage) -> None:
    """Serialised messages that are cut, or have bytes changed."""
    from rclpy.serialization import serialize_message

    rng = np.random.default_rng(0)

    def inject(shot: Shot) -> list[Out]:
        outs = []
        for out in shot.good():
            data = np.frombuffer(serialize_message(out.message), np.uint8).copy()
            data[rng.integers(4, 64, 4)] = rng.integers(0, 256, 4)
            outs.append(out._replace(message=data[: rng.integers(4, data.size)].tobytes()))
        return outs + shot.good()

    lasting(inject)(stage)


def compressed_as(data: bytes, stream: str = "rgb", form: str = "rgb8; jpeg compressed bgr8") -> Act:
    """One compressed image of these bytes."""

    def inject(shot: Shot) -> list[Out]:
        outs = shot.good()
        for out in outs:
            if out.stream == stream:
                out.message.data, out.message.format = data, form
        return outs

    return single(inject)


def bomb() -> bytes:
    """A PNG of 30,000 x 30,000 grey pixels, a few megabytes of zeros."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    side, packer = 30_000, zlib.compressobj(1)
    row = bytes(side + 1)
    rows = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def bombs(stage: Stage) -> float:
    """One from either camera."""
    data, before = bomb(), stage.memory_mb()
    began = time.monotonic()
    compressed_as(data, "rgb", "rgb8; png compressed rgb8")(stage)
    compressed_as(data, "aux", "mono16; png compressed ")(stage)
    assert stage.memory_mb() - before < MALFORMED_MB, f"grew by {stage.memory_mb() - before:.0f} MB"
    return began


def truncated(shot: Shot) -> list[Out]:
    rgb, aux = shot.good()
    rgb.message.data = rgb.message.data[: len(rgb.message.data) // 2]
    return [rgb, aux]


# Acts of an operator.


def requests(box: Callable[[Stage], Iterable[float]], seconds: float = 0.0) -> Act:
    """Another target is asked for, at a stamp `seconds` from now; 0 = at the newest frame."""

    def act(stage: Stage) -> None:
        stamp, name = time.time_ns() + round(seconds * SECOND) if seconds else 0, f"refused {time.time_ns()}"
        stage.send_target(np.array(list(box(stage)), float), stamp, name)
        time.sleep(1.0)
        assert stage.ears.results[-1].track.target_id != name, "the target was taken"

    return act


def true_box(stage: Stage) -> np.ndarray:
    at, track = stage.ears.results[-1]
    return stage.cameras.truth(at, track.stamp_ns)[1]


def background(stage: Stage) -> None:
    """A target is named where there is nothing; 5 s later the node must not be sure of it."""
    stage.send_target(np.array([4.0, 4.0, 20.0, 20.0]), name="nothing")
    time.sleep(6.0)
    recent = stage.between(time.monotonic() - 1.0, time.monotonic())
    sure = sum(result.track.state is TargetState.TRACKING for result in recent)
    stage.name_target()
    assert sure <= len(recent) / 2, f"{sure} of {len(recent)} results TRACKING after 5 s"


def one_object(stage: Stage) -> float:
    """The target is named anew, by another name, in an image of a second ago; given up once the node has said so."""
    old = stage.between(0.0, time.monotonic() - 1.0)[-1]
    stage.send_target(stage.cameras.truth(old.at, old.track.stamp_ns)[1], old.track.stamp_ns, "double")
    try:
        stage.wait("two targets", lambda: stage.ears.results[-1].track.target_id == "double")
        began = time.monotonic()
        stage.wait("what it says", lambda: stage.ears.shown(("targets on one object",)), 15.0)
    finally:
        stage.send_target(np.zeros(4), name="double")
        stage.name_target()
    return began


def paused(stage: Stage) -> None:
    """Deactivated for 3 s and activated again."""
    assert stage.ask(label="deactivate"), "did not deactivate"
    time.sleep(LASTS)
    assert stage.ask(label="activate"), "did not activate"
    stage.wait_active()


def new_target_while_aux_is_impossible(stage: Stage) -> None:
    stage.cameras.inject = impossible_aux
    time.sleep(1.0)
    stage.name_target("anew")
    try:
        stage.wait("the new target", lambda: stage.ears.results[-1].track.target_id == "anew", 5.0)
    finally:
        stage.cameras.inject = None


def impossible_aux(shot: Shot) -> list[Out]:
    return [shot.rgb(), shot.aux(np.zeros(shot.scene.aux[0].shape, np.int32), encoding="32SC1")]


# Lifecycle.

ALLOWED = {
    "unconfigured": {"configure", "shutdown"},
    "inactive": {"cleanup", "activate", "shutdown"},
    "active": {"deactivate", "shutdown"},
    "finalized": set(),
}
_SHUTDOWN = {
    "unconfigured": Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
    "inactive": Transition.TRANSITION_INACTIVE_SHUTDOWN,
    "active": Transition.TRANSITION_ACTIVE_SHUTDOWN,
}
_LABELS = ("configure", "cleanup", "activate", "deactivate", "shutdown", "transition_success", "create", "nonsense")
_IDS = {getattr(Transition, name) for name in dir(Transition) if name.startswith("TRANSITION_")} | {255}


def refuses_the_impossible(stage: Stage, state: str) -> None:
    """Every transition that the state does not allow is refused and changes nothing."""
    assert stage.state() == state, f"{stage.state()}, expected {state}"
    allowed = {getattr(Transition, f"TRANSITION_{label.upper()}", None) for label in ALLOWED[state]}
    for number in sorted(_IDS - allowed - {_SHUTDOWN.get(state)}):
        assert not stage.ask(number), f"{state}: took transition {number}"
    for label in _LABELS:
        assert label in ALLOWED[state] or not stage.ask(label=label), f"{state}: took transition {label}"
    assert stage.state() == state, f"{stage.state()} after refusals, expected {state}"


def transitions(stage: Stage) -> None:
    """All that each state does not allow, and all that it does but for the last shutdown."""
    refuses_the_impossible(stage, "active")
    for label, state in (("deactivate", "inactive"), ("cleanup", "unconfigured")):
        assert stage.ask(label=label), f"refused to {label}"
        refuses_the_impossible(stage, state)
    for label in ("configure", "activate"):
        assert stage.ask(label=label), f"refused to {label}"
    follow(stage)


def shutdowns(stage: Stage) -> None:
    """From each state to its end, where nothing is allowed any more."""
    for state, labels in (("unconfigured", ()), ("inactive", ("configure",)), ("active", ("configure", "activate"))):
        stage.kill()
        stage.start(autostart="false")
        for label in labels:
            assert stage.ask(label=label), f"refused to {label}"
        assert stage.ask(_SHUTDOWN[state]), f"{state}: refused to shut down"
        refuses_the_impossible(stage, "finalized")
    restarted(stage)


def follow(stage: Stage) -> None:
    """Name the target to a node that starts anew, once it answers images."""
    stage.wait_active()
    stage.wait("results", lambda: stage.between(time.monotonic() - 0.5, time.monotonic()))
    stage.name_target()


def restarted(stage: Stage) -> None:
    stage.kill()
    stage.start()
    follow(stage)


# The machine.


@contextmanager
def busy(count: int):
    """Processes that do nothing, as fast as they can."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def starved(_: Stage) -> None:
    with busy(4 * len(os.sched_getaffinity(0))):
        time.sleep(4.0)


def stopped(stage: Stage) -> None:
    """The process does not run for 3 s."""
    stage.process.send_signal(signal.SIGSTOP)
    time.sleep(LASTS)
    stage.process.send_signal(signal.SIGCONT)


def ended_by(number: signal.Signals) -> Act:
    def act(stage: Stage) -> None:
        stage.end(number, 10.0)
        restarted(stage)

    return act


def respawned(stage: Stage) -> None:
    """Killed and started anew as by launch's respawn: the first box must not be taken for what is there now."""
    stage.end(signal.SIGKILL, 10.0)
    stage.cameras.number = len(stage.scene.rgb) // 2
    stage.start()
    stage.wait_active()
    stage.wait("results", lambda: stage.between(time.monotonic() - 0.5, time.monotonic()))
    time.sleep(2.0)
    state = stage.ears.results[-1].track.state
    said = any(is_said(("old target",), status) for status in stage.ears.newest())
    stage.name_target()
    assert stage.alive(), f"the node ended: {stage.last_words()}"
    assert state is not TargetState.TRACKING, "TRACKING the initial_box of the process before"
    assert said, "diagnostics did not say 'old target'"


# Settings of their own.


def started_anew(stage: Stage, says: str, **parameters: object) -> float:
    """The moment when the node, killed and started with other parameters, said this on /rosout."""
    stage.kill()
    heard = len(stage.ears.lines)

    def said() -> list[float]:
        return [line.at for line in stage.ears.lines[heard:] if says in line.text]

    stage.start(**parameters)
    stage.wait(f"'{says}' on /rosout", said)
    return said()[0]


def _lasting(stage: Stage, says: str, **parameters: str) -> float:
    """A node with parameters under which it cannot work follows a target for a while; then a fresh one."""
    began = started_anew(stage, says, **parameters)
    follow(stage)
    time.sleep(LASTS)
    restarted(stage)
    return began


def without_clock(stage: Stage) -> float:
    """use_sim_time, and nobody publishes /clock."""
    return _lasting(stage, "active:", use_sim_time="true")


def without_detections(stage: Stage) -> float:
    """A detector is expected, and none publishes."""
    return _lasting(stage, "no detections:", detections_topic="detections")


def unwritable(stage: Stage) -> float:
    """`cmdtrack record` runs beside the node, and its folder becomes a file; mended 3 s later."""
    folder = stage.folder / "lost"
    command = [sys.executable, "-m", "cmdtrack_ros.cli", "record", str(folder), "--tracker", "/faults/tracker"]

    def heard(text: str) -> bool:
        ours = [status for status in stage.ears.newest() if status.name.endswith("tracker_recorder: recording")]
        return bool(ours) and text in ours[-1].message

    with (stage.folder / "record.log").open("a") as log:
        recorder = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        stage.wait("the recorder", lambda: heard("waiting for a loss"))
        folder.rename(stage.folder / "before")
        folder.touch()
        began = time.monotonic()
        time.sleep(LASTS)
        folder.unlink()
        stage.wait("the end of it", lambda: not heard("cannot record"))
        assert recorder.poll() is None, "the recorder ended"
    finally:
        recorder.terminate()
        recorder.wait()
    return began


def unconfigurable(stage: Stage) -> float:
    """A weights file that is not there; mended 3 s later."""
    began = started_anew(stage, MISSING, weights=MISSING)
    time.sleep(LASTS)
    assert stage.set("weights", ""), "the parameter could not be mended"
    for label in ("configure", "activate"):
        assert stage.ask(label=label), f"refused to {label}"
    follow(stage)
    return began


def flooded(pairs: int) -> Act:
    """Many pairs, as fast as they are answered; the node's memory must not grow."""

    def act(stage: Stage) -> None:
        cameras, before = stage.cameras, len(stage.ears.results)
        memory: list[float] = []
        cameras.pause()
        for sent in range(pairs):
            shot = cameras.take()
            for out in shot.good():
                cameras.publish(out, shot)
            if sent >= WARM_UP and sent % 100 == 0:
                memory.append(stage.memory_mb())
            enough = before + sent - IN_FLIGHT
            stage.wait("results", lambda: len(stage.ears.results) > enough)  # noqa: B023 - done before it changes
        cameras.start()
        stage.figures = {"pairs": pairs, "memory_mb": memory[0], "memory_mb_most": max(memory)}
        grown = max(memory) / memory[0] - 1
        assert grown < GROWTH, f"memory grew by {grown:.1%} from pair {WARM_UP} on"

    return act


def best_effort(stage: Stage) -> float:
    """Images larger than Fast DDS's shared memory, without its profile, as fast as cameras send them."""
    publishers_restart(reliable=False)(stage)
    began, rate, stage.cameras.rate = time.monotonic(), stage.cameras.rate, FASTER[-1]
    time.sleep(4.0)
    stage.cameras.rate = rate
    publishers_restart(reliable=True)(stage)
    return began
