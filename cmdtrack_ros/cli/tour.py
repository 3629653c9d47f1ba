"""`cmdtrack tour`: what the node does, shown with one recording per modality."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cmdtrack_ros.cli import options as o
from cmdtrack_ros.modalities import Modality


def tour(
    output: Annotated[Path, typer.Option(help="Folder for the page, the summary, the pictures and the bags.")] = Path(
        "out/tour"
    ),
    data: Annotated[
        Path | None,
        typer.Option(
            envvar="CMDTRACK_DATA",
            help="Folder of real recordings, with test/ in it; default: the demo's video, and what is made from it.",
        ),
    ] = None,
    weights: o.WeightsOption = None,
    rate: o.PlayingRateOption = None,
    frames: Annotated[int | None, typer.Option(min=2, help="Of each recording, at most; default: all.")] = None,
    only: Annotated[
        list[Modality] | None, typer.Option(help="Stops to make, by their modality; repeat for several; default: all.")
    ] = None,
) -> None:
    """Play one recording per modality into the tracker node, with targets from box, click and detector, a position
    in space, and two targets at once; leave pictures and a summary (needs rclpy)."""
    o.need_rclpy("tour")
    from rich.console import Console

    from cmdtrack_ros.tour import run_tour

    console = Console(width=None if sys.stdout.isatty() else 200)
    for part in run_tour(output, data, weights, rate, frames, [stop.value for stop in only or ()]):
        console.print(part, markup=False, highlight=False)
