"""Whatever a user calls a recording, opened as a sequence: a benchmark folder, a bag, or a video file."""

from __future__ import annotations

from pathlib import Path

from cmdtrack_ros.data.sequences import Sequence, load_sequence
from cmdtrack_ros.modalities import Modality


def open_recording(
    path: str | Path,
    layout: str = "auto",
    *,
    modality: Modality | str | None = None,
    rgb_topic: str | None = None,
    aux: str | None = None,
) -> Sequence:
    """Open a sequence folder, a rosbag2 or a video.

    modality: kind of the second stream where the recording does not say (bags of others, two videos).
    rgb_topic: colour images of a bag, where they aren't on our own writer's topic.
    aux: the second stream: topic of a bag, or second video file.
    """
    # Imported when needed: a folder of images needs neither rosbags nor PyAV.
    from cmdtrack_ros.data.bags import is_bag, load_bag
    from cmdtrack_ros.data.video import VIDEO_SUFFIXES, VideoSequence

    path = Path(path)
    if is_bag(path):
        return load_bag(path, rgb_topic=rgb_topic, aux_topic=aux, modality=modality)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return VideoSequence(path, aux, modality or Modality.THERMAL)
    return load_sequence(path, layout)
