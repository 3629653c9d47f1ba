"""`cmdtrack benchmark`: how fast everything is on this machine."""

from __future__ import annotations

import importlib.util
import json as json_module
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cmdtrack_ros.cli.options import DeviceOption, WeightsOption, check_plot
from cmdtrack_ros.errors import writing

if TYPE_CHECKING:
    from cmdtrack_ros.evaluation.benchmark.node import Play


def benchmark(
    recording: Annotated[
        Path | None, typer.Option(help="Sequence folder, bag or video with true boxes; default: the demo's.")
    ] = None,
    weights: WeightsOption = None,
    nanotrack_weights: Annotated[
        Path | None, typer.Option(help="Folder of NanoTrack's two ONNX files, to measure it too.")
    ] = None,
    device: DeviceOption = "cpu",
    rounds: Annotated[int, typer.Option(min=1, help="Of which the medians are given.")] = 5,
    frames: Annotated[int, typer.Option(min=1, help="That each tracker counts in a round.")] = 30,
    targets: Annotated[
        int, typer.Option(min=1, max=16, help="That ours follows at once: 2 up to this many are measured.")
    ] = 2,
    node: Annotated[bool, typer.Option(help="Play recordings into the node, too (needs rclpy).")] = True,
    quick: Annotated[bool, typer.Option(help="One engine and two image sizes: to see that it runs.")] = False,
    json: Annotated[Path | None, typer.Option(help="File for all figures.")] = None,
    plot: Annotated[Path | None, typer.Option(help="File for a plot (.png, .svg, .pdf).")] = None,
) -> None:
    """Measure the tracker, its engines and the node on this machine, beside other trackers in the same rounds.

    With --device cuda the engines of a GPU are measured beside those of the CPU. The first line says whether other
    processes used the cores meanwhile.
    """
    from rich.console import Console

    from cmdtrack_ros.data.recordings import open_recording
    from cmdtrack_ros.demo import demo_sequence
    from cmdtrack_ros.evaluation.benchmark import report
    from cmdtrack_ros.evaluation.benchmark.run import Plan, run_benchmark
    from cmdtrack_ros.evaluation.benchmark.run import quick as quick_plan
    from cmdtrack_ros.evaluation.results import write_text

    check_plot(plot)
    sequence = demo_sequence() if recording is None else open_recording(recording)
    plan = quick_plan(rounds, frames, targets) if quick else Plan(rounds, frames, targets=targets)
    play, why_not = _player() if node else (None, "not asked for (--no-node)")
    result = run_benchmark(sequence, plan, weights, nanotrack_weights, device, play)
    if play is None:
        result.skipped["node"] = why_not
    console = Console(width=None if sys.stdout.isatty() else 200)
    for part in report.tables(result):
        console.print(part, markup=False, highlight=False)
    if json is not None:
        write_text(json, json_module.dumps(report.as_json(result, shlex.join(sys.argv)), indent=2) + "\n")
    if plot is not None:
        with writing(plot):
            plot.parent.mkdir(parents=True, exist_ok=True)
            report.plot(result).savefig(plot)


def _player() -> tuple[Play | None, str]:
    """What plays bags into a node, None and the reason where that cannot be done."""
    if importlib.util.find_spec("rclpy") is None:
        return None, "rclpy cannot be imported: source a ROS 2 installation, or use `make setup`'s .venv"
    from cmdtrack_ros.ros.replay.session import play_into_node

    return play_into_node, ""
