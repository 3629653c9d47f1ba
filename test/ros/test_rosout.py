"""What Python modules log reaches the operator through the node's logger."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not importable: run `make test`, or source ROS 2")

from rcl_interfaces.msg import Log  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402

from cmdtrack_ros.ros.rosout import RosoutHandler  # noqa: E402

pytestmark = pytest.mark.ros
LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """One that no other handler hears."""
    logger = logging.getLogger("test_rosout")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield logger
    logger.handlers.clear()


def test_each_level_keeps_its_severity(logger: logging.Logger) -> None:
    heard: list[tuple[str, str]] = []
    names = ("debug", "info", "warning", "error")
    severities = {name: lambda text, name=name: heard.append((name, text)) for name in names}
    logger.addHandler(RosoutHandler(SimpleNamespace(**severities)))
    for level in LEVELS:
        logger.log(level, "engine: %s", "x")
    assert heard == [(name, "engine: x") for name in (*names, "error")]


def test_records_are_published(node_with, logger: logging.Logger) -> None:
    node = node_with()
    heard: list[Log] = []
    node.create_subscription(Log, "/rosout", heard.append, 10)
    logger.addHandler(RosoutHandler(node.get_logger()))
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    # Before the subscription is matched messages are lost, hence again and again; all severities from one line.
    for turn in range(1000):
        logger.log(LEVELS[1 + turn % 3], "a reason")
        executor.spin_once(timeout_sec=0.02)
        if {message.level for message in heard} == {20, 30, 40}:
            break
    assert {(message.name, message.msg, message.level) for message in heard} == {
        ("parts", "a reason", level) for level in (20, 30, 40)
    }
