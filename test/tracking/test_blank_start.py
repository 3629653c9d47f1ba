"""Targets that are named where a stream, or every one of them, shows nothing of them yet; with the shipped weights."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from cmdtrack_ros.boxes import iou
from cmdtrack_ros.data import simulate_events
from cmdtrack_ros.models.confidence import EVIDENCE
from cmdtrack_ros.streams.pairing import Pair
from cmdtrack_ros.track import TargetState, Track
from cmdtrack_ros.tracking.pipeline import Pipeline
from cmdtrack_ros.tracking.states import StateConfig
from cmdtrack_ros.tracking.targets import Target
from cmdtrack_ros.tracking.tracker import Tracker, see

SIZE = (240, 320)
STILL, MOVING = 12, 24  # frames; a target without a response is LOST after 8
START = np.array([60.0, 60, 50, 60])
PATH = [START] * STILL + [START + [4 * i, 2 * i, 0, 0] for i in range(1, MOVING + 1)]


def _texture(seed: int, height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 6, width // 6, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


TARGET, GROUND = _texture(1, 60, 50), _texture(2, *SIZE) // 3


def picture(box: np.ndarray) -> np.ndarray:
    """A textured block over dark ground."""
    image = GROUND.copy()
    x, y, w, h = box.astype(int)
    image[y : y + h, x : x + w] = TARGET
    return image


def events(index: int) -> np.ndarray:
    """What a still event camera shows at a place of PATH: noise, where nothing moved."""
    now = picture(PATH[index])
    return simulate_events(picture(PATH[max(index - 1, 0)]), now, rng=np.random.default_rng(index))


def white(index: int) -> np.ndarray:
    """What a still event camera shows of a still scene."""
    still = picture(START)
    return simulate_events(still, still, rng=np.random.default_rng(index))


@pytest.fixture
def for_events(tracker: Tracker) -> Tracker:
    return Tracker(tracker.engine, "event")


def said(track: Track) -> list[str]:
    return [remark.text for remark in track.remarks if remark.cause == "target does not show"]


def overlap(tracks: list[Track], boxes: list[np.ndarray]) -> float:
    return float(np.mean(iou(np.array([track.box for track in tracks]), np.array(boxes))))


def test_events_alone_hold_a_box_that_stands_still_and_then_follow(for_events: Tracker) -> None:
    tracks = [for_events.init(None, events(0), PATH[0])]
    tracks += [for_events.update(None, events(index)) for index in range(1, len(PATH))]
    still, moving = tracks[:STILL], tracks[STILL:]
    assert {track.state for track in still} == {TargetState.UNCERTAIN}
    assert {(track.score, track.weight_aux) for track in still} == {(StateConfig().score_doubtful, 0.0)}
    assert all(np.array_equal(track.box, START) for track in tracks[: STILL + 1])
    (text,) = said(tracks[0])
    assert text.startswith("event: nothing shows") and not any(said(track) for track in tracks[1:])
    assert overlap(moving, PATH[STILL:]) > 0.6
    assert [track.state for track in moving].count(TargetState.TRACKING) > 0.8 * MOVING


def test_events_get_their_template_once_they_show_and_then_carry_the_target(for_events: Tracker) -> None:
    """RGB is black for the last 16 frames, of which one looks back."""
    black = np.zeros((*SIZE, 3), np.uint8)
    tracks = [for_events.init(picture(PATH[0]), events(0), PATH[0])]
    for index in range(1, len(PATH)):
        rgb = picture(PATH[index]) if index < len(PATH) - 16 else black
        tracks.append(for_events.update(rgb, events(index)))
    (text,) = said(tracks[0])
    assert text.startswith("event: nothing shows") and text.endswith("followed in RGB")
    assert {track.state for track in tracks[:STILL]} == {TargetState.TRACKING}
    assert {track.weight_aux for track in tracks[: STILL + 1]} == {0.0}, "no template of nothing"
    assert not any(said(track) for track in tracks[1:])
    assert overlap(tracks[-16:], PATH[-16:]) > 0.6
    assert tracks[-1].state == TargetState.TRACKING
    assert for_events.evidence[EVIDENCE.index("agreement")] > 0.8, "events lead back to where they were first seen"


def test_black_rgb_is_learned_once_there_is_light(tracker: Tracker) -> None:
    night = Tracker(tracker.engine, "thermal")
    track = night.init(np.zeros((*SIZE, 3), np.uint8), picture(START)[..., 1], START)
    assert (track.weight_rgb, track.weight_aux) == (0, 1) and track.state == TargetState.TRACKING
    assert said(track)[0].startswith("RGB: nothing shows")
    for box in PATH[STILL : STILL + 4]:
        night.update(picture(box), picture(box)[..., 1])
    track = night.update(picture(PATH[STILL + 4]), None)
    assert track.weight_rgb == pytest.approx(1) and iou(track.box, PATH[STILL + 4]) > 0.6


def test_what_shows_nothing_for_long_is_lost_and_starts_by_a_detection(for_events: Tracker) -> None:
    tracks = [for_events.init(None, white(0), START)]
    tracks += [for_events.update(None, white(index)) for index in range(1, 302)]
    states = [track.state for track in tracks]
    assert states == [TargetState.UNCERTAIN] * 300 + [TargetState.LOST] * 2
    assert [index for index, track in enumerate(tracks) if said(track)] == [0, 300]
    assert "300 frames" in said(tracks[300])[0] and tracks[300].score == 0
    late = for_events.update(None, events(STILL))
    assert late.state == TargetState.LOST and late.weight_aux == 0, "nobody knows what is there now"
    twin = for_events.twin(for_events.encoder)
    found = twin.look_at(see(None, events(STILL + 1), twin.encoder), PATH[STILL + 1])
    assert found is not None and found.state == TargetState.UNCERTAIN
    assert for_events.state == TargetState.LOST and not for_events.evidence.any()
    assert iou(twin.update(None, events(STILL + 2)).box, PATH[STILL + 2]) > 0.6


def test_nothing_is_learned_while_another_target_lies_there(for_events: Tracker) -> None:
    for_events.init(None, white(0), START)
    for_events.held = True
    assert for_events.update(None, events(STILL)).weight_aux == 0
    assert for_events.update(None, events(STILL + 1)).weight_aux == 0
    for_events.held = False
    for_events.update(None, events(STILL + 1))
    assert for_events.update(None, events(STILL + 2)).weight_aux == pytest.approx(1)


def test_a_twin_learns_for_itself(for_events: Tracker) -> None:
    for_events.init(None, white(0), START)
    twin = for_events.twin(for_events.encoder)
    twin.update(None, events(STILL))
    assert twin.update(None, events(STILL + 1)).weight_aux == pytest.approx(1)
    assert twin._origin and not for_events._origin
    assert for_events.update(None, events(STILL + 1)).weight_aux == 0


def test_the_pipeline_tells_of_it_once(for_events: Tracker) -> None:
    reports: list[tuple[str, str]] = []
    pipeline = Pipeline(for_events, report=lambda cause, text: reports.append((cause, text)))
    for index in range(STILL):
        aux = events(index)
        message = SimpleNamespace(
            height=SIZE[0],
            width=SIZE[1],
            encoding="rgb8",
            is_bigendian=0,
            step=3 * SIZE[1],
            data=np.ascontiguousarray(aux).reshape(-1),
        )
        targets = [Target(START, "cup")] if index == 0 else []
        (track,) = pipeline.process(Pair(None, message, index * 30_000_000, 0.0), targets)
    assert track.state == TargetState.UNCERTAIN
    ((cause, text),) = reports
    assert cause == "target does not show" and text.startswith("target 'cup': event: nothing shows")
