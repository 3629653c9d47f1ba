"""The benchmarks' metrics, each a pure function of NumPy arrays.

Boxes are (n, 4) float64 xywh in pixels; ``result`` and ``truth`` have one row a frame.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from cmdtrack_ros.boxes import iou

# The exact doubles of MATLAB's 0:0.05:1, which counts up from 0 and down from 1; IoU ties depend on them.
SUCCESS_THRESHOLDS = np.where(np.arange(21) <= 10, 0.05 * np.arange(21), 1 - 0.05 * (20 - np.arange(21)))
PRECISION_THRESHOLDS = np.arange(51.0)
NORMALIZED_THRESHOLDS = np.linspace(0.0, 0.5, 51)
GTOT_THRESHOLDS = np.linspace(0.0, 1.0, 51)
VOT_GRACE = 10
VOT_FAILURE_OVERLAP = 0.1


def mean_overlap(result: np.ndarray, truth: np.ndarray, start: int = 0) -> float:
    """Mean IoU over the frames after ``start`` (where the tracker was given the box) that have a truth.

    NaN answers count 0; NaN when there is no such frame.
    """
    rows = np.isfinite(truth[start + 1 :]).all(1)
    return float(iou(result[start + 1 :][rows], truth[start + 1 :][rows]).mean()) if rows.any() else float("nan")


def repair(result: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Result rows as LasHeR's toolkit cleans them: (n, 4).

    Rows from the second on with NaN or without an area copy the row before; then row 1 becomes the truth's.
    Source: LasHeR evaluation toolkit.
    """
    usable = np.isfinite(result).all(1) & (result[:, 2] > 0) & (result[:, 3] > 0)
    usable[:1] = True
    fixed = result[np.maximum.accumulate(np.where(usable, np.arange(len(result)), 0))]
    fixed[:1] = truth[:1]
    return fixed


def center_error(result: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(n,) distance in pixels between the centres x + (w - 1)/2, y + (h - 1)/2.

    Source: OTB and LasHeR toolkits.
    """
    centers = [boxes[:, :2] + (boxes[:, 2:] - 1) / 2 for boxes in (result, truth)]
    return np.linalg.norm(centers[0] - centers[1], axis=1)


def normalized_center_error(result: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(n,) distance between the centres, each divided by the truth's width and height first.

    Source: TrackingNet (Mueller et al. 2018) as LasHeR's toolkit does it; dividing before subtracting
    decides ties.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        centers = [(boxes[:, :2] + (boxes[:, 2:] - 1) / 2) / truth[:, 2:] for boxes in (result, truth)]
        return np.linalg.norm(centers[0] - centers[1], axis=1)


def success_curve(overlaps: np.ndarray, thresholds: np.ndarray = SUCCESS_THRESHOLDS) -> np.ndarray:
    """Share of all frames whose overlap (n,) is greater than each threshold (k,) -> (k,)."""
    return (overlaps[None] > thresholds[:, None]).mean(1)


def precision_curve(errors: np.ndarray, thresholds: np.ndarray = PRECISION_THRESHOLDS) -> np.ndarray:
    """Share of all frames whose error (n,) is at most each threshold (k,) -> (k,)."""
    return (errors[None] <= thresholds[:, None]).mean(1)


def lasher_curves(result: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Success (21,), precision (51,) and normalised precision (51,) of one sequence by LasHeR's rules.

    A frame whose truth is not four numbers above 0 has overlap and errors -1: a hit for both precisions, a
    miss for success. SR = mean of the first; PR = precision at 20 px, entry 20; NPR = at 0.20, entry 20.
    Source: LasHeR (Li et al. 2021), evaluation toolkit.
    """
    overlaps, errors, normalized = _lasher_frames(result, truth)
    return (success_curve(overlaps), precision_curve(errors), precision_curve(normalized, NORMALIZED_THRESHOLDS))


def visevent_curves(
    result: np.ndarray, truth: np.ndarray, absent: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As :func:`lasher_curves`, but frames with ``absent`` (n,) bool never count as hits, only as frames.

    So an echo of the truth stays below 1. Source: VisEvent (Wang et al. 2021), evaluation toolkit.
    """
    overlaps, errors, normalized = _lasher_frames(result, truth)
    overlaps[absent], errors[absent], normalized[absent] = -1.0, np.inf, np.inf
    return (success_curve(overlaps), precision_curve(errors), precision_curve(normalized, NORMALIZED_THRESHOLDS))


def _lasher_frames(result: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    result = repair(result[: len(truth)], truth)
    invalid = ~(truth > 0).all(1)
    frames = iou(result, truth), center_error(result, truth), normalized_center_error(result, truth)
    for values in frames:
        values[invalid] = -1.0
    return frames


def paired_frames(result: np.ndarray, rgb: np.ndarray, aux: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Greatest overlap (n,) and least centre error (n,) over the annotations of both streams.

    Source: RGBT234 (Li et al. 2019); the result's first row stays as it is.
    """
    result = result[: len(rgb)]
    return (
        np.maximum(iou(result, rgb), iou(result, aux)),
        np.fmin(center_error(result, rgb), center_error(result, aux)),
    )


def rgbt234_curves(result: np.ndarray, rgb: np.ndarray, aux: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Success (21,) and precision (51,) of one sequence.

    MSR = mean of the first, MPR = entry 20 of the second.

    Source: RGBT234 (Li et al. 2019), evaluation toolkit.
    """
    overlaps, errors = paired_frames(result, rgb, aux)
    return success_curve(overlaps), precision_curve(errors)


def gtot_mpr(errors: Iterable[np.ndarray], pixels: float = 5.0) -> float:
    """Share of the frames of all sequences whose error is below ``pixels``. Source: GTOT (Li et al. 2016)."""
    return float((np.concatenate(list(errors)) < pixels).mean())


def gtot_msr(overlaps: Iterable[np.ndarray], thresholds: np.ndarray = GTOT_THRESHOLDS) -> float:
    """Area by trapezoids under the success curve of the frames of all sequences.

    Source: GTOT (Li et al. 2016).
    """
    curve = success_curve(np.concatenate(list(overlaps)), thresholds)
    return float(((curve[1:] + curve[:-1]) / 2 * np.diff(thresholds)).sum())


def pixel_overlap(result: np.ndarray, truth: np.ndarray, width: int, height: int, empty: float = 0.0) -> np.ndarray:
    """Overlap (n,) of boxes rounded to whole pixels and cut to the ``width`` x ``height`` image.

    Rows with NaN are "no box". ``empty`` is the overlap of no box with no box: 1 in vot-toolkit 0.9, 0 in
    0.5. Source: VOT toolkit, where a box of x, w covers the pixels x .. x + w - 1, and two regions that
    together are less than two pixels wide or high count as two empty ones.
    """
    none = [~np.isfinite(boxes).all(1) for boxes in (result, truth)]
    rounded = [
        np.where(gone[:, None], 0.0, np.round(boxes.astype(np.float32)).astype(np.float64))
        for boxes, gone in zip((result, truth), none)
    ]
    low = [boxes[:, :2] for boxes in rounded]
    # "No box" is the point (0, 0) when the extent of both is taken, and covers nothing.
    high = [np.where(gone[:, None], 0.0, boxes[:, :2] + boxes[:, 2:] - 1) for boxes, gone in zip(rounded, none)]
    first, last = np.minimum(*low), np.maximum(*high)
    degenerate = (first >= last).any(1)
    first, last = np.maximum(first, 0), np.minimum(last, [width - 1, height - 1])
    outside = (first >= last).any(1)
    area = [np.where(gone, 0.0, _pixels(a, b, first, last)) for a, b, gone in zip(low, high, none)]
    common = np.where(none[0] | none[1], 0.0, _pixels(np.maximum(*low), np.minimum(*high), first, last))
    union = area[0] + area[1] - common
    overlap = np.where(outside | (union <= 0), 0.0, common / np.maximum(union, 1))
    return np.where(none[0] & none[1], empty, np.where(degenerate, 1.0, overlap))


def _pixels(low: np.ndarray, high: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    return np.clip(np.minimum(high, last) - np.maximum(low, first) + 1, 0, None).prod(1)


def longterm_thresholds(scores: np.ndarray, resolution: int = 100) -> np.ndarray:
    """Confidences of all frames of all sequences, pooled (n,) -> thresholds from +inf down to -inf.

    Source: Lukezic et al. 2018 ("Now you see me") as in the VOT toolkit: resolution - 2 evenly spaced ranks.
    """
    ranked = np.sort(scores[~np.isnan(scores)])[::-1]
    inner = resolution - 2
    if len(ranked) > inner:
        step = len(ranked) // inner
        ranked = ranked[np.round(np.linspace(step, len(ranked) - step, inner)).astype(int)]
    return np.concatenate([[np.inf], ranked, [-np.inf]])


def longterm_curves(
    overlaps: np.ndarray, scores: np.ndarray, present: np.ndarray, thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Precision (k,) and recall (k,) of one sequence at each threshold.

    Args:
        overlaps: (n,) by :func:`pixel_overlap`, 0 in the frame that the tracker was given.
        scores: (n,) confidences.
        present: (n,) bool, the target has a box.

    Pr = mean overlap of the frames with confidence >= threshold, 1 when there is none; Re = their sum over
    the number of frames where the target is present. Source: DepthTrack (Yan et al. 2021), VOT long-term.
    """
    chosen = scores[None] >= thresholds[:, None]
    total, count = (chosen * overlaps[None]).sum(1), chosen.sum(1)
    precision = np.where(count > 0, total / np.maximum(count, 1), 1.0)
    return precision, total / max(int(present.sum()), 1)


def f_score(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """2 Pr Re / (Pr + Re), 0 where both are 0; any shape.

    The benchmark reports the largest along the thresholds.
    """
    total = precision + recall
    return np.where(total > 0, 2 * precision * recall / np.where(total > 0, total, 1), 0.0)


def vot_progress(overlaps: np.ndarray, present: np.ndarray, grace: int = VOT_GRACE) -> int:
    """Frames before the tracker failed: before ``grace`` frames in a row with a truth and overlap <= 0.1.

    The length of the run when it never failed. Source: VOT2020 (Kristan et al.), VOT toolkit.
    """
    bad = (overlaps <= VOT_FAILURE_OVERLAP) & present
    in_a_row = np.convolve(bad, np.ones(grace, int), mode="valid") if len(bad) >= grace else np.zeros(0)
    failures = np.flatnonzero(in_a_row == grace)
    return int(failures[0]) if len(failures) else len(overlaps)


def vot_accuracy_robustness(runs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float, int]:
    """Accuracy, robustness and frames before failure over the runs of one sequence.

    A run is its overlaps (k,) and whether the target is present (k,).

    A = sum of overlaps before failure / frames before failure; R = frames before failure / frames.
    Source: VOT2020 (Kristan et al.), VOT toolkit.
    """
    progress = [vot_progress(*run) for run in runs]
    total = sum(progress)
    overlap = sum(float(overlaps[:k].sum()) for (overlaps, _), k in zip(runs, progress))
    return overlap / total if total else 0.0, total / sum(len(overlaps) for overlaps, _ in runs), total


def vot_mean_accuracy_robustness(parts: list[tuple[float, float, int]], lengths: list[int]) -> tuple[float, float]:
    """A and R of a data set, from :func:`vot_accuracy_robustness` and the length of each sequence.

    A is weighted with the frames before failure, R with the sequence's length. Source: VOT toolkit.
    """
    accuracy, robustness, progress = (np.array(column, float) for column in zip(*parts))
    weights = np.array(lengths, float)
    mean_accuracy = float((accuracy * progress).sum() / progress.sum()) if progress.sum() else 0.0
    return mean_accuracy, float((robustness * weights).sum() / weights.sum())


def vot_eao(runs: list[tuple[np.ndarray, np.ndarray]], low: int = 115, high: int = 755) -> tuple[float, np.ndarray]:
    """Expected average overlap of all runs of a data set, and its curve (high,) over lengths 0 .. high - 1.

    At length j the mean overlap of frames 1 .. j, averaged over the runs that are as long; a failed run goes
    on with overlap 0. The score is the mean of the curve from ``low`` on; lengths that no run reaches are 0.
    Source: VOT2020 (Kristan et al.), VOT toolkit, which divides what lies beyond the end of a failed run by
    j - 1.
    """
    total, active = np.zeros(high), np.zeros(high)
    for overlaps, present in runs:
        progress = vot_progress(overlaps, present)
        kept = np.where(np.arange(len(overlaps)) < progress, overlaps, 0.0)
        inside = min(len(kept), high)
        lengths = np.arange(1, inside)
        total[1:inside] += np.cumsum(kept[1:])[: inside - 1] / lengths
        active[1:inside] += 1
        if progress < len(kept) < high:
            total[len(kept) :] += kept[1:].sum() / (np.arange(len(kept), high) - 1)
            active[len(kept) :] += 1
    curve = np.where(active > 0, total / np.maximum(active, 1), 0.0)
    return float(curve[low:].mean()), curve
