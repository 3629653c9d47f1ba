"""`cmdtrack export`: a student as ONNX graphs, for robots without torch, and in int8 for processors without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cmdtrack_ros.cli import options as o


def export(
    weights: Annotated[Path | None, typer.Argument(help="Weights of a student; default: the shipped ones.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the graphs; default: beside the weights, where the node looks.")
    ] = None,
    int8: Annotated[
        bool, typer.Option(help="Also in int8, calibrated with pairs of the recipe (--config, --data).")
    ] = False,
    config: Annotated[
        Path | None, typer.Option(help="Recipe whose sources the student was trained on; default: distill.")
    ] = None,
    data: o.Data = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the pairs drawn for the calibration.")] = 7,
) -> None:
    """Export a student as ONNX graphs (checked against torch), and in int8 on request."""
    from cmdtrack_ros.models.export import write_graphs, write_int8_graph
    from cmdtrack_ros.models.header import SHIPPED, read_header

    weights = weights or SHIPPED
    header, folder = read_header(weights), output or weights.parent
    files = write_graphs(weights, header, folder)
    if int8:
        from cmdtrack_ros.training.calibration import recipe_inputs

        files.append(write_int8_graph(header, folder, recipe_inputs(weights, config, data, seed)))
    for file in files:
        typer.echo(f"{file}  {file.stat().st_size / 1e6:.1f} MB")
