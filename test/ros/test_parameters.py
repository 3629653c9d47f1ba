"""The node's parameters: defaults, ranges, and changes taken as a whole."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict

import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not importable: run `make test`, or source ROS 2")

from rclpy.node import Node  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402

from cmdtrack_ros.errors import ConfigError  # noqa: E402
from cmdtrack_ros.ros.parameters import SPECS, Parameters, Settings  # noqa: E402
from cmdtrack_ros.streams.pairing import PairOptions  # noqa: E402

pytestmark = pytest.mark.ros


class Options(Parameters):
    """Parameters on a node whose state the test sets."""

    def __init__(self, node: Node) -> None:
        self.configured = False
        self.live: list[Settings] = []
        super().__init__(node, lambda: self.configured, self.live.append)


def test_defaults_are_valid(node_with: Callable) -> None:
    settings = Options(node_with()).settings()
    assert settings.modality == "thermal" and settings.initial_box == ()
    for name, default in asdict(PairOptions()).items():
        assert getattr(settings, name) == default, "stated in PairOptions alone"
    assert [spec.name for spec in SPECS] == list(Settings.__dataclass_fields__), "one table, one type"
    assert all(spec.text.endswith(".") for spec in SPECS)


def test_whole_numbers_pass_for_floating_point_ones(node_with: Callable) -> None:
    settings = Options(node_with(slop=0, data_timeout=3, initial_box=[1, 2, 30, 40])).settings()
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
        ("initial_box", [1.0, 2.0, 3.0], "'initial_box': expected \\[\\] or x, y, width, height"),
        ("initial_box", [1.0, 2.0, 0.0, 3.0], "above 0"),
        ("initial_box", "centre", "'initial_box'"),
        ("initial_box", [True] * 4, "'initial_box'"),
        ("thermal_range", [0.0, 1e308], r"'thermal_range': .* from -1e\+06 to 1e\+06"),
        ("rgb_topic", "", "'rgb_topic'"),
        ("rgb_camera_info", "{bad}", "'rgb_camera_info': .* unknown substitution"),
        ("rgb_topic", "{bad}", "'rgb_topic': .* unknown substitution"),
        ("thermal_range", [31315.0, 29315.0], "low below high"),
        ("depth_max", 0.0, "depth_max"),
    ],
)
def test_unusable_values(node_with: Callable, name: str, value: object, says: str) -> None:
    node = node_with(**{name: value})
    options = Options(node)
    with pytest.raises(ConfigError, match=says):
        options.settings()
    default = {spec.name: spec.default for spec in SPECS}[name]
    read = tuple(default) if isinstance(default, list) else default
    assert node.set_parameters([Parameter(name, value=default)])[0].successful
    assert getattr(options.settings(), name) == read, "a good value mends it"
    result = node.set_parameters([Parameter(name, value=value)])[0]
    assert not result.successful and name in result.reason
    assert getattr(options.settings(), name) == read


HOSTILE = [
    None,  # deletes; at start-up it is what an empty list in a YAML file comes as
    True,
    0,
    -1,
    2**63 - 1,
    -(2**63),
    0.5,
    math.nan,
    math.inf,
    -math.inf,
    1e308,
    5e-324,
    "",
    "~",
    "{bad}",
    "a//b",
    "two\nlines",
    "\u732b",
    "x" * 10_000,
    [],
    [b"\x00"],
    [True] * 4,
    [0] * 2,
    [2**62] * 4,
    [1.0] * 3,
    [1.0, math.nan],
    [0.0, math.inf],
    [0.0, 1e308],
    [1.0, 2.0, 1e308, 1e308],
    [1.0] * 1000,
    ["a", "b"],
]


def why_refused(options: Options) -> str:
    try:
        options.settings()
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", Settings.__dataclass_fields__)
def test_hostile_values(node_with: Callable, name: str) -> None:
    """Each is taken, or refused in a line that names the parameter; at start-up as at run time."""
    node = node_with()
    options = Options(node)
    default = Parameter(name, value={spec.name: spec.default for spec in SPECS}[name])
    for value in HOSTILE:
        before = options.settings()
        result = node.set_parameters([Parameter(name, value=value)])[0]
        if result.successful:
            assert getattr(options.settings(), name) in (value, tuple(value) if isinstance(value, list) else value)
        else:
            assert f"'{name}'" in result.reason or f" {name} " in result.reason, "the latter is rclpy's"
            assert "\n" not in result.reason and options.settings() == before
            assert ("cannot be deleted" in result.reason) == (value is None)
        assert node.set_parameters([default])[0].successful

        late_node = node_with(**{name: value})
        late = Options(late_node)
        refusal = why_refused(late)
        assert (name in refusal) if value is not None and not result.successful else not refusal
        assert late_node.set_parameters([default])[0].successful
        assert late.settings() == options.settings()


def test_changes_are_taken_whole_or_not_at_all(node_with: Callable) -> None:
    node = node_with()
    options = Options(node)
    options.configured = True
    good, bad = Parameter("slop", value=0.01), Parameter("aux_timeout", value=-1.0)
    assert not node.set_parameters_atomically([good, bad]).successful
    assert options.settings().slop == PairOptions().slop and options.live == []
    assert node.set_parameters_atomically([good, Parameter("aux_timeout", value=0.2)]).successful
    assert [(s.slop, s.aux_timeout) for s in options.live] == [(0.01, 0.2)]
    refused = node.set_parameters([Parameter("modality", value="depth")])[0]
    assert not refused.successful and "configured" in refused.reason
    options.configured = False
    assert node.set_parameters([Parameter("modality", value="depth")])[0].successful
