"""Evaluation of rosbag2 recordings with what runs on the robot: the node's pairing, pipeline and tracker.

Offline, the recording goes through them as fast as it can be computed. End to end, it is played through DDS
into the running node, told to process every pair. In both the pairing goes by stamps alone, so the pairs, and
with them the boxes, are the same.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cmdtrack_ros.data.bags import AUX_TOPIC, RGB_TOPIC, Bag, BagSequence, load_bag
from cmdtrack_ros.errors import CmdtrackError, ConfigError, DataError
from cmdtrack_ros.evaluation.protocols import Protocol, Run, visible
from cmdtrack_ros.evaluation.results import write_run
from cmdtrack_ros.evaluation.runner import RESULTS
from cmdtrack_ros.evaluation.scoring import Scores, aggregate, score_sequence
from cmdtrack_ros.ros.pairing import NearestPairFilter, stamp_ns

PERCENTILES = (50, 95, 99)
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BagOptions:
    """What to read and how to pair; as the node's parameters of the same names.

    Attributes:
        modality: of the auxiliary topic; None = what the bag says.
        rgb_topic, aux_topic, truth_topic: None = this package's usual names, where the bag has them.
        truth_file: one box a line for each RGB image, instead of a topic.
        initial_box: x, y, w, h in the first RGB image; None = the truth of that image.
        slop, aux_timeout, aux_offset: seconds.
        weights: None = the shipped ones.
    """

    modality: str | None = None
    rgb_topic: str | None = None
    aux_topic: str | None = None
    truth_topic: str | None = None
    truth_file: Path | None = None
    initial_box: tuple[float, ...] | None = None
    registration: str = "none"
    slop: float = 0.03
    aux_timeout: float = 0.1
    aux_offset: float = 0.0
    queue_size: int = 10
    weights: Path | None = None


@dataclass(frozen=True)
class BagResult:
    """The answer to one pair; times in seconds, ``latency`` (stamp to publication) only end to end."""

    stamp_ns: int
    box: np.ndarray
    score: float
    gap: float
    processing: float
    latency: float = float("nan")


@dataclass
class BagRun:
    """All answers to one recording, and what pairing and pipeline counted on the way."""

    sequence: BagSequence
    results: list[BagResult]
    counters: dict[str, int]
    seconds: float
    faults: dict[str, int] = field(default_factory=dict)

    def as_run(self) -> Run:
        """One row for each RGB image of the bag, NaN where there is no answer."""
        rows = {round(stamp * 1e9): i for i, stamp in enumerate(self.sequence.stamps)}
        count = len(self.sequence)
        run = Run(np.full((count, 4), np.nan), np.full(count, np.nan), np.full(count, np.nan))
        for result in self.results:
            # Seconds as doubles carry a present-day stamp to about 0.2 us.
            row = rows.get(round(result.stamp_ns / 1e9 * 1e9))
            if row is not None:
                run.boxes[row], run.scores[row], run.seconds[row] = (
                    result.box,
                    result.score,
                    result.processing,
                )
        return run

    def statistics(self) -> dict[str, Any]:
        """Counts, and percentiles of gap, processing time and latency in milliseconds."""
        answered = np.isfinite(self.as_run().boxes[:, 0])
        return {
            "frames": len(self.sequence),
            "answered": int(answered.sum()),
            "drops": int((~answered).sum()),
            "pairing": self.counters,
            "faults": self.faults,
            "gap_ms": _percentiles([abs(r.gap) for r in self.results]),
            "processing_ms": _percentiles([r.processing for r in self.results]),
            "latency_ms": _percentiles([r.latency for r in self.results]),
            "times_real_time": _duration(self.sequence) / self.seconds if self.seconds else None,
        }


def _duration(sequence: BagSequence) -> float:
    return float(sequence.stamps[-1] - sequence.stamps[0])


def _percentiles(seconds: list[float]) -> dict[str, float]:
    values = np.array(seconds)[np.isfinite(seconds)] * 1e3
    if not len(values):
        return {}
    return {f"p{p}": round(float(v), 3) for p, v in zip(PERCENTILES, np.percentile(values, PERCENTILES))}


@dataclass(frozen=True)
class _Source:
    """A bag that can be evaluated: its frames and truth, the topics in use, and the box to start from."""

    sequence: BagSequence
    topics: list[str]
    box: np.ndarray


def _open(path: Path, options: BagOptions) -> _Source:
    sequence = load_bag(
        path,
        rgb_topic=options.rgb_topic,
        aux_topic=options.aux_topic,
        truth_topic=options.truth_topic,
        truth_file=options.truth_file,
        modality=options.modality,
        slop=options.slop,
    )
    with Bag(path) as bag:
        rgb = options.rgb_topic or next(
            (t for t in (RGB_TOPIC, f"{RGB_TOPIC}/compressed") if t in bag.types), None
        )
        aux = options.aux_topic or (AUX_TOPIC if AUX_TOPIC in bag.types else None)
    if rgb is None:
        raise DataError(f"{path}: no topic {RGB_TOPIC}; name the RGB images' topic")
    box = sequence.boxes[0] if options.initial_box is None else np.array(options.initial_box, np.float64)
    if not visible(box):
        raise ConfigError(
            f"{path}: its first RGB image has no true box: give --init-box x,y,w,h of the target in it"
        )
    return _Source(sequence, [rgb] if aux is None else [rgb, aux], box)


def run_offline(path: Path, options: BagOptions = BagOptions(), device: str = "cpu") -> BagRun:
    """Track a bag without DDS: every pair, as fast as it goes.

    Raises:
        DataError: damaged bag, or one without the topics.
        ConfigError: no box to start from.
    """
    # Torch takes seconds to import, which reports and the other trackers do without.
    from cmdtrack_ros.ros.pipeline import Frame, Pipeline, Target
    from cmdtrack_ros.tracking import TargetState, load_tracker

    source = _open(path, options)
    tracker = load_tracker(options.weights, modality=source.sequence.modality, device=device, threads=1)
    topics = (*source.topics, "none")[:2]
    target: list[Target | None] = [Target(source.box, "initial")]
    results: list[BagResult] = []
    told: set[str] = set()

    def report(kind: str, text: str) -> None:
        if kind not in told:
            logger.warning("%s: %s (the first of its kind)", path, text)
        told.add(kind)

    def track(rgb: Any | None, aux: Any | None) -> None:
        gap = (stamp_ns(aux) - stamp_ns(rgb)) * 1e-9 if rgb is not None and aux is not None else float("nan")
        frame = Frame(rgb, aux, gap)
        outcome = pipeline.process(frame, target[0])
        target[0] = None
        if outcome is not None and outcome.track.state is not TargetState.IDLE:
            box, score = outcome.track.box, outcome.track.score
            results.append(BagResult(stamp_ns(frame), box, score, gap, outcome.seconds))

    pipeline = Pipeline(tracker, registration=options.registration, topics=topics, report=report)
    pairing = _pairing(options, len(source.topics))
    pairing.registerCallback(track)
    begin = time.perf_counter()
    _feed(path, source.topics, pairing)
    counters = pairing.counters.as_dict()
    return BagRun(source.sequence, results, counters, time.perf_counter() - begin, dict(pipeline.faults))


def _pairing(options: BagOptions, streams: int) -> NearestPairFilter:
    return NearestPairFilter(
        queue_size=options.queue_size,
        slop=options.slop,
        aux_timeout=options.aux_timeout if streams > 1 else 0.0,
        aux_offset=options.aux_offset,
        clock=None,
    )


def _feed(path: Path, topics: list[str], pairing: NearestPairFilter) -> None:
    add: dict[str, Callable[[Any], None]] = dict(zip(topics, (pairing.add_rgb, pairing.add_aux)))
    with Bag(path) as bag:
        for message in bag.messages(topics):
            add[message.topic](bag.decode(message))
    pairing.flush(everything=True)


def run_through_dds(
    path: Path, options: BagOptions, log: Path, rate: float = 1.0, device: str = "cpu"
) -> BagRun:
    """Play a bag through DDS to a node of its own process that tracks every pair; collect its answers.

    Args:
        log: file for what the node says.
        rate: speed of playing; stamps and gaps are scaled with it, and scaled back in the answers. Where
            the machine does not keep up, pairs wait (up to 256 of them) and latency grows.

    Raises:
        CmdtrackError: the node did not start (its last words are quoted), or what :func:`run_offline` raises.
    """
    from cmdtrack_ros import demo

    demo.isolate()
    source = _open(path, options)
    parameters: dict[str, Any] = {
        "modality": source.sequence.modality.value,
        "rgb_topic": source.topics[0],
        "initial_box": [float(v) for v in source.box],
        "registration": options.registration,
        "slop": options.slop / rate,
        "aux_timeout": options.aux_timeout / rate,
        "aux_offset": options.aux_offset / rate,
        "queue_size": options.queue_size,
        "device": device,
        "threads": 1,
        "process_every_pair": "true",
    }
    if len(source.topics) > 1:
        parameters["aux_topic"] = source.topics[1]
    if options.weights is not None:
        parameters["weights"] = str(options.weights.resolve())
    begin = time.perf_counter()
    run = demo.track_through_dds(path, parameters, source.topics, log, rate)
    with Bag(path) as bag:
        start = bag.start_ns
    moved = start + run.report.stamp_offset_ns
    results = [
        BagResult(
            start + round((r.stamp_ns - moved) * rate), r.box, r.score, r.gap * rate, r.processing, r.latency
        )
        for r in run.results
        if r.state != "IDLE"
    ]
    counts = {k: int(v) for k, v in run.diagnostics.items() if v.isdigit()}
    return BagRun(source.sequence, results, counts, time.perf_counter() - begin)


def evaluate_bags(
    paths: list[Path],
    output: Path,
    run: Callable[[Path], BagRun],
    label: str = "ours",
) -> tuple[Scores, dict[str, BagSequence], dict[str, dict]]:
    """Run each bag, write its result file, and score it. One that fails is reported and the others go on.

    Args:
        run: :func:`run_offline` or :func:`run_through_dds`, with all but the bag given.
        label: names the folder of result files.

    Returns:
        Scores, the recordings by name, and each one's :meth:`BagRun.statistics`.
    """
    scored, sequences, statistics, failures = {}, {}, {}, {}
    for path in paths:
        name = path.resolve().name
        try:
            done = run(path)
        except CmdtrackError as error:
            failures[name] = str(error)
            continue
        answers = done.as_run()
        write_run(output / RESULTS / label, name, Protocol.OPE, answers)
        done.sequence.name = name
        sequences[name], statistics[name] = done.sequence, done.statistics()
        scored[name] = score_sequence(done.sequence, Protocol.OPE, {0: answers})
    mean, curves = aggregate(list(scored.values()))
    return Scores(label, scored, failures, mean, curves), sequences, statistics
