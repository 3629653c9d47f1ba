"""`cmdtrack <verb>`: everything a user starts by hand.

Verbs import what they need when they run, so that `--help` is quick and works without ROS or torch.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer

from cmdtrack_ros.errors import CmdtrackError, ConfigError

# typer evaluates the annotations of commands, hence Optional (Python 3.10's typer needs no more than that).
app = typer.Typer(
    help="Follow one target through RGB and thermal, depth or event images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
bag_app = typer.Typer(help="Write, play and look into recordings (rosbag2).", no_args_is_help=True)
app.add_typer(bag_app, name="bag")

# Packages that bring verbs of their own, through a function `register(app)`.
VERB_MODULES = ("cmdtrack_ros.evaluation.cli", "cmdtrack_ros.training.cli")


class RestampChoice(str, Enum):
    KEEP = "keep"
    NOW = "now"


class ModalityChoice(str, Enum):
    RGB = "rgb"
    THERMAL = "thermal"
    DEPTH = "depth"
    EVENT = "event"


@bag_app.command("write")
def bag_write(
    recording: Annotated[Path, typer.Argument(help="Sequence folder (any known layout) or video file.")],
    output: Annotated[Path, typer.Argument(help="Folder of the new bag.")],
    layout: Annotated[
        str, typer.Option(help="Layout of the folder; auto tells it from its content.")
    ] = "auto",
    aux_video: Annotated[
        Optional[str], typer.Option(help="Video of the second camera, frame for frame.")
    ] = None,
    modality: Annotated[Optional[ModalityChoice], typer.Option(help="What the second video shows.")] = None,
    simulate_events: Annotated[
        bool, typer.Option(help="Add events simulated from the colour frames.")
    ] = False,
    compressed: Annotated[bool, typer.Option(help="Colour as JPEG (CompressedImage).")] = False,
    rgb_topic: Annotated[str, typer.Option(help="Topic of the colour images.")] = "/rgb/image",
    aux_topic: Annotated[str, typer.Option(help="Topic of the second camera's images.")] = "/aux/image",
    truth_topic: Annotated[str, typer.Option(help="Topic of the true boxes.")] = "/ground_truth",
    aux_offset: Annotated[float, typer.Option(help="Seconds added to every aux stamp.")] = 0.0,
    aux_jitter: Annotated[
        float, typer.Option(min=0, help="Standard deviation of aux stamps, seconds.")
    ] = 0.0,
    aux_drop: Annotated[float, typer.Option(min=0, max=1, help="Share of aux images left out.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of jitter, drops and simulated events.")] = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace a bag of that name.")] = False,
) -> None:
    """Write a rosbag2 (MCAP) from a sequence folder or a video."""
    from cmdtrack_ros.data.bags import BagOptions, write_bag
    from cmdtrack_ros.data.events import EventSequence
    from cmdtrack_ros.data.recordings import open_recording

    sequence = open_recording(recording, layout, modality=modality and modality.value, aux=aux_video)
    if simulate_events:
        sequence = EventSequence(sequence, seed=seed)
    options = BagOptions(
        rgb_topic, aux_topic, truth_topic, compressed, aux_offset, aux_jitter, aux_drop, seed
    )
    write_bag(sequence, output, options, overwrite=overwrite, progress=sys.stderr.isatty())
    typer.echo(
        f"{output}: {len(sequence)} frames, {sequence.modality}, "
        f"{sequence.stamps[-1] - sequence.stamps[0]:.2f} s"
    )


@bag_app.command("play")
def bag_play(
    bag: Annotated[Path, typer.Argument(help="Bag folder, .mcap or .db3 file.")],
    rate: Annotated[float, typer.Option(help="Speed; 1 = as recorded.")] = 1.0,
    loop: Annotated[bool, typer.Option(help="Start over for ever; stamps jump back.")] = False,
    clock: Annotated[bool, typer.Option(help="Publish the bag's time on /clock.")] = False,
    topics: Annotated[
        Optional[list[str]], typer.Option(help="Only this topic; may be given several times.")
    ] = None,
    restamp: Annotated[
        RestampChoice,
        typer.Option(
            help="keep: the recorded stamps; now: moved to the time of playing, gaps between streams kept.",
        ),
    ] = RestampChoice.KEEP,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for subscribers on all topics.")] = 0.0,
) -> None:
    """Publish a bag's messages through DDS at their own pace (needs rclpy)."""
    _need_rclpy("bag play")
    from cmdtrack_ros.ros.player import play

    report = play(bag, rate=rate, loop=loop, clock=clock, topics=topics, restamp=restamp.value, wait=wait)
    typer.echo(
        f"{bag}: {report.messages} messages in {report.seconds:.2f} s, "
        f"at most {report.late_ms:.1f} ms behind schedule"
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


@app.command()
def track(
    recording: Annotated[Path, typer.Argument(help="Sequence folder, bag or video.")],
    output: Annotated[Path, typer.Option(help="Folder for track.csv and overlay.mp4.")] = Path("out/track"),
    init_box: Annotated[
        Optional[str],
        typer.Option(
            help="x,y,w,h in the first frame, pixels; default: the recording's first true box.",
        ),
    ] = None,
    modality: Annotated[Optional[ModalityChoice], typer.Option(help="Of the second stream.")] = None,
    rgb_topic: Annotated[Optional[str], typer.Option(help="Topic of a bag's colour images.")] = None,
    aux: Annotated[Optional[str], typer.Option(help="Second stream: topic of a bag, or video file.")] = None,
    layout: Annotated[
        str, typer.Option(help="Layout of the folder; auto tells it from its content.")
    ] = "auto",
    weights: Annotated[Optional[Path], typer.Option(help="Weights file; default: the shipped ones.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 = all.")] = 0,
) -> None:
    """Follow a target through a recording, without ROS."""
    from cmdtrack_ros.data.recordings import open_recording
    from cmdtrack_ros.offline import track_recording

    sequence = open_recording(
        recording, layout, modality=modality and modality.value, rgb_topic=rgb_topic, aux=aux
    )
    box = None if init_box is None else _box(init_box)
    for line in track_recording(sequence, output, box, weights=weights, device=device, threads=threads):
        typer.echo(line)


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the bag, the results and the pictures.")] = Path(
        "out/demo"
    ),
    sequence: Annotated[
        Optional[Path],
        typer.Option(
            help="Sequence folder with true boxes; default: a face video and simulated events.",
        ),
    ] = None,
    weights: Annotated[Optional[Path], typer.Option(help="Weights file; default: the shipped ones.")] = None,
    rate: Annotated[
        Optional[float],
        typer.Option(min=0.01, help="Speed of playing; default: 1, and again slower where that is too fast."),
    ] = None,
) -> None:
    """Play a recording through DDS into the tracker node and show what it published (needs rclpy)."""
    _need_rclpy("demo")
    from cmdtrack_ros.demo import run_demo

    for line in run_demo(output, sequence, weights, rate):
        typer.echo(line)


def _box(text: str) -> list[float]:
    try:
        values = [float(word) for word in text.split(",")]
    except ValueError:
        values = []
    if len(values) != 4 or min(values[2:]) <= 0:
        raise ConfigError(f"--init-box {text!r}: expected x,y,w,h with w, h > 0, such as 120,80,40,60")
    return values


def _need_rclpy(verb: str) -> None:
    if importlib.util.find_spec("rclpy") is None:
        raise ConfigError(
            f"`cmdtrack {verb}` needs rclpy: source a ROS 2 installation, or run `make setup` and use "
            ".venv/bin/cmdtrack"
        )


def _register_verbs() -> None:
    for name in VERB_MODULES:
        if importlib.util.find_spec(name) is not None:
            importlib.import_module(name).register(app)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; what is the user's to mend ends in one line on stderr and exit code 1."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    _register_verbs()
    try:
        app(args=arguments)
    except CmdtrackError as error:
        print(f"cmdtrack: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
