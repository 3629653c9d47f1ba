"""The loop that drives a tracker over a recording."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cmdtrack_ros.data import load_sequence
from cmdtrack_ros.errors import DataError
from cmdtrack_ros.evaluation.baselines import SingleStream, make_tracker, parse_spec
from cmdtrack_ros.track import Track
from cmdtrack_ros.tracking.drive import drive
from cmdtrack_ros.tracking.engines.contract import Engine, Query, Response
from cmdtrack_ros.tracking.tracker import Tracker
from synthetic import Drawn, make_folder


class Recorder:
    """Answers with the box it was started on, and remembers what it was given."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def init(self, rgb: np.ndarray, aux: np.ndarray, box: np.ndarray) -> Track:
        self.calls.append(("init", box.tolist()))
        return Track(box, 1.0)

    def update(self, rgb: np.ndarray, aux: np.ndarray) -> Track:
        self.calls.append(("update",))
        return Track(np.zeros(4), 0.5, times_ms={"network": 1.0})


def test_starts_on_the_first_visible_box_and_updates_to_the_end(tmp_path: Path) -> None:
    sequence = load_sequence(make_folder(tmp_path / "square", frames=6, absent=(0, 1)))
    tracker = Recorder()
    tracks = list(drive(tracker, sequence))
    assert [call[0] for call in tracker.calls] == ["init"] + ["update"] * 3
    assert tracker.calls[0][1] == sequence.boxes[2].tolist()
    assert [track.stamp_ns for track in tracks] == [round(i / 30 * 1e9) for i in range(2, 6)]
    assert all(track.seconds >= 0 for track in tracks) and tracks[1].times_ms["network"] == 1.0


def test_order_and_box_are_the_callers(tmp_path: Path) -> None:
    sequence = load_sequence(make_folder(tmp_path / "square", frames=6))
    tracker = Recorder()
    tracks = list(drive(tracker, sequence, [4, 3, 2], np.array([1.0, 2, 3, 4])))
    assert tracker.calls[0] == ("init", [1, 2, 3, 4]) and len(tracks) == 3
    assert [track.stamp_ns for track in tracks] == [round(i / 30 * 1e9) for i in (4, 3, 2)]


def test_a_recording_without_boxes_is_named(tmp_path: Path) -> None:
    sequence = load_sequence(make_folder(tmp_path / "unknown", frames=2, absent=(0, 1)))
    with pytest.raises(DataError, match="unknown: no frame has a ground-truth box"):
        list(drive(Recorder(), sequence))


class Spoilt:
    """An engine that answers NaN."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.config, self.confidence = engine, engine.config, engine.confidence
        self.name, self.encode = engine.name, engine.encode

    def search(self, queries: list[Query]) -> list[Response]:
        return [replace(answer, score=answer.score * np.nan) for answer in self.engine.search(queries)]


@pytest.mark.parametrize("stream", ["both", "rgb"])
def test_what_the_tracker_remarks_is_logged_once(
    tmp_path: Path, tracker: Tracker, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    sequence = load_sequence(make_folder(tmp_path / "square", frames=6))
    spoilt = Tracker(Spoilt(tracker.engine), sequence.modality)
    tracks = list(drive(spoilt if stream == "both" else SingleStream(spoilt, stream), sequence))
    assert sum(len(track.remarks) for track in tracks) > 1
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("square, frame 1: internal error: the network (") and "answers NaN" in line
    assert line.endswith("(the first of 5)")


class Dazzled(Drawn):
    """A thermal camera that shows nothing but one value far off, in two frames apart and one without a reading."""

    def __init__(self) -> None:
        super().__init__(12)
        self.off = {3: 1e30, 6: np.nan, 9: -1e30}

    def aux(self, index: int) -> np.ndarray:
        image = super().aux(index).astype(np.float32)
        return np.full_like(image, self.off[index]) if index in self.off else image


@pytest.mark.parametrize("name", ["ours", "mil@aux"])
def test_aux_images_whose_range_does_not_count_are_told_once(
    tracker: Tracker, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    sequence = Dazzled()
    driven = make_tracker(parse_spec(name), sequence.modality) if "@" in name else Tracker(tracker.engine, "thermal")
    tracks = list(drive(driven, sequence))
    assert [i for i, track in enumerate(tracks) if track.remarks] == sorted(sequence.off)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("drawn, frame 3: aux range outlier: values 1e+30 to ")
    assert line.endswith("taken over once the next image confirms it (the first of 3)")


def test_what_was_remarked_is_told_where_the_rest_is_not_asked_for(
    tracker: Tracker, caplog: pytest.LogCaptureFixture
) -> None:
    tracks = drive(Tracker(tracker.engine, "thermal"), Dazzled())
    for _ in range(5):
        next(tracks)
    tracks.close()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.endswith("(the first of 1)")


def test_first_image_without_a_reading_is_told(tracker: Tracker) -> None:
    track = Tracker(tracker.engine, "thermal").init(None, np.full((96, 128), np.nan, np.float32), Drawn().boxes[0])
    assert "no pixel has a reading" in [text for _, text in track.remarks]
