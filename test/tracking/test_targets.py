"""Several targets in the same pairs: what becomes of one leaves the others alone."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from cmdtrack_ros.boxes import iou
from cmdtrack_ros.streams.images import fill_image
from cmdtrack_ros.streams.pairing import Pair
from cmdtrack_ros.track import TargetState, Track
from cmdtrack_ros.tracking import targets
from cmdtrack_ros.tracking.engines.contract import Query, Response
from cmdtrack_ros.tracking.pipeline import DETECTION_LEFT, Pipeline
from cmdtrack_ros.tracking.states import StateConfig
from cmdtrack_ros.tracking.targets import Given, Target
from cmdtrack_ros.tracking.tracker import Tracker, TrackerConfig

STEP = 33_000_000  # ns
RNG = np.random.default_rng(3)
GROUND = cv2.GaussianBlur(RNG.integers(0, 256, (240, 320, 3), np.uint8), (0, 0), 4)
PATCHES = [cv2.resize(RNG.integers(0, 256, (5, 5, 3), np.uint8), (44, 44), interpolation=2) for _ in range(2)]


def places(frame: int) -> np.ndarray:
    """True boxes (2, 4) of the two patches, which drift apart."""
    return np.array([[60 + frame, 60, 44, 44], [200 - frame, 150, 44, 44]], float)


def pair(frame: int, **changes: object) -> Pair:
    """RGB and thermal counts, whose range follows the frames."""
    picture = GROUND.copy()
    for (x, y, w, h), patch in zip(places(frame).astype(int), PATCHES):
        picture[y : y + h, x : x + w] = patch
    thermal = picture[..., 1].astype(np.uint16) * np.uint16(8 + frame % 5) + np.uint16(7000)
    messages = (fill_image(SimpleNamespace(), image, name) for image, name in ((picture, "rgb8"), (thermal, "mono16")))
    return Pair(*messages, frame * STEP, 0.0)._replace(**changes)


class Spoilt:
    """An engine that answers NaN to one of the queries of a batch."""

    def __init__(self, engine: object) -> None:
        self.engine, self.config, self.confidence = engine, engine.config, engine.confidence
        self.name, self.encode = engine.name, engine.encode
        self.place: int | None = None

    def search(self, queries: list[Query]) -> list[Response]:
        answers = self.engine.search(queries)
        if self.place is not None and len(queries) > 1:
            answers[self.place] = replace(answers[self.place], score=answers[self.place].score * np.nan)
        return answers


@pytest.fixture
def spoilt(tracker: Tracker) -> Spoilt:
    return Spoilt(tracker.engine)


@pytest.fixture
def pipeline(spoilt: Spoilt) -> Pipeline:
    return new_pipeline(spoilt)


def new_pipeline(engine: object, max_targets: int = 4) -> Pipeline:
    """A drawn scene is not what the score was calibrated with: low thresholds."""
    states = StateConfig(score_confident=0.02, score_doubtful=0.01, score_found=0.02)
    tracker = Tracker(engine, "thermal", config=TrackerConfig(state=states))
    return Pipeline(tracker, max_targets=max_targets)


def target(number: int, frame: int = 0, since: tuple[Pair, ...] = ()) -> Target:
    return Target(places(frame)[number], "ab"[number], ("person", "car")[number], since=since)


def follow(pipeline: Pipeline, frames: range, new: dict[int, list[Target]]) -> list[dict[str, Track]]:
    """The tracks of each frame, by name; `new`: frame -> targets that are started with it."""
    return [{t.target_id: t for t in pipeline.process(pair(i), new.get(i, []))} for i in frames]


def assert_same(found: list[dict[str, Track]], alone: list[dict[str, Track]], name: str) -> None:
    for got, expected in zip(found, alone, strict=True):
        np.testing.assert_array_equal(got[name].box, expected[name].box)
        assert (got[name].score, got[name].state) == (expected[name].score, expected[name].state)


def test_the_first_answers_as_alone_and_the_others_are_on_theirs(spoilt: Spoilt) -> None:
    """Also while another one is started, caught up with from earlier frames, moved and released beside it."""
    frames = range(60)
    alone = follow(new_pipeline(spoilt), frames, {0: [target(0)]})
    pipeline = new_pipeline(spoilt)
    late = tuple(pair(i) for i in range(0, 30, 3))
    found = follow(pipeline, range(30), {0: [target(0)], 5: [target(1, 5)], 20: [target(1, 20)]})
    assert all(iou(tracks["b"].box, places(i)[1]) > 0.6 for i, tracks in enumerate(found) if i >= 5)
    assert {t.class_id for tracks in found for t in tracks.values()} == {"person", "car"}
    assert [i for i, tracks in enumerate(found) if "b" in tracks and tracks["b"].started] == [5, 20]
    pipeline.release("b")
    rest = follow(pipeline, range(30, 60), {30: [target(1, 0, late)]})
    assert_same(found + rest, alone, "a")
    there = [i for i, tracks in enumerate(rest) if "b" in tracks]
    assert 2 <= there[0] <= 8 and there == list(range(there[0], 30)), "with some pairs' help, and then in every one"
    assert [tracks["b"].started for tracks in rest if "b" in tracks] == [True] + [False] * (len(there) - 1)
    assert iou(rest[-1]["b"].box, places(59)[1]) > 0.6
    assert not pipeline.faults


def test_the_range_of_the_aux_stream_is_observed_once_a_frame(pipeline: Pipeline) -> None:
    follow(pipeline, range(3), {0: [target(0), target(1)]})
    seen: list[int] = []
    observe = pipeline._encoder.observe
    pipeline._encoder.observe = lambda image: seen.append(1) or observe(image)
    follow(pipeline, range(3, 6), {4: [target(1, 4)]})
    assert len(seen) == 3


def test_nonsense_about_one_target_leaves_the_other(spoilt: Spoilt, pipeline: Pipeline) -> None:
    alone = follow(new_pipeline(spoilt), range(20), {0: [target(0)]})
    found = follow(pipeline, range(5), {0: [target(0), target(1)]})
    spoilt.place = 1
    said: list[str] = []
    pipeline._report = lambda cause, text: said.append(f"{cause}: {text}")
    found += follow(pipeline, range(5, 20), {})
    assert_same(found, alone, "a")
    assert found[-1]["b"].state == TargetState.LOST and found[-1]["b"].score == 0
    assert len(said) == 15 and all("internal error: target 'b': " in text and "NaN" in text for text in said)


def test_release_by_name_of_all_and_of_one_that_is_alone(pipeline: Pipeline, spoilt: Spoilt) -> None:
    follow(pipeline, range(2), {0: [target(0), target(1)]})
    pipeline.release("a")
    assert [track.target_id for track in pipeline.process(pair(2))] == ["b"]
    pipeline.release("")
    assert [track.state for track in pipeline.process(pair(3))] == [TargetState.IDLE]
    single = new_pipeline(spoilt, max_targets=1)
    follow(single, range(2), {0: [target(0)]})
    assert [track.target_id for track in single.process(pair(2), [target(1, 2)])] == ["b"], "takes its place"
    single.release("whoever")
    assert single.state == TargetState.IDLE


def test_a_target_on_another_one_is_refused(pipeline: Pipeline) -> None:
    follow(pipeline, range(2), {0: [target(0)]})
    again = Target(places(2)[0] + [2, 1, 0, 0], "c")
    assert [track.target_id for track in pipeline.process(pair(2), [again])] == ["a"]
    assert "lies on target 'a'" in pipeline.refused["c"] and pipeline.faults == {"target refused": 1}


def test_two_targets_on_one_object_end_as_one(pipeline: Pipeline) -> None:
    """The same patch is named anew, in an earlier image: both boxes are on it."""
    follow(pipeline, range(10), {0: [target(0), target(1)]})
    again = Target(places(0)[0], "again", since=(pair(0), pair(3), pair(6)))
    met = follow(pipeline, range(10, 13), {10: [again]})
    assert "again" in met[-1] and [one.tracker.held for one in pipeline._targets] == [True, False, True]
    found = met + follow(pipeline, range(13, 45), {})
    assert pipeline.faults == {"targets on one object": 1}
    states = [{tracks[name].state for name in ("a", "again")} for tracks in found if "again" in tracks]
    together = [TargetState.LOST not in both for both in states]
    assert together == [True] * (targets.SAME_FRAMES - 1) + [False] * (len(states) - targets.SAME_FRAMES + 1)
    assert all(TargetState.TRACKING in both for both in states), "and it is not found again on the other one"
    assert not any(one.tracker.held for one in pipeline._targets)


def test_a_late_target_is_given_up_where_stamps_jump_back(pipeline: Pipeline) -> None:
    follow(pipeline, range(30), {0: [target(0)]})
    late = tuple(pair(i) for i in range(0, 30, 3))
    pipeline.process(pair(30), [target(1, 0, late)])
    assert pipeline.coming == ("b",) and pipeline.names == ("a", "b")
    pipeline.process(pair(0, restarted=True))
    assert not pipeline.coming and "jumped back" in pipeline.refused["b"]


def test_a_late_target_that_is_alone_is_there_at_once(pipeline: Pipeline) -> None:
    late = tuple(pair(i) for i in range(0, 30, 3))
    (track,) = pipeline.process(pair(30), [target(1, 0, late)])
    assert track.started and iou(track.box, places(30)[1]) > 0.6


def elsewhere(number: int, frame: int, since: tuple[Pair, ...] = ()) -> Target:
    """Of a detector, for target "b"."""
    return Target(places(frame)[number], "b", "car", Given.DETECTION, since)


def lose_b(pipeline: Pipeline) -> None:
    """It is LOST, and the place where it is searched for first is empty."""
    follow(pipeline, range(3), {0: [target(0), target(1)]})
    b = pipeline._targets[1].tracker
    b._sure = np.array([250.0, 20, 44, 44])
    b.part()


@pytest.mark.parametrize("late", [False, True])
def test_a_detection_is_looked_at_for_the_one_that_is_lost(spoilt: Spoilt, late: bool) -> None:
    """Also from frames ago, while the others have their results as ever."""
    alone = follow(new_pipeline(spoilt), range(20), {0: [target(0)]})
    pipeline = new_pipeline(spoilt)
    lose_b(pipeline)
    assert [one.name for one in pipeline.lost] == ["b"]
    since = tuple(pair(i) for i in range(3)) if late else ()
    found = follow(pipeline, range(3, 20), {3: [elsewhere(1, 0 if late else 3, since)]})
    assert_same(found, alone[3:], "a")
    starts = [i for i, tracks in enumerate(found) if tracks["b"].started]
    assert starts == [1 if late else 0] and not pipeline.lost and not pipeline.faults
    assert all(iou(tracks["b"].box, places(i)[1]) > 0.6 for i, tracks in enumerate(found, 3) if i > 4)
    assert {tracks["b"].class_id for tracks in found} == {"car"}


def test_a_detection_that_is_another_target_or_comes_too_late_is_left(pipeline: Pipeline) -> None:
    lose_b(pipeline)
    a, b = pipeline._targets
    own, b.tracker = b.tracker, a.tracker.twin(pipeline._encoder)  # it looks just like the other one
    b.tracker.part()
    pipeline.process(pair(3), [elsewhere(0, 3)])
    assert pipeline.refused == {"b": DETECTION_LEFT}, "target 'a' is there"
    b.tracker = own
    pipeline.process(pair(4), [elsewhere(1, 0, tuple(pair(i) for i in range(4)))])
    assert pipeline.coming == ("b",)
    b = pipeline._targets[1].tracker
    b._machine.start()
    b._box = places(4)[1]
    follow(pipeline, range(5, 6), {})
    assert pipeline.coming == () and pipeline.refused == {"b": DETECTION_LEFT}, "it was found meanwhile"
    assert pipeline._targets[1].tracker is b
    b.part()
    pipeline.process(pair(5), [elsewhere(1, 0, tuple(pair(i) for i in range(5)))])
    assert pipeline.coming == ("b",)
    b.part()
    pipeline.process(pair(5), [target(1, 0, tuple(pair(i) for i in range(5)))])
    b.part()
    pipeline.process(pair(5), [elsewhere(1, 5)])
    assert pipeline.refused == {"b": DETECTION_LEFT}, "somebody has named it anew"
    follow(pipeline, range(5, 6), {5: [target(0, 5)._replace(name="b", box=places(5)[1])]})
    assert pipeline.coming == () and pipeline.refused == {}, "who names it has the last word"
    follow(pipeline, range(6, 7), {6: [elsewhere(1, 6)]})
    assert pipeline.refused == {"b": DETECTION_LEFT}, "it is followed"
    assert not pipeline.faults


def test_catching_up_ends_between_frames_where_it_is_not_to_go_on(tracker: Tracker) -> None:
    steps: list[int] = []
    pipeline = Pipeline(tracker, go_on=lambda: steps.append(1) or len(steps) < 4)
    late = tuple(pair(i) for i in range(20))
    assert pipeline.process(pair(20), [target(1, 0, late)]) == []
    assert len(steps) <= 6 and pipeline.names == ()
