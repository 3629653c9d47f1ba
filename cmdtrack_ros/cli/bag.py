"""`cmdtrack bag ...`: write, play and look into recordings (rosbag2)."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from cmdtrack_ros.cli import options as o
from cmdtrack_ros.data.bags import AUX_TOPIC, RGB_TOPIC, TRUTH_TOPIC

bag_app = typer.Typer(help="Write, play and look into recordings (rosbag2).", no_args_is_help=True)


class RestampChoice(str, Enum):
    KEEP = "keep"
    NOW = "now"


@bag_app.command("write")
def bag_write(
    recording: Annotated[Path, typer.Argument(help="Sequence folder (any known layout) or video file.")],
    output: Annotated[Path, typer.Argument(help="Folder of the new bag.")],
    layout: o.LayoutOption = "auto",
    aux_video: Annotated[Path | None, typer.Option(help="Video of the aux camera, frame for frame.")] = None,
    modality: o.ModalityOption = None,
    simulate_events: Annotated[bool, typer.Option(help="Add events simulated from the RGB images.")] = False,
    compressed: Annotated[bool, typer.Option(help="RGB as JPEG (CompressedImage).")] = False,
    rgb_topic: Annotated[str, typer.Option(help="Topic of the RGB images.")] = RGB_TOPIC,
    aux_topic: Annotated[str, typer.Option(help="Topic of the aux images.")] = AUX_TOPIC,
    truth_topic: Annotated[str, typer.Option(help="Topic of the true boxes.")] = TRUTH_TOPIC,
    aux_offset: Annotated[float, typer.Option(help="Seconds added to every aux stamp.")] = 0.0,
    aux_clock: Annotated[
        float, typer.Option(help="Seconds that the aux camera's clock is ahead: in stamps, not in times of recording.")
    ] = 0.0,
    aux_jitter: Annotated[float, typer.Option(help="Standard deviation of aux stamps, seconds.")] = 0.0,
    aux_drop: Annotated[float, typer.Option(help="Share of aux images left out.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of jitter, drops and simulated events.")] = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace a bag of that name.")] = False,
) -> None:
    """Write a rosbag2 (MCAP) from a sequence folder or a video."""
    from cmdtrack_ros.data.bags import BagOptions, WriterOptions, write_bag
    from cmdtrack_ros.data.events import EventSequence
    from cmdtrack_ros.data.recordings import open_recording

    sequence = open_recording(recording, layout, options=BagOptions(modality=modality), aux_video=aux_video)
    if simulate_events:
        sequence = EventSequence(sequence, seed=seed)
    options = WriterOptions(
        rgb_topic, aux_topic, truth_topic, compressed, aux_offset, aux_jitter, aux_drop, seed, aux_clock=aux_clock
    )
    write_bag(sequence, output, options, overwrite=overwrite, progress=sys.stderr.isatty())
    typer.echo(
        f"{output}: {len(sequence)} frames, {sequence.modality}, {sequence.stamps[-1] - sequence.stamps[0]:.2f} s"
    )


@bag_app.command("play")
def bag_play(
    bag: Annotated[Path, typer.Argument(help="Bag folder, .mcap or .db3 file.")],
    rate: Annotated[float, typer.Option(help="Speed; 1 = as recorded.")] = 1.0,
    loop: Annotated[bool, typer.Option(help="Start over for ever; stamps jump back.")] = False,
    clock: Annotated[bool, typer.Option(help="Publish the bag's time on /clock.")] = False,
    topics: Annotated[list[str] | None, typer.Option(help="Only this topic; may be given several times.")] = None,
    restamp: Annotated[
        RestampChoice,
        typer.Option(help="keep: the recorded stamps; now: moved to the time of playing, gaps between streams kept."),
    ] = RestampChoice.KEEP,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for subscribers on all topics.")] = 0.0,
) -> None:
    """Publish a bag's messages through DDS at their own pace (needs rclpy)."""
    o.need_rclpy("bag play")
    from cmdtrack_ros.ros.replay.player import play

    report = play(bag, rate=rate, loop=loop, clock=clock, topics=topics, restamp=restamp.value, wait=wait)
    typer.echo(
        f"{bag}: {report.messages} messages in {report.seconds:.2f} s, at most {report.late_ms:.1f} ms behind schedule"
    )


@bag_app.command("info")
def bag_info(bag: Annotated[Path, typer.Argument(help="Bag folder, .mcap or .db3 file.")]) -> None:
    """List the topics of a bag."""
    from cmdtrack_ros.data.bags import Bag

    with Bag(bag) as opened:
        typer.echo(f"{bag}: {opened.duration_ns / 1e9:.2f} s from {opened.start_ns / 1e9:.3f} s")
        for key, value in opened.custom.items():
            typer.echo(f"  {key}: {value}")
        width = max((len(topic) for topic in opened.types), default=0)
        for topic, kind in sorted(opened.types.items()):
            typer.echo(f"  {topic:{width}}  {opened.counts[topic]:6d}  {kind}")
