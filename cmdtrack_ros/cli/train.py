"""`cmdtrack train ...`: the training verbs of the command line.

Several processes or machines train as one when the command is started by torchrun:
`torchrun --nproc-per-node 2 -m cmdtrack_ros.cli train student ...`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

from cmdtrack_ros.cli.options import DeviceOption
from cmdtrack_ros.errors import ConfigError

train_app = typer.Typer(no_args_is_help=True, help="Train networks.")

EXIT_CODE_STOPPED = 130
"""Of a run that was asked to stop, as of a program ended by Ctrl-C."""

Config = Annotated[Path | None, typer.Option(help="YAML file; default: that of the verb in config/train.")]
Output = Annotated[
    Path | None,
    typer.Option(help="Folder of checkpoint, weights, logs and pictures; default: runs/NAME of the configuration."),
]
Data = Annotated[
    Path | None, typer.Option(help="Folder that the configuration's paths start from; default: $CMDTRACK_DATA.")
]
Seed = Annotated[int | None, typer.Option(min=0, help="Instead of the configuration's.")]
Backbone = Annotated[Path | None, typer.Option(help="Weights of a cmae run to start the backbone from.")]
Init = Annotated[str | None, typer.Option(help="Weights to start from, 'shipped' for the package's own student.")]
GivenTeacher = Annotated[Path | None, typer.Option(help="Weights of a teacher run, 'shipped' for the package's own.")]
Foreign = Annotated[
    list[Path] | None,
    typer.Option(help="Folder of a foreign tracker's ONNX files (NanoTrack v3, FEAR-XS) to learn from; one or more."),
]

SplitFile = Annotated[
    Path | None,
    typer.Option(help="YAML file that says what is for validation and test; default: config/train/split.yaml."),
]


@train_app.callback()
def _train() -> None:
    """Train networks; each verb resumes from the last checkpoint in its output folder."""


@train_app.command()
def cmae(config: Config = None, output: Output = None, data: Data = None, seed: Seed = None) -> None:
    """Pre-train a backbone: restore patches of one modality with the help of the other."""
    _run("cmae", config, output, data, seed=seed)


@train_app.command()
def teacher(
    config: Config = None,
    output: Output = None,
    data: Data = None,
    seed: Seed = None,
    init_backbone: Backbone = None,
    init: Init = None,
    foreign: Foreign = None,
) -> None:
    """Train the teacher; --init takes a teacher, or a student of the same shape."""
    changes = {"seed": seed, "init_backbone": init_backbone, "init": init, "foreign": foreign or None}
    _run("teacher", config, output, data, **changes)


@train_app.command()
def student(
    config: Config = None,
    output: Output = None,
    data: Data = None,
    seed: Seed = None,
    init_backbone: Backbone = None,
    init: Init = None,
) -> None:
    """Train the student by itself, or (with --init) fine-tune it on recordings of your own."""
    config = config or (shipped_config("finetune") if init else None)
    _run("student", config, output, data, seed=seed, init_backbone=init_backbone, init=init)


@train_app.command()
def distill(
    config: Config = None,
    output: Output = None,
    data: Data = None,
    seed: Seed = None,
    init_backbone: Backbone = None,
    init: Init = None,
    teacher: GivenTeacher = None,
    foreign: Foreign = None,
) -> None:
    """Train the student under a teacher, or under foreign trackers; says of these whether they know enough more."""
    changes = {"seed": seed, "init_backbone": init_backbone, "init": init, "teacher": teacher}
    _run("distill", config, output, data, **changes, foreign=foreign or None)


@train_app.command()
def ablation(
    config: Config = None,
    output: Output = None,
    data: Data = None,
    teacher: GivenTeacher = None,
    foreign: Foreign = None,
    jobs: Annotated[int, typer.Option(min=1, max=256, help="Runs at the same time, each in its own process.")] = 1,
) -> None:
    """Train the student with and without each part of the distillation, and write a table."""
    from cmdtrack_ros.training.ablation import run_ablation
    from cmdtrack_ros.training.config import AblationTraining, data_folder, load_config

    settings = load_config(config or shipped_config("ablation"), AblationTraining)
    if teacher is not None:
        # One teacher for all rows and seeds, instead of one run per seed.
        distill = settings.distill.model_copy(update={"teacher": teacher})
        settings = settings.model_copy(update={"teacher": None, "distill": distill})
    if foreign:
        taught = {
            name: getattr(settings, name) for name in ("teacher", "distill") if getattr(settings, name) is not None
        }
        changed = {name: stage.model_copy(update={"foreign": foreign}) for name, stage in taught.items()}
        settings = settings.model_copy(update=changed)
    table = run_ablation(settings, data_folder(data), output or Path("runs") / "ablation", jobs)
    typer.echo(table.read_text())


@train_app.command()
def average(
    weights: Annotated[list[Path], typer.Argument(help="Students that went on from the same one, two or more.")],
    output: Annotated[Path, typer.Option(help="The file to write.")],
) -> None:
    """Make one student of several that went on from the same one: the mean of their weights."""
    from cmdtrack_ros.training.average import average as write_average

    write_average(weights, output)


@train_app.command()
def measure(
    networks: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH|shipped|nano|permissive...",
            help="Weights of students or teachers, and folders of others' ONNX files (NanoTrack v3, FEAR-XS); all are "
            "compared with the first.",
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder of the results; what is in it is not run again.")] = Path(
        "runs/measure"
    ),
    data: Data = None,
    split: SplitFile = None,
    pairs: Annotated[int, typer.Option(min=1, max=1000, help="Fixed pairs of each recording.")] = 48,
    sequences: Annotated[bool, typer.Option(help="Also whole sequences: both streams, and each alone.")] = False,
    device: DeviceOption = "auto",
) -> None:
    """Compare networks on the same pairs, of recordings that none trains on; which of them is worth learning from."""
    from cmdtrack_ros.training import comparison
    from cmdtrack_ros.training.config import Split, data_folder, load_config
    from cmdtrack_ros.training.measure import measure_pairs, measure_sequences

    parts, folder = load_config(split or shipped_config("split"), Split), data_folder(data)
    measured = measure_pairs(networks, parts, folder, output, pairs, device)
    table = comparison.compare({n: [v] for n, v in measured.items()})
    typer.echo(comparison.markdown(table))
    for line in comparison.verdicts(table):
        typer.echo(line)
    if sequences:
        measured = measure_sequences(networks, parts, folder, output, device)
        table = comparison.compare({n: [v] for n, v in measured.items()})
        typer.echo(f"\nWhole sequences. {comparison.markdown(table)}")


@train_app.command()
def plan(
    gpus: Annotated[int, typer.Option(min=1, max=4096, help="GPUs that train together.")] = 8,
    gpu: Annotated[str, typer.Option(help="Kind of GPU: a100, h100, v100 or rtx4090.")] = "a100",
    recipes: Annotated[
        Path | None, typer.Option(help="Folder of the stages' recipes; default: config/train/full.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of the data sets: looks whether they are there, and times their samples."),
    ] = None,
) -> None:
    """Estimate hours and memory of the full-scale stages on GPUs, and print the commands that start them."""
    from cmdtrack_ros.training import plan as planning
    from cmdtrack_ros.training.config import data_folder

    if gpu not in planning.GPUS:
        raise ConfigError(f"--gpu: expected one of {', '.join(planning.GPUS)}, got {gpu!r}")
    folder = recipes or shipped_config("full/student").parent
    stages = planning.plan(folder, None if data is None else data_folder(data), gpus)
    typer.echo(planning.table(list(tqdm(stages, total=len(planning.STAGES), unit="stage")), gpu, gpus))


@train_app.command()
def label(
    series: Annotated[
        list[Path],
        typer.Argument(help="Folders of registered frames in visible/ and infrared/, in the order of their names."),
    ],
    output: Annotated[Path, typer.Option(help="The file of labels, for a source of kind `labelled`; added to.")],
    teacher: Annotated[
        list[Path], typer.Option(help="Folder of a foreign tracker's ONNX files; two or more, which must agree.")
    ],
    data: Data = None,
    split: SplitFile = None,
    tries: Annotated[int, typer.Option(min=1, max=10_000, help="Object-like boxes to follow in each series.")] = 40,
) -> None:
    """Label video without boxes by foreign trackers that agree; what one stream shows them teaches the other, too."""
    from cmdtrack_ros.training.config import Split, data_folder, load_config
    from cmdtrack_ros.training.foreign import find_foreign
    from cmdtrack_ros.training.labels import write_labels
    from cmdtrack_ros.training.split import SplitFolder

    folder = data_folder(data)
    parts = SplitFolder(load_config(split or shipped_config("split"), Split), folder)
    networks = [find_foreign(path) for path in teacher]
    for name, count in write_labels(output, series, folder, parts, networks, tries).items():
        typer.echo(f"{name}: {count} targets")


def shipped_config(name: str) -> Path:
    """A configuration that comes with the package, in the source tree or where it is installed."""
    for folder in Path(__file__).resolve().parents:
        for place in (folder / "config", folder / "share" / "cmdtrack_ros" / "config"):
            if (file := place / "train" / f"{name}.yaml").is_file():
                return file
    raise ConfigError(f"configuration train/{name}.yaml: not found beside the package; name one by --config")


def _run(verb: str, config: Path | None, output: Path | None, data: Path | None, **changes: Any) -> None:
    """Train by the verb's configuration with changed fields; those that are None stay."""
    from cmdtrack_ros.training.config import RECIPES, data_folder, load_config
    from cmdtrack_ros.training.loop import Trainer

    settings = load_config(config or shipped_config(verb), RECIPES[verb], **changes)
    trainer = Trainer(settings, data_folder(data), output or Path("runs") / settings.name)
    trainer.train()
    if trainer.step < settings.steps:
        raise typer.Exit(EXIT_CODE_STOPPED)
