"""A network and a box -> boxes over time."""

from cmdtrack_ros.tracking.states import StateConfig
from cmdtrack_ros.tracking.tracker import Tracker, TrackerConfig, load_tracker

__all__ = ["StateConfig", "Tracker", "TrackerConfig", "load_tracker"]
