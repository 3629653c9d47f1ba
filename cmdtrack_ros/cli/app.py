"""The command line's entry: which verbs there are, and how their errors look."""

from __future__ import annotations

import logging
import sys
from typing import NoReturn

import typer

from cmdtrack_ros.cli import benchmark, evaluate, track
from cmdtrack_ros.cli.bag import bag_app
from cmdtrack_ros.cli.export import export
from cmdtrack_ros.cli.record import record
from cmdtrack_ros.cli.register import register
from cmdtrack_ros.cli.sync import sync
from cmdtrack_ros.cli.tour import tour
from cmdtrack_ros.cli.train import train_app
from cmdtrack_ros.cli.watch import watch
from cmdtrack_ros.errors import CmdtrackError

app = typer.Typer(
    help="Follow one target through RGB and thermal, depth or event images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for verb in (track.track, track.demo, tour, watch, record):
    app.command()(verb)
app.add_typer(bag_app, name="bag")
app.command()(sync)
app.command()(register)
for verb in (
    evaluate.evaluate,
    evaluate.score,
    evaluate.report,
    evaluate.evaluate_bag,
    evaluate.blackout,
    evaluate.evaluate_confidence,
    evaluate.evaluate_pose,
    benchmark.benchmark,
):
    app.command()(verb)
app.add_typer(train_app, name="train")
app.command()(export)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; what is the user's to mend ends in one line on stderr and exit code 1."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    try:
        app(args=arguments)
    except CmdtrackError as error:
        _end(str(error))
    except OSError as error:  # a folder that is read-only, a disk that is full
        _end(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library in ("", "cmdtrack_ros"):  # a fault of ours
            raise
        _end(f"{library} is needed for this, and {sys.executable} does not have it: docs/robot.md says what to install")


def _end(text: str) -> NoReturn:
    """Some libraries' messages, which ours quote, have several lines."""
    print("cmdtrack:", " ".join(text.split()), file=sys.stderr)
    sys.exit(1)
