"""A ROS context of each test's own, and nodes with parameters in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from rclpy.node import Node


@pytest.fixture
def node_with() -> Iterator[Callable[..., Node]]:
    """Makes a node with the given parameter overrides."""
    import rclpy
    from rclpy.node import Node
    from rclpy.parameter import Parameter

    context = rclpy.context.Context()
    rclpy.init(context=context)
    made: list[Node] = []

    def make(**overrides: object) -> Node:
        given = [Parameter(name, value=value) for name, value in overrides.items()]
        made.append(Node("parts", context=context, parameter_overrides=given))
        return made[-1]

    yield make
    for node in made:  # one that lingers keeps its logger from the next of its name
        node.destroy_node()
    rclpy.shutdown(context=context)
