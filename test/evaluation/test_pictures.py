"""What is left after a run for people to look at, with the aux image as the tracker saw it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cmdtrack_ros.data import ImageSequence
from cmdtrack_ros.data.video import VideoFile
from cmdtrack_ros.errors import ConfigError, DataError
from cmdtrack_ros.evaluation import pictures
from cmdtrack_ros.evaluation.pictures import pictures_as_seen, track_recording, write_pictures, write_tracks
from cmdtrack_ros.modalities import AuxEncoder, Modality
from cmdtrack_ros.track import TargetState, Track
from synthetic import read_table

COUNT = 12
BOX = np.array([4.0, 4, 8, 8])


class Warming(ImageSequence):
    """A thermal scene that gets hotter: its range follows the stream. `read` counts the aux images asked for."""

    def __init__(self, dtype: type = np.uint16) -> None:
        super().__init__("warming", Modality.THERMAL, np.tile(BOX, (COUNT, 1)), np.arange(COUNT) / 10)
        self.dtype, self.read = dtype, []

    def rgb(self, index: int) -> np.ndarray:
        return np.full((32, 48, 3), index, np.uint8)

    def aux(self, index: int) -> np.ndarray:
        self.read.append(index)
        scene = np.linspace(0, 100, 32 * 48).reshape(32, 48) + 10 * index
        return scene.astype(self.dtype)


def seen_by_the_tracker(sequence: ImageSequence, order: list[int]) -> dict[int, np.ndarray]:
    encoder = AuxEncoder(sequence.modality)
    return {index: encoder(sequence.aux(index)) for index in order}


@pytest.mark.parametrize("order", [list(range(COUNT)), list(range(9, -1, -1))], ids=["forward", "backward"])
def test_frames_far_apart_show_what_the_tracker_saw(order: list[int]) -> None:
    sequence = Warming()
    expected = seen_by_the_tracker(sequence, order)
    found = {index: aux for index, _, aux in pictures_as_seen(sequence, order, shown={3, 8})}
    assert set(found) == {3, 8}
    for index, picture in found.items():
        np.testing.assert_array_equal(picture, expected[index])
        assert (picture != AuxEncoder("thermal")(sequence.aux(index))).any(), "a fresh encoder sees it otherwise"


def test_only_a_range_that_follows_the_stream_costs_the_frames_between() -> None:
    sequence = Warming(np.uint8)
    found = [index for index, _, _ in pictures_as_seen(sequence, range(COUNT), shown={5, 9})]
    assert found == [5, 9] and sequence.read == [0, 5, 9]
    sequence = Warming(np.uint16)
    assert len(list(pictures_as_seen(sequence, range(COUNT), shown={5, 9}))) == 2
    assert sequence.read == list(range(COUNT))


def test_frames_that_do_not_decode_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    sequence = Warming()
    whole = sequence.aux

    def broken(index: int) -> np.ndarray:
        if index == 4:
            raise DataError("frame 4")
        return whole(index)

    monkeypatch.setattr(sequence, "aux", broken)
    assert [index for index, _, _ in pictures_as_seen(sequence, range(COUNT))] == [0, 1, 2, 3, *range(5, COUNT)]


def test_the_overlay_shows_what_the_tracker_saw_of_the_frames_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three frames were dropped and one came without its aux image: they moved no range."""
    sequence = Warming()
    lost, alone = {4, 5, 6}, 8
    tracks = [None if i in lost else Track(BOX, 0.9, has_aux=i != alone) for i in range(COUNT)]
    expected = seen_by_the_tracker(sequence, [i for i in range(COUNT) if i not in lost | {alone}])
    shown: dict[int, np.ndarray] = {}
    painter = pictures.frame_picture

    def watch(rgb: np.ndarray, aux: np.ndarray, *args: object) -> np.ndarray:
        shown[int(args[-1])] = aux
        return painter(rgb, aux, *args)

    monkeypatch.setattr(pictures, "frame_picture", watch)
    write_pictures(sequence, tracks, tmp_path, "title")
    assert set(shown) == set(range(COUNT)) and len(VideoFile(tmp_path / "overlay.mp4")) == COUNT
    for index, picture in expected.items():
        np.testing.assert_array_equal(shown[index], picture)


def test_rows_of_answered_idle_and_dropped_frames(tmp_path: Path) -> None:
    track = Track(BOX, 0.5, TargetState.LOST, 0.25, 0.75, times_ms={"total": 20.0}, stamp_ns=10**9, gap=-0.002)
    idle = Track(np.zeros(4), 0.0, TargetState.IDLE, stamp_ns=2 * 10**9)
    times = ("pair_gap_ms", "latency_ms", "processing_ms")
    write_tracks(tmp_path / "track.csv", Warming(), [track, idle, None], 2, times)
    answered, waiting, dropped = read_table(tmp_path / "track.csv")
    assert list(answered) == [*pictures.COLUMNS, *times]
    assert [row["frame"] for row in (answered, waiting, dropped)] == ["2", "3", "4"]
    assert [row["state"] for row in (answered, waiting, dropped)] == ["LOST", "IDLE", "DROPPED"]
    assert [answered[name] for name in ("x", "width", "iou", "weight_aux")] == ["4.000", "8.000", "1.0000", "0.7500"]
    assert [answered[name] for name in ("stamp", *times)] == ["1.000000000", "-2.000", "", "20.000"]
    assert [waiting[name] for name in ("x", "height", "iou", "stamp")] == ["", "", "0.0000", "2.000000000"]
    assert [dropped[name] for name in ("x", "score", "iou", "stamp", "latency_ms")] == ["", "0.0000", "0.0000", "", ""]
    write_tracks(tmp_path / "offline.csv", Warming(), [track])
    assert list(read_table(tmp_path / "offline.csv")[0]) == [*pictures.COLUMNS, "total_ms"]
    with pytest.raises(DataError, match="no result"):
        write_tracks(tmp_path / "none.csv", Warming(), [])


def test_tracking_needs_a_box(untrained: Path, tmp_path: Path) -> None:
    sequence = Warming()
    sequence.boxes[:] = np.nan
    with pytest.raises(ConfigError, match="--init-box"):
        next(track_recording(sequence, tmp_path / "out", weights=untrained))
    assert not (tmp_path / "out").exists()
