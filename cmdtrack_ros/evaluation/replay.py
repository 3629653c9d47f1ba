"""Evaluation of rosbag2 recordings with what runs on the robot: the node's pairing, pipeline and tracker.

Offline, the recording goes through them as fast as it can be computed. Through DDS (`ros/replay/session.py`),
it is played into the running node, told to process every pair. In both the pairing goes by stamps alone, so
the pairs, and with them the boxes, are the same.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from cmdtrack_ros.boxes import visible
from cmdtrack_ros.data import ImageSequence
from cmdtrack_ros.data.bags import AUX_TOPIC, RGB_TOPIC, Bag, BagOptions, BagSequence, load_bag
from cmdtrack_ros.errors import CmdtrackError, ConfigError, DataError
from cmdtrack_ros.evaluation.baselines import TrackerSpec
from cmdtrack_ros.evaluation.protocols import Protocol, Run
from cmdtrack_ros.evaluation.results import run_files, write_run
from cmdtrack_ros.evaluation.runner import RESULTS, remember_bags
from cmdtrack_ros.evaluation.scoring import Scores, aggregate, score_sequence
from cmdtrack_ros.modalities import Modality
from cmdtrack_ros.streams.events import EventFrame, EventFrames
from cmdtrack_ros.streams.filters import SimpleFilter
from cmdtrack_ros.streams.pairing import NearestPairFilter, Pair
from cmdtrack_ros.track import TargetState, Track, per_frame, percentiles_ms

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReplayOptions:
    """How a bag is replayed; as the node's parameters of the same names.

    Attributes:
        bag: topics, pairing and registration.
        initial_box: (4,) xywh px in the first RGB image; None = the truth of that image, else what the bag notes.
        weights: None = the shipped ones.
        device: auto, cpu or cuda.
    """

    bag: BagOptions = BagOptions()
    initial_box: np.ndarray | None = None
    weights: Path | None = None
    device: str = "cpu"


def as_live_camera(sequence: ImageSequence, weights: Path | None = None) -> tuple[dict[str, Any], list[str]]:
    """Parameters of a node as it is installed, for a bag written of a sequence, and the topics to play to it.

    Args:
        weights: None = the shipped ones.
    """
    streams = ((RGB_TOPIC, sequence.rgb(0)), (AUX_TOPIC, sequence.aux(0)))
    parameters: dict[str, Any] = {
        "modality": sequence.modality.value,
        "rgb_topic": RGB_TOPIC,
        "aux_topic": AUX_TOPIC,
        "initial_box": [float(v) for v in sequence.boxes[0]],
        "process_every_pair": "false",
    }
    if weights is not None:
        parameters["weights"] = str(weights.resolve())
    return parameters, [topic for topic, image in streams if image is not None]


@dataclass
class Replay:
    """All answers to one recording, and what pairing and pipeline counted on the way."""

    sequence: BagSequence
    tracks: list[Track]
    counters: dict[str, int]
    seconds: float
    faults: dict[str, int] = field(default_factory=dict)

    def as_run(self) -> Run:
        """One row a frame of the sequence, NaN where there is no answer."""
        run = Run.empty(len(self.sequence))
        for row, track in enumerate(per_frame([pair.stamp for pair in self.sequence.pairs], self.tracks)):
            if track is not None:
                run.boxes[row], run.scores[row], run.seconds[row] = track.box, track.score, track.seconds
        return run

    def statistics(self) -> dict[str, Any]:
        """Counts, and percentiles of gap, processing time and latency in milliseconds."""
        answered = np.isfinite(self.as_run().boxes[:, 0])
        length = float(self.sequence.stamps[-1] - self.sequence.stamps[0])
        return {
            "frames": len(self.sequence),
            "answered": int(answered.sum()),
            "drops": int((~answered).sum()),
            "pairing": self.counters,
            "faults": self.faults,
            "gap_ms": percentiles_ms(abs(track.gap) for track in self.tracks),
            "processing_ms": percentiles_ms(track.seconds for track in self.tracks),
            "latency_ms": percentiles_ms(track.latency for track in self.tracks),
            "times_real_time": length / self.seconds if self.seconds else None,
        }


def open_for_replay(path: Path, options: ReplayOptions) -> tuple[BagSequence, np.ndarray]:
    """The recording, and the box (4,) to start from in its first RGB image.

    Raises:
        DataError: damaged bag, or one without RGB images.
        ConfigError: no box to start from.
    """
    sequence = load_bag(path, options.bag)
    if sequence.topics.rgb is None:
        raise DataError(f"{path}: no topic of RGB images; name it")
    box = sequence.boxes[0] if options.initial_box is None else options.initial_box
    if not visible(box) and sequence.noted_box is not None:
        box = sequence.noted_box
    if not visible(box):
        raise ConfigError(f"{path}: its first RGB image has no true box: give --init-box x,y,w,h of the target in it")
    return sequence, box


def replay_offline(path: Path, options: ReplayOptions = ReplayOptions()) -> Replay:
    """Track a bag without DDS: every pair, as fast as it goes. Errors as of :func:`open_for_replay`."""
    # Torch takes seconds to import, which reports and the other trackers do without.
    from cmdtrack_ros.tracking.pipeline import Pipeline
    from cmdtrack_ros.tracking.targets import Target
    from cmdtrack_ros.tracking.tracker import load_tracker

    sequence, box = open_for_replay(path, options)
    tracker = load_tracker(options.weights, modality=sequence.modality, device=options.device, threads=1)
    rgb, aux = (*sequence.topics.images, "none")[:2]
    report = _first_only(path)
    pipeline = Pipeline(tracker, topics=(rgb, aux), report=report)
    pipeline.register(sequence.registrar)
    waiting = [Target(box, "initial")]
    tracks: list[Track] = []

    def answer(pair: Pair) -> None:
        found = [track for track in pipeline.process(pair, waiting) if track.state is not TargetState.IDLE]
        if found or pipeline.refused:
            waiting.clear()
        tracks.extend(found)

    began = time.perf_counter()
    pairing = _pair_messages(path, sequence, options.bag, answer, partial(report, "bad auxiliary image"))
    counters = pairing.counters.as_dict()
    return Replay(sequence, tracks, counters, time.perf_counter() - began, dict(pipeline.faults))


def _first_only(path: Path) -> Callable[[str, str], None]:
    told: set[str] = set()

    def report(kind: str, text: str) -> None:
        if kind not in told:
            logger.warning("%s: %s (the first of its kind)", path, text)
        told.add(kind)

    return report


def _pair_messages(
    path: Path,
    sequence: BagSequence,
    options: BagOptions,
    answer: Callable[[Pair], None],
    report: Callable[[str], None],
) -> NearestPairFilter:
    """Send the messages of a bag through the node's filters; returns the last of them."""
    sources = {topic: SimpleFilter() for topic in sequence.topics.images}
    filters = list(sources.values())
    if sequence.modality is Modality.EVENT:
        rgb, aux = filters
        filters[1] = EventFrames(rgb, aux, options.event_window, options.pairing, _event_image, report)
    pairing = NearestPairFilter(filters, options.pairing.for_streams(len(filters)), clock=None)
    pairing.registerCallback(answer)
    with Bag(path) as bag:
        for message in bag.messages(sources):
            sources[message.topic].signalMessage(bag.decode(message))
    pairing.flush(everything=True)
    return pairing


def _event_image(frame: EventFrame, frame_id: str) -> Any:
    """With the fields of a sensor_msgs/Image."""
    seconds, nanoseconds = divmod(frame.stamp, 10**9)
    header = SimpleNamespace(stamp=SimpleNamespace(sec=seconds, nanosec=nanoseconds), frame_id=frame_id)
    height, width = frame.pixels.shape
    pixels = {"encoding": "mono8", "is_bigendian": 0, "step": width, "data": frame.pixels.reshape(-1)}
    return SimpleNamespace(header=header, height=height, width=width, **pixels)


def evaluate_bags(
    paths: list[Path], output: Path, replay_one: Callable[[Path], Replay], options: ReplayOptions = ReplayOptions()
) -> tuple[Scores, dict[str, BagSequence], dict[str, dict]]:
    """Replay each bag, write its result file, and score it. One that fails is reported and the others go on.

    Args:
        replay_one: :func:`replay_offline`, or its sister through DDS, with all but the bag given.
        options: that it goes by.

    Returns:
        Scores, the recordings by name, and each one's :meth:`Replay.statistics`.
    """
    spec = TrackerSpec("ours", weights=() if options.weights is None else (options.weights,))
    remember_bags(output, paths, options.bag, spec)
    scored, sequences, statistics, failures = {}, {}, {}, {}
    for path in paths:
        name = path.resolve().name
        run_files(output / RESULTS / spec.label, name, Protocol.OPE)[0].unlink(missing_ok=True)  # of a run before
        try:
            done = replay_one(path)
        except CmdtrackError as error:
            failures[name] = str(error)
            continue
        answers = done.as_run()
        write_run(output / RESULTS / spec.label, name, Protocol.OPE, answers)
        done.sequence.name = name
        sequences[name], statistics[name] = done.sequence, done.statistics()
        scored[name] = score_sequence(done.sequence, Protocol.OPE, {0: answers})
    scores = replace(aggregate(spec.label, scored, failures), weights=spec.hashes())
    return scores, sequences, statistics
