"""From runs and ground truth to the metrics of the sequence's benchmark, per sequence and for the data set.

Which metrics a sequence gets depends on its layout (``mean_iou`` always):

- LasHeR: ``sr``, ``pr``, ``npr`` with the toolkit's treatment of invalid frames;
- VisEvent: the same names, absent frames never a hit;
- RGBT234, VTUAV: ``msr``, ``mpr`` (best of the two annotations); GTOT: the same, over the frames of all
  sequences;
- DepthTrack: ``f``, ``f_precision``, ``f_recall``, and ``sr``, ``pr``, ``npr``;
- anything else: ``sr``, ``pr``, ``npr`` by LasHeR's definitions over the frames that have a ground truth;
- multi-start runs: ``accuracy``, ``robustness``, ``eao``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from cmdtrack_ros.boxes import iou, visible
from cmdtrack_ros.data import ImageSequence
from cmdtrack_ros.errors import DataError
from cmdtrack_ros.evaluation import metrics as m
from cmdtrack_ros.evaluation.protocols import Protocol, Run, anchors
from cmdtrack_ros.evaluation.results import CONFIDENCES, TIMES, read_run, run_files, starts

# VOT-long-term's answer "no target" on a frame without target: 0 as in the toolkit of the published tables.
EMPTY_OVERLAP = 0.0


@dataclass(frozen=True)
class SequenceScore:
    """Metrics of one sequence, and what its data set pools of it.

    Attributes:
        metrics: name -> value.
        overlaps: (n,) IoU of each frame, NaN without a truth; of the longest run where there are several.
        result: (n, 4) boxes of that run in frame order, NaN where it has none.
        order: (k,) indices of that run's frames as the tracker saw them, one after the other.
        curves: ``success`` (21,), ``precision`` (51,), ``normalized`` (51,) where they apply.
        longterm: of a long-term run: overlaps (n,), confidences (n,), "target is there" (n,) bool.
        multistart: of each multi-start run: overlaps (k,), "target is there" (k,) bool.
        paired: for GTOT: (n,) overlaps and (n,) centre errors in px, the better of the two annotations.
    """

    name: str
    frames: int
    metrics: dict[str, float]
    overlaps: np.ndarray
    result: np.ndarray
    order: np.ndarray
    curves: dict[str, np.ndarray] = field(default_factory=dict)
    longterm: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    multistart: list[tuple[np.ndarray, np.ndarray]] | None = None
    paired: tuple[np.ndarray, np.ndarray] | None = None


@dataclass(frozen=True)
class Scores:
    """A tracker's scores on a data set.

    Attributes:
        sequences: by name.
        failures: sequence without a result -> reason.
        mean, curves: of the data set, see :func:`aggregate`.
        weights: file -> sha256 of the tracker's networks, where they are known.
    """

    tracker: str
    sequences: dict[str, SequenceScore]
    failures: dict[str, str]
    mean: dict[str, float]
    curves: dict[str, np.ndarray]
    weights: dict[str, str] = field(default_factory=dict)

    def summary(self) -> dict:
        """``mean`` and ``sequences`` (name -> metrics, ``frames``), and ``failures`` if there are any."""
        sequences = {name: {**_plain(score.metrics), "frames": score.frames} for name, score in self.sequences.items()}
        summary = {"mean": _plain(self.mean), "sequences": sequences}
        return {**summary, "failures": self.failures} if self.failures else summary


def _plain(values: dict[str, float]) -> dict[str, float | None]:
    # JSON has no NaN.
    return {name: round(float(value), 6) if np.isfinite(value) else None for name, value in values.items()}


def score_results(
    folder: Path,
    tracker: str,
    sequences: Iterable[tuple[ImageSequence, Protocol]],
    failures: dict[str, str] | None = None,
) -> Scores:
    """Score a tracker's result files below ``folder``.

    Args:
        failures: sequence -> reason, for those known to have no result.

    Returns:
        Scores; a sequence whose files are missing or damaged is among the failures.
    """
    scored: dict[str, SequenceScore] = {}
    failed = dict(failures or {})
    for sequence, protocol in sequences:
        if sequence.name in failed:
            continue
        try:
            runs = {anchor: read_run(folder, sequence, protocol, anchor) for anchor in starts(sequence, protocol)}
            scored[sequence.name] = score_sequence(sequence, protocol, runs)
        except DataError as error:
            failed[sequence.name] = str(error)
    return aggregate(tracker, scored, failed)


def score_sequence(sequence: ImageSequence, protocol: Protocol, runs: dict[int, Run]) -> SequenceScore:
    """Metrics of one sequence from its runs (anchor -> Run; one-pass protocols have one, under 0)."""
    if protocol is Protocol.MULTISTART:
        return _score_multistart(sequence, runs)
    run, truth = runs[0], sequence.boxes
    there = visible(truth)
    start = int(np.argmax(there))
    aux = sequence.aux_boxes
    metrics, curves, paired = _one_truth(sequence, run) if aux is None else _two_truths(sequence, run, aux)
    return SequenceScore(
        sequence.name,
        len(sequence),
        {"mean_iou": m.mean_overlap(run.boxes, truth, start), **metrics, "fps": run.fps},
        overlaps=np.where(there, iou(run.boxes, truth), np.nan),
        result=run.boxes,
        order=np.arange(int(np.argmax(visible(run.boxes))), len(sequence)),
        curves=curves,
        longterm=_longterm_parts(sequence, run, start) if protocol is Protocol.LONGTERM else None,
        paired=paired,
    )


Benchmark = tuple[dict[str, float], dict[str, np.ndarray], tuple[np.ndarray, np.ndarray] | None]
"""Metrics, curves, and GTOT's frames, as in :class:`SequenceScore`."""


def _one_truth(sequence: ImageSequence, run: Run) -> Benchmark:
    truth = sequence.boxes
    if sequence.layout == "lasher":
        curves = m.lasher_curves(run.boxes, truth)
    elif sequence.layout == "visevent":
        curves = m.visevent_curves(run.boxes, truth, ~visible(truth))
    else:
        rows = visible(truth)
        curves = m.lasher_curves(run.boxes[rows], truth[rows])
    success, precision, normalized = curves
    metrics = {"sr": success.mean(), "pr": precision[20], "npr": normalized[20]}
    return metrics, {"success": success, "precision": precision, "normalized": normalized}, None


def _two_truths(sequence: ImageSequence, run: Run, aux_boxes: np.ndarray) -> Benchmark:
    rows = sequence.labelled
    result, rgb, aux = run.boxes[rows], sequence.boxes[rows], aux_boxes[rows]
    success, precision = m.rgbt234_curves(result, rgb, aux)
    curves = {"success": success, "precision": precision}
    if sequence.layout != "gtot":
        return {"msr": success.mean(), "mpr": precision[20]}, curves, None
    paired = m.paired_frames(result, rgb, aux)
    return {"msr": m.gtot_msr([paired[0]]), "mpr": m.gtot_mpr([paired[1]])}, curves, paired


def _longterm_parts(sequence: ImageSequence, run: Run, start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if np.isnan(run.scores).all():
        raise DataError(f"{sequence.name}: the long-term protocol needs the tracker's confidences, there are none")
    overlaps = m.pixel_overlap(run.boxes, sequence.boxes, *sequence.frame(0).size, empty=EMPTY_OVERLAP)
    overlaps[start] = 0.0
    # The toolkit takes an empty confidence, as in the first frame, for 0.
    return overlaps, np.nan_to_num(run.scores, nan=0.0), visible(sequence.boxes)


def _score_multistart(sequence: ImageSequence, runs: dict[int, Run]) -> SequenceScore:
    size, parts, means = sequence.frame(0).size, [], []
    for anchor, order in anchors(sequence):
        truth = sequence.boxes[order]
        overlaps = m.pixel_overlap(runs[anchor].boxes, truth, *size, empty=1.0)
        overlaps[0] = 0.0
        parts.append((overlaps, visible(truth)))
        means.append(m.mean_overlap(runs[anchor].boxes, truth))
    accuracy, robustness, _ = m.vot_accuracy_robustness(parts)
    anchor, order = max(anchors(sequence), key=lambda run: len(run[1]))
    boxes = np.full((len(sequence), 4), np.nan)
    boxes[order] = runs[anchor].boxes
    fps = float(np.nanmean([run.fps for run in runs.values()]))
    values = {
        "mean_iou": float(np.nanmean(means)),
        "accuracy": accuracy,
        "robustness": robustness,
        "eao": m.vot_eao(parts)[0],
        "fps": fps,
    }
    overlaps = np.where(visible(sequence.boxes), iou(boxes, sequence.boxes), np.nan)
    return SequenceScore(sequence.name, len(sequence), values, overlaps, boxes, order, multistart=parts)


Pooled = tuple[dict[str, float], dict[str, np.ndarray]]
"""Metrics and curves of a data set that a benchmark does not average over sequences."""


def aggregate(tracker: str, scored: dict[str, SequenceScore], failures: dict[str, str]) -> Scores:
    """The scores of a data set: means over its sequences, but pooled where the benchmark pools.

    Long-term sequences get ``f``, ``f_precision`` and ``f_recall`` only here, at the data set's threshold.
    """
    scored, longterm = _pool_longterm(scored)
    scores = list(scored.values())
    mean, curves = _mean_metrics(scores), _mean_curves(scores)
    for metrics, pooled_curves in (longterm, _pool_gtot(scores), _pool_multistart(scores)):
        mean |= metrics
        curves |= pooled_curves
    return Scores(tracker, scored, failures, mean, curves)


def _mean_metrics(scores: list[SequenceScore]) -> dict[str, float]:
    names = dict.fromkeys(name for score in scores for name in score.metrics)
    return {name: _finite_mean([s.metrics[name] for s in scores if name in s.metrics]) for name in names}


def _finite_mean(values: list[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


def _mean_curves(scores: list[SequenceScore]) -> dict[str, np.ndarray]:
    names = dict.fromkeys(name for score in scores for name in score.curves)
    return {name: np.mean([s.curves[name] for s in scores if name in s.curves], axis=0) for name in names}


def _pool_longterm(scored: dict[str, SequenceScore]) -> tuple[dict[str, SequenceScore], Pooled]:
    """The scores with each sequence's F at the threshold where the data set's F is largest; F there."""
    parts = {name: score.longterm for name, score in scored.items() if score.longterm is not None}
    if not parts:
        return scored, ({}, {})
    thresholds = m.longterm_thresholds(np.concatenate([scores for _, scores, _ in parts.values()]))
    each = {name: m.longterm_curves(*part, thresholds) for name, part in parts.items()}
    precision, recall = (np.mean(part, axis=0) for part in zip(*each.values()))
    best = int(np.argmax(m.f_score(precision, recall)))
    own = {name: _longterm_metrics(*curves, best) for name, curves in each.items()}
    scored = {name: replace(one, metrics=one.metrics | own.get(name, {})) for name, one in scored.items()}
    pooled = _longterm_metrics(precision, recall, best)
    return scored, (pooled, {"f_precision": precision, "f_recall": recall})


def _longterm_metrics(precision: np.ndarray, recall: np.ndarray, at: int) -> dict[str, float]:
    f = float(m.f_score(precision, recall)[at])
    return {"f": f, "f_precision": float(precision[at]), "f_recall": float(recall[at])}


def _pool_gtot(scores: list[SequenceScore]) -> Pooled:
    """The frames of all sequences as one, where GTOT's are the only ones with two annotations."""
    paired = [score.paired for score in scores if score.paired is not None]
    if not paired or len(paired) != sum("msr" in score.metrics for score in scores):
        return {}, {}
    return {"msr": m.gtot_msr(one[0] for one in paired), "mpr": m.gtot_mpr(one[1] for one in paired)}, {}


def _pool_multistart(scores: list[SequenceScore]) -> Pooled:
    runs = [(score.multistart, score.frames) for score in scores if score.multistart is not None]
    if not runs:
        return {}, {}
    parts = [m.vot_accuracy_robustness(one) for one, _ in runs]
    accuracy, robustness = m.vot_mean_accuracy_robustness(parts, [frames for _, frames in runs])
    eao, curve = m.vot_eao([run for one, _ in runs for run in one])
    return {"accuracy": accuracy, "robustness": robustness, "eao": eao}, {"eao": curve}


def score_folder(
    results: Path, sequences: list[tuple[ImageSequence, Protocol]], failures: dict[str, str]
) -> list[Scores]:
    """Score every tracker with result files in ``results``, its folders or those of its ``results/``.

    Raises:
        DataError: no result file of these sequences in any of them.
    """
    candidates = [results, *sorted(results.glob("*/")), *sorted(results.glob("results/*/"))]
    folders = [
        folder
        for folder in candidates
        if folder.name not in (CONFIDENCES, TIMES)
        and any(
            run_files(folder, sequence.name, protocol, anchor)[0].is_file()
            for sequence, protocol in sequences
            for anchor in starts(sequence, protocol)
        )
    ]
    if not folders:
        files = [run_files(results, one.name, protocol, starts(one, protocol)[0])[0] for one, protocol in sequences[:1]]
        raise DataError(
            f"{results}: no result file of these sequences, expected such as "
            f"{files[0] if files else 'SEQUENCE.txt'}; --protocol chooses other file layouts"
        )
    return [score_results(folder, folder.resolve().name, sequences, failures) for folder in folders]


def text_table(scores: list[Scores]) -> str:
    """The mean metrics of each tracker as lines of text."""
    names = list(dict.fromkeys(name for score in scores for name in score.mean))
    width = max([len(score.tracker) for score in scores] + [7])
    lines = [f"{'tracker':{width}} " + " ".join(f"{name:>11}" for name in names) + f" {'sequences':>11}"]
    for score in scores:
        values = [f"{score.mean[name]:11.3f}" if name in score.mean else " " * 10 + "-" for name in names]
        lines.append(f"{score.tracker:{width}} " + " ".join(values) + f" {len(score.sequences):11d}")
    return "\n".join(lines)
