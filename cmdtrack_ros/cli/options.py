"""Options that several verbs share, each with one name, one help text and one default."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated, Optional

import typer

from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.modalities import Modality
from cmdtrack_ros.streams.pairing import PairOptions

# typer evaluates the annotations of commands, hence Optional (Python 3.10's typer needs no more than that).
Layout = Annotated[str, typer.Option(help="Layout of the folder; auto tells it from its content.")]
Weights = Annotated[
    Optional[Path], typer.Option(help="Weights of this package's tracker; default: the shipped ones.")
]
Device = Annotated[str, typer.Option(help="Where this package's tracker runs: auto, cpu or cuda.")]
ModalityOption = Annotated[
    Optional[Modality], typer.Option(help="What the aux stream shows; default: what the recording says.")
]
RgbTopic = Annotated[
    Optional[str], typer.Option(help="Topic of a bag's RGB images; default: /rgb/image, or its /compressed.")
]
AuxTopic = Annotated[Optional[str], typer.Option(help="Topic of a bag's aux images; default: /aux/image.")]
TruthTopic = Annotated[
    Optional[str], typer.Option(help="TargetBox or Detection2DArray; default: /ground_truth.")
]
InitBox = Annotated[
    Optional[str], typer.Option(help="x,y,w,h in the first frame, pixels; default: the recording's true box.")
]
Registration = Annotated[str, typer.Option(help="How aux images come onto the RGB image: none or resize.")]
Slop = Annotated[float, typer.Option(min=0, help="Largest stamp gap of a pair, seconds.")]
AuxOffset = Annotated[float, typer.Option(help="Seconds added to every aux stamp.")]

PAIRING = PairOptions()


def need_rclpy(verb: str) -> None:
    """ConfigError where rclpy cannot be imported."""
    if importlib.util.find_spec("rclpy") is None:
        raise ConfigError(
            f"`cmdtrack {verb}` needs rclpy: source a ROS 2 installation, or run `make setup` and use "
            ".venv/bin/cmdtrack"
        )
