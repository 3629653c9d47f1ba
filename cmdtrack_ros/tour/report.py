"""What the tour found: a table on the terminal, and a page with the pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from rich.table import Table

from cmdtrack_ros.evaluation.results import write_text

_TITLE = "Tour of cmdtrack_ros"
_COLUMNS = (
    "stop",
    "recording",
    "target by",
    "answered",
    "mean IoU",
    "latency p50 / p95, ms",
    "states",
    "position off by, m",
)


def table(summary: Mapping[str, Any]) -> Table:
    """One row a stop."""
    made = Table(*_COLUMNS, title=_TITLE, title_justify="left")
    for row in _rows(summary):
        made.add_row(*row)
    return made


def write_page(file: Path, summary: Mapping[str, Any]) -> None:
    """The same and the pictures, which the page names by their files beside it."""
    folders = [jinja2.PackageLoader("cmdtrack_ros.tour"), jinja2.PackageLoader("cmdtrack_ros.evaluation")]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(folders), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("index.html.j2")
    write_text(file, page.render(title=_TITLE, columns=_COLUMNS, rows=_rows(summary), **summary))


def _rows(summary: Mapping[str, Any]) -> list[list[str]]:
    made = [[name, *_cells(stop)] for name, stop in summary["stops"].items()]
    return made + [[name, f"FAILED: {why}", *[""] * (len(_COLUMNS) - 2)] for name, why in summary["failures"].items()]


def _cells(stop: Mapping[str, Any]) -> list[str]:
    targets, latency, position = stop["targets"], stop["latency_ms"], stop.get("position")
    several = len(targets) > 1
    overlaps = (
        f"{name} {target['mean_iou']:.3f}" if several else f"{target['mean_iou']:.3f}"
        for name, target in targets.items()
        if target["mean_iou"] is not None
    )
    states = (
        (f"{name} " if several else "") + " ".join(f"{entry['frame']}:{entry['state']}" for entry in target["states"])
        for name, target in targets.items()
    )
    return [
        f"{stop['recording']} ({stop['origin']})",
        stop["target_given_by"],
        f"{stop['answered']} of {stop['frames']}",
        "\n".join(overlaps),
        f"{latency['p50']:.0f} / {latency['p95']:.0f}",
        "\n".join(states),
        f"{position['median_m']:.3f}" if position else "",
    ]
