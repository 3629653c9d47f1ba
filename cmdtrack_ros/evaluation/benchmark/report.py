"""What a benchmark found: as tables on the terminal, as JSON, and as a plot."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import RenderableType
from rich.table import Table

from cmdtrack_ros.evaluation.benchmark.competitors import OURS, name_of
from cmdtrack_ros.evaluation.benchmark.machine import (
    CLEAN_LIMIT,
    QUIET_LOAD,
    Interference,
    describe_machine,
    describe_versions,
)
from cmdtrack_ros.evaluation.benchmark.node import STEPS as NODE_STEPS
from cmdtrack_ros.evaluation.benchmark.rounds import Spread, Timing
from cmdtrack_ros.evaluation.benchmark.run import Result

STEPS = ("encode", "crop", "network", "decode", "template")
_COLOURS = ("#c9a400", "#d9730d", "#0b6e99", "#6940a5", "#0f9d58", "#5b5b5b")


def as_json(result: Result, command: str) -> dict[str, Any]:
    """Everything, as plain values; times in ms, medians of the rounds where nothing else is said.

    ``tracker_ms``, ``ratio`` and ``node`` name what is not VGA and one thread; ``limit`` is that of one thread.
    """
    limits, ratios = result.limits, result.ratios
    return {
        "clean": result.interference.clean,
        "others_cores": result.interference.cores,
        "load_at_start": result.interference.load,
        "tracker_ms": {name: Spread.of(timing.means).median for name, timing in result.measured.times.items()},
        "ratio": {name: spread.median for name, spread in ratios.items()},
        "node": {name: _node_entry(result, name) for name in result.node},
        "limit": limits[1].median if 1 in limits else None,
        "limits": {_threads(threads): asdict(spread) for threads, spread in limits.items()},
        "gmacs": result.gmacs,
        "product_gmacs_per_s": {
            _threads(threads): asdict(Spread.of(rates)) for threads, rates in result.measured.product_rates.items()
        },
        "tracker": {name: _tracker_entry(timing) for name, timing in result.measured.times.items()},
        "ratio_range": {name: [spread.low, spread.high] for name, spread in ratios.items()},
        "ours": result.headline,
        "skipped": result.skipped,
        "recording": result.recording,
        "plan": asdict(result.plan),
        "machine": describe_machine(),
        "versions": describe_versions(),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": command,
    }


def _tracker_entry(timing: Timing) -> dict[str, Any]:
    return {"rounds_ms": timing.means, **_of_frames(timing), "steps_ms": timing.steps}


def _of_frames(timing: Timing) -> dict[str, float]:
    return {f"{name}_ms": value for name, value in timing.percentiles.items()}


def _node_entry(result: Result, name: str) -> dict[str, Any]:
    case = result.node[name]
    rounds = {key: [_or_none(value) for value in values] for key, values in case.values.items() if " " not in key}
    steps = {step: {f"{key}_ms": _or_none(ms) for key, ms in found.items()} for step, found in case.steps.items()}
    return {**{key: _or_none(case.spread(key).median) for key in rounds}, "steps": steps, "rounds": rounds}


def _or_none(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else value


def verdict(interference: Interference) -> str:
    """Whether the figures can be quoted."""
    used = f"other processes used {interference.cores:.2f} of a core"
    if interference.clean:
        return f"clean: {used}"
    return f"NOT CLEAN, do not quote these figures: {used} (clean: at most {CLEAN_LIMIT:.2f})"


def tables(result: Result) -> Iterator[RenderableType]:
    """The verdict first, then trackers, ratios, limit, node, and what was left out."""
    yield verdict(result.interference)
    if result.interference.load > QUIET_LOAD:
        yield f"warning: load average of {result.interference.load:.1f} at the start, expected an idle machine"
    yield f'"{OURS}", the node\'s choice on this CPU: {result.headline}'
    yield _tracker_table(result)
    yield _ratio_table(result)
    if result.node:
        yield _node_table(result)
    yield from (f"skipped: {what}: {reason}" for what, reason in result.skipped.items())


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _range(spread: Spread, digits: int) -> tuple[str, str]:
    return f"{spread.median:.{digits}f}", f"{spread.low:.{digits}f} to {spread.high:.{digits}f}"


def _tracker_table(result: Result) -> Table:
    title = f"Milliseconds a frame of {result.recording}: median of {result.plan.rounds} rounds"
    table = _table(title, "tracker", "total", "range", "p95", *STEPS)
    for name in _own_rows(result):
        timing = result.measured.times[name]
        steps = timing.steps
        cells = [f"{steps[step]:.2f}" if step in steps else "" for step in STEPS]
        table.add_row(name, *_range(Spread.of(timing.means), 2), f"{timing.percentiles['p95']:.2f}", *cells)
    return table


def _own_rows(result: Result) -> list[str]:
    """Names of all timings but those of the headline's other name."""
    again = {name_of(OURS, size, threads) for size in result.plan.sizes for threads in result.plan.threads}
    return [name for name in result.measured.times if name not in again]


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _ratio_table(result: Result) -> Table:
    table = _table("Ratios, round by round", "", "median", "range")
    for name, spread in result.ratios.items():
        table.add_row(name, *_range(spread, 2))
    for threads, spread in result.limits.items():
        label = f"network ({result.gmacs:.2f} GMACs, fp32) / matrix product, GMAC/s, {_threads(threads)}"
        table.add_row(label, *_range(spread, 2))
    return table


def _node_table(result: Result) -> Table:
    columns = ("answered", "p50 ms", "p95 ms", "p99 ms", "CPU", "MB", "start s", *NODE_STEPS)
    table = _table("The node: medians of the rounds; CPU as share of one core", "cameras", *columns)
    wanted = [("answered", ".1%"), ("p50_ms", ".1f"), ("p95_ms", ".1f"), ("p99_ms", ".1f")]
    wanted += [("cpu", ".0%"), ("memory_mb", ".0f"), ("startup_s", ".2f")]
    wanted += [(f"{step} p50", ".1f") for step in NODE_STEPS]
    for name, case in result.node.items():
        table.add_row(name, *(f"{case.spread(key).median:{form}}" for key, form in wanted))
    return table


def plot(result: Result) -> Figure:
    """Stacked steps of every tracker at VGA, and how late the node's answers were."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    steps, latency = figure.subplots(1, 2, width_ratios=(3, 2))
    _plot_steps(steps, result)
    _plot_latency(latency, result)
    figure.suptitle(f"{result.recording}, {verdict(result.interference)}", fontsize=9)
    return figure


def _plot_steps(axes: Axes, result: Result) -> None:
    names = [name for name in _own_rows(result) if not any(f" {size}" in name for size in result.plan.sizes)]
    names.reverse()  # the first on top
    left = np.zeros(len(names))
    timings = [result.measured.times[name] for name in names]
    for step, colour in zip((*STEPS, "other"), _COLOURS):
        total = np.array([np.median(timing.means) for timing in timings])
        widths = np.array([timing.steps.get(step, 0.0) for timing in timings]) if step in STEPS else total - left
        axes.barh(names, np.maximum(widths, 0.0), left=left, label=step, color=colour)
        left = left + widths
    axes.set_xlabel("ms a frame, VGA")
    axes.legend(fontsize=7)
    axes.tick_params(labelsize=7)


def _plot_latency(axes: Axes, result: Result) -> None:
    for name, case in result.node.items():
        values = np.sort(case.latencies_ms)
        axes.plot(values, np.arange(1, len(values) + 1) / max(len(values), 1), label=name)
    axes.set_xlabel("ms from stamp to publication")
    axes.set_ylabel("share of the answers")
    if result.node:
        axes.legend(fontsize=7)
    else:
        axes.text(0.5, 0.5, "the node was not measured", ha="center", transform=axes.transAxes)
