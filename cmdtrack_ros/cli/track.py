"""`cmdtrack track` and `cmdtrack demo`: a target followed through one recording, without ROS and with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cmdtrack_ros.boxes import parse_box
from cmdtrack_ros.cli import options as o
from cmdtrack_ros.streams.pairing import PairOptions
from cmdtrack_ros.streams.registration import read_registration


def track(
    recording: Annotated[Path, typer.Argument(help="Sequence folder, bag or video.")],
    output: Annotated[Path, typer.Option(help="Folder for track.csv and overlay.mp4.")] = Path("out/track"),
    init_box: o.InitBoxOption = None,
    modality: o.ModalityOption = None,
    rgb_topic: o.RgbTopicOption = None,
    aux: Annotated[str | None, typer.Option(help="Aux stream: topic of a bag, or video file beside a video.")] = None,
    pairing: o.PairingOption = o.PAIRING.pairing,
    slop: o.SlopOption = o.PAIRING.slop,
    latest_gap: o.LatestGapOption = o.PAIRING.latest_gap,
    aux_offset: o.AuxOffsetOption = o.PAIRING.aux_offset,
    registration: o.RegistrationOption = "none",
    rgb_camera_info: o.RgbCameraInfoOption = None,
    aux_camera_info: o.AuxCameraInfoOption = None,
    event_window: o.EventWindowOption = 0.0,
    layout: o.LayoutOption = "auto",
    weights: o.WeightsOption = None,
    device: o.DeviceOption = "auto",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 = all.")] = 0,
) -> None:
    """Follow a target through a recording, without ROS."""
    from cmdtrack_ros.data.bags import BagOptions
    from cmdtrack_ros.data.recordings import open_recording
    from cmdtrack_ros.evaluation.pictures import track_recording

    rule = PairOptions(slop=slop, aux_offset=aux_offset, pairing=pairing, latest_gap=latest_gap)
    bag = BagOptions(
        rgb_topic=rgb_topic,
        aux_topic=aux,
        modality=modality,
        pairing=rule,
        registration=read_registration(registration),
        rgb_camera_info=rgb_camera_info,
        aux_camera_info=aux_camera_info,
        event_window=event_window,
    )
    sequence = open_recording(recording, layout, options=bag, aux_video=None if aux is None else Path(aux))
    box = None if init_box is None else parse_box(init_box)
    for line in track_recording(sequence, output, box, weights=weights, device=device, threads=threads):
        typer.echo(line)


def demo(
    output: Annotated[Path, typer.Option(help="Folder for the bag, the results and the pictures.")] = Path("out/demo"),
    sequence: Annotated[
        Path | None, typer.Option(help="Sequence folder with true boxes; default: a face video and simulated events.")
    ] = None,
    weights: o.WeightsOption = None,
    rate: o.PlayingRateOption = None,
) -> None:
    """Play a recording through DDS into the tracker node and show what it published (needs rclpy)."""
    o.need_rclpy("demo")
    from cmdtrack_ros.demo import run_demo

    for line in run_demo(output, sequence, weights, rate):
        typer.echo(line)
