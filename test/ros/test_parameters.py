"""The node's parameters: defaults, ranges, and changes taken as a whole."""

from __future__ import annotations

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
        ("initial_box", [1.0, 2.0, 3.0], "'initial_box': expected nothing or x, y, width, height"),
        ("initial_box", [1.0, 2.0, 0.0, 3.0], "above 0"),
        ("initial_box", "centre", "'initial_box'"),
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
    if default != []:  # rclpy refuses an empty list
        assert node.set_parameters([Parameter(name, value=default)])[0].successful
        assert getattr(options.settings(), name) == default, "a good value mends it"
        result = node.set_parameters([Parameter(name, value=value)])[0]
        assert not result.successful and name in result.reason
        assert getattr(options.settings(), name) == default


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
