"""How the two image streams of a recording lie to each other in time, and how they pair: figures and a plot."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cmdtrack_ros.data.bags import Arrival, Bag, BagOptions, choose_topics, image_arrivals
from cmdtrack_ros.errors import DataError
from cmdtrack_ros.streams.events import EVENT_PACKET
from cmdtrack_ros.streams.pairing import RANGES, NearestPairer, Pair, PairOptions
from cmdtrack_ros.streams.sync import StreamReport, SyncDoctor, SyncReport, clock_differences

_COLOURS = ("#d9730d", "#0b6e99")
_BINS = 60


@dataclass(frozen=True)
class Paired:
    """What the node's pairing makes of a recording with some options.

    share: of the RGB images that got a partner; times (n,): seconds from the start; gaps (n,): seconds, NaN for an
    RGB image alone.
    """

    options: PairOptions
    share: float
    times: np.ndarray
    gaps: np.ndarray


@dataclass(frozen=True)
class BagSync:
    """What a recording shows. times, differences (n,): seconds from the start, and by how much aux stamps are ahead."""

    topics: tuple[str, str]
    report: SyncReport
    present: Paired
    proposed: Paired
    times: np.ndarray
    differences: np.ndarray


def examine_bag(path: Path, options: BagOptions) -> BagSync:
    """Look at all stamps of a recording's two image topics; no image is decoded.

    Raises:
        DataError: no bag, no such topics, or not two of them.
    """
    with Bag(path) as bag:
        topics = choose_topics(bag, options)
        if topics.rgb is None or topics.aux is None:
            missing = "RGB" if topics.rgb is None else "auxiliary"
            has = ", ".join(sorted(bag.types)) or "none"
            raise DataError(f"{path}: found no {missing} topic, expected two of images; name them, the bag has: {has}")
        if bag.types[topics.aux] == EVENT_PACKET:
            raise DataError(
                f"{path}: {topics.aux} holds event packets, of which a frame is cut at the moment of each RGB image: "
                "expected two topics of images"
            )
        arrivals = list(image_arrivals(bag, topics))
    return _examine(arrivals, (topics.rgb, topics.aux), options.pairing)


def _examine(arrivals: list[Arrival], topics: tuple[str, str], options: PairOptions) -> BagSync:
    present, pairer = _pair(arrivals, topics[0], options)
    doctor = SyncDoctor(options, topics, whole=True)
    for image in arrivals:
        (doctor.add_rgb if image.topic == topics[0] else doctor.add_aux)(image.stamp, image.recorded, image.recorded)
    report = doctor.report(arrivals[-1].recorded, pairer.counters)
    proposed, _ = _pair(arrivals, topics[0], _proposal(options, report))
    rgb, aux = (_columns([image for image in arrivals if image.topic == topic]) for topic in topics)
    times = (aux[1] - arrivals[0].recorded) * 1e-9
    return BagSync(topics, report, present, proposed, times, clock_differences(*rgb, *aux))


def _proposal(options: PairOptions, report: SyncReport) -> PairOptions:
    """What the report proposes: another offset, and a slop where pairs are made by the gap and theirs is larger."""
    low, high = RANGES["aux_offset"]
    moved = replace(options, aux_offset=min(max(report.aux_offset, low), high))
    if options.pairing == "latest" or report.slop <= options.largest_gap:
        return moved
    return replace(moved, pairing="nearest", slop=report.slop)


def _columns(images: list[Arrival]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([image.stamp for image in images]), np.array([image.recorded for image in images])


def _pair(arrivals: list[Arrival], rgb_topic: str, options: PairOptions) -> tuple[Paired, NearestPairer]:
    """Pair as the node would have, had it run while the recording was made."""
    pairer = NearestPairer(options)
    pairs: list[Pair] = []
    for image in arrivals:
        pairs += pairer.flush(image.recorded)
        add = pairer.add_rgb if image.topic == rgb_topic else pairer.add_aux
        pairs += add(image.stamp, image, image.recorded)
    pairs = [pair for pair in pairs + pairer.flush() if pair.rgb is not None]
    times = np.array([(pair.rgb.recorded - arrivals[0].recorded) * 1e-9 for pair in pairs])
    share = pairer.counters.paired / pairer.counters.rgb
    return Paired(options, share, times, np.array([pair.gap for pair in pairs])), pairer


def text_lines(found: BagSync) -> Iterator[str]:
    """The report as lines for a terminal, with parameters to paste."""
    report = found.report
    width = max(map(len, found.topics))
    for topic, stream in zip(found.topics, (report.rgb, report.aux)):
        yield f"{topic:{width}}  {_describe(stream)}"
    if not math.isnan(report.offset):
        side = "ahead of" if report.offset > 0 else "behind"
        clocks = f"aux stamps are {abs(report.offset):.3f} s {side} RGB stamps, single measurements differing by"
        yield f"{clocks} {report.uncertainty:.3f} s; a difference of the drivers' latencies is in it, too"
    for cause, text in report.findings.items():
        yield f"{cause}: {text}"
    yield f"{found.present.share:.1%} of the RGB images get an aux image with {_parameters(found.present.options)}"
    if found.proposed.options == found.present.options:
        yield "no others are proposed"
        return
    yield f"{found.proposed.share:.1%} would with"
    proposed = found.proposed.options
    if proposed.pairing != found.present.options.pairing:
        yield f"    pairing: {proposed.pairing}"
    if proposed.pairing == "nearest":
        yield f"    slop: {proposed.slop!r}"
    yield f"    aux_offset: {proposed.aux_offset!r}"


def _describe(stream: StreamReport) -> str:
    if math.isnan(stream.rate):
        return "too few images"
    jitter = "" if math.isnan(stream.jitter) else f", jitter {stream.jitter * 1e3:.1f} ms"
    return f"{stream.rate:.1f} Hz{jitter}, recorded {stream.delay:.3f} s after its stamp"


def _parameters(options: PairOptions) -> str:
    kind = {
        "nearest": f"slop: {options.slop:g}",
        "exact": "pairing: exact",
        "latest": f"pairing: latest, latest_gap: {options.latest_gap:g}",
    }[options.pairing]
    return f"{kind}, aux_offset: {options.aux_offset:g}"


def plot(found: BagSync) -> Figure:
    """Difference of the clocks over time; gaps of the pairs over time and as histogram, before and after."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(3, 1))
    _plot_clocks(figure.add_subplot(grid[0, :]), found)
    over_time = figure.add_subplot(grid[1, 0])
    _plot_gaps(over_time, found)
    _plot_histogram(figure.add_subplot(grid[1, 1], sharey=over_time), found)
    return figure


def _plot_clocks(axes: Axes, found: BagSync) -> None:
    axes.plot(found.times, found.differences, ".", markersize=3, color="#5b5b5b", label="measured at each aux image")
    for paired, name, colour in zip((found.present, found.proposed), ("present", "proposed"), _COLOURS):
        axes.axhline(-paired.options.aux_offset, color=colour, linewidth=1, label=f"{name} aux_offset")
    axes.set(xlabel="time, s", ylabel="aux stamps ahead of RGB stamps, s", title=" and ".join(found.topics))
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)


def _plot_gaps(axes: Axes, found: BagSync) -> None:
    for paired, name, colour in zip((found.present, found.proposed), ("present", "proposed"), _COLOURS):
        label = f"{name}: {paired.share:.1%} paired ({_parameters(paired.options)})"
        axes.plot(paired.times, paired.gaps * 1e3, ".", markersize=3, color=colour, label=label)
    axes.set(xlabel="time, s", ylabel="gap of a pair, aux minus RGB, ms")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)


def _plot_histogram(axes: Axes, found: BagSync) -> None:
    reach = max(found.present.options.largest_gap, found.proposed.options.largest_gap, 1e-3) * 1e3
    for paired, colour in zip((found.present, found.proposed), _COLOURS):
        gaps = paired.gaps[np.isfinite(paired.gaps)] * 1e3
        axes.hist(gaps, bins=_BINS, range=(-reach, reach), orientation="horizontal", color=colour, alpha=0.6)
    axes.set(xlabel="RGB images")
    axes.grid(alpha=0.25)
