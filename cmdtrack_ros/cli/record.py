"""`cmdtrack record`: what led to a loss, as a bag."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cmdtrack_ros.cli import options as o


def record(
    folder: Annotated[Path, typer.Argument(help="Folder for the bags; made where it is missing.")],
    tracker: Annotated[str, typer.Option(help="Name of the tracker node, with its namespace.")] = "/tracker",
    seconds: Annotated[float, typer.Option(min=1, max=600, help="Seconds kept from before the loss.")] = 20.0,
    after: Annotated[float, typer.Option(min=0, max=60, help="Seconds recorded after it.")] = 3.0,
    memory_mb: Annotated[
        int, typer.Option(min=16, max=65536, help="MiB that these seconds may take; twice that while a bag is written.")
    ] = 1024,
    interval: Annotated[
        float, typer.Option(min=0, max=86400, help="Seconds from one bag to the next, at least.")
    ] = 30.0,
    bags: Annotated[int, typer.Option(min=1, max=10000, help="Bags that stay in the folder; the oldest go.")] = 20,
    disk_mb: Annotated[int, typer.Option(min=16, help="MiB that they may take; the oldest go.")] = 8192,
    use_sim_time: Annotated[bool, typer.Option("--use-sim-time", help="Record in the time of /clock.")] = False,
) -> None:
    """Keep the last seconds of a running tracker's images, and write them as a bag when it loses its target."""
    o.need_rclpy("record")
    from cmdtrack_ros.ros.record import RecordOptions
    from cmdtrack_ros.ros.record import record as run

    options = RecordOptions(tracker, seconds, after, memory_mb, interval, bags, disk_mb, use_sim_time)
    run(folder, options, typer.echo)
