"""One self-contained HTML page on the scores of trackers: curves, tables, frames, failures, speed."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import jinja2
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cmdtrack_ros.data import ImageSequence
from cmdtrack_ros.drawing import draw_box
from cmdtrack_ros.evaluation import metrics as m
from cmdtrack_ros.evaluation.pictures import pictures_as_seen
from cmdtrack_ros.evaluation.results import write_text
from cmdtrack_ros.evaluation.scoring import Scores
from cmdtrack_ros.modalities import Modality

COLOURS = (
    "#0b6e99", "#d9730d", "#6940a5", "#0f9d58", "#d6336c", "#7a4a2b",
    "#c9a400", "#5b5b5b", "#22b8cf", "#a61e4d", "#74b816", "#9775fa",
)  # fmt: skip
TRUTH_COLOUR = "#ffffff"
STRIPS = 2  # sequences shown from either end of the ranking
STRIP_FRAMES = 8
STRIP_HEIGHT = 200  # px
LOST_OVERLAP, LOST_FRAMES = 0.1, 10
METRICS = {
    "mean_iou": "mean IoU, without the frame the tracker is given and frames without a truth",
    "sr": "success rate: area under the curve of frames with IoU above 0, 0.05 .. 1",
    "pr": "precision rate: frames whose centre is within 20 px",
    "npr": "normalised precision rate: frames whose centre is within 0.20 of the box",
    "msr": "success rate, best of the two annotations",
    "mpr": "precision rate, best of the two annotations",
    "f": "largest F of the long-term curve, with f_precision and f_recall",
    "f_precision": "long-term precision at the largest F",
    "f_recall": "long-term recall at the largest F",
    "accuracy": "VOT multi-start accuracy",
    "robustness": "VOT multi-start robustness",
    "eao": "expected average overlap of run lengths 115 to 755 (0 for lengths that no run reaches)",
    "fps": "updates a second on one thread, without reading images",
}


@dataclass(frozen=True)
class Failure:
    """A stretch of frames first..last with IoU <= 0.1; ``recovered`` when the target was found again."""

    first: int
    last: int
    recovered: bool


def failures(overlaps: np.ndarray) -> list[Failure]:
    """Stretches of ten or more labelled frames in a row with IoU (n,) <= 0.1; NaN = not labelled."""
    labelled = np.flatnonzero(~np.isnan(overlaps))
    bad = np.concatenate([[False], overlaps[labelled] <= LOST_OVERLAP, [False]])
    begins, ends = np.flatnonzero(bad[1:] & ~bad[:-1]), np.flatnonzero(bad[:-1] & ~bad[1:])
    return [
        Failure(int(labelled[a]), int(labelled[b - 1]), bool(b < len(labelled)))
        for a, b in zip(begins, ends)
        if b - a >= LOST_FRAMES
    ]


def write_report(
    file: Path,
    scores: list[Scores],
    sequences: Mapping[str, ImageSequence],
    title: str,
    recordings: Mapping[str, dict] | None = None,
) -> None:
    """Write the page.

    Args:
        scores: one a tracker; the first decides which sequences are shown as frames.
        sequences: name -> sequence, for those that are scored.
        recordings: name -> statistics of a bag's pairing and times.
    """
    names = list(dict.fromkeys(name for score in scores for name in score.sequences))
    colours = {score.tracker: COLOURS[i % len(COLOURS)] for i, score in enumerate(scores)}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cmdtrack_ros.evaluation"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["figure"] = lambda v: "–" if v is None or np.isnan(v) else f"{v:.1f}" if v > 2 else f"{v:.3f}"
    columns = list(dict.fromkeys(name for score in scores for name in score.mean))
    page = environment.get_template("report.html.j2").render(
        title=title,
        scores=scores,
        colours=colours,
        names=names,
        columns=columns,
        definitions=METRICS,
        best=_best(scores, columns),
        plots=list(_plots(scores, colours)),
        frames={name: len(sequences[name]) for name in names},
        modalities={name: str(sequences[name].modality) for name in names},
        strips=[_strip(name, rank, scores, sequences[name], colours) for name, rank in _chosen(scores)],
        losses=_losses(scores, sequences),
        recordings=recordings or {},
        lost_overlap=LOST_OVERLAP,
        lost_frames=LOST_FRAMES,
    )
    write_text(file, page)


def _best(scores: list[Scores], columns: list[str]) -> dict[str, float]:
    values = {column: [s.mean[column] for s in scores if np.isfinite(s.mean.get(column, np.nan))] for column in columns}
    return {column: max(found) for column, found in values.items() if len(found) > 1}


def _losses(scores: list[Scores], sequences: Mapping[str, ImageSequence]) -> list[dict]:
    return [
        {
            "tracker": score.tracker,
            "sequence": name,
            "failure": failure,
            "time": float(sequences[name].stamps[failure.first] - sequences[name].stamps[0]),
        }
        for score in scores
        for name, one in score.sequences.items()
        for failure in failures(one.overlaps)
    ]


def _chosen(scores: list[Scores]) -> list[tuple[str, str]]:
    """Names and ranks of the first tracker's best and worst sequences by mean IoU."""
    ranked = sorted(
        (s for s in scores[0].sequences.values() if np.isfinite(s.metrics["mean_iou"])),
        key=lambda s: -s.metrics["mean_iou"],
    )
    picked = list(enumerate(ranked, 1))
    picked = picked if len(picked) <= 2 * STRIPS else picked[:STRIPS] + picked[-STRIPS:]
    return [(one.name, f"{rank} of {len(ranked)}") for rank, one in picked]


# ---- plots ----


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    # A fixed salt and no date make the same scores give the same page.
    with matplotlib.rc_context({"svg.hashsalt": "cmdtrack", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, bbox_inches="tight")
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _plots(scores: list[Scores], colours: Mapping[str, str]) -> Iterator[str]:
    kinds = (
        ("success", m.SUCCESS_THRESHOLDS, "IoU threshold", "success", ("sr", "msr")),
        ("precision", m.PRECISION_THRESHOLDS, "centre error, px", "precision", ("pr", "mpr")),
        ("normalized", m.NORMALIZED_THRESHOLDS, "normalised centre error", "normalised precision", ("npr",)),
        ("eao", None, "frames", "expected average overlap", ("eao",)),
    )
    for name, thresholds, x, y, metrics in kinds:
        curves = {s.tracker: (s.curves[name], s.mean) for s in scores if name in s.curves}
        if curves:
            yield _curve_plot(curves, thresholds, x, y, metrics, colours)
    longterm = [s for s in scores if "f_recall" in s.curves]
    if longterm:
        yield _precision_recall_plot(longterm, colours)


def _axes(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.4, 3.3))
    axes = figure.subplots()
    axes.set(xlabel=x, ylabel=y, ylim=(0, 1.02))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _legend(axes: Axes) -> None:
    # Beside the curves: with many trackers no corner is free.
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=1.2)


def _curve_plot(
    curves: Mapping, thresholds: np.ndarray | None, x: str, y: str, metrics: tuple[str, ...], colours: Mapping[str, str]
) -> str:
    figure, axes = _axes(x, y)
    for tracker, (curve, mean) in curves.items():
        figures = ", ".join(f"{mean[name]:.3f}" for name in metrics if name in mean)
        axes.plot(
            np.arange(len(curve)) if thresholds is None else thresholds,
            curve,
            color=colours[tracker],
            label=f"{tracker}  {figures}",
        )
    _legend(axes)
    return _svg(figure)


def _precision_recall_plot(scores: list[Scores], colours: Mapping[str, str]) -> str:
    figure, axes = _axes("long-term recall", "long-term precision")
    for score in scores:
        axes.plot(
            score.curves["f_recall"],
            score.curves["f_precision"],
            color=colours[score.tracker],
            label=f"{score.tracker}  F {score.mean['f']:.3f}",
        )
        axes.plot(score.mean["f_recall"], score.mean["f_precision"], "o", color=colours[score.tracker])
    axes.set_xlim(0, 1.02)
    _legend(axes)
    return _svg(figure)


def _overlap_plot(name: str, scores: list[Scores], colours: Mapping[str, str]) -> str:
    figure = Figure(figsize=(11, 1.7))
    axes = figure.subplots()
    lowest = -0.02
    for i, score in enumerate(s for s in scores if name in s.sequences):
        overlaps = score.sequences[name].overlaps
        axes.plot(overlaps, color=colours[score.tracker], linewidth=1.2)
        for failure in failures(overlaps):
            # One line a tracker below zero marks where it had lost the target.
            level = -0.08 - 0.07 * i
            lowest = min(lowest, level - 0.07)
            axes.hlines(level, failure.first, failure.last + 1, color=colours[score.tracker], linewidth=3)
    axes.set(xlabel="frame", ylabel="IoU", ylim=(lowest, 1.02))
    axes.set_yticks([0, 0.5, 1])
    axes.margins(x=0.01)
    axes.spines[["top", "right"]].set_visible(False)
    return _svg(figure)


# ---- frames ----


def _strip(name: str, rank: str, scores: list[Scores], sequence: ImageSequence, colours: Mapping[str, str]) -> dict:
    shown = [score for score in scores if name in score.sequences]
    first = shown[0].sequences[name]
    chosen = np.linspace(0, len(first.order) - 1, STRIP_FRAMES).round().astype(int)
    tiles: list[dict[str, Any]] = []
    for index, *pictures in pictures_as_seen(sequence, first.order, shown=set(first.order[chosen].tolist())):
        boxes = [(score.sequences[name].result[index], colours[score.tracker]) for score in shown]
        # What matters most is drawn last: other trackers, truth, first tracker.
        boxes = [*boxes[:0:-1], (sequence.boxes[index], TRUTH_COLOUR), boxes[0]]
        images = [_jpeg(picture, boxes) for picture in pictures if picture is not None]
        tiles.append({"index": index, "images": images, "overlap": float(first.overlaps[index])})
    tiles.sort(key=lambda tile: tile["index"])
    return {
        "name": name,
        "rank": rank,
        "tiles": tiles,
        "plot": _overlap_plot(name, shown, colours),
        "streams": "RGB" if sequence.modality is Modality.RGB else f"RGB above, {sequence.modality} below",
        "means": {score.tracker: score.sequences[name].metrics["mean_iou"] for score in shown},
    }


def _jpeg(picture: np.ndarray, boxes: list[tuple[np.ndarray, str]]) -> str:
    """RGB picture with boxes as a base64 JPEG of :data:`STRIP_HEIGHT`."""
    scale = STRIP_HEIGHT / picture.shape[0]
    image = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    for box, colour in boxes:
        red, green, blue = bytes.fromhex(colour[1:])
        # White needs a dark rim on pictures of events, which are white themselves.
        draw_box(image, box * scale, (red, green, blue), 2, rim=2 if colour == TRUTH_COLOUR else 0)
    data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 82])[1]
    return base64.b64encode(data.tobytes()).decode()
