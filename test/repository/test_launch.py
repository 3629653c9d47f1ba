"""The launch files and the parameter files they hand to the node.

launch and launch_ros come with a robot's ROS 2, not with the wheels. Without them what is checked is that the
files compile, that the parameter files fit the node, and that RViz shows a topic the node has; with them the
launch files are run for real, and the node is asked for the values it came up with.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from shutil import which

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
LAUNCH_FILES = sorted((ROOT / "launch").glob("*.launch.py"))
MODALITIES = ("thermal", "depth", "event", "rgb")
NAV2_ARGUMENTS = [
    "namespace",
    "use_sim_time",
    "params_file",
    "autostart",
    "use_composition",
    "use_respawn",
    "log_level",
]

needs_launch = pytest.mark.skipif(
    find_spec("launch_ros") is None or find_spec("rclpy") is None,
    reason="launch_ros is not importable (part of apt's ROS 2, not of the wheels): launch files not run",
)


# The values that each modality's file changes; all others are tracker.yaml's.
DIFFERENCES = {
    "thermal": {"modality": "thermal"},
    "depth": {"modality": "depth", "slop": 0.01},
    "event": {"modality": "event", "slop": 0.02, "aux_timeout": 0.05},
    "rgb": {"modality": "rgb"},
}


def parameters_of(name: str) -> dict[str, object]:
    content = yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text())
    assert list(content) == ["/**"] and list(content["/**"]) == ["ros__parameters"]
    return content["/**"]["ros__parameters"]


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda path: path.name)
def test_launch_file_compiles(path: Path) -> None:
    assert "generate_launch_description" in compile(path.read_text(), str(path), "exec").co_names


@pytest.mark.ros
def test_tracker_yaml_has_every_parameter_with_its_default() -> None:
    from cmdtrack_ros.ros.parameters import SPECS

    # Every one but the lists, of which the parser cannot read an empty one.
    defaults = {spec.name: spec.default for spec in SPECS if spec.default != []}
    values = parameters_of("tracker")
    assert values == defaults
    assert {name: type(value) for name, value in values.items()} == {
        name: type(default) for name, default in defaults.items()
    }


@pytest.mark.ros
def test_tracker_yaml_explains_every_parameter_once() -> None:
    from cmdtrack_ros.ros.parameters import SPECS

    lines = (ROOT / "config" / "tracker.yaml").read_text().splitlines()
    rows = {spec.name: [] for spec in SPECS}
    for row, line in enumerate(lines):
        if match := re.match(r"    (?:# )?(\w+): ", line):
            rows.get(match[1], []).append(row)
    assert {name: len(found) for name, found in rows.items()} == dict.fromkeys(rows, 1)
    explained = [name for name, (row,) in rows.items() if lines[row - 1].startswith("    # ")]
    assert set(rows) - set(explained) == {"aux_topic", "aux_camera_info"}  # in one breath with that of RGB
    for spec in SPECS:
        above = reversed(lines[: rows[spec.name][0]])
        comment = takewhile(lambda line: line.startswith("    # "), above)
        assert any("(live)" in line for line in comment) is spec.live, spec.name


@pytest.mark.ros
@pytest.mark.parametrize("modality", MODALITIES)
def test_modality_file_holds_what_differs(modality: str) -> None:
    from cmdtrack_ros.ros.parameters import SPECS

    assert parameters_of(modality) == DIFFERENCES[modality]
    specs = {spec.name: spec for spec in SPECS}
    for name, value in parameters_of(modality).items():
        assert specs[name].read(value) == value
        assert type(value) is type(specs[name].default)


# Of those that config/tracker.rviz may name: plugins that come with RViz on every robot.
RVIZ_PLUGINS = {
    "rviz_common/Displays",
    "rviz_common/Time",
    *(f"rviz_default_plugins/{name}" for name in ("Grid", "Image", "MarkerArray", "MoveCamera", "Orbit", "Pose")),
}
# There while a tracker with a depth camera is active, not before.
IN_SPACE = {"/tracker/markers", "/tracker/target_pose"}


@pytest.fixture(scope="module")
def published() -> dict[str, list[str]]:
    """Topics of the configured node, as without a namespace, and their types."""
    import rclpy

    from cmdtrack_ros.ros.node import TrackerNode

    # A name of its own: the graph may still hold a node /tracker of another test.
    rclpy.init(args=["--ros-args", "-r", "__ns:=/shown", "-p", "autostart:=false"])
    try:
        node = TrackerNode()
        node.trigger_configure()
        found = node.get_publisher_names_and_types_by_node("tracker", "/shown")
        topics = {name.removeprefix("/shown"): kinds for name, kinds in found}
        node.trigger_cleanup()
        node.destroy_node()
    finally:
        rclpy.shutdown()
    return topics


@pytest.mark.ros
def test_rviz_shows_topics_that_the_node_publishes(published: dict[str, list[str]]) -> None:
    config = yaml.safe_load((ROOT / "config" / "tracker.rviz").read_text())
    displays = config["Visualization Manager"]["Displays"]
    shown = {display["Topic"]["Value"] for display in displays if "Topic" in display}
    assert "/tracker/overlay" in shown and shown - IN_SPACE <= set(published)
    assert set(re.findall(r"Class: (\w+/\w+)", (ROOT / "config" / "tracker.rviz").read_text())) <= RVIZ_PLUGINS
    launch_file = (ROOT / "launch" / "tracker.launch.py").read_text()
    assert all(f'"{topic.removeprefix("/tracker/")}"' in launch_file for topic in shown), "remapped for a namespace"


@pytest.mark.ros
def test_foxglove_shows_topics_and_fields_that_there_are(published: dict[str, list[str]]) -> None:
    from cmdtrack_ros.msg import TrackState

    layout = json.loads((ROOT / "config" / "foxglove.json").read_text())
    panels = layout["configById"]
    assert _panels_in(layout["layout"]) == sorted(panels)
    assert {name.partition("!")[0] for name in panels} == {
        *("Image", "3D", "StateTransitions", "Plot", "DiagnosticSummary")
    }
    paths = [path["value"] for panel in panels.values() for path in panel.get("paths", [])]
    fields = TrackState.get_fields_and_field_types()
    assert paths and all(path.startswith("/tracker/track.") and path.split(".")[1] in fields for path in paths)
    named = set(re.findall(r'"(/[\w/]+)"', json.dumps(panels)))
    foxglove_only = {"/tracker/annotations"} - set(published)
    assert not foxglove_only or importlib.util.find_spec("foxglove_msgs") is None
    assert named - IN_SPACE - foxglove_only - {"/rgb/image"} <= set(published)


def _panels_in(tree: dict | str) -> list[str]:
    if isinstance(tree, str):
        return [tree]
    return sorted(_panels_in(tree["first"]) + _panels_in(tree["second"]))


# What a file sets itself, and so does not offer.
# Following has a default of its own for params_file.
OWN = {"replay.launch.py": "use_sim_time", "two_cameras.launch.py": "namespace", "follow.launch.py": "params_file"}


@needs_launch
@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda path: path.name)
def test_arguments_are_those_of_nav2(path: Path) -> None:
    description = _description(path)
    names = [argument.name for argument in description.get_launch_arguments()]
    expected = [name for name in NAV2_ARGUMENTS if name != OWN.get(path.name)]
    assert [name for name in names if name in expected] == expected
    assert (names[0] == "bag") is (path.name == "replay.launch.py")


@needs_launch
@pytest.mark.ros
def test_launched_node_has_the_values_of_its_launch_file(tmp_path: Path) -> None:
    """A real process through launch_ros: parameters from the modality's file and from the command line."""
    arguments = [
        "namespace:=robot",
        "modality:=depth",
        "use_sim_time:=true",
        "autostart:=false",
        "rgb_topic:=/camera/color",
        "initial_box:=[1, 2.5, 30, 40]",
    ]
    with Launched("tracker.launch.py", arguments, tmp_path):
        names = ["modality", "slop", "aux_timeout", "use_sim_time", "autostart", "initial_box"]
        values = _ask("/robot/tracker", names)
    assert values == {
        "modality": "depth",
        "slop": 0.01,
        "aux_timeout": 0.1,
        "use_sim_time": True,
        "autostart": False,
        "initial_box": [1.0, 2.5, 30.0, 40.0],
    }


@needs_launch
@pytest.mark.ros
def test_following_takes_depth_and_the_arguments_of_the_tracker(tmp_path: Path) -> None:
    arguments = ["namespace:=robot", "autostart:=false", "initial_box:=[1, 2.5, 30, 40]"]
    with Launched("follow.launch.py", arguments, tmp_path):
        values = _ask("/robot/tracker", ["modality", "slop", "autostart", "initial_box"])
    assert values == {"modality": "depth", "slop": 0.01, "autostart": False, "initial_box": [1.0, 2.5, 30.0, 40.0]}


@needs_launch
@pytest.mark.ros
@pytest.mark.parametrize("given", [{}, {"detections_class": "0", "detections_score": 0.4}], ids=["file", "arguments"])
def test_following_takes_the_detectors_class_and_score(tmp_path: Path, given: dict[str, object]) -> None:
    arguments = [f"{name}:={value}" for name, value in given.items()]
    with Launched("follow.launch.py", ["namespace:=robot", "autostart:=false", *arguments], tmp_path):
        values = _ask("/robot/tracker", ["detections_topic", "detections_class", "detections_score"])
    follow = parameters_of("follow")
    assert values == follow | given
    assert [type(value) for value in values.values()] == [str, str, float]


@needs_launch
@pytest.mark.ros
def test_following_hears_the_detector_and_publishes_the_pose_that_nav2_is_told(tmp_path: Path) -> None:
    """`pose_topic` of docs/follow_person.md, in the robot's namespace."""
    page = (ROOT / "docs" / "follow_person.md").read_text()
    pose = "/robot" + re.search(r"pose_topic: (/[\w/]+)", page)[1]
    wanted = {(pose, "geometry_msgs/msg/PoseStamped")}
    if find_spec("vision_msgs"):
        wanted.add(("/detector/found", "vision_msgs/msg/Detection2DArray"))
    found: set[tuple[str, str]] = set()
    arguments = ["namespace:=robot", "detections_topic:=/detector/found"]
    with Launched("follow.launch.py", arguments, tmp_path) as process, _ros_node() as node:
        deadline = time.monotonic() + 90
        while not wanted <= found and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
            if ("tracker", "/robot") in node.get_node_names_and_namespaces():
                topics = node.get_publisher_names_and_types_by_node("tracker", "/robot")
                topics += node.get_subscriber_names_and_types_by_node("tracker", "/robot")
                found = {(name, kind) for name, kinds in topics for kind in kinds}
    assert wanted <= found


@needs_launch
@pytest.mark.ros
def test_autostarted_node_listens_to_the_topics_it_was_given(tmp_path: Path) -> None:
    arguments = ["namespace:=robot", "rgb_topic:=/camera/color", "aux_topic:=thermal/image"]
    wanted = {"/camera/color", "/robot/thermal/image", "/robot/tracker/target"}
    topics: set[str] = set()
    with Launched("tracker.launch.py", arguments, tmp_path) as process, _ros_node() as node:
        deadline = time.monotonic() + 90
        while not wanted <= topics and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
            if ("tracker", "/robot") in node.get_node_names_and_namespaces():
                topics = {name for name, _ in node.get_subscriber_names_and_types_by_node("tracker", "/robot")}
    assert wanted <= topics


@needs_launch
@pytest.mark.ros
@pytest.mark.parametrize("node", ["/**", "tracker"])
def test_params_file_of_the_user_goes_before_the_shipped_ones_but_not_the_command_line(
    node: str, tmp_path: Path
) -> None:
    own = tmp_path / "own.yaml"
    values = {"modality": "event", "slop": 0.5, "initial_box": [4.0, 5.0, 6.0, 7.0]}
    own.write_text(yaml.safe_dump({node: {"ros__parameters": {**values, "autostart": True}}}))
    with Launched("tracker.launch.py", [f"params_file:={own}", "autostart:=false"], tmp_path):
        answer = _ask("/tracker", [*values, "aux_timeout", "autostart"])
    assert answer == {**values, "aux_timeout": 0.1, "autostart": False}


@needs_launch
@pytest.mark.ros
def test_modality_beside_a_params_file_does_what_it_says(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump({"tracker": {"ros__parameters": {"modality": "thermal", "slop": 0.5}}}))
    arguments = ["modality:=event", f"params_file:={own}", "autostart:=false"]
    with Launched("tracker.launch.py", arguments, tmp_path):
        answer = _ask("/tracker", ["modality", "slop", "aux_timeout"])
    assert answer == {"modality": "event", "slop": 0.5, "aux_timeout": 0.05}


@needs_launch
@pytest.mark.parametrize(
    "argument, sentence",
    [
        ("modality:=infrared", "modality:=infrared: expected one of thermal, depth, event, rgb"),
        ("initial_box:=a,b", "initial_box:=a,b: expected four numbers, x, y, width and height"),
        ("initial_box:=[1, 2, 3]", "initial_box:=[1, 2, 3]: expected four numbers, x, y, width and height"),
        ("params_file:=/no/file.yaml", "params_file:=/no/file.yaml: there is no such file"),
    ],
)
def test_wrong_argument_is_named_and_nothing_is_started(argument: str, sentence: str, tmp_path: Path) -> None:
    launched = Launched("tracker.launch.py", [argument], tmp_path)
    with launched as process:
        assert process.wait(60) == 1
    assert sentence in launched.log()
    assert "process started" not in launched.log()


@needs_launch
@pytest.mark.ros
def test_two_cameras_are_two_trackers_with_topics_of_their_own(tmp_path: Path) -> None:
    with Launched("two_cameras.launch.py", ["modality:=depth", "autostart:=False"], tmp_path):
        values = [_ask(f"/{name}/tracker", ["modality", "autostart"]) for name in ("front", "rear")]
    assert values == [{"modality": "depth", "autostart": False}] * 2


@needs_launch
def test_each_of_two_cameras_has_its_own_images() -> None:
    """What the nodes' processes are told, without starting them."""
    from launch import LaunchContext
    from launch.actions import DeclareLaunchArgument
    from launch_ros.actions import Node

    context, commands = LaunchContext(), []
    pending = list(_description(ROOT / "launch" / "two_cameras.launch.py").entities)
    while pending:
        entity = pending.pop(0)
        if isinstance(entity, Node):
            entity._perform_substitutions(context)
            commands.append((entity.expanded_node_namespace, dict(entity.expanded_remapping_rules)))
            continue
        found = entity.execute(context) if isinstance(entity, DeclareLaunchArgument) else entity.visit(context)
        pending = [*(found or []), *pending]
    assert commands == [
        (f"/{name}", {"rgb/image": f"/{name}/rgb/image", "aux/image": f"/{name}/aux/image"})
        for name in ("front", "rear")
    ]


@needs_launch
@pytest.mark.ros
def test_composition_is_refused_in_words_and_a_crashed_node_comes_back(tmp_path: Path) -> None:
    arguments = ["use_composition:=True", "use_respawn:=True", "autostart:=False", "namespace:=robot"]
    launched = Launched("tracker.launch.py", arguments, tmp_path, dies=True)
    with launched:
        assert _ask("/robot/tracker", ["autostart"]) == {"autostart": False}
        first = re.search(r"process started with pid \[(\d+)\]", launched.log())
        os.kill(int(first[1]), signal.SIGKILL)
        deadline = time.monotonic() + 90
        while launched.log().count("process started with pid") < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert _ask("/robot/tracker", ["autostart"]) == {"autostart": False}
    assert "use_composition:=true is not possible" in launched.log()


@needs_launch
@pytest.mark.ros
def test_recorder_of_losses_starts_beside_the_tracker(tmp_path: Path) -> None:
    arguments = ["namespace:=robot", "autostart:=false", "use_sim_time:=true", f"record:={tmp_path}/lost"]
    launched = Launched("tracker.launch.py", arguments, tmp_path)
    with launched:
        values = _ask("/robot/tracker_recorder", ["use_sim_time"])
        deadline = time.monotonic() + 60
        while "recording losses" not in launched.log() and time.monotonic() < deadline:
            time.sleep(0.1)
    assert values == {"use_sim_time": True}
    assert f"recording losses of /robot/tracker into {tmp_path}/lost" in launched.log()


@needs_launch
@pytest.mark.ros
@pytest.mark.skipif(which("rviz2") is not None, reason="rviz2 is installed: it would open a window")
def test_missing_rviz_is_said_and_the_tracker_starts_without_it(tmp_path: Path) -> None:
    launched = Launched("tracker.launch.py", ["rviz:=true", "modality:=rgb", "autostart:=false"], tmp_path)
    with launched:
        assert _ask("/tracker", ["modality"]) == {"modality": "rgb"}
    assert "rviz:=true, but rviz2 is not installed" in launched.log()


@needs_launch
@pytest.mark.ros
def test_node_runs_in_the_python_of_the_activated_environment(tmp_path: Path) -> None:
    """What stands first on PATH, as after `source venv/bin/activate`, and not the Python that launch runs in."""
    python = tmp_path / "bin" / "python3"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/started\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    with Launched("tracker.launch.py", ["autostart:=false"], tmp_path, path=python.parent):
        assert _ask("/tracker", ["autostart"]) == {"autostart": False}
    assert (tmp_path / "started").read_text().strip().endswith("lib/cmdtrack_ros/tracker_node")


@needs_launch
@pytest.mark.parametrize("own", [None, "own.xml"])
def test_processes_load_the_transport_profile_unless_the_user_has_one(own: str | None, monkeypatch) -> None:
    from launch import LaunchContext
    from launch.actions import SetEnvironmentVariable

    from cmdtrack_ros.ros.transport import profile_file

    monkeypatch.delenv("FASTDDS_DEFAULT_PROFILES_FILE", raising=False)
    monkeypatch.delenv("FASTDDS_BUILTIN_TRANSPORTS", raising=False)
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", own or "")
    context = LaunchContext()
    description = _description(ROOT / "launch" / "tracker.launch.py")
    profile, *_ = [entity for entity in description.entities if type(entity).__name__ == "OpaqueFunction"]
    for action in profile.execute(context):
        assert isinstance(action, SetEnvironmentVariable)
        action.execute(context)
    assert context.environment["FASTRTPS_DEFAULT_PROFILES_FILE"] == (own or str(profile_file()))


@needs_launch
@pytest.mark.ros
def test_replay_starts_the_player_after_the_delay(tmp_path: Path) -> None:
    """With a stand-in for `ros2`, which writes its arguments down: ros2 bag is not there to play."""
    (tmp_path / "share" / "ament_index" / "resource_index" / "packages").mkdir(parents=True)
    (tmp_path / "share" / "ament_index" / "resource_index" / "packages" / "ros2bag").touch()
    player = tmp_path / "ros2"
    player.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\n')
    player.chmod(0o755)
    arguments = ["bag:=walk.mcap", "rate:=2.0", "loop:=true", "delay:=0.5", "autostart:=false", "modality:=event"]
    with Launched("replay.launch.py", arguments, tmp_path, path=tmp_path, prefix=tmp_path):
        values = _ask("/tracker", ["modality", "use_sim_time"])
        deadline = time.monotonic() + 90
        while not (tmp_path / "arguments").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
    assert values == {"modality": "event", "use_sim_time": True}
    assert (tmp_path / "arguments").read_text().split() == [
        "bag",
        "play",
        "walk.mcap",
        "--clock",
        "100",
        "--rate",
        "2.0",
        "--disable-keyboard-controls",
        "--loop",
    ]


@needs_launch
@pytest.mark.skipif(which("ros2") is not None and find_spec("ros2bag") is not None, reason="ros2bag is installed")
def test_replay_without_ros2bag_says_what_to_install(tmp_path: Path) -> None:
    launched = Launched("replay.launch.py", ["bag:=walk.mcap"], tmp_path)
    with launched as process:
        assert process.wait(60) == 1
    assert "ros2bag is not installed" in launched.log()
    assert "process started" not in launched.log()


def _description(path: Path):
    spec = importlib.util.spec_from_file_location("launch_file", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.generate_launch_description()


RUN = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
service = LaunchService(noninteractive=True)  # no terminal sends our Ctrl-C to the nodes too
arguments = [argument.split(":=", 1) for argument in sys.argv[2:]]
service.include_launch_description(LaunchDescription([
    IncludeLaunchDescription(PythonLaunchDescriptionSource(sys.argv[1]), launch_arguments=arguments)]))
sys.exit(service.run())
"""


class Launched:
    """A launch file run in a process of its own, and ended with all that it started."""

    def __init__(
        self,
        name: str,
        arguments: list[str],
        home: Path,
        path: Path | None = None,
        prefix: Path | None = None,
        *,
        dies: bool = False,
    ) -> None:
        self._dies = dies  # a process of it is to die
        self._command = [sys.executable, "-c", RUN, str(ROOT / "launch" / name), *arguments]
        folders = [str(path)] if path else []
        # The nodes' `#!/usr/bin/env python3` must find the Python these tests run in.
        folders += [str(Path(sys.executable).parent), os.environ["PATH"]]
        self._environment = {**os.environ, "PATH": os.pathsep.join(folders), "ROS_LOG_DIR": str(home / "log")}
        if prefix:
            self._environment["AMENT_PREFIX_PATH"] = f"{prefix}:{os.environ['AMENT_PREFIX_PATH']}"
        self._log = home / "launch.log"

    def log(self) -> str:
        return self._log.read_text()

    def __enter__(self) -> subprocess.Popen:
        with open(self._log, "w") as log:
            self._process = subprocess.Popen(self._command, env=self._environment, stdout=log, stderr=log)
        return self._process

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(60)
        finally:
            self._process.kill()
            print(self.log())
        assert ("process has died" in self.log()) is self._dies


@contextmanager
def _ros_node():
    import rclpy

    rclpy.init()
    node = rclpy.create_node("asks")
    try:
        yield node
    finally:
        node.destroy_node()
        rclpy.shutdown()


def _ask(node_name: str, names: list[str]) -> dict[str, object]:
    """The values of parameters of another process' node, within 60 s."""
    import rclpy
    from rcl_interfaces.srv import GetParameters
    from rclpy.parameter import parameter_value_to_python

    with _ros_node() as node:
        client = node.create_client(GetParameters, f"{node_name}/get_parameters")
        assert client.wait_for_service(60), f"no node {node_name}"
        for _ in range(12):  # an answer is lost where the server has not found its client yet
            future = client.call_async(GetParameters.Request(names=names))
            rclpy.spin_until_future_complete(node, future, timeout_sec=5)
            if future.done():
                break
        values = [parameter_value_to_python(value) for value in future.result().values]
    return {name: list(value) if hasattr(value, "tolist") else value for name, value in zip(names, values)}
