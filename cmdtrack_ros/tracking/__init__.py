"""A network and a box -> boxes over time."""

from cmdtrack_ros.tracking.states import StateConfig, TargetState
from cmdtrack_ros.tracking.tracker import Track, Tracker, TrackerConfig, load_tracker

__all__ = ["StateConfig", "TargetState", "Track", "Tracker", "TrackerConfig", "load_tracker"]
