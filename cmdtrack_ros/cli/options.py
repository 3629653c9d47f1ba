"""Options that several verbs share, each with one name, one help text and one default."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from cmdtrack_ros.data.bags import AUX_TOPIC, RGB_TOPIC, TRUTH_TOPIC
from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.modalities import Modality
from cmdtrack_ros.models.header import weights_file
from cmdtrack_ros.streams.pairing import PAIRINGS, PairOptions

LayoutOption = Annotated[str, typer.Option(help="Layout of the folder; auto tells it from its content.")]
PlayingRateOption = Annotated[
    float | None, typer.Option(min=0.01, help="Speed of playing; default: 1, and again slower where that is too fast.")
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        parser=weights_file,
        metavar="PATH|nano|permissive",
        help="Weights of this package's tracker: a file, nano (half the cost) or permissive (for products); "
        "default: the shipped ones.",
    ),
]
DeviceOption = Annotated[str, typer.Option(help="Where this package's tracker runs: auto, cpu or cuda.")]
ModalityOption = Annotated[
    Modality | None, typer.Option(help="What the aux stream shows; default: what the recording says.")
]
RgbTopicOption = Annotated[
    str | None, typer.Option(help=f"Topic of a bag's RGB images; default: {RGB_TOPIC}, or its /compressed.")
]
AuxTopicOption = Annotated[str | None, typer.Option(help=f"Topic of a bag's aux images; default: {AUX_TOPIC}.")]
TruthTopicOption = Annotated[str | None, typer.Option(help=f"TargetBox or Detection2DArray; default: {TRUTH_TOPIC}.")]
InitBoxOption = Annotated[
    str | None, typer.Option(help="x,y,w,h in the first frame, pixels; default: the recording's true box.")
]
PairingOption = Annotated[
    str,
    typer.Option(
        metavar="|".join(PAIRINGS), help="Partner of an RGB image: nearest in time, of its exact stamp, or the latest."
    ),
]
SlopOption = Annotated[float, typer.Option(help="Largest stamp gap of a nearest pair, seconds.")]
LatestGapOption = Annotated[float, typer.Option(help="Largest stamp gap of a pair by pairing latest, seconds.")]
RegistrationOption = Annotated[
    str,
    typer.Option(
        help="How a bag's aux images come onto the RGB image: none, resize, camera_info, or a file of parameters such "
        "as `cmdtrack register` writes."
    ),
]
RgbCameraInfoOption = Annotated[
    str | None, typer.Option(help="CameraInfo of the RGB images, for camera_info; default: camera_info beside them.")
]
AuxCameraInfoOption = Annotated[
    str | None, typer.Option(help="CameraInfo of the aux images, for camera_info; default: camera_info beside them.")
]
EventWindowOption = Annotated[
    float, typer.Option(help="Seconds of event packets that a frame shows; 0: the interval of the RGB images.")
]
AuxOffsetOption = Annotated[float, typer.Option(help="Seconds added to every aux stamp.")]

PAIRING = PairOptions()


def need_rclpy(verb: str) -> None:
    """ConfigError where rclpy cannot be imported."""
    if importlib.util.find_spec("rclpy") is None:
        raise ConfigError(
            f"`cmdtrack {verb}` needs rclpy: source a ROS 2 installation, or run `make setup` and use "
            ".venv/bin/cmdtrack"
        )


def check_plot(file: Path | None) -> None:
    """ConfigError for a kind of picture that cannot be written, before minutes are spent."""
    from matplotlib.figure import Figure

    kinds = Figure().canvas.get_supported_filetypes()
    if file is not None and file.suffix.lstrip(".").lower() not in kinds:
        raise ConfigError(f"--plot {file}: expected a name that ends in one of {', '.join(sorted(kinds))}")
