"""The node's life: what it refuses, what it survives, and how it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not importable: run `make test`, or source ROS 2")

from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState, GetState  # noqa: E402
from rclpy.context import Context  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402

from cmdtrack_ros.msg import TargetBox  # noqa: E402
from cmdtrack_ros.ros.node import TrackerNode  # noqa: E402

pytestmark = pytest.mark.ros

PATIENCE = 120.0  # s to wait for what must come, however busy the machine
REACH = {
    "unconfigured": (),
    "inactive": ("configure",),
    "active": ("configure", "activate"),
    "finalized": ("shutdown",),
}
ALLOWED = {
    ("unconfigured", Transition.TRANSITION_CONFIGURE, "configure"): "inactive",
    ("unconfigured", Transition.TRANSITION_UNCONFIGURED_SHUTDOWN, "shutdown"): "finalized",
    ("inactive", Transition.TRANSITION_CLEANUP, "cleanup"): "unconfigured",
    ("inactive", Transition.TRANSITION_ACTIVATE, "activate"): "active",
    ("inactive", Transition.TRANSITION_INACTIVE_SHUTDOWN, "shutdown"): "finalized",
    ("active", Transition.TRANSITION_DEACTIVATE, "deactivate"): "inactive",
    ("active", Transition.TRANSITION_ACTIVE_SHUTDOWN, "shutdown"): "finalized",
}
IDS = {getattr(Transition, name) for name in dir(Transition) if name.startswith("TRANSITION_")}
LABELS = ("configure", "cleanup", "activate", "deactivate", "shutdown", "transition_success", "create", "nonsense")


class Manager:
    """A lifecycle manager of the node called `tracker` in `namespace`."""

    def __init__(self, namespace: str) -> None:
        self.context = Context()
        rclpy.init(context=self.context)
        self.node = Node("manager", context=self.context, namespace=namespace)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.target = self.node.create_publisher(TargetBox, "tracker/target", 10)
        self.clients = {
            kind: self.node.create_client(kind, f"tracker/{service}")
            for kind, service in ((ChangeState, "change_state"), (GetState, "get_state"))
        }

    def call(self, kind: type, **fields: object) -> object:
        assert self.clients[kind].wait_for_service(PATIENCE), kind
        future = self.clients[kind].call_async(kind.Request(**fields))
        self.wait(lambda: future.done(), f"an answer to {kind.__name__} {fields}")
        return future.result()

    def wait(self, condition: Callable[[], object], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, f"waited {PATIENCE} s for {what}"
            self.executor.spin_once(timeout_sec=0.05)

    def ask(self, number: int = 0, label: str = "") -> bool:
        """Whether the node made the transition."""
        return self.call(ChangeState, transition=Transition(id=number, label=label)).success

    def state(self) -> str:
        return self.call(GetState).current_state.label

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def manager(request: pytest.FixtureRequest) -> Iterator[Manager]:
    """Asks the node in a namespace of this test's own."""
    manager = Manager(f"/life{abs(hash(request.node.name))}")
    yield manager
    manager.close()


@pytest.fixture
def tracker(manager: Manager) -> Iterator[TrackerNode]:
    """The node as `main` runs it, in a thread; nothing is configured yet."""
    parameters = ("device:=cpu", "threads:=1", "autostart:=false")
    options = [part for parameter in parameters for part in ("-p", parameter)]
    rclpy.init(args=["--ros-args", "-r", f"__ns:={manager.node.get_namespace()}", *options])
    node = TrackerNode()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    spinning = threading.Thread(target=node.run, args=(executor,))
    spinning.start()
    yield node
    assert spinning.is_alive()
    rclpy.shutdown()
    spinning.join(PATIENCE)
    assert not spinning.is_alive()
    node._shut_down()
    node.destroy_node()


def bring(manager: Manager, state: str) -> None:
    for label in REACH[state]:
        assert manager.ask(label=label), label
    assert manager.state() == state


@pytest.mark.usefixtures("tracker")
@pytest.mark.parametrize("state", REACH)
def test_impossible_transitions_are_refused(manager: Manager, state: str) -> None:
    bring(manager, state)
    for number in {*IDS, 255} - {number for start, number, _ in ALLOWED if start == state}:
        assert not manager.ask(number), number
        assert manager.state() == state, number
    for label in {*LABELS} - {label for start, _, label in ALLOWED if start == state}:
        assert not manager.ask(label=label), label
        assert manager.state() == state, label


@pytest.mark.usefixtures("tracker")
@pytest.mark.parametrize("start, number, label", ALLOWED)
def test_possible_transitions(manager: Manager, start: str, number: int, label: str) -> None:
    bring(manager, start)
    assert manager.ask(number)
    assert manager.state() == ALLOWED[start, number, label]


def test_failed_activation_leaves_nothing_open(
    tracker: TrackerNode, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_timer(*_: object, **__: object) -> None:
        raise RuntimeError("no more")

    bring(manager, "inactive")
    before = len(list(tracker.timers)), len(list(tracker.subscriptions))
    monkeypatch.setattr(tracker, "create_timer", no_timer)
    assert not manager.ask(label="activate")
    assert manager.state() == "inactive"
    assert (len(list(tracker.timers)), len(list(tracker.subscriptions))) == before
    monkeypatch.undo()
    assert manager.ask(label="activate")


class Process:
    """The node in a process of its own; `patch` is run there before."""

    def __init__(self, folder: Path, *arguments: str, patch: str = "") -> None:
        self.log = folder / "node.log"
        code = f"from cmdtrack_ros.ros import node\n{patch}\nnode.main()"
        with self.log.open("w") as log:
            self.child = subprocess.Popen(
                [sys.executable, "-c", code, "--ros-args", "-p", "device:=cpu", "-p", "threads:=1", *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def text(self) -> str:
        return self.log.read_text()

    def says(self, part: str) -> bool:
        assert self.child.poll() is None or part in self.text(), f"the node ended:\n{self.text()}"
        return part in self.text()


@pytest.fixture
def start(tmp_path: Path, manager: Manager) -> Iterator[Callable[..., Process]]:
    """Starts the node where the manager finds it."""
    started: list[Process] = []

    def make(*arguments: str, **options: str) -> Process:
        started.append(Process(tmp_path, *arguments, "-r", f"__ns:={manager.node.get_namespace()}", **options))
        return started[-1]

    yield make
    for process in started:
        process.child.kill()
        process.child.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_node_that_refused_to_configure_answers_and_ends(
    start: Callable[..., Process], manager: Manager, number: signal.Signals
) -> None:
    process = start("-p", "slop:=99.0")
    manager.wait(lambda: process.says("configure failed: "), "the refusal")
    for _ in range(20):
        assert manager.state() == "unconfigured"
        assert not manager.ask(label="configure")
        assert not manager.ask(label="activate")
    process.child.send_signal(number)
    assert process.child.wait(PATIENCE) in (0, -number)
    assert "Traceback" not in process.text()


INTERRUPTED = """
import os, rclpy, signal, time
load = node.load_tracker
def interrupted(*args, **options):
    os.kill(os.getpid(), signal.SIGTERM)
    while rclpy.ok():
        time.sleep(0.01)
    return load(*args, **options)
node.load_tracker = interrupted
"""


def test_node_interrupted_while_it_configures_ends_quietly(start: Callable[..., Process]) -> None:
    process = start(patch=INTERRUPTED)
    assert process.child.wait(PATIENCE) in (0, -signal.SIGTERM), process.text()
    assert "Traceback" not in process.text(), process.text()


def test_callback_that_raises_costs_its_own_call_only(start: Callable[..., Process], manager: Manager) -> None:
    process = start(patch="node.TargetDoors._on_target = lambda self, message: 1 / 0")
    manager.wait(lambda: process.says("active:"), "the active node")
    manager.wait(manager.target.get_subscription_count, "the node's subscription")

    def raised() -> bool:
        manager.target.publish(TargetBox())
        return process.says("ZeroDivisionError")

    manager.wait(raised, "the error in the log")
    for _ in range(5):
        manager.target.publish(TargetBox())
        assert manager.state() == "active"
    assert process.text().count("internal error") == 1, "throttled"
    process.child.terminate()
    assert process.child.wait(PATIENCE) in (0, -signal.SIGTERM)


@pytest.mark.parametrize(
    "argument", ["rgb_topic:={bad}", "slop:=", "initial_box:=[1", "initial_box:=[1, 2.5, 3, 4]", "use_sim_time:=often"]
)
def test_arguments_that_rcl_cannot_read_end_the_start_in_one_line(start: Callable[..., Process], argument: str) -> None:
    process = start("-p", argument)
    assert process.child.wait(PATIENCE) == 1
    *_, last = process.text().splitlines()
    assert "cannot start: " in last and argument.partition(":=")[0] in last
    assert "Traceback" not in process.text()
