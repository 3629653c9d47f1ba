"""Whole sequences of a split's validation: what networks are shown of them, and what is kept."""

import json

import numpy as np
import pytest
import torch

from cmdtrack_ros.boxes import iou
from cmdtrack_ros.data import EventSequence, load_sequence
from cmdtrack_ros.data.derived import DerivedSequence
from cmdtrack_ros.data.events import NONE
from cmdtrack_ros.errors import DataError
from cmdtrack_ros.modalities import Modality
from cmdtrack_ros.track import Track
from cmdtrack_ros.training.config import Split
from cmdtrack_ros.training.measure import measure_sequences, open_network, passes
from synthetic import Drawn, make_block, make_rgb


class Seen:
    """Stays at the box it starts on; keeps the modality it was made for, the box, and all that it is shown."""

    def __init__(self, modality: Modality):
        self.modality, self.frames = modality, []

    def init(self, rgb, aux, box):
        self.box = box
        return self.update(rgb, aux)

    def update(self, rgb, aux):
        self.frames.append((rgb, aux))
        return Track(self.box, 1.0)


def passed(sequence, streams):
    """The passes, and what the tracker of each has seen."""
    trackers = []

    def track(modality):
        trackers.append(Seen(modality))
        return trackers[-1]

    return passes(track, sequence, streams), trackers


def test_passes_begin_at_several_frames():
    """A block that moves by 8 px a frame from where the box was drawn; what is left of it to score differs."""
    sequence = Drawn(8)
    found, trackers = passed(sequence, ["rgb"])
    assert [len(one.frames) for one in trackers] == [8, 6, 4]
    for tracker, start in zip(trackers, (0, 2, 4), strict=True):
        np.testing.assert_array_equal(tracker.box, sequence.boxes[start])
        np.testing.assert_array_equal(tracker.frames[0][0], sequence.rgb(start))
    still = [iou(sequence.boxes[start], sequence.boxes[start + 1 :]).mean() for start in (0, 2, 4)]
    assert found["rgb"]["iou"] == pytest.approx(still)


def test_rgb_recording_is_seen_with_events_from_its_second_frame_on(tmp_path):
    sequence = load_sequence(make_rgb(tmp_path / "rgb"))
    found, trackers = passed(sequence, ["both", "rgb", "aux"])
    assert list(found) == ["modality", "both", "rgb", "aux"]
    assert found["modality"] == "event"
    assert {tracker.modality for tracker in trackers} == {Modality.EVENT}
    assert [len(one.frames) for one in trackers] == [3, 2] * 3  # from half of its length on, there are two
    both, _, rgb, _, aux, _ = trackers
    # A block of 30 px that moves by 8 px a frame from where its box was drawn.
    overlap = [(30 - 8 * i) / (30 + 8 * i) for i in (1, 2)]
    assert found["rgb"]["iou"] == found["both"]["iou"] == found["aux"]["iou"]
    assert found["both"]["iou"] == pytest.approx([np.mean(overlap), overlap[0]])
    events = EventSequence(sequence)
    for index in range(1, 4):
        np.testing.assert_array_equal(rgb.frames[index - 1][0], sequence.rgb(index))
        assert rgb.frames[index - 1][1] is None
        np.testing.assert_array_equal(both.frames[index - 1], (events.rgb(index), events.aux(index)))
        np.testing.assert_array_equal(aux.frames[index - 1][1], events.aux(index))
        assert aux.frames[index - 1][0] is None
    x, y, w, h = aux.box.astype(int)
    assert (aux.frames[0][1][y : y + h, x : x + w] != NONE).any(2).mean() > 0.2  # the template shows the target


def test_recordings_with_an_aux_stream_are_seen_as_they_are():
    found, trackers = passed(Drawn(), ["rgb", "aux"])  # as of a foreign tracker
    assert list(found) == ["modality", "rgb", "aux"]
    assert found["modality"] == "thermal"
    assert [len(one.frames) for one in trackers] == [6, 5, 3] * 2
    assert list(passed(Drawn(), ["aux"])[0]) == ["modality", "aux"]


def test_sequence_without_a_frame_to_score_is_refused(tmp_path):
    sequence = load_sequence(make_rgb(tmp_path / "rgb"))
    with pytest.raises(DataError, match="rgb: expected two frames after the first with a box, or more, got 1"):
        passes(Seen, DerivedSequence(sequence, 0, 2))
    with pytest.raises(DataError, match="drawn: expected two frames with a box, or more, got 1"):
        passes(Seen, Drawn(1))


def test_what_is_kept_is_not_run_again_unless_it_is_of_another_form(tmp_path):
    """As it was when recordings with RGB alone were not seen with events."""
    make_block(tmp_path / "seq" / "block", 3)
    make_rgb(tmp_path / "seq" / "rgb")
    old = {"block": {"modality": "thermal", "rgb": {"iou": [0.0]}}, "rgb": {"modality": "rgb", "rgb": {"iou": [0.0]}}}
    digest = open_network("nano", torch.device("cpu")).digest
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f"sequences-{digest[:12]}.json").write_text(json.dumps(old))
    arguments = ["nano"], Split(validation=["seq/*"]), tmp_path, tmp_path / "out", "cpu"
    found = measure_sequences(*arguments)["nano"]
    assert {name: list(kept) for name, kept in found.items()} == {
        name: ["modality", "both", "rgb", "aux"] for name in ("block", "rgb")
    }
    assert [kept["modality"] for kept in found.values()] == ["thermal", "event"]
    [file] = (tmp_path / "out").glob("passes-*.json")
    file.write_text(json.dumps({**found, "rgb": {"modality": "event"}}))
    assert measure_sequences(*arguments)["nano"]["rgb"] == {"modality": "event"}
