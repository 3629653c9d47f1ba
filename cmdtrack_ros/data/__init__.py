"""Recordings: benchmark folders, bags and videos as sequences of frames, and events simulated from video."""

from cmdtrack_ros.data.events import EventSequence, simulate_events
from cmdtrack_ros.data.sequences import (
    LAYOUT_NAMES,
    FolderSequence,
    Frame,
    ImageSequence,
    find_sequences,
    load_dataset,
    load_sequence,
)

__all__ = [
    "LAYOUT_NAMES",
    "EventSequence",
    "FolderSequence",
    "Frame",
    "ImageSequence",
    "find_sequences",
    "load_dataset",
    "load_sequence",
    "simulate_events",
]
