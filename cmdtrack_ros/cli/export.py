"""`cmdtrack export`: a student as ONNX graphs, for robots without torch, and in int8 for processors without a GPU."""

from __future__ import annotations

import logging
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from cmdtrack_ros.cli.train import Data, shipped_config
from cmdtrack_ros.models.header import SHIPPED, read_header, weights_file


class Precision(str, Enum):
    """Of the search graph."""

    FP32 = "fp32"
    INT8 = "int8"


def export(
    weights: Annotated[
        Path, typer.Argument(parser=weights_file, metavar="PATH|nano|permissive", help="Weights of a student.")
    ] = SHIPPED,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the graphs; default: beside the weights, where the tracker looks.")
    ] = None,
    precision: Annotated[
        Precision, typer.Option(help="Of the search graph; int8 is calibrated with pairs of --config and --data.")
    ] = Precision.FP32,
    config: Annotated[
        Path | None, typer.Option(help="Recipe that the student was trained by; default: config/train/distill.yaml.")
    ] = None,
    data: Data = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the pairs drawn for int8.")] = 7,
) -> None:
    """Export a student as ONNX graphs, checked, so that a robot runs it without torch."""
    from cmdtrack_ros.models.export import write_graphs

    header, folder = read_header(weights), output or weights.parent
    if precision is Precision.FP32:
        files = write_graphs(weights, header, folder)
    else:
        from cmdtrack_ros.training.calibration import write_int8_graphs
        from cmdtrack_ros.training.config import data_folder

        # ONNX Runtime reports each of the many scales that it adjusts.
        logging.getLogger().setLevel(logging.WARNING)
        recipe = config or shipped_config("distill")
        files = write_int8_graphs(weights, header, folder, recipe, data_folder(data), seed)
    for file in files:
        typer.echo(f"{file}  {file.stat().st_size / 1e6:.1f} MB")
