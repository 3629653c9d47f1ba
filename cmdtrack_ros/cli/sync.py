"""`cmdtrack sync`: what the stamps of a recording say about its cameras' clocks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cmdtrack_ros.cli import options as o
from cmdtrack_ros.errors import writing
from cmdtrack_ros.streams.pairing import PairOptions


def sync(
    bag: Annotated[Path, typer.Argument(help="Bag folder, .mcap or .db3 file.")],
    plot: Annotated[Path, typer.Option(help="Picture to write: clocks and gaps over time, before and after.")] = Path(
        "sync.png"
    ),
    rgb_topic: o.RgbTopicOption = None,
    aux_topic: o.AuxTopicOption = None,
    pairing: o.PairingOption = o.PAIRING.pairing,
    slop: o.SlopOption = o.PAIRING.slop,
    latest_gap: o.LatestGapOption = o.PAIRING.latest_gap,
    aux_offset: o.AuxOffsetOption = o.PAIRING.aux_offset,
) -> None:
    """Rates, jitter and clock offset of a bag's two image streams, and the slop and aux_offset that pair them."""
    from cmdtrack_ros.data.bags import BagOptions
    from cmdtrack_ros.evaluation import sync as evaluation

    o.check_plot(plot)
    rule = PairOptions(slop=slop, aux_offset=aux_offset, pairing=pairing, latest_gap=latest_gap)
    found = evaluation.examine_bag(bag, BagOptions(rgb_topic, aux_topic, pairing=rule))
    for line in evaluation.text_lines(found):
        typer.echo(line)
    with writing(plot):
        plot.parent.mkdir(parents=True, exist_ok=True)
        evaluation.plot(found).savefig(plot)
    typer.echo(f"plot: {plot}")
