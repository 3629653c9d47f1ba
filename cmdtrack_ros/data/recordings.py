"""Whatever a user calls a recording, opened as a sequence: a benchmark folder, a bag, or a video file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cmdtrack_ros.data.sequences import ImageSequence, load_sequence
from cmdtrack_ros.modalities import Modality

if TYPE_CHECKING:
    from cmdtrack_ros.data.bags import BagOptions


def open_recording(
    path: str | Path, layout: str = "auto", *, options: BagOptions | None = None, aux_video: Path | None = None
) -> ImageSequence:
    """Open a sequence folder, a rosbag2 or a video.

    options: topics and pairing of a bag; their ``modality`` also says what the aux video shows.
    aux_video: file of the aux stream, beside a video; ignored for others.
    """
    # Imported when needed: a folder of images needs neither rosbags nor PyAV.
    from cmdtrack_ros.data.bags import BagOptions, is_bag, load_bag
    from cmdtrack_ros.data.video import VIDEO_SUFFIXES, VideoSequence

    path, options = Path(path), options or BagOptions()
    if is_bag(path):
        return load_bag(path, options)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return VideoSequence(path, aux_video, options.modality or Modality.THERMAL)
    return load_sequence(path, layout)
