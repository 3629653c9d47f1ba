"""How far a tracker's word can be trusted: what it says of a target that it follows, has lost, or never had.

Each sequence is shown as it was recorded, through each stream alone, with the target covered, with the target out
of sight, and with a start box on nothing: a plain piece of background, the whole image, a corner.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from cmdtrack_ros.boxes import iou, visible, visible_fraction
from cmdtrack_ros.data import ImageSequence
from cmdtrack_ros.data.derived import Bounced, Covered, DerivedSequence, Leaving
from cmdtrack_ros.errors import ConfigError, DataError, writing
from cmdtrack_ros.evaluation.results import write_text
from cmdtrack_ros.modalities import Modality
from cmdtrack_ros.models.confidence import EVIDENCE, Confidence, confidence_file, find_confidence, lineage, to_json
from cmdtrack_ros.models.header import read_header, weights_file
from cmdtrack_ros.track import TargetState, Track
from cmdtrack_ros.tracking.drive import BoxTracker, drive, first_visible

SHORTEST = 90
"""Frames of the made situations, at least: shorter sequences are played to and fro."""
_AWAY = 60  # frames for which a target is gone, at most: 2 s at 30 Hz
_CORNER = 20.0  # px
_NOTHING_WEIGHT = 0.25  # of a frame without a target in the fit: users seldom name nothing
_RIDGE = 3.0  # frames
_NO_EVIDENCE = np.zeros(len(EVIDENCE))
WRONG_STARTS = ("on background", "on the whole image", "in a corner")
"""Situations in which there is no target: no state but LOST or UNCERTAIN is right."""
SITUATIONS = ("as recorded", "RGB alone", "aux alone", "covered", "out of sight", *WRONG_STARTS)


@dataclass(frozen=True)
class Outcome:
    """What a tracker said of n frames after the one on which it was started; frames without a label are left out.

    Attributes:
        states: (n,) int, of :class:`TargetState`.
        overlaps: (n,) IoU with the true box, 0 where the target is out of sight.
        present: (n,) bool, the target is in sight.
        scores: (n,) 0..1.
        evidence: (n, len(EVIDENCE)) what they were computed from; rows of zeros for trackers other than this package's.
    """

    sequence: str
    situation: str
    states: np.ndarray
    overlaps: np.ndarray
    present: np.ndarray
    scores: np.ndarray
    evidence: np.ndarray


class OneStream(DerivedSequence):
    """A sequence without its other stream; ``kept``: rgb or aux."""

    def __init__(self, source: ImageSequence, kept: str) -> None:
        super().__init__(source)
        self._kept = kept

    def rgb(self, index: int) -> np.ndarray | None:
        return super().rgb(index) if self._kept == "rgb" else None

    def aux(self, index: int) -> np.ndarray | None:
        return super().aux(index) if self._kept == "aux" else None


def situations(sequence: ImageSequence) -> Iterator[tuple[str, ImageSequence, np.ndarray | None]]:
    """Name, what is shown, and the start box [px xywh] where it is not the true one; those that can be made."""
    yield "as recorded", sequence, None
    start = first_visible(sequence)
    frame = sequence.frame(start)
    if sequence.modality is not Modality.RGB and frame.rgb is not None and frame.aux is not None:
        yield "RGB alone", OneStream(sequence, "rgb"), None
        yield "aux alone", OneStream(sequence, "aux"), None
    longer = Bounced(DerivedSequence(sequence, start), SHORTEST)
    away = min(len(longer) // 3, _AWAY)
    since = (len(longer) - away) // 2
    yield "covered", Covered(longer, since, since + away), None
    with contextlib.suppress(DataError):  # the target is too large for it
        yield "out of sight", Leaving(longer, since, since + away), None
    if (box := plain_background(longer)) is not None:
        yield "on background", longer, box
    width, height = frame.size
    yield "on the whole image", longer, np.array([0.0, 0.0, width, height])
    yield "in a corner", longer, np.array([0.0, 0.0, _CORNER, _CORNER])


def plain_background(sequence: ImageSequence) -> np.ndarray | None:
    """The box (4,) xywh of the target's size with the least contrast in the first frame, where no true box ever
    comes; None where there is no such place.
    """
    frame = sequence.frame(0)
    image = frame.aux if frame.rgb is None else frame.rgb
    if image is None:
        return None
    values = image.astype(np.float32) if image.ndim == 2 else image.mean(2, dtype=np.float32)
    edges = cv2.magnitude(cv2.Sobel(values, cv2.CV_32F, 1, 0), cv2.Sobel(values, cv2.CV_32F, 0, 1))
    height, width = values.shape
    size = np.maximum(sequence.boxes[0][2:], 8.0)
    truths = sequence.boxes[visible(sequence.boxes)]
    best, least = None, np.inf
    for y in np.linspace(0, height - size[1], 12):
        for x in np.linspace(0, width - size[0], 16):
            box = np.array([x, y, *size])
            if visible_fraction(box, width, height) < 1 or _touches(box, truths):
                continue
            contrast = float(edges[int(y) : int(y + size[1]), int(x) : int(x + size[0])].mean())
            if contrast < least:
                best, least = box, contrast
    return best


def _touches(box: np.ndarray, others: np.ndarray) -> bool:
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[:2] + box[2:], others[:, :2] + others[:, 2:])
    return bool((high > low).all(1).any())


def follow(
    tracker: BoxTracker, name: str, situation: str, sequence: ImageSequence, box: np.ndarray | None
) -> Outcome | None:
    """Drive a tracker through a situation; None where it refused the start box."""
    start = first_visible(sequence)
    tracks: list[Track] = []
    evidence: list[np.ndarray] = []
    try:
        for track in drive(tracker, sequence, range(start, len(sequence)), box):
            tracks.append(track)
            evidence.append(getattr(tracker, "evidence", _NO_EVIDENCE))
    except ConfigError:
        if tracks:
            raise
        return None
    truth = sequence.boxes[start:] if box is None else np.full((len(tracks), 4), np.nan)
    told = np.flatnonzero(sequence.labelled[start:])[1:]  # the first frame's box is given
    return Outcome(
        name,
        situation,
        np.array([int(track.state) for track in tracks])[told],
        iou(np.array([track.box for track in tracks]), truth)[told],
        visible(truth)[told],
        np.array([track.score for track in tracks])[told],
        np.array(evidence)[told],
    )


def away(present: np.ndarray) -> list[tuple[int, int]]:
    """The stretches (from, to exclusive) of frames in which the target is gone after it was there, of (n,) bool."""
    edges = np.diff(np.concatenate([[True], present, [True]]).astype(int))
    return list(zip(np.flatnonzero(edges < 0).tolist(), np.flatnonzero(edges > 0).tolist()))


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What counts, over all frames of some outcomes; None where there is no such frame.

    false: share of frames TRACKING with IoU < 0.1 (so a target out of sight, or none at all).
    lost_in_sight: share of the frames with the target in sight that are LOST; lost_right: those of them whose box is
        right (IoU of 0.5 or more).
    doubted: share of frames with IoU of 0.5 or more that are not TRACKING.
    mean_iou: over the frames with the target in sight.
    left, lost_after: how often a target left, and the median of frames until LOST; never_lost: share that was not.
    returned, found_after, never_found: the same for TRACKING with IoU of 0.5 or more, once it returned.
    """
    states, overlaps, present = (
        np.concatenate([getattr(outcome, name) for outcome in outcomes]) for name in ("states", "overlaps", "present")
    )
    tracking, lost = states == TargetState.TRACKING, states == TargetState.LOST
    until_lost, until_found = _waits(outcomes)
    return {
        "frames": len(states),
        "false": _share(tracking & (overlaps < 0.1)),
        "lost_in_sight": _share(lost[present]),
        "lost_right": _share((lost & (overlaps >= 0.5))[present]),
        "doubted": _share(~tracking[overlaps >= 0.5]),
        "mean_iou": _share(overlaps[present]),
        "left": len(until_lost),
        "lost_after": _median(until_lost),
        "never_lost": _share(np.isnan(until_lost)),
        "returned": len(until_found),
        "found_after": _median(until_found),
        "never_found": _share(np.isnan(until_found)),
    }


def _waits(outcomes: Iterable[Outcome]) -> tuple[np.ndarray, np.ndarray]:
    """Frames from each leaving to LOST, and from each return to a right box; NaN where that did not come."""
    until_lost, until_found = [], []
    for outcome in outcomes:
        for left, back in away(outcome.present):
            until_lost.append(_first(outcome.states[left:back] == TargetState.LOST))
            if back < len(outcome.states):
                right = (outcome.states == TargetState.TRACKING) & (outcome.overlaps >= 0.5)
                until_found.append(_first(right[back:]))
    return np.array(until_lost, float), np.array(until_found, float)


def _first(flags: np.ndarray) -> float:
    return float(flags.argmax()) if flags.any() else np.nan


def _share(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _median(values: np.ndarray) -> float | None:
    """Of all, those that did not come last; None where that is one of them."""
    middle = np.median(np.nan_to_num(values, nan=np.inf)) if len(values) else np.inf
    return float(middle) if np.isfinite(middle) else None


@dataclass(frozen=True)
class Reliability:
    """How often a box is right (IoU > 0.5) where the score is so much: by bins of equal width from 0 to 1.

    Attributes:
        scores, right: (b,) mean score and share of right boxes, of the bins that have frames.
        counts: (b,) frames.
        error: expected calibration error, the mean distance of the two over all frames.
    """

    scores: np.ndarray
    right: np.ndarray
    counts: np.ndarray
    error: float


def reliability(scores: np.ndarray, right: np.ndarray, bins: int = 10) -> Reliability:
    """Of (n,) scores and (n,) bool.

    Expected calibration error as in Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """
    index = np.minimum((scores * bins).astype(int), bins - 1)
    counts = np.bincount(index, minlength=bins)
    kept = counts > 0
    means, shares = (np.bincount(index, values, bins)[kept] / counts[kept] for values in (scores, right))
    error = float((np.abs(means - shares) * counts[kept]).sum() / max(counts.sum(), 1))
    return Reliability(means, shares, counts[kept], error)


def reliability_of(outcomes: Sequence[Outcome]) -> Reliability:
    """Of all frames."""
    scores, overlaps = (
        np.concatenate([getattr(outcome, name) for outcome in outcomes]) for name in ("scores", "overlaps")
    )
    return reliability(scores, overlaps > 0.5)


def evaluate_confidence(
    sequences: Sequence[ImageSequence],
    make: Callable[[Modality], BoxTracker],
    output: Path,
    show: Callable[[str], None],
) -> list[Outcome]:
    """Every situation of every sequence; ``confidence.json`` and ``reliability.png`` in ``output``, the table shown.

    ``confidence.json`` has the :func:`summary` of each situation, of those "with a target" and "on nothing", and of
    "all"; the same of each sequence below "sequences"; and the :class:`Reliability` of the first two groups.

    Args:
        make: a tracker for a modality of the aux stream.
    """
    outcomes: list[Outcome] = []
    for sequence in tqdm(sequences, "confidence", unit="sequence", disable=None):
        tracker = make(sequence.modality)
        found = (follow(tracker, sequence.name, *situation) for situation in situations(sequence))
        outcomes += [outcome for outcome in found if outcome]
    report = table(outcomes)
    for line in lines(report):
        show(line)
    curves = {name: reliability_of(members) for name, members in _groups(outcomes).items()}
    for name, curve in curves.items():
        show(f"expected calibration error, {name}: {curve.error:.3f}")
    report["reliability"] = {
        name: {
            "scores": curve.scores.tolist(),
            "right": curve.right.tolist(),
            "counts": curve.counts.tolist(),
            "ece": curve.error,
        }
        for name, curve in curves.items()
    }
    report["sequences"] = {
        sequence.name: table([outcome for outcome in outcomes if outcome.sequence == sequence.name])
        for sequence in sequences
    }
    write_text(output / "confidence.json", json.dumps(report, indent=1) + "\n")
    write_reliability(output / "reliability.png", curves)
    return outcomes


def chosen(sequences: Sequence[ImageSequence], file: Path | None) -> list[ImageSequence]:
    """The sequences that a file names, one a line, # for a remark; None = all.

    Raises:
        DataError: a file that cannot be read, or names none of them.
    """
    if file is None:
        return list(sequences)
    try:
        names = {line.partition("#")[0].strip() for line in file.read_text().splitlines()}
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from error
    kept = [sequence for sequence in sequences if sequence.name in names]
    if not kept:
        raise DataError(f"{file}: names none of the {len(sequences)} sequences")
    return kept


def write_fit(outcomes: Sequence[Outcome], weights: Path | None, prior: Confidence | None = None) -> Path:
    """:func:`fit` in a file beside the weights, None = the shipped ones."""
    path = weights_file(weights)
    header = read_header(path)
    file = confidence_file(path.parent, header)
    write_text(file, to_json(fit(outcomes, prior), header))
    return file


def read_prior(weights: Path) -> Confidence:
    """The calibration of these weights; ConfigError where there is none that another one can go on from."""
    path = weights_file(weights)
    found = find_confidence(path, read_header(path))
    if found is None or found.curvature is None:
        raise ConfigError(
            f"prior {path}: expected weights with a calibration that holds its curvature, got "
            f"{'none' if found is None else 'one without'}; make it (anew) by `cmdtrack evaluate-confidence --fit`"
        )
    return found


def fit(outcomes: Sequence[Outcome], prior: Confidence | None = None) -> Confidence:
    """The logistic regression of "IoU above 0.5" on the evidence, frames without a target with a quarter's weight.

    Newton's method on standardised evidence, with a ridge of 3 frames; or, with a ``prior``, as if its frames were
    among these: its loss counts as the parabola around its minimum (Laplace's approximation).

    Raises:
        DataError: no evidence, or nothing but right or wrong boxes.
    """
    evidence, overlaps = (np.concatenate([getattr(o, name) for o in outcomes]) for name in ("evidence", "overlaps"))
    shares = np.concatenate(
        [np.full(len(o.states), _NOTHING_WEIGHT if o.situation in WRONG_STARTS else 1.0) for o in outcomes]
    )
    right = overlaps > 0.5
    if not evidence.any() or right.all() or not right.any():
        raise DataError("calibration: expected frames with right and with wrong boxes of this package's tracker")
    mean, deviation = evidence.mean(0), np.maximum(evidence.std(0), 1e-6)
    inputs = np.column_stack([(evidence - mean) / deviation, np.ones(len(evidence))])
    # From standardised factors to those of the evidence itself; the bias is the last one.
    back = np.diag([*(1 / deviation), 1.0])
    back[-1, :-1] = -mean / deviation
    if prior is None:
        start, pull = np.zeros(len(mean) + 1), np.diag([_RIDGE] * len(mean) + [1e-6])
    else:
        start, pull = np.linalg.solve(back, [*prior.factors, prior.bias]), back.T @ prior.curvature @ back
    factors, curvature = _minimum(inputs, right, shares, start, pull)
    raw = back @ factors
    forth = np.linalg.inv(back)
    about = {"sequences": sorted({o.sequence for o in outcomes}), "frames": len(right)}
    if prior is not None:
        about["prior"] = lineage(prior.about)
    return Confidence(float(raw[-1]), tuple(raw[:-1].tolist()), about, forth.T @ curvature @ forth)


def _minimum(
    inputs: np.ndarray, right: np.ndarray, shares: np.ndarray, start: np.ndarray, pull: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Factors (k,) of the weighted logistic loss of (n, k) inputs + (factors - start) pull (factors - start) / 2, and
    its curvature (k, k) there.
    """

    def loss(at: np.ndarray) -> float:
        logits, away = inputs @ at, at - start
        return float(shares @ (np.logaddexp(0, logits) - right * logits) + away @ pull @ away / 2)

    factors = start.copy()
    for _ in range(50):
        chance = np.exp(-np.logaddexp(0, -inputs @ factors))
        slope = inputs.T @ (shares * (chance - right)) + pull @ (factors - start)
        curvature = (inputs.T * (shares * chance * (1 - chance))) @ inputs + pull
        step = np.linalg.lstsq(curvature, slope, rcond=None)[0]
        # Far from the minimum, where chances are 0 or 1, a whole step leads anywhere.
        while loss(factors - step) > loss(factors) and np.abs(step).max() >= 1e-8:
            step = step / 2
        factors = factors - step
        if np.abs(step).max() < 1e-8:
            break
    return factors, curvature


def _groups(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Those with a target, and all."""
    return {"with a target": [o for o in outcomes if o.situation not in WRONG_STARTS], "all": list(outcomes)}


def table(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The :func:`summary` of each situation and of their groups."""
    groups = {name: [outcome for outcome in outcomes if outcome.situation == name] for name in SITUATIONS}
    groups["on nothing"] = [outcome for outcome in outcomes if outcome.situation in WRONG_STARTS]
    groups |= _groups(outcomes)
    return {name: summary(members) for name, members in groups.items() if members}


_COLUMNS = (
    ("frames", "frames", "d"),
    ("false", "falsely TRACKING", "%"),
    ("lost_in_sight", "LOST in sight", "%"),
    ("lost_right", "LOST, box right", "%"),
    ("doubted", "right, not TRACKING", "%"),
    ("mean_iou", "mean IoU", ".3f"),
    ("lost_after", "frames until LOST", ".0f"),
    ("never_lost", "never LOST", "%"),
    ("found_after", "frames until found", ".0f"),
    ("never_found", "never found", "%"),
)


def lines(report: dict[str, Any]) -> Iterator[str]:
    """:func:`table` in Markdown."""
    yield "| situation | " + " | ".join(title for _, title, _ in _COLUMNS) + " |"
    yield "|---" * (len(_COLUMNS) + 1) + "|"
    for name, values in report.items():
        cells = (_cell(values[key], form) for key, _, form in _COLUMNS)
        yield f"| {name} | " + " | ".join(cells) + " |"


def _cell(value: float | None, form: str) -> str:
    if value is None:
        return "–"
    return f"{value:.1%}" if form == "%" else format(value, form)


def write_reliability(file: Path, curves: dict[str, Reliability]) -> None:
    """The reliability curves, by name, as a picture."""
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for name, curve in curves.items():
        axes.plot(curve.scores, curve.right, marker="o", label=f"{name}, ECE {curve.error:.3f}")
    axes.set(xlabel="score", ylabel="share of boxes with IoU > 0.5", xlim=(0, 1), ylim=(0, 1))
    axes.legend()
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=100)
