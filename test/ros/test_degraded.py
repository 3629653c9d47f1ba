"""Every degraded mode over real DDS: soon in the diagnostics, one line in the log, and over when it is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not importable: run `make test`, or source ROS 2")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState  # noqa: E402
from rcl_interfaces.msg import Log  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy  # noqa: E402
from robot import PATIENCE, SCENE, Robot, Tracker, assert_tracks_again, good_aux, good_rgb, image, running, scene  # noqa: E402

from cmdtrack_ros.ros import supervision  # noqa: E402
from cmdtrack_ros.ros.health import CAUSES, STATUSES  # noqa: E402
from cmdtrack_ros.ros.node import TrackerNode  # noqa: E402
from cmdtrack_ros.streams.pairing import stamp_ns  # noqa: E402
from cmdtrack_ros.track import Track  # noqa: E402

pytestmark = pytest.mark.ros

HOUR = 3_600 * 10**9


class Operator:
    """Reads /diagnostics and /rosout of one node."""

    def __init__(self, robot: Robot) -> None:
        self.robot = robot
        self.name = f"{robot.node.get_namespace()[1:]}/tracker"
        self.arrays: list[DiagnosticArray] = []
        self.lines: list[Log] = []
        robot.node.create_subscription(DiagnosticArray, "/diagnostics", self._read, 10)
        latched = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        robot.node.create_subscription(Log, "/rosout", self._hear, latched)

    def _read(self, array: DiagnosticArray) -> None:
        if [status.name for status in array.status] == [f"{self.name}: {name}" for name in STATUSES]:
            self.arrays.append(array)

    def _hear(self, line: Log) -> None:
        if line.name == self.name.replace("/", "."):
            self.lines.append(line)

    def status(self, name: str) -> DiagnosticStatus:
        return {status.name: status for status in self.arrays[-1].status}[f"{self.name}: {name}"]

    def shows(self, cause: str) -> bool:
        """Whether the newest diagnostics show the cause, as its table says."""
        if not self.arrays:
            return False
        status = self.status(CAUSES[cause].status)
        return cause in status.message.split("; ") and status.level >= CAUSES[cause].level

    def all_well(self) -> bool:
        """Whether nothing is wrong but that a busy machine is too slow for the cameras."""
        return bool(self.arrays) and all(
            status.level == DiagnosticStatus.OK or status.message == "too slow" for status in self.arrays[-1].status
        )

    def logged(self, cause: str) -> list[Log]:
        lines = [line for line in self.lines if line.msg.startswith(f"{cause}: ")]
        return [line for line in lines if not line.msg.endswith(": over")]

    def sees(self, cause: str, act: Callable[[], object], record: Callable[[str, object], None]) -> str:
        """Do `act` until the cause is shown and logged; returns the logged line."""
        before = len(self.logged(cause))
        began = time.monotonic()
        self.robot.wait(f"{cause} in {self.arrays[-1:]}", lambda: act() is self or self.shows(cause))
        record(f"{cause}, seconds", round(time.monotonic() - began, 2))
        self.robot.wait(f"{cause} in the log", lambda: len(self.logged(cause)) > before)
        (line,) = self.logged(cause)[before:]
        expected = Log.ERROR if CAUSES[cause].level == DiagnosticStatus.ERROR else Log.WARN
        assert line.level == expected
        return line.msg

    def sees_end(self, cause: str, act: Callable[[], object]) -> None:
        """Do `act` until all is well in the cause's status."""
        name = CAUSES[cause].status
        self.robot.wait(f"the end of {cause}", lambda: act() is self or self.status(name).level == DiagnosticStatus.OK)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[tuple[Tracker, Robot, Operator]]:
    """A thermal tracker with a target, which many tests share: each leaves it tracking and well."""
    robot, folder = Robot("/watched"), tmp_path_factory.mktemp("watched")
    operator = Operator(robot)
    with running(folder, repository, robot, modality="thermal") as tracker:
        robot.connect()
        robot.send_target(scene(robot.frame)[1])
        assert_tracks_again(robot)
        yield tracker, robot, operator


@pytest.fixture
def well(watched: tuple[Tracker, Robot, Operator]) -> tuple[Robot, Operator]:
    _, robot, operator = watched
    robot.wait("a node that is well", lambda: robot.play(6, answered=False) and operator.all_well())
    return robot, operator


def shifted(seconds: float) -> Callable:
    return lambda i, stamp: good_aux(i, stamp + round(seconds * 1e9))


def rgb_at(stamp_of: Callable[[int], int]) -> Callable:
    return lambda i, stamp: good_rgb(i, stamp_of(stamp))


FAULTS = {
    "no RGB images": (None, good_aux, "/watched/rgb/image"),
    "no auxiliary images": (good_rgb, None, "/watched/aux/image"),
    "bad RGB image": (lambda i, s: image(scene(i)[0], f"foo{i}", s), good_aux, "/watched/rgb/image: "),
    "bad auxiliary image": (good_rgb, lambda i, s: image(SCENE[..., 0], "bar16", s), "/watched/aux/image: "),
    "stamps missing": (rgb_at(lambda s: 0), good_aux, "/watched/rgb/image"),
    "stamps constant": (rgb_at(lambda s: 10**18), good_aux, "/watched/rgb/image"),
    "stamps ahead": (rgb_at(lambda s: s + HOUR), shifted(3600.0), "synchronise"),
    "stamps old": (rgb_at(lambda s: s - HOUR), shifted(-3600.0), "use_sim_time"),
    "nothing pairs": (good_rgb, shifted(1.0), "aux_offset: -1.0"),
    "LOST": (lambda i, s: image(SCENE, "rgb8", s), lambda i, s: image(SCENE[..., 1], "mono8", s), "'patch'"),
}


@pytest.mark.parametrize("cause", FAULTS)
def test_cause_is_shown_logged_once_and_over(
    well: tuple[Robot, Operator], cause: str, record_property: Callable[[str, object], None]
) -> None:
    robot, operator = well
    rgb, aux, says = FAULTS[cause]
    assert says in operator.sees(cause, lambda: robot.play(6, rgb, aux, answered=False), record_property)
    if cause == "LOST":
        robot.send_target(scene(robot.frame)[1])
    operator.sees_end(cause, lambda: robot.play(6, answered=False))


def test_single_stamp_that_leaps_is_an_outlier(
    well: tuple[Robot, Operator], record_property: Callable[[str, object], None]
) -> None:
    robot, operator = well
    robot.play(1, rgb_at(lambda s: s + HOUR), answered=False)
    assert "/watched/rgb/image" in operator.sees(
        "stamp outlier", lambda: robot.play(6, answered=False), record_property
    )
    operator.sees_end("stamp outlier", lambda: robot.play(6, answered=False))


def test_target_that_is_refused(well: tuple[Robot, Operator], record_property: Callable[[str, object], None]) -> None:
    robot, operator = well
    line = operator.sees("target refused", lambda: robot.send_target((10, 10, -5, 40)), record_property)
    assert "-5" in line
    operator.sees_end("target refused", lambda: robot.play(6, answered=False))


LARGE_CAMERAS = """
import sys, time
import numpy as np
from rclpy.qos import ReliabilityPolicy
from robot import Robot, image
robot = Robot(sys.argv[1], ReliabilityPolicy.BEST_EFFORT)
colours, counts = np.zeros((960, 1280, 3), np.uint8), np.zeros((960, 1280), np.uint16)
while True:
    stamp = time.time_ns()
    robot.rgb.publish(image(colours, "rgb8", stamp))
    robot.aux.publish(image(counts, "mono16", stamp))
    robot.spin(1 / 30)
"""


def test_images_lost_on_the_way(
    tmp_path: Path, repository: Path, record_property: Callable[[str, object], None]
) -> None:
    """Best effort and images above the default transports' memory: most do not arrive. That memory is the sender's."""
    robot = Robot("/lossy", ReliabilityPolicy.BEST_EFFORT)
    operator = Operator(robot)
    environment = {key: value for key, value in os.environ.items() if not key.endswith("DEFAULT_PROFILES_FILE")}
    environment["PYTHONPATH"] = os.pathsep.join([str(repository / "test"), environment.get("PYTHONPATH", "")])
    with running(tmp_path, repository, robot, modality="thermal"):
        cameras = subprocess.Popen([sys.executable, "-c", LARGE_CAMERAS, "/lossy"], env=environment)
        try:
            line = operator.sees("auxiliary images lost", lambda: robot.spin(0.1), record_property)
        finally:
            cameras.kill()
            cameras.wait()
        assert "/lossy/aux/image" in line and "FASTRTPS_DEFAULT_PROFILES_FILE" in line and "best effort" in line
        operator.sees_end("auxiliary images lost", lambda: robot.play(6, answered=False))


class Life:
    """The node in a thread of this process, so that its parts can be made to fail."""

    def __init__(self, namespace: str) -> None:
        self.robot = Robot(namespace)
        self.operator = Operator(self.robot)
        parameters = ("device:=cpu", "threads:=1", "autostart:=false")
        options = [part for parameter in parameters for part in ("-p", parameter)]
        rclpy.init(args=["--ros-args", "-r", f"__ns:={namespace}", *options])
        self.node = TrackerNode()
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.thread = threading.Thread(target=self.node.run, args=(self.executor,))
        self.thread.start()

    def ask(self, label: str) -> bool:
        return self.robot.call(ChangeState, "change_state", transition=Transition(label=label)).success

    def activate(self) -> None:
        assert self.ask("configure")
        assert self.ask("activate")
        self.robot.connect()

    def close(self) -> None:
        rclpy.shutdown()
        self.thread.join(PATIENCE)
        self.node._shut_down()
        self.node.destroy_node()
        self.robot.close()


@pytest.fixture
def life(request: pytest.FixtureRequest) -> Iterator[Life]:
    life = Life(f"/life{abs(hash(request.node.name))}")
    yield life
    life.close()


def test_four_statuses_in_every_state(life: Life) -> None:
    operator = life.operator
    for transition, state, hardware in (
        (None, "unconfigured", "none"),
        ("configure", "inactive", "cpu"),
        ("activate", "IDLE", "cpu"),
        ("deactivate", "inactive", "cpu"),
        ("cleanup", "unconfigured", "none"),
        ("shutdown", "finalized", "none"),
    ):
        assert transition is None or life.ask(transition)
        operator.arrays.clear()
        life.robot.wait(
            f"statuses of {state}", lambda state=state: operator.arrays and operator.status("tracking").message == state
        )
        assert {s.hardware_id for s in operator.arrays[-1].status} == {hardware}
        if state == "IDLE":
            life.robot.wait("the missing images", lambda: operator.shows("no RGB images"))
        else:
            assert operator.all_well(), "streams that are not open are not missed"


def test_failed_configuration_stays_an_error_until_it_is_mended(
    life: Life, record_property: Callable[[str, object], None]
) -> None:
    assert life.robot.set("weights", "/none.safetensors").successful
    line = life.operator.sees("configure failed", lambda: life.ask("configure"), record_property)
    assert "/none.safetensors" in line
    assert life.operator.status("device").level == DiagnosticStatus.ERROR
    assert life.robot.set("weights", "").successful
    assert life.ask("configure")
    life.operator.sees_end("configure failed", lambda: life.robot.spin(0.1))


def test_gpu_that_is_not_there(life: Life) -> None:
    assert life.robot.set("device", "cuda").successful
    assert life.ask("configure")
    if life.node._pipeline.engine.device == "cuda":
        pytest.skip("there is a GPU")
    life.robot.wait("the fallback", lambda: life.operator.shows("engine fallback"))
    assert life.operator.status("device").hardware_id == "cpu"
    assert life.ask("cleanup")
    life.operator.sees_end("engine fallback", lambda: life.robot.spin(0.1))


def slow_down(life: Life, monkeypatch: pytest.MonkeyPatch, wait: Callable[[], object]) -> None:
    process = life.node._pipeline.process

    def slowly(*args: object) -> list[Track]:
        wait()
        return process(*args)

    monkeypatch.setattr(life.node._pipeline, "process", slowly)


def test_machine_that_is_too_slow(
    life: Life, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    life.activate()
    slow_down(life, monkeypatch, lambda: time.sleep(0.2))
    line = life.operator.sees("too slow", lambda: life.robot.play(6, answered=False), record_property)
    assert "precision: int8" in line
    monkeypatch.undo()
    life.operator.sees_end("too slow", lambda: life.robot.play(6, answered=False))


def test_network_that_hangs_does_not_hold_up_the_lifecycle(
    life: Life, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    life.activate()
    back = threading.Event()
    slow_down(life, monkeypatch, lambda: back.wait(PATIENCE))
    before = len(life.robot.tracks)
    life.operator.sees("network hangs", lambda: life.robot.play(6, answered=False), record_property)
    assert life.operator.status("device").level == DiagnosticStatus.ERROR
    began = time.monotonic()
    assert life.ask("deactivate")
    assert time.monotonic() - began < PATIENCE / 2, "it does not wait for the network"
    assert not life.ask("activate"), "two workers on one network"
    assert life.ask("cleanup")
    life.activate()
    assert len(life.robot.tracks) > before, "a new network works"
    back.set()
    life.operator.sees_end("network hangs", lambda: life.robot.play(3, answered=False))
    stamps = [stamp_ns(track) for track in life.robot.tracks[before:]]
    assert stamps == sorted(stamps), "what the old network found comes too late"
    assert not life.operator.logged("internal error")


def test_what_is_followed_does_not_lead_back_to_the_target(
    life: Life, record_property: Callable[[str, object], None]
) -> None:
    """In the first frame, as the tracker keeps it, the target is put elsewhere."""
    life.activate()
    robot = life.robot
    assert robot.set("score_doubtful", 0.0).successful  # a drawn scene is not what the score was calibrated with
    robot.send_target(scene(robot.frame)[1])
    assert_tracks_again(robot)
    assert not life.operator.logged("wrong target suspected")
    tracker = life.node._pipeline._targets[0].tracker
    tracker._origin = {s: np.roll(cut, cut.shape[0] // 4, axis=(0, 1)) for s, cut in tracker._origin.items()}
    line = life.operator.sees("wrong target suspected", lambda: robot.play(6, answered=False), record_property)
    assert "'patch'" in line and "/target" in line
    robot.send_target(scene(robot.frame)[1])
    life.operator.sees_end("wrong target suspected", lambda: robot.play(6, answered=False))


def write_endless_graph(path: Path) -> None:
    """Of a loop that counts to 2**62."""
    floats = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "y")]
    body = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["on"], ["still on"]), onnx.helper.make_node("Add", ["x", "x"], ["y"])],
        "body",
        [
            onnx.helper.make_tensor_value_info("i", onnx.TensorProto.INT64, []),
            onnx.helper.make_tensor_value_info("on", onnx.TensorProto.BOOL, []),
            floats[0],
        ],
        [onnx.helper.make_tensor_value_info("still on", onnx.TensorProto.BOOL, []), floats[1]],
    )
    count = onnx.helper.make_tensor("count", onnx.TensorProto.INT64, [], [2**62])
    start, end = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("start", "end"))
    loop = onnx.helper.make_node("Loop", ["count", "", "start"], ["end"], body=body)
    graph = onnx.helper.make_graph([loop], "endless", [start], [end], [count])
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9), path)


HUNG = """
import sys
import numpy as np
import onnxruntime
from cmdtrack_ros.ros import node
from cmdtrack_ros.tracking.engines.onnx import OnnxEngine
endless = onnxruntime.InferenceSession(sys.argv.pop(1), providers=["CPUExecutionProvider"])
def encode(*_):
    print("in the network", flush=True)
    endless.run(None, {"start": np.zeros(1, np.float32)})
OnnxEngine.encode = encode
node.main()
"""


@pytest.mark.parametrize(
    "number, transitions",
    [(signal.SIGINT, ()), (signal.SIGTERM, ("deactivate", "cleanup"))],
    ids=["as ros2 launch ends it", "after it was replaced"],
)
def test_network_that_hangs_does_not_hold_up_the_end(
    tmp_path: Path, number: signal.Signals, transitions: tuple[str, ...]
) -> None:
    """In ONNX Runtime's own code, which Python cannot end: the process must neither wait for it nor abort."""
    pytest.importorskip("onnxruntime", reason="it is what hangs")
    robot, log, graph = Robot("/hung"), tmp_path / "node.log", tmp_path / "endless.onnx"
    write_endless_graph(graph)
    parameters = ("device:=cpu", "threads:=1", "engine:=onnx", "initial_box:=[100.0, 90.0, 48.0, 48.0]")
    options = [part for parameter in parameters for part in ("-p", parameter)]
    command = [sys.executable, "-c", HUNG, str(graph), "--ros-args", "-r", "__ns:=/hung", *options]
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    try:
        robot.match()
        robot.wait("the hanging network", lambda: robot.play(1, answered=False) or "in the network" in log.read_text())
        for label in transitions:
            assert robot.call(ChangeState, "change_state", transition=Transition(label=label)).success
        process.send_signal(number)
        assert process.wait(PATIENCE) in (0, -number), log.read_text()
        assert "network hangs: no answer for " in log.read_text(), log.read_text()
        assert not any(word in log.read_text() for word in ("terminate called", "Traceback")), log.read_text()
    finally:
        process.kill()
        robot.close()


LABOURED = """
import time
from cmdtrack_ros.tracking import pipeline
from cmdtrack_ros.ros import node
see = pipeline.see
pipeline.see = lambda *images: (time.sleep(0.5), print("a frame", flush=True), see(*images))[-1]
node.main()
"""


def test_long_catching_up_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """The worker ends between two frames: it is not left behind."""
    robot, log = Robot("/laboured"), tmp_path / "node.log"
    options = [
        "--ros-args",
        "-r",
        "__ns:=/laboured",
        "-p",
        "device:=cpu",
        "-p",
        "threads:=1",
        "-p",
        "target_history:=60.0",
    ]
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, "-c", LABOURED, *options], stdout=file, stderr=subprocess.STDOUT)
    try:
        robot.match()
        robot.wait("a first result", lambda: robot.play(1, answered=False) or robot.tracks)
        robot.play(60, answered=False)
        robot.send_target(scene(0)[1], robot.tracks[0].header.stamp)
        robot.play(1, answered=False)
        robot.wait("some of 20 frames", lambda: log.read_text().count("a frame") > 4)
        process.terminate()
        assert process.wait(PATIENCE) in (0, -signal.SIGTERM)
        assert not any(word in log.read_text() for word in ("network hangs", "terminate called", "Traceback"))
        assert "target refused" not in log.read_text()
    finally:
        process.kill()
        robot.close()


def test_check_that_fails_leaves_the_diagnostics(
    life: Life, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    life.activate()
    monkeypatch.setattr(life.node._supervisor, "check", lambda _: 1 / 0)
    line = life.operator.sees("internal error", lambda: life.robot.play(3, answered=False), record_property)
    assert "ZeroDivisionError" in line
    monkeypatch.undo()
    life.operator.sees_end("internal error", lambda: life.robot.play(3, answered=False))


@pytest.mark.parametrize("cause, share", [("auxiliary stream useless", 0.01), ("RGB stream useless", 0.99)])
def test_stream_without_a_say(
    life: Life,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
    cause: str,
    share: float,
) -> None:
    monkeypatch.setattr(supervision, "_SHARE_SECONDS", 3)
    life.activate()
    life.robot.send_target(scene(life.robot.frame)[1])
    assert_tracks_again(life.robot)
    assert not life.operator.logged(cause)
    process = life.node._pipeline.process

    def one_sided(*args: object) -> list[Track]:
        return [replace(track, weight_aux=share, weight_rgb=1 - share) for track in process(*args)]

    monkeypatch.setattr(life.node._pipeline, "process", one_sided)
    line = life.operator.sees(cause, lambda: life.robot.play(6, answered=False), record_property)
    assert "of the say" in line
    monkeypatch.undo()
    life.operator.sees_end(cause, lambda: life.robot.play(6, answered=False))


def test_simulated_time_that_nobody_publishes(
    tmp_path: Path, repository: Path, record_property: Callable[[str, object], None]
) -> None:
    robot = Robot("/timeless")
    operator = Operator(robot)
    with running(tmp_path, repository, robot, modality="thermal", use_sim_time="true"):
        line = operator.sees("stamps ahead", lambda: robot.play(6, answered=False), record_property)
        assert "/clock" in line
        operator.sees_end("stamps ahead", lambda: robot.play(6, answered=False, clock=True))
