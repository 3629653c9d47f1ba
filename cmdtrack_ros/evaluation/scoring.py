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
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cmdtrack_ros.boxes import iou, visible
from cmdtrack_ros.data import ImageSequence
from cmdtrack_ros.errors import DataError
from cmdtrack_ros.evaluation import metrics as m
from cmdtrack_ros.evaluation.protocols import Protocol, Run, anchors
from cmdtrack_ros.evaluation.results import read_run, run_files, starts

# VOT-long-term's answer "no target" on a frame without target: 0 as in the toolkit of the published tables.
EMPTY_OVERLAP = 0.0


@dataclass
class SequenceScore:
    """Metrics and what the pooled metrics of a data set need from one sequence.

    Attributes:
        metrics: name -> value.
        curves: ``success`` (21,), ``precision`` (51,), ``normalized`` (51,) where they apply.
        overlaps: (n,) IoU of each frame of the (first) run, NaN without a truth.
        result: (n, 4) boxes of that run in frame order.
    """

    name: str
    frames: int
    metrics: dict[str, float]
    overlaps: np.ndarray
    result: np.ndarray
    curves: dict[str, np.ndarray] = field(default_factory=dict)
    longterm: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    multistart: list[tuple[np.ndarray, np.ndarray]] | None = None
    paired: tuple[np.ndarray, np.ndarray] | None = None


@dataclass
class Scores:
    """A tracker's scores on a data set; ``failures`` maps the sequences without a result to the reason."""

    tracker: str
    sequences: dict[str, SequenceScore]
    failures: dict[str, str]
    mean: dict[str, float]
    curves: dict[str, np.ndarray]

    def summary(self) -> dict:
        """``mean`` and ``sequences`` (name -> metrics, ``frames``), and ``failures`` if there are any."""
        sequences = {
            name: {**_plain(score.metrics), "frames": score.frames} for name, score in self.sequences.items()
        }
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
            runs = {
                anchor: read_run(folder, sequence, protocol, anchor) for anchor in starts(sequence, protocol)
            }
            scored[sequence.name] = score_sequence(sequence, protocol, runs)
        except DataError as error:
            failed[sequence.name] = str(error)
    mean, curves = aggregate(list(scored.values()))
    return Scores(tracker, scored, failed, mean, curves)


def score_sequence(sequence: ImageSequence, protocol: Protocol, runs: dict[int, Run]) -> SequenceScore:
    """Metrics of one sequence from its runs (anchor -> Run; one-pass protocols have one, under 0)."""
    if protocol is Protocol.MULTISTART:
        return _score_multistart(sequence, runs)
    run = runs[0]
    truth, seen = sequence.boxes, visible(sequence.boxes)
    overlaps = np.where(seen, iou(run.boxes, truth), np.nan)
    start = int(np.argmax(seen))
    score = SequenceScore(
        sequence.name,
        len(sequence),
        {"mean_iou": m.mean_overlap(run.boxes, truth, start)},
        overlaps,
        run.boxes,
    )
    if sequence.aux_boxes is not None:
        _add_paired(score, sequence, run)
    else:
        _add_one_truth(score, sequence, run)
    if protocol is Protocol.LONGTERM:
        score.longterm = _longterm_parts(sequence, run, start)
    score.metrics["fps"] = run.fps
    return score


def _add_one_truth(score: SequenceScore, sequence: ImageSequence, run: Run) -> None:
    layout, truth = sequence.layout, sequence.boxes
    if layout == "lasher":
        curves = m.lasher_curves(run.boxes, truth)
    elif layout == "visevent":
        curves = m.visevent_curves(run.boxes, truth, ~visible(truth))
    else:
        rows = visible(truth)
        curves = m.lasher_curves(run.boxes[rows], truth[rows])
    score.curves = dict(zip(("success", "precision", "normalized"), curves))
    score.metrics |= {"sr": curves[0].mean(), "pr": curves[1][20], "npr": curves[2][20]}


def _add_paired(score: SequenceScore, sequence: ImageSequence, run: Run) -> None:
    rows = sequence.labelled
    result, rgb, aux = run.boxes[rows], sequence.boxes[rows], sequence.aux_boxes[rows]
    success, precision = m.rgbt234_curves(result, rgb, aux)
    score.curves = {"success": success, "precision": precision}
    if sequence.layout == "gtot":
        score.paired = m.paired_frames(result, rgb, aux)
        score.metrics |= {"msr": m.gtot_msr([score.paired[0]]), "mpr": m.gtot_mpr([score.paired[1]])}
    else:
        score.metrics |= {"msr": success.mean(), "mpr": precision[20]}


def _image_size(sequence: ImageSequence) -> tuple[int, int]:
    frame = sequence.frame(0)
    height, width = (frame.rgb if frame.rgb is not None else frame.aux).shape[:2]
    return width, height


def _longterm_parts(
    sequence: ImageSequence, run: Run, start: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if np.isnan(run.scores).all():
        raise DataError(
            f"{sequence.name}: the long-term protocol needs the tracker's confidences, there are none"
        )
    overlaps = m.pixel_overlap(run.boxes, sequence.boxes, *_image_size(sequence), empty=EMPTY_OVERLAP)
    overlaps[start] = 0.0
    # The toolkit takes an empty confidence, as in the first frame, for 0.
    return overlaps, np.nan_to_num(run.scores, nan=0.0), visible(sequence.boxes)


def _score_multistart(sequence: ImageSequence, runs: dict[int, Run]) -> SequenceScore:
    size, parts, means = _image_size(sequence), [], []
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
    return SequenceScore(sequence.name, len(sequence), values, overlaps, boxes, multistart=parts)


def aggregate(scores: list[SequenceScore]) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Metrics and curves of the data set: means over sequences, but pooled where the benchmark pools.

    Long-term scoring also sets ``f``, ``f_precision`` and ``f_recall`` of each sequence, at the data set's
    threshold.
    """
    curves = {
        name: np.mean([s.curves[name] for s in scores if name in s.curves], axis=0)
        for name in dict.fromkeys(name for s in scores for name in s.curves)
    }
    longterm = [s for s in scores if s.longterm is not None]
    if longterm:
        curves |= _add_longterm(longterm)
    names = dict.fromkeys(name for s in scores for name in s.metrics)
    mean = {name: _finite_mean([s.metrics[name] for s in scores if name in s.metrics]) for name in names}
    if longterm:
        best = int(np.argmax(m.f_score(curves["f_precision"], curves["f_recall"])))
        mean |= {
            "f": float(m.f_score(curves["f_precision"], curves["f_recall"])[best]),
            "f_precision": float(curves["f_precision"][best]),
            "f_recall": float(curves["f_recall"][best]),
        }
    paired = [s.paired for s in scores if s.paired is not None]
    if paired and len(paired) == sum("msr" in s.metrics for s in scores):
        mean |= {"msr": m.gtot_msr(p[0] for p in paired), "mpr": m.gtot_mpr(p[1] for p in paired)}
    started = [s for s in scores if s.multistart is not None]
    if started:
        parts = [m.vot_accuracy_robustness(s.multistart) for s in started]
        accuracy, robustness = m.vot_mean_accuracy_robustness(parts, [s.frames for s in started])
        eao, curves["eao"] = m.vot_eao([run for s in started for run in s.multistart])
        mean |= {"accuracy": accuracy, "robustness": robustness, "eao": eao}
    return mean, curves


def _finite_mean(values: list[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


def _add_longterm(scores: list[SequenceScore]) -> dict[str, np.ndarray]:
    thresholds = m.longterm_thresholds(np.concatenate([s.longterm[1] for s in scores]))
    each = [m.longterm_curves(*s.longterm, thresholds) for s in scores]
    precision, recall = (np.mean(part, axis=0) for part in zip(*each))
    best = int(np.argmax(m.f_score(precision, recall)))
    for score, (own_precision, own_recall) in zip(scores, each):
        score.metrics |= {
            "f": float(m.f_score(own_precision, own_recall)[best]),
            "f_precision": float(own_precision[best]),
            "f_recall": float(own_recall[best]),
        }
    return {"f_precision": precision, "f_recall": recall}


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
        if any(
            run_files(folder, sequence.name, protocol, anchor)[0].is_file()
            for sequence, protocol in sequences
            for anchor in starts(sequence, protocol)
        )
    ]
    if not folders:
        expected = [
            str(run_files(results, sequence.name, protocol, starts(sequence, protocol)[0])[0])
            for sequence, protocol in sequences[:1]
        ]
        raise DataError(
            f"{results}: no result file of these sequences, expected such as "
            f"{', '.join(expected) or 'SEQUENCE.txt'}; --protocol chooses other file layouts"
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
