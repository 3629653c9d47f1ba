"""From image messages to tracks without ROS, and the mailbox between callbacks and worker."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest

from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.streams.images import fill_image
from cmdtrack_ros.streams.mailbox import REPLAY_LIMIT, Mailbox
from cmdtrack_ros.track import TargetState
from cmdtrack_ros.tracking import Tracker, load_tracker
from cmdtrack_ros.tracking.pipeline import Frame, Pipeline, Target

HEIGHT, WIDTH = 120, 160
SCENE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
BOX = np.array([60.0, 40.0, 30.0, 30.0])


def message(pixels: np.ndarray, encoding: str, stamp: int = 0) -> SimpleNamespace:
    header = SimpleNamespace(stamp=SimpleNamespace(sec=0, nanosec=stamp), frame_id="camera")
    return fill_image(SimpleNamespace(header=header), pixels, encoding)


RGB = message(SCENE, "rgb8")
AUX = message(SCENE[..., 0], "mono8")
SMALL = message(np.ascontiguousarray(SCENE[::2, ::2, 0]), "mono8")
BAD = message(SCENE, "foo8")


@pytest.fixture(scope="module")
def tracker() -> Tracker:
    return load_tracker(modality="thermal", device="cpu", threads=1)


@pytest.fixture
def reports() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def pipeline(tracker: Tracker, reports: list) -> Pipeline:
    tracker.reset()
    return Pipeline(tracker, report=lambda kind, text: reports.append((kind, text)))


def test_idle_until_there_is_a_target_and_after_its_release(pipeline: Pipeline) -> None:
    idle = pipeline.process(Frame(RGB, AUX))
    assert (
        idle.track.state == TargetState.IDLE and idle.track.box.tolist() == [0, 0, 0, 0] and not idle.started
    )
    started = pipeline.process(Frame(RGB, AUX), Target(BOX, "cup"))
    assert started.started and started.name == "cup" and np.allclose(started.track.box, BOX)
    followed = pipeline.process(Frame(RGB, AUX))
    assert followed.name == "cup" and followed.track.state != TargetState.IDLE and followed.seconds > 0
    pipeline.release()
    assert pipeline.process(Frame(RGB, AUX)).track.state == TargetState.IDLE


def test_bad_image_leaves_the_other_stream(pipeline: Pipeline, reports: list) -> None:
    pipeline.process(Frame(RGB, AUX), Target(BOX))
    alone = pipeline.process(Frame(BAD, AUX))
    assert alone.rgb is None and alone.aux is not None and alone.track.weight_rgb == 0
    alone = pipeline.process(Frame(RGB, BAD))
    assert alone.aux is None and alone.track.weight_aux == 0
    assert pipeline.process(Frame(BAD, BAD)) is None
    assert [kind for kind, _ in reports] == ["rgb image", "aux image", "rgb image", "aux image"]
    assert all("'foo8'" in text for _, text in reports)
    assert pipeline.faults == {"rgb image": 2, "aux image": 2}
    assert pipeline.process(Frame(RGB, AUX)).track.state != TargetState.IDLE


def test_sizes_that_differ_need_a_registration(pipeline: Pipeline, tracker: Tracker, reports: list) -> None:
    outcome = pipeline.process(Frame(RGB, SMALL))
    assert outcome.aux is None and "rgb is 160x120, aux 80x60" in reports[0][1] and "resize" in reports[0][1]
    assert pipeline.process(Frame(None, SMALL)) is None, "nor without the RGB image"
    resizing = Pipeline(tracker, registration="resize")
    assert resizing.process(Frame(RGB, SMALL)).aux.shape == (HEIGHT, WIDTH)
    assert resizing.process(Frame(BAD, SMALL)).aux.shape == (HEIGHT, WIDTH), "by the size RGB had"
    with pytest.raises(ConfigError, match="registration"):
        Pipeline(tracker, registration="guess")


def test_resizing_never_blends_depth(tracker: Tracker) -> None:
    tracker.reset()
    depth = np.where(np.arange(80) < 33, 500, 4000).astype(np.uint16) * np.ones((60, 1), np.uint16)
    resized = Pipeline(tracker, registration="resize").process(Frame(RGB, message(depth, "16UC1"))).aux
    assert set(np.unique(resized)) == {500, 4000}


def test_refused_target_leaves_the_one_before(pipeline: Pipeline, reports: list) -> None:
    pipeline.process(Frame(RGB, AUX), Target(BOX, "cup"))
    outcome = pipeline.process(Frame(RGB, AUX), Target(np.array([500.0, 0, 20, 20]), "outside"))
    assert outcome.name == "cup" and not outcome.started and outcome.track.state != TargetState.IDLE
    assert reports[0][0] == "target" and "160x120" in reports[0][1]


def test_target_starts_on_an_earlier_frame_and_is_followed_up(pipeline: Pipeline, tracker: Tracker) -> None:
    frames = [Frame(message(np.roll(SCENE, 2 * i, 1), "rgb8", i), None) for i in range(5)]
    late = pipeline.process(frames[4], Target(BOX, "cup"), since=frames[:4])
    tracker.reset()
    again = Pipeline(tracker)
    steps = [again.process(f, Target(BOX, "cup") if i == 0 else None) for i, f in enumerate(frames)]
    assert late.started and np.array_equal(late.track.box, steps[-1].track.box)


def test_mailbox_keeps_the_newest_and_counts_the_rest() -> None:
    mailbox: Mailbox[str] = Mailbox(history=3)
    for i in range(5):
        mailbox.put(10 * i, f"frame {i}")
    assert mailbox.take() == "frame 4" and mailbox.dropped == 4
    assert mailbox.since(20) == [(20, "frame 2"), (30, "frame 3"), (40, "frame 4")]
    assert mailbox.since(25) == [(30, "frame 3"), (40, "frame 4")], "between two frames: the next one"
    assert mailbox.since(19) == [] and mailbox.since(41) == []
    mailbox.forget()
    assert mailbox.since(20) == []


def test_mailbox_of_a_replay_keeps_all() -> None:
    mailbox: Mailbox[int] = Mailbox(history=1, keep_all=True)
    for i in range(REPLAY_LIMIT + 2):
        mailbox.put(i, i)
    assert [mailbox.take() for _ in range(REPLAY_LIMIT)] == list(range(2, REPLAY_LIMIT + 2))
    assert mailbox.dropped == 2


def test_closing_the_mailbox_releases_its_worker() -> None:
    mailbox: Mailbox[int] = Mailbox(history=1)
    got: list[int | None] = []
    worker = threading.Thread(target=lambda: got.append(mailbox.take()))
    worker.start()
    mailbox.close()
    worker.join(2)
    assert not worker.is_alive() and got == [None]
