"""The node's parts that need rclpy but no second process: parameters, QoS, subscriptions, reports."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not importable: run `make test`, or source ROS 2")

from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402

from cmdtrack_ros.errors import ConfigError  # noqa: E402
from cmdtrack_ros.ros.diagnostics import Latencies, Reports  # noqa: E402
from cmdtrack_ros.ros.parameters import SPECS, Parameters, Settings  # noqa: E402
from cmdtrack_ros.ros.qos import plan_subscription  # noqa: E402
from cmdtrack_ros.streams.pairing import NearestPairFilter  # noqa: E402

pytestmark = pytest.mark.ros


@pytest.fixture
def context() -> Iterator[rclpy.context.Context]:
    context = rclpy.context.Context()
    rclpy.init(context=context)
    yield context
    rclpy.shutdown(context=context)


def node_with(context: rclpy.context.Context, **overrides: object) -> Node:
    given = [Parameter(name, value=value) for name, value in overrides.items()]
    return Node("parts", context=context, parameter_overrides=given)


class Options(Parameters):
    """Parameters on a node whose state the test sets."""

    def __init__(self, node: Node) -> None:
        self.configured = False
        self.live: list[Settings] = []
        super().__init__(node, lambda: self.configured, self.live.append)


def test_defaults_are_valid(context: rclpy.context.Context) -> None:
    settings = Options(node_with(context)).settings()
    assert settings.modality == "thermal" and settings.slop == 0.03 and settings.initial_box == ()
    assert [spec.name for spec in SPECS] == list(Settings.__dataclass_fields__), "one table, one type"
    assert all(spec.text.endswith(".") for spec in SPECS)


def test_whole_numbers_pass_for_floating_point_ones(context: rclpy.context.Context) -> None:
    settings = Options(node_with(context, slop=0, data_timeout=3, initial_box=[1, 2, 30, 40])).settings()
    assert (settings.slop, settings.data_timeout) == (0.0, 3.0) and isinstance(settings.slop, float)
    assert settings.initial_box == (1.0, 2.0, 30.0, 40.0)


@pytest.mark.parametrize(
    "name, value, says",
    [
        ("slop", "wide", "'slop': expected a number, got 'wide'"),
        ("slop", 11.0, "slop"),
        ("slop", float("nan"), "slop"),
        ("queue_size", 0, "queue_size"),
        ("queue_size", True, "'queue_size': expected a whole number, got True"),
        ("threads", 1.5, "'threads': expected a whole number"),
        ("autostart", 1, "'autostart': expected true or false, got 1"),
        ("modality", "sonar", "'modality': expected one of thermal, depth, event, rgb, got 'sonar'"),
        ("rgb_topic", "not a topic", "'rgb_topic': expected the name of a topic"),
        ("initial_box", [1.0, 2.0, 3.0], "'initial_box': expected nothing or x, y, width, height"),
        ("initial_box", [1.0, 2.0, 0.0, 3.0], "above 0"),
        ("initial_box", "centre", "'initial_box'"),
        ("thermal_range", [31315.0, 29315.0], "low below high"),
        ("depth_max", 0.0, "depth_max"),
    ],
)
def test_unusable_values(context: rclpy.context.Context, name: str, value: object, says: str) -> None:
    node = node_with(context, **{name: value})
    options = Options(node)
    with pytest.raises(ConfigError, match=says):
        options.settings()
    default = {spec.name: spec.default for spec in SPECS}[name]
    if default != []:  # rclpy refuses an empty list
        assert node.set_parameters([Parameter(name, value=default)])[0].successful
        assert getattr(options.settings(), name) == default, "a good value mends it"
        result = node.set_parameters([Parameter(name, value=value)])[0]
        assert not result.successful and name in result.reason
        assert getattr(options.settings(), name) == default


def test_changes_are_taken_whole_or_not_at_all(context: rclpy.context.Context) -> None:
    node = node_with(context)
    options = Options(node)
    options.configured = True
    good, bad = Parameter("slop", value=0.01), Parameter("aux_timeout", value=-1.0)
    assert not node.set_parameters_atomically([good, bad]).successful
    assert options.settings().slop == 0.03 and options.live == []
    assert node.set_parameters_atomically([good, Parameter("aux_timeout", value=0.2)]).successful
    assert [(s.slop, s.aux_timeout) for s in options.live] == [(0.01, 0.2)]
    refused = node.set_parameters([Parameter("modality", value="depth")])[0]
    assert not refused.successful and "configured" in refused.reason
    options.configured = False
    assert node.set_parameters([Parameter("modality", value="depth")])[0].successful


def offer(best_effort: bool, kind: str = "Image") -> SimpleNamespace:
    reliability = ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE
    return SimpleNamespace(
        topic_type=f"sensor_msgs/msg/{kind}", qos_profile=SimpleNamespace(reliability=reliability)
    )


@pytest.mark.parametrize(
    "topic, publishers, asked, kind, reliability",
    [
        ("/rgb/image", [], "auto", Image, "RELIABLE"),
        ("/rgb/image", [offer(False), offer(False)], "auto", Image, "RELIABLE"),
        ("/rgb/image", [offer(False), offer(True)], "auto", Image, "BEST_EFFORT"),
        ("/rgb/image", [offer(True)], "reliable", Image, "RELIABLE"),
        ("/rgb/image", [offer(False)], "best_effort", Image, "BEST_EFFORT"),
        ("/rgb/image/compressed", [], "auto", CompressedImage, "RELIABLE"),
        ("/depth/compressedDepth", [], "auto", CompressedImage, "RELIABLE"),
        ("/rgb/any", [offer(True, "CompressedImage")], "auto", CompressedImage, "BEST_EFFORT"),
        ("/odd/compressed", [offer(False)], "auto", Image, "RELIABLE"),
    ],
)
def test_subscription_follows_the_publishers(topic, publishers, asked, kind, reliability) -> None:
    plan = plan_subscription(topic, publishers, asked)
    assert plan.message_type is kind and plan.reliability == ReliabilityPolicy[reliability]
    assert plan.profile(7).depth == 7


@pytest.mark.parametrize("installed", [True, False], ids=["message_filters", "stand-in"])
def test_pairing_behind_both_kinds_of_subscriber(
    context: rclpy.context.Context, installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cmdtrack_ros.ros import filters

    if installed:
        pytest.importorskip("message_filters", reason="message_filters is no package-index wheel; apt has it")
    else:
        monkeypatch.setitem(sys.modules, "message_filters", None)
    filters = importlib.reload(filters)
    assert filters.MESSAGE_FILTERS == installed
    node, got = node_with(context), []
    subscribers = [
        filters.Subscriber(node, Image, topic, qos_profile=QoSProfile(depth=5)) for topic in ("rgb", "aux")
    ]
    pairing = NearestPairFilter(subscribers, 10, 0.03)
    pairing.registerCallback(lambda rgb, aux, extra: got.append((rgb, aux, extra)), "extra")
    assert subscribers[0].getTopic() == "rgb" and subscribers[0].sub in node.subscriptions
    publishers = [node.create_publisher(Image, topic, 5) for topic in ("rgb", "aux")]
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    for _ in range(100):
        for i, publisher in enumerate(publishers):
            message = Image(width=i + 1)
            message.header.stamp = node.get_clock().now().to_msg()
            publisher.publish(message)
        executor.spin_once(timeout_sec=0.05)
        if len(got) >= 2:
            break
    executor.shutdown()
    monkeypatch.undo()
    importlib.reload(filters)
    assert got and all((rgb.width, aux.width, extra) == (1, 2, "extra") for rgb, aux, extra in got if aux)
    assert any(aux for _, aux, _ in got)


def test_reports_tell_each_fault_once() -> None:
    told: list[str] = []
    reports = Reports(told.append, 60.0)
    for size in (3, 4, 5):
        reports("rgb image", f"expected 10 bytes, got {size}")
    reports("rgb image", "expected rgb8, got 'foo'")
    assert told == ["rgb image: expected 10 bytes, got 3", "rgb image: expected rgb8, got 'foo'"]
    assert reports.latest() == ["rgb image"]
    again = Reports(told.append, 0.0)
    again("tracking", "x")
    again("tracking", "x")
    assert told[2:] == ["tracking: x"] * 2


def test_reports_say_what_went_untold(monkeypatch: pytest.MonkeyPatch) -> None:
    from cmdtrack_ros.ros import diagnostics

    told: list[str] = []
    now = 100.0
    monkeypatch.setattr(diagnostics, "time", SimpleNamespace(monotonic=lambda: now))
    reports = Reports(told.append, 5.0)
    for now in (100.0, 101.0, 102.0, 106.0):
        reports("tracking", "x")
    assert told == ["tracking: x", "tracking: x (2 more since the last message)"]


def test_latency_percentiles() -> None:
    latencies = Latencies()
    assert latencies.values() == {}
    for i in range(1, 101):
        latencies.add(i * 1e-3, 0.002)
    values = latencies.values()
    assert values["latency p50 (ms)"] == "50.5" and values["processing p99 (ms)"] == "2.0"
    assert float(values["latency p95 (ms)"]) == pytest.approx(95.0, abs=0.1)
