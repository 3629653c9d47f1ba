"""Several targets in one frame, and both streams of one, as one batch."""

from __future__ import annotations

import numpy as np
import pytest

from cmdtrack_ros.errors import ImageError
from cmdtrack_ros.modalities import AuxEncoder
from cmdtrack_ros.track import TargetState, Track
from cmdtrack_ros.tracking.engines.choose import make_engine
from cmdtrack_ros.tracking.engines.contract import Engine
from cmdtrack_ros.tracking.tracker import Tracker, see, update_together

FRAMES = 20


def scene(frame: int, gone: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """RGB, thermal, and the boxes (3, 4) of three blocks that move apart; the last one may be gone."""
    rng = np.random.default_rng(0)
    rgb = rng.integers(60, 100, (240, 320, 3), np.uint8)
    thermal = np.full((240, 320), 40, np.uint8)
    boxes = np.array([[40 + frame, 40, 36, 30], [200, 60 + frame, 40, 34], [120 - frame, 160, 30, 40]])
    colours = (220, 40, 30), (30, 200, 60), (60, 60, 240)
    for index, ((x, y, w, h), colour) in enumerate(zip(boxes, colours)):
        if gone and index == 2:
            continue
        rgb[y : y + h, x : x + w] = colour
        rgb[y + h // 3 : y + h // 2, x : x + w] = 20
        thermal[y : y + h, x : x + w] = 150 + 30 * index
    return rgb, thermal, boxes.astype(float)


def started(engine: Engine) -> list[Tracker]:
    """Three targets: of both streams, of RGB alone, and of both."""
    trackers = [Tracker(engine, "thermal") for _ in range(3)]
    rgb, thermal, boxes = scene(0)
    for tracker, box, aux in zip(trackers, boxes, (thermal, None, thermal)):
        tracker.init(rgb, aux, box)
    return trackers


def together_in(trackers: list[Tracker], rgb: np.ndarray | None, aux: np.ndarray | None) -> list[Track]:
    return update_together(trackers, see(rgb, aux, trackers[0].encoder))


def film(gone_from: int = FRAMES) -> list[tuple[np.ndarray, np.ndarray]]:
    return [scene(frame, gone=frame >= gone_from)[:2] for frame in range(1, FRAMES)]


def compare(one_by_one: list[list[Track]], together: list[list[Track]], tolerance: float) -> None:
    for expected, got in zip(one_by_one, together):
        for a, b in zip(expected, got):
            np.testing.assert_allclose(b.box, a.box, atol=tolerance)
            assert b.score == pytest.approx(a.score, abs=tolerance)
            assert (b.weight_rgb, b.weight_aux) == pytest.approx((a.weight_rgb, a.weight_aux), abs=tolerance)
            assert b.state == a.state


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_together_as_one_by_one(precision):
    """Also where streams differ between targets, a stream stops, and a target is lost."""
    engine = make_engine(device="cpu", engine="onnx", precision=precision, threads=1)
    alone, joined = started(engine), started(engine)
    frames = film(gone_from=2)
    frames[7] = (frames[7][0], None)
    frames[9] = (None, frames[9][1])
    one_by_one = [[tracker.update(*frame) for tracker in alone] for frame in frames]
    together = [together_in(joined, *frame) for frame in frames]
    compare(one_by_one, together, 1e-4)
    assert TargetState.LOST in {tracks[2].state for tracks in together}
    assert all(tracks[0].state != TargetState.LOST for tracks in together)


def test_targets_with_the_same_streams_are_one_call(counting):
    trackers = started(counting)
    counting.searched.clear()
    together_in(trackers, *film()[0])
    assert sorted(counting.searched) == [1, 2]  # the two with both streams as one, the one with RGB alone
    counting.searched.clear()
    together_in(trackers, film()[1][0], None)
    assert counting.searched == [3]


def test_both_templates_of_a_frame_are_one_call(counting):
    started(counting)
    assert counting.encoded == [2, 1, 2]


def test_nothing_is_asked_about_a_stream_without_template(counting):
    tracker = started(counting)[1]
    counting.searched.clear()
    track = tracker.update(None, film()[0][1])
    assert counting.searched == [] and track.score == 0 and track.weight_aux == 0


def test_no_targets_and_unusable_images(counting):
    assert update_together([], see(*film()[0], AuxEncoder("thermal"))) == []
    with pytest.raises(ImageError, match="both images are None"):
        together_in(started(counting), None, None)
