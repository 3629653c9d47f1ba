"""`cmdtrack train ...`: the training verbs of the command line.

Several processes or machines train as one when the command is started by torchrun:
`torchrun --nproc-per-node 2 -m cmdtrack_ros.cli train student ...`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

train_app = typer.Typer(no_args_is_help=True, help="Train networks.")

Config = Annotated[Path, typer.Option(help="YAML file, such as those in config/train.")]
Output = Annotated[Path, typer.Option(help="Folder of checkpoint, weights, TensorBoard logs and pictures.")]
Data = Annotated[Optional[Path], typer.Option(help="Folder that the configuration's paths start from "
                                                   "[default: CMDTRACK_DATA].")]
Backbone = Annotated[Optional[Path], typer.Option(help="Weights of a cmae run to start the backbone from.")]
Seed = Annotated[Optional[int], typer.Option(min=0, help="Instead of the configuration's.")]


def register(app: typer.Typer) -> None:
    """Add the training verbs to the command line."""
    app.add_typer(train_app, name="train")


@train_app.callback()
def _train() -> None:
    """Train networks; each verb resumes from the last checkpoint in its output folder."""


@train_app.command()
def cmae(config: Config, output: Output, data: Data = None, seed: Seed = None) -> None:
    """Pre-train a backbone: restore patches of one modality with the help of the other."""
    from cmdtrack_ros.training.config import AutoencoderTraining

    _run(AutoencoderTraining, config, output, data, seed=seed)


@train_app.command()
def teacher(
    config: Config, output: Output, data: Data = None, seed: Seed = None, init_backbone: Backbone = None,
    init: Annotated[Optional[Path], typer.Option(help="Weights of a teacher to start from.")] = None,
) -> None:
    """Train the teacher."""
    from cmdtrack_ros.training.config import TeacherTraining

    _run(TeacherTraining, config, output, data, seed=seed, init_backbone=init_backbone, init=init)


@train_app.command()
def student(
    config: Config, output: Output, data: Data = None, seed: Seed = None, init_backbone: Backbone = None,
    init: Annotated[Optional[str], typer.Option(help="Weights to start from, 'shipped' for the package's own.")] = None,
) -> None:
    """Train the student by itself, or fine-tune it."""
    from cmdtrack_ros.training.config import StudentTraining

    _run(StudentTraining, config, output, data, seed=seed, init_backbone=init_backbone, init=init)


@train_app.command()
def distill(
    config: Config, output: Output, data: Data = None, seed: Seed = None, init_backbone: Backbone = None,
    teacher: Annotated[Optional[Path], typer.Option(help="Weights of a teacher run.")] = None,
    init: Annotated[Optional[str], typer.Option(help="Weights to start from, 'shipped' for the package's own.")] = None,
) -> None:
    """Train the student under a teacher."""
    from cmdtrack_ros.training.config import DistillTraining

    _run(DistillTraining, config, output, data, seed=seed, init_backbone=init_backbone, teacher=teacher, init=init)


@train_app.command()
def ablation(config: Config, output: Output, data: Data = None) -> None:
    """Train the student with and without each part of the distillation, and write a table."""
    from cmdtrack_ros.training.ablation import run_ablation
    from cmdtrack_ros.training.config import AblationTraining, data_folder, load_config

    typer.echo(run_ablation(load_config(config, AblationTraining), data_folder(data), output).read_text())


def _run(kind: type, config: Path, output: Path, data: Path | None, **changes: Any) -> None:
    from cmdtrack_ros.training.config import data_folder, load_config
    from cmdtrack_ros.training.loop import Run

    Run(load_config(config, kind, **changes), data_folder(data), output).train()
