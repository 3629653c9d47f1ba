"""`cmdtrack register`: how the aux images of a recording lie on its RGB images, found without a checkerboard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cmdtrack_ros.cli import options as o
from cmdtrack_ros.streams.pairing import PairOptions


def register(
    recording: Annotated[Path, typer.Argument(help="Bag, or sequence folder.")],
    output: Annotated[
        Path, typer.Option(help="File of parameters to write, for params_file:= of the launch files.")
    ] = Path("registration.yaml"),
    picture: Annotated[
        Path, typer.Option(help="Picture to write: the aux image's edges over RGB, before and after.")
    ] = Path("registration.jpg"),
    frames: Annotated[
        int, typer.Option(min=2, max=200, help="Of the recording, evenly spread, that are compared.")
    ] = 16,
    modality: o.ModalityOption = None,
    rgb_topic: o.RgbTopicOption = None,
    aux_topic: o.AuxTopicOption = None,
    slop: o.SlopOption = o.PAIRING.slop,
    aux_offset: o.AuxOffsetOption = o.PAIRING.aux_offset,
    layout: o.LayoutOption = "auto",
) -> None:
    """Find the homography from aux pixels to RGB pixels in what both cameras see; refuse where nothing agrees."""
    from cmdtrack_ros.data.bags import BagOptions
    from cmdtrack_ros.data.recordings import open_recording
    from cmdtrack_ros.evaluation.registration import register_recording

    pairing = PairOptions(slop=slop, aux_offset=aux_offset)
    options = BagOptions(rgb_topic, aux_topic, modality=modality, pairing=pairing)
    sequence = open_recording(recording, layout, options=options)
    for line in register_recording(sequence, output, picture, frames):
        typer.echo(line)
