"""A network and a box -> boxes over time.

The names below bring torch with them, hence only when they are asked for: baselines, reports and `--help`
need :mod:`cmdtrack_ros.tracking.drive` alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cmdtrack_ros.tracking.states import StateConfig
    from cmdtrack_ros.tracking.tracker import Tracker, TrackerConfig, load_tracker

__all__ = ["StateConfig", "Tracker", "TrackerConfig", "load_tracker"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.tracker"), name)
