"""From pairs of image messages to tracks and to what an operator sees, without ROS."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace

import numpy as np
import pytest

from cmdtrack_ros.boxes import Crop
from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.modalities import AuxEncoder, AuxEncoding
from cmdtrack_ros.streams.images import fill_image
from cmdtrack_ros.streams.pairing import Pair
from cmdtrack_ros.track import TargetState, Track
from cmdtrack_ros.tracking.pipeline import Pipeline
from cmdtrack_ros.tracking.states import StateConfig
from cmdtrack_ros.tracking.targets import Target
from cmdtrack_ros.tracking.tracker import Tracker, TrackerConfig

HEIGHT, WIDTH = 120, 160
SCENE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
BOX = np.array([60.0, 40.0, 30.0, 30.0])


def message(pixels: np.ndarray, encoding: str) -> SimpleNamespace:
    return fill_image(SimpleNamespace(), pixels, encoding)


def pair(rgb: SimpleNamespace | None, aux: SimpleNamespace | None, stamp: int = 0) -> Pair:
    return Pair(rgb, aux, stamp, 0.004 if rgb and aux else float("nan"))


def step(pipeline: Pipeline, moment: Pair, target: Target | None = None, since: Iterable[Pair] = ()) -> Track | None:
    """What becomes of the only target, which is started on the first of `since`, or on the pair."""
    tracks = pipeline.process(moment, [target._replace(since=tuple(since))] if target else [])
    assert len(tracks) < 2
    return tracks[0] if tracks else None


RGB = message(SCENE, "rgb8")
AUX = message(SCENE[..., 0], "mono8")
SMALL = message(np.ascontiguousarray(SCENE[::2, ::2, 0]), "mono8")
BAD = message(SCENE, "foo8")


@pytest.fixture
def reports() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def pipeline(tracker: Tracker, reports: list) -> Pipeline:
    tracker.reset()
    return Pipeline(tracker, report=lambda kind, text: reports.append((kind, text)))


def test_idle_until_there_is_a_target_and_after_its_release(pipeline: Pipeline) -> None:
    idle = step(pipeline, pair(RGB, AUX))
    assert idle.state == TargetState.IDLE and idle.box.tolist() == [0, 0, 0, 0] and not idle.started
    started = step(pipeline, pair(RGB, AUX), Target(BOX, "cup"))
    assert started.started and started.target_id == "cup" and np.allclose(started.box, BOX)
    followed = step(pipeline, pair(RGB, AUX))
    assert followed.target_id == "cup" and followed.state != TargetState.IDLE and followed.seconds > 0
    pipeline.release()
    assert step(pipeline, pair(RGB, AUX)).state == TargetState.IDLE


def test_track_has_the_stamp_and_the_gap_of_its_pair(pipeline: Pipeline) -> None:
    for track in (step(pipeline, pair(RGB, AUX, 7)), step(pipeline, pair(RGB, AUX, 7), Target(BOX))):
        assert (track.stamp_ns, track.gap) == (7, 0.004)


def test_bad_image_leaves_the_other_stream(pipeline: Pipeline, reports: list) -> None:
    step(pipeline, pair(RGB, AUX), Target(BOX))
    alone = step(pipeline, pair(BAD, AUX))
    assert not alone.has_rgb and alone.has_aux and alone.weight_rgb == 0
    alone = step(pipeline, pair(RGB, BAD))
    assert not alone.has_aux and alone.weight_aux == 0
    assert step(pipeline, pair(BAD, BAD)) is None
    assert [kind for kind, _ in reports] == ["bad RGB image", "bad auxiliary image"] * 2
    assert all("'foo8'" in text for _, text in reports)
    assert pipeline.faults == {"bad RGB image": 2, "bad auxiliary image": 2}
    assert step(pipeline, pair(RGB, AUX)).state != TargetState.IDLE


def test_aux_image_that_its_modality_does_not_have_leaves_rgb(tracker: Tracker) -> None:
    events = Pipeline(Tracker(tracker.engine, "event"))
    counts = message(SCENE[..., 0].astype(np.uint16), "16UC1")
    for target in (None, Target(BOX), None):
        track = step(events, pair(RGB, counts), target)
        assert track.has_rgb and not track.has_aux
        assert events.pictures()[1] is None
    assert track.state != TargetState.IDLE and events.faults == {"bad auxiliary image": 3}


def test_sizes_that_differ_need_a_registration(pipeline: Pipeline, tracker: Tracker, reports: list) -> None:
    assert not step(pipeline, pair(RGB, SMALL)).has_aux
    assert "rgb is 160x120, aux 80x60" in reports[0][1] and "resize" in reports[0][1]
    assert step(pipeline, pair(None, SMALL)) is None, "nor without the RGB image"
    resizing = Pipeline(tracker, registration="resize")
    for rgb in (RGB, BAD):  # without RGB by the size it had
        step(resizing, pair(rgb, SMALL))
        assert resizing.pictures()[1].shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(ConfigError, match="registration"):
        Pipeline(tracker, registration="guess")


def test_resizing_never_blends_depth(tracker: Tracker) -> None:
    depth = np.where(np.arange(80) < 33, 500, 4000).astype(np.uint16) * np.ones((60, 1), np.uint16)
    pipeline = Pipeline(Tracker(tracker.engine, "depth"), registration="resize")
    step(pipeline, pair(RGB, message(depth, "16UC1")))
    colours = np.unique(pipeline.pictures()[1].reshape(-1, 3), axis=0)
    assert len(colours) == 2, "one for each of the two depths"


def test_refused_target_leaves_the_one_before(pipeline: Pipeline, reports: list) -> None:
    step(pipeline, pair(RGB, AUX), Target(BOX, "cup"))
    track = step(pipeline, pair(RGB, AUX), Target(np.array([500.0, 0, 20, 20]), "outside"))
    assert track.target_id == "cup" and not track.started and track.state != TargetState.IDLE
    assert reports[0][0] == "target refused" and "160x120" in reports[0][1]


def test_refused_target_of_an_earlier_frame_leaves_the_one_before_in_the_present(
    pipeline: Pipeline, tracker: Tracker
) -> None:
    def frame(i: int) -> Pair:
        return pair(message(np.roll(SCENE, 2 * i, 1), "rgb8"), None, i)

    def follow(asked: Pipeline, *extra: object) -> np.ndarray:
        step(asked, frame(0), Target(BOX, "cup"))
        for i in range(1, 9):
            step(asked, frame(i))
        return step(asked, frame(9), *extra).box

    disturbed = follow(pipeline, Target(np.array([500.0, 0, 20, 20])), [frame(i) for i in range(9)])
    tracker.reset()
    np.testing.assert_array_equal(disturbed, follow(Pipeline(tracker)))


SECOND = 1_000_000_000


@pytest.fixture
def lenient(tracker: Tracker) -> Pipeline:
    """A drawn scene is not what the score was calibrated with: low thresholds."""
    states = StateConfig(score_confident=0.02, score_doubtful=0.01, score_found=0.02)
    return Pipeline(Tracker(tracker.engine, "thermal", config=TrackerConfig(state=states)))


@pytest.mark.parametrize("gap, doubted", [(1.9, False), (2.1, True), (-0.6, True)])
def test_target_from_before_a_break_is_lost_until_confirmed(lenient: Pipeline, gap: float, doubted: bool) -> None:
    stamps = [0, SECOND // 10]
    stamps += [stamps[-1] + round(gap * SECOND) + i * SECOND // 10 for i in range(3)]
    tracks = [step(lenient, pair(RGB, AUX, at), Target(BOX) if at == 0 else None) for at in stamps[:3]]
    assert (tracks[-1].state == TargetState.LOST) == doubted == bool(lenient.unconfirmed)
    states = [step(lenient, pair(RGB, AUX, at)).state for at in stamps[3:]]
    assert states[-1] == TargetState.TRACKING and not lenient.unconfirmed
    assert np.allclose(tracks[-1].box, BOX, atol=3)


def test_target_that_has_gone_during_a_break_stays_lost(lenient: Pipeline) -> None:
    step(lenient, pair(RGB, AUX, 0), Target(BOX))
    empty = message(np.full_like(SCENE, 90), "rgb8")
    for i in range(6):
        assert step(lenient, pair(empty, None, 3 * SECOND + i * SECOND // 10)).state == TargetState.LOST
    assert lenient.unconfirmed
    step(lenient, pair(RGB, AUX, 4 * SECOND), Target(BOX))
    assert not lenient.unconfirmed


def test_slow_stream_has_no_breaks(lenient: Pipeline) -> None:
    tracks = [step(lenient, pair(RGB, AUX, i * 3 * SECOND), Target(BOX) if i == 0 else None).state for i in range(6)]
    assert tracks[1] == TargetState.LOST, "nobody knows yet that it is slow"
    assert set(tracks[3:]) == {TargetState.TRACKING}


def test_doubt_needs_a_target(pipeline: Pipeline) -> None:
    pipeline.doubt()
    assert step(pipeline, pair(RGB, AUX)).state == TargetState.IDLE and not pipeline.unconfirmed
    step(pipeline, pair(RGB, AUX), Target(BOX))
    pipeline.doubt()
    assert pipeline.state == TargetState.LOST and pipeline.unconfirmed
    pipeline.release()
    assert not pipeline.unconfirmed


def test_target_starts_on_an_earlier_frame_and_is_followed_up(pipeline: Pipeline, tracker: Tracker) -> None:
    pairs = [pair(message(np.roll(SCENE, 2 * i, 1), "rgb8"), None, i) for i in range(5)]
    late = step(pipeline, pairs[4], Target(BOX, "cup"), since=pairs[:4])
    tracker.reset()
    again = Pipeline(tracker)
    steps = [step(again, p, Target(BOX, "cup") if i == 0 else None) for i, p in enumerate(pairs)]
    assert late.started and late.stamp_ns == 4 and np.array_equal(late.box, steps[-1].box)


SENSORS = {
    "thermal that follows the image": ("thermal", AuxEncoding(), "mono16"),
    "thermal of a fixed range": ("thermal", AuxEncoding(1000, 3000), "mono16"),
    "depth": ("depth", AuxEncoding(), "16UC1"),
}


@pytest.mark.parametrize("sensor", SENSORS)
def test_pictures_are_what_the_network_saw(tracker: Tracker, sensor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a range that follows several frames, however often somebody looks, though only crops were encoded."""
    modality, encoding, name = SENSORS[sensor]
    seeing = Tracker(tracker.engine, modality, encoding)
    seen: list[tuple[Crop, np.ndarray]] = []
    cut = Crop.cut

    def remember(crop: Crop, image: np.ndarray, encode: Callable | None = None) -> np.ndarray:
        shown = cut(crop, image, encode)
        if encode:
            seen.append((crop, shown))
        return shown

    monkeypatch.setattr(Crop, "cut", remember)
    pipeline = Pipeline(seeing)
    scene = SCENE[..., 0].astype(np.uint16)  # NumPy 1 would add up in eight bits
    frames = [scene * np.uint16(8 + 5 * i) + np.uint16(700 * i) for i in range(5)]
    undisturbed = AuxEncoder(modality, encoding)
    for i, frame in enumerate(frames):
        rgb = RGB if i < 3 else None  # the overlay of a silent RGB stream
        seen.clear()
        step(pipeline, pair(rgb, message(frame, name)), Target(BOX) if i == 0 else None)
        expected = undisturbed(frame)
        for _ in range(3):
            rgb_picture, aux_picture = pipeline.pictures()
            np.testing.assert_array_equal(aux_picture, expected)
        assert seen
        for crop, shown in seen:
            np.testing.assert_array_equal(shown, cut(crop, aux_picture))
        assert rgb_picture is None if rgb is None else np.array_equal(rgb_picture, SCENE)
    fresh = AuxEncoder(modality)(frames[-1])
    assert np.abs(fresh.astype(int) - aux_picture).mean() > 5, "an encoder of its own shows something else"
