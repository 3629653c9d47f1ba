"""`cmdtrack train ...`: the training verbs of the command line."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Optional

import typer

train_app = typer.Typer(no_args_is_help=True, help="Train networks.")


def register(app: typer.Typer) -> None:
    """Add the training verbs to the command line."""
    app.add_typer(train_app, name="train")


@train_app.callback()
def _train() -> None:
    """Train networks; each verb resumes from the last checkpoint in its output folder."""


@train_app.command()
def student(
    config: Annotated[Path, typer.Option(help="YAML file, such as config/train/student.yaml.")],
    output: Annotated[Path, typer.Option(help="Folder of checkpoints, weights and TensorBoard logs.")],
    data: Annotated[Optional[Path], typer.Option(help="Folder that the configuration's paths start from "
                                                      "[default: CMDTRACK_DATA].")] = None,
) -> None:
    """Train the student by itself; interrupt and start again as you like."""
    from cmdtrack_ros.training.config import data_folder, load_config
    from cmdtrack_ros.training.student import StudentRun

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    run = StudentRun(load_config(config), data_folder(data), output)
    run.resume()
    run.train()
