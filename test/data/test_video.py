"""Videos as recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cmdtrack_ros.data.bags import load_bag, write_bag
from cmdtrack_ros.data.recordings import open_recording
from cmdtrack_ros.data.video import VideoFile, VideoSequence
from cmdtrack_ros.errors import DataError
from cmdtrack_ros.modalities import Modality


def test_videos(video: Path, tmp_path: Path) -> None:
    film = VideoFile(video)
    assert len(film) == 10
    np.testing.assert_allclose(np.diff(film.stamps), 0.05, atol=1e-3)
    for i in (0, 1, 2, 9, 3, 3):
        assert film[i].shape == (48, 64, 3)
        np.testing.assert_allclose(film[i][20, 20].astype(int), (20 * i, 128, 255 - 20 * i), atol=6)
    sequence = VideoSequence(video, video, "thermal")
    bag = load_bag(write_bag(sequence, tmp_path / "bag"))
    assert bag.modality is Modality.THERMAL and np.isnan(bag.boxes).all()
    np.testing.assert_array_equal(bag.rgb(4), film[4])
    assert open_recording(video).modality is Modality.RGB
    assert len(open_recording(tmp_path / "bag")) == 10


def test_bad_videos(video: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is none"):
        VideoFile(tmp_path / "other.mp4")
    (tmp_path / "text.mp4").write_text("hello")
    with pytest.raises(DataError, match="text.mp4: does not open as a video"):
        VideoFile(tmp_path / "text.mp4")
    with pytest.raises(IndexError):
        VideoFile(video)[10]
    with pytest.raises(DataError, match="2 boxes for 10 frames"):
        VideoSequence(video, boxes=np.zeros((2, 4)))
