"""One bad image, of any kind, does not cost the target: on real sequences and on a made one."""

from __future__ import annotations

import copy
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from cmdtrack_ros.boxes import iou
from cmdtrack_ros.data import load_sequence
from cmdtrack_ros.data.sequences import ImageSequence
from cmdtrack_ros.errors import CmdtrackError, ImageError
from cmdtrack_ros.streams.images import fill_image
from cmdtrack_ros.streams.pairing import Pair
from cmdtrack_ros.track import TargetState, Track
from cmdtrack_ros.tracking.engines.contract import Engine, Query, Response, Template, TemplateCrop
from cmdtrack_ros.tracking.pipeline import Pipeline
from cmdtrack_ros.tracking.targets import Target
from cmdtrack_ros.tracking.tracker import Tracker
from malformed import SCENE, malformed_compressed, malformed_images
from synthetic import make_block

BEFORE, AFTER = 15, 60  # frames; the cameras' rate is 30 Hz
Frame = tuple[np.ndarray, np.ndarray | None]


class Celsius(ImageSequence):
    """A thermal sequence as temperatures, float32; ``counts``: as a sensor's counts, uint16."""

    def __init__(self, inner: ImageSequence, counts: bool = False) -> None:
        super().__init__(inner.name, inner.modality, inner.boxes, inner.stamps)
        self.inner, self.counts = inner, counts

    def rgb(self, index: int) -> np.ndarray | None:
        return self.inner.rgb(index)

    def aux(self, index: int) -> np.ndarray | None:
        image = self.inner.aux(index)
        grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        if self.counts:
            return grey * np.uint16(8) + np.uint16(7000)
        return grey * np.float32(0.08) + np.float32(12)


class Failing:
    """An engine that fails in the ways named, as damaged memory or a lost device make it."""

    def __init__(self, engine: Engine, encode: str = "", search: str = "") -> None:
        self.engine, self.config, self.name = engine, engine.config, engine.name
        self.failing = {"encode": encode, "search": search}

    def encode(self, crops: list[TemplateCrop]) -> list[Template]:
        if "raises" in self.failing["encode"]:
            raise RuntimeError("the device raised")
        templates = self.engine.encode(crops)
        if self.failing["encode"]:
            templates[-1].parts[0].flat[3] = np.nan
        return templates

    def search(self, queries: list[Query]) -> list[Response]:
        answers = self.engine.search(queries)
        return (
            [replace(answer, score=answer.score * np.nan) for answer in answers] if self.failing["search"] else answers
        )


def message(image: np.ndarray | None) -> SimpleNamespace | None:
    names = {(np.uint8, 2): "mono8", (np.uint8, 3): "rgb8", (np.uint16, 2): "16UC1", (np.float32, 2): "32FC1"}
    names |= {(np.int32, 2): "32SC1", (np.uint16, 3): "16UC3"}
    return None if image is None else fill_image(SimpleNamespace(), image, names[image.dtype.type, image.ndim])


@dataclass
class Scene:
    """A target that was followed up to some frame; `clean` is how well it goes on undisturbed."""

    sequence: ImageSequence
    start: int
    pipeline: Pipeline
    clean: float = 0.0

    @property
    def frames(self) -> range:
        return range(self.start, min(self.start + AFTER, len(self.sequence)))

    def go_on(
        self, damage: Callable[[int, Frame], Frame], scale: float = 1.0, seen: list[Track | None] | None = None
    ) -> tuple[float, Pipeline]:
        """Mean IoU of the frames after the first, which `damage` is given as number 0.

        scale: of the true boxes. seen: takes the tracks.
        """
        pipeline = copy.deepcopy(self.pipeline, {id(self.pipeline.engine): self.pipeline.engine})
        boxes = []
        for number, index in enumerate(self.frames):
            frame = self.sequence.frame(index)
            rgb, aux = (message(image) for image in damage(number, (frame.rgb, frame.aux)))
            track = next(iter(pipeline.process(Pair(rgb, aux, index, 0.0))), None)
            if seen is not None:
                seen.append(track)
            boxes.append(np.full(4, np.nan) if track is None else track.box)
        truth = self.sequence.boxes[self.frames.start : self.frames.stop] * scale
        return float(iou(np.array(boxes), truth)[1:].mean()), pipeline


def followed(engine: Engine, sequence: ImageSequence, before: int = BEFORE) -> Scene:
    pipeline = Pipeline(Tracker(engine, sequence.modality))
    for index in range(before):
        frame = sequence.frame(index)
        targets = [Target(sequence.boxes[0])] if index == 0 else []
        pipeline.process(Pair(message(frame.rgb), message(frame.aux), index, 0.0), targets)
    scene = Scene(sequence, before, pipeline)
    scene.clean = scene.go_on(lambda number, frame: frame)[0]
    return scene


@pytest.fixture(scope="module")
def scenes(
    tracker: Tracker, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Callable[[str], Scene]:
    """By name: the block is made, the others are real. One thermal sequence comes in three types of value."""

    @cache
    def get(name: str) -> Scene:
        if name == "block":
            block = make_block(tmp_path_factory.mktemp("block"), frames=40)
            return followed(tracker.engine, Celsius(load_sequence(block)))
        test = request.getfixturevalue("shared_data") / "test"
        if name == "depth":
            return followed(tracker.engine, load_sequence(test / "rgbd" / "leaflet_blue_225"))
        thermal = load_sequence(test / "rgbt" / "0117_1605_greyman")
        return followed(tracker.engine, thermal if name == "bytes" else Celsius(thermal, counts=name == "counts"))

    return get


def garbage(value: float) -> Callable[[Frame], Frame]:
    """All of the aux image; of an integer one as far as its type can hold it."""

    def damage(frame: Frame) -> Frame:
        rgb, aux = frame
        if aux.dtype == np.float32:
            return rgb, np.full_like(aux, value)
        return rgb, np.full_like(aux, np.iinfo(aux.dtype).max if value > 0 else 0)

    return damage


def opposite(frame: Frame) -> Frame:
    """Half of the aux image as low, the other half as high as can be."""
    rgb, aux = frame
    limits = (np.finfo if aux.dtype == np.float32 else np.iinfo)(aux.dtype)
    aux = np.full_like(aux, limits.min)
    aux[:, ::2] = limits.max
    return rgb, aux


def bad_pixels(frame: Frame) -> Frame:
    """Of the aux image 5 %, half of them dead and half hot, in places of their own."""
    rgb, aux = frame
    lot = np.random.default_rng(0).random(aux.shape[:2])
    low, high = (-100, 1000) if aux.dtype == np.float32 else (0, np.iinfo(aux.dtype).max)
    aux = aux.copy()
    aux[lot < 0.025], aux[lot > 0.975] = low, high
    return rgb, aux


def resized(width: int, height: int, *streams: int) -> Callable[[Frame], Frame]:
    def damage(frame: Frame) -> Frame:
        return tuple(
            cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST) if stream in streams else image
            for stream, image in enumerate(frame)
        )

    return damage


SIZE, RANGE, BAD = "image size outlier", "aux range outlier", "bad auxiliary image"
OUTLIERS: dict[str, tuple[Callable[[Frame], Frame], dict[str, int]]] = {
    "both 1x1": (resized(1, 1, 0, 1), {"bad RGB image": 1, BAD: 1}),
    "RGB 5000x1": (resized(5000, 1, 0), {"bad RGB image": 1}),
    "both 5000x16": (resized(5000, 16, 0, 1), {SIZE: 2}),
    "both 9x9": (resized(9, 9, 0, 1), {SIZE: 2}),
    "both larger": (resized(1300, 700, 0, 1), {SIZE: 2}),
    "aux 80x60": (resized(80, 60, 1), {SIZE: 1}),
    "aux int32": (lambda frame: (frame[0], np.zeros(frame[0].shape[:2], np.int32)), {BAD: 1}),
    "aux of three 16-bit channels": (lambda frame: (frame[0], np.zeros(frame[0].shape, np.uint16)), {BAD: 1}),
    "aux 1e30": (garbage(1e30), {RANGE: 1}),
    "aux -1e30": (garbage(-1e30), {RANGE: 1}),
    "aux Inf": (garbage(np.inf), {RANGE: 1}),
    "aux NaN": (garbage(np.nan), {RANGE: 1}),
    "aux lowest and highest": (opposite, {RANGE: 1}),
}
WORST = ("both 1x1", "both 5000x16", "aux int32", "aux 1e30", "aux NaN")
CASES = [("block", outlier) for outlier in OUTLIERS]
CASES += [(name, outlier) for name in ("celsius", "depth") for outlier in WORST]


@pytest.mark.parametrize("name, outlier", CASES)
def test_one_bad_image_does_not_cost_the_target(scenes: Callable[[str], Scene], name: str, outlier: str) -> None:
    scene = scenes(name)
    damage, faults = OUTLIERS[outlier]
    accuracy, pipeline = scene.go_on(lambda number, frame: frame if number else damage(frame))
    assert accuracy >= 0.9 * scene.clean
    assert pipeline.faults == faults


@pytest.mark.parametrize("name", ["block", "celsius", "counts", "bytes", "depth"])
def test_bad_pixels_do_not_cost_the_target(scenes: Callable[[str], Scene], name: str) -> None:
    scene = scenes(name)
    accuracy, pipeline = scene.go_on(lambda number, frame: bad_pixels(frame))
    assert accuracy >= 0.9 * scene.clean
    assert not pipeline.faults


@pytest.mark.parametrize("name", ["block", "bytes", "depth"])
def test_cameras_that_change_to_half_size_keep_the_target(scenes: Callable[[str], Scene], name: str) -> None:
    scene = scenes(name)
    height, width = scene.sequence.frame(0).rgb.shape[:2]
    half = resized(width // 2, height // 2, 0, 1)
    seen: list[Track | None] = []
    accuracy, pipeline = scene.go_on(lambda number, frame: half(frame), scale=0.5, seen=seen)
    assert accuracy >= 0.9 * scene.clean
    assert seen[0] is None and iou(seen[1].box, scene.sequence.boxes[scene.start + 1] / 2) > 0.5, "at once"
    assert pipeline.faults == {SIZE: 2, "image size changed": 2}


def test_another_shape_of_image_leaves_the_target_in_doubt(scenes: Callable[[str], Scene]) -> None:
    """The camera shows another part of the scene: the box means nothing until the network confirms it."""
    scene = scenes("block")
    seen: list[Track | None] = []

    def upper_part(_: int, frame: Frame) -> Frame:
        return tuple(image[: image.shape[0] * 3 // 4] for image in frame)

    accuracy, _ = scene.go_on(upper_part, seen=seen)
    states = [track and track.state for track in seen]
    assert states[0] is None and states[1] == TargetState.LOST and TargetState.TRACKING in states[2:6]
    assert accuracy >= 0.8 * scene.clean


def test_an_image_that_alternates_in_size_is_told_and_never_taken(scenes: Callable[[str], Scene]) -> None:
    scene = scenes("block")
    small = resized(80, 60, 0, 1)
    _, pipeline = scene.go_on(lambda number, frame: frame if number % 2 else small(frame))
    assert set(pipeline.faults) == {SIZE} and pipeline.state != TargetState.LOST


@pytest.mark.parametrize("failing", ["encode raises", "encode answers NaN", "aux of a type that it has not"])
def test_new_target_that_fails_leaves_the_old_one(scenes: Callable[[str], Scene], failing: str) -> None:
    scene = scenes("block")
    _, undisturbed = scene.go_on(lambda number, frame: frame)
    pipeline = copy.deepcopy(scene.pipeline, {id(scene.pipeline.engine): scene.pipeline.engine})
    tracker = pipeline._targets[0].tracker
    frame, other = scene.sequence.frame(scene.start), np.array([100.0, 80, 20, 20])
    if failing == "aux of a type that it has not":
        with pytest.raises(ImageError, match="int32"):
            tracker.init(frame.rgb, np.zeros(frame.rgb.shape[:2], np.int32), other)
    else:
        tracker.engine = Failing(scene.pipeline.engine, encode=failing)
        with pytest.raises(RuntimeError if "raises" in failing else CmdtrackError, match="raised|answers NaN"):
            tracker.init(frame.rgb, frame.aux, other)
        tracker.engine = scene.pipeline.engine
    for index in scene.frames:
        frame = scene.sequence.frame(index)
        track = tracker.update(frame.rgb, frame.aux)
    np.testing.assert_array_equal(track.box, undisturbed._targets[0].tracker.box)


def test_network_that_answers_nan_ends_in_lost_with_its_reason(scenes: Callable[[str], Scene]) -> None:
    scene = scenes("block")
    pipeline = copy.deepcopy(scene.pipeline, {id(scene.pipeline.engine): scene.pipeline.engine})
    pipeline._targets[0].tracker.engine = Failing(scene.pipeline.engine, search="answers NaN")
    said = []
    pipeline._report = lambda cause, text: said.append((cause, text))
    for index in scene.frames[:10]:
        frame = scene.sequence.frame(index)
        (track,) = pipeline.process(Pair(message(frame.rgb), message(frame.aux), index, 0.0))
    assert track.state == TargetState.LOST and np.isfinite(track.box).all() and track.score == 0
    assert len(said) == 10 and said[0][0] == "internal error" and "answers NaN" in said[0][1]
    pipeline._targets[0].tracker.engine = scene.pipeline.engine
    for index in scene.frames[10:]:
        frame = scene.sequence.frame(index)
        (track,) = pipeline.process(Pair(message(frame.rgb), message(frame.aux), index, 0.0))
    assert iou(track.box, scene.sequence.boxes[index]) > 0.5, "and it is found again once the network answers"


@pytest.mark.filterwarnings("ignore:::PIL.TiffImagePlugin")  # pytest puts its own filters over the module's
@pytest.mark.parametrize("generate", [malformed_images, malformed_compressed])
def test_a_thousand_malformed_messages(
    tracker: Tracker, generate: Callable[[int], Iterator[SimpleNamespace]], capfd: pytest.CaptureFixture[str]
) -> None:
    """In either stream: no exception, nothing printed, little memory, and the target is still there."""
    pipeline = Pipeline(Tracker(tracker.engine, "thermal"))
    rgb, aux = message(SCENE), message(SCENE[..., 0] * np.float32(0.1))
    pipeline.process(Pair(rgb, aux, 0, 0.0), [Target(np.array([20.0, 15, 20, 16]))])
    before, worst = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0.0
    for number, malformed in enumerate(generate(1000)):
        pair = Pair(malformed, aux, number, 0.0) if number % 2 else Pair(rgb, malformed, number, 0.0)
        began = time.thread_time()
        pipeline.process(pair)
        worst = max(worst, time.thread_time() - began)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert sum(pipeline.faults.values()) > 500
    assert worst < 1.0 and grown < 400, f"{worst:.2f} s of the processor, {grown:.0f} MiB"
    assert capfd.readouterr().err == ""
    for number in range(3):
        (track,) = pipeline.process(Pair(rgb, aux, 1000 + number, 0.0))
    assert iou(track.box, np.array([20.0, 15, 20, 16])) > 0.5
