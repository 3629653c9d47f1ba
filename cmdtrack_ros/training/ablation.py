"""What each part of the distillation is worth: the same steps, data and seeds for every row of a table.

Rows: ``student`` alone; ``+ CMAE`` (its backbone pre-trained); ``+ SCFD``; ``+ MPSD``; ``all`` (with the
response, too); ``teacher``. Per seed there is one CMAE run for the students. The teacher is either one run
per seed, from ImageNet's weights, or given: one for all seeds.
"""

from __future__ import annotations

import gc
import json
import logging
from pathlib import Path

import numpy as np

from cmdtrack_ros.data import ImageSequence, load_dataset
from cmdtrack_ros.errors import CmdtrackError, writing
from cmdtrack_ros.models.header import sha256_of
from cmdtrack_ros.models.student import Student
from cmdtrack_ros.models.teacher import Teacher
from cmdtrack_ros.models.weights import load_weights
from cmdtrack_ros.training.config import AblationTraining, Training
from cmdtrack_ros.training.loop import Trainer
from cmdtrack_ros.training.sources import open_sources
from cmdtrack_ros.training.tasks.distill import teacher_file
from cmdtrack_ros.training.validation import student_overlap, teacher_overlap

log = logging.getLogger(__name__)


ROWS = ("student", "+ CMAE", "+ SCFD", "+ MPSD", "all", "teacher")


class AblationStoppedError(CmdtrackError):
    """A run was asked to stop before its last step."""


def run_ablation(config: AblationTraining, data: Path, output: Path) -> Path:
    """Train what is missing, score what is not scored, write ``ablation.json`` and ``ablation.md``; returns
    the latter.

    Interrupt and start again as you like: each run resumes from its checkpoint.
    """
    weights = _train_rows(config, data, output)
    groups = _groups(config, data)
    # A given teacher lies where nothing may be written beside it.
    given = output / "teacher" / "scores.json" if config.teacher is None else None
    scores = {
        row: [_score(file, row, groups, given if row == "teacher" else None) for file in files]
        for row, files in weights.items()
    }
    table = {
        row: {name: _spread([score[name] for score in results]) for name in results[0]}
        for row, results in scores.items()
    }
    _write(output / "ablation.json", json.dumps({"seeds": config.seeds, "rows": table}, indent=1))
    _write(output / "ablation.md", markdown(table, config.seeds))
    return output / "ablation.md"


def _write(file: Path, text: str) -> None:
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def _train_rows(config: AblationTraining, data: Path, output: Path) -> dict[str, list[Path]]:
    """The weights files of each row, one per seed; a given teacher has one file in all."""

    same = [{}] * len(config.seeds)

    def train(name: str, settings: Training, per_seed: list[dict] = same, **changes) -> list[Path]:
        """One run per seed, with changes of the settings: of each seed, and of all."""
        return [
            _train(settings.model_copy(update={"seed": seed, **own, **changes}), data, output / f"seed_{seed}" / name)
            for seed, own in zip(config.seeds, per_seed, strict=True)
        ]

    cmae = [{"init_backbone": file} for file in train("cmae", config.cmae)]
    student = train("student", config.student)
    student_cmae = train("student_cmae", config.student, cmae)
    if config.teacher is None:
        teacher, taught = [teacher_file(config.distill)], same
    else:
        teacher = train("teacher", config.teacher)
        taught = [{"teacher": file} for file in teacher]
    return {
        "student": student,
        "+ CMAE": student_cmae,
        "+ SCFD": train("scfd", config.distill, taught, mpsd_weight=0.0, response_weight=0.0),
        "+ MPSD": train("mpsd", config.distill, taught, scfd_weight=0.0, response_weight=0.0),
        "all": train("all", config.distill, [{**a, **b} for a, b in zip(taught, cmae, strict=True)]),
        "teacher": teacher,
    }


def _train(settings: Training, data: Path, output: Path) -> Path:
    """The weights file of a run, which is resumed if it was begun before."""
    log.info("%s", output)
    # A run's decoded frames would stay in memory until the interpreter happens to collect them.
    gc.collect()
    trainer = Trainer(settings, data, output)
    trainer.train()
    if trainer.step < settings.steps:
        raise AblationStoppedError(
            f"{output}: stopped at step {trainer.step} of {settings.steps}; start again to go on"
        )
    return trainer.weights


def _score(weights: Path, row: str, groups: dict[str, list[ImageSequence]], file: Path | None) -> dict[str, float]:
    """Mean IoU of each group of sequences, and of all; kept in ``file``, None = beside the weights."""
    file, digest = file or weights.with_name("scores.json"), sha256_of(weights)
    if file.is_file() and (kept := json.loads(file.read_text()))["sha256"] == digest:
        return kept["scores"]
    network, _ = load_weights(weights, Teacher if row == "teacher" else Student)
    measure = teacher_overlap if row == "teacher" else student_overlap
    scores = {name: measure(network, sequences)["mean"] for name, sequences in groups.items()}
    counts = [len(sequences) for sequences in groups.values()]
    scores["all sequences"] = float(np.average(list(scores.values()), weights=counts))
    _write(file, json.dumps({"sha256": digest, "scores": scores}, indent=1))
    return scores


def _groups(config: AblationTraining, data: Path) -> dict[str, list[ImageSequence]]:
    """The test folders and, as ``held-out``, those of the student's sources."""
    groups = {str(path): load_dataset(data / path) for path in config.test}
    _, held_out = open_sources(config.student.sources, data, config.student.split)
    return {**groups, "held-out": held_out} if held_out else groups


def _spread(values: list[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "low": min(values), "high": max(values)}


def markdown(table: dict[str, dict[str, dict[str, float]]], seeds: list[int]) -> str:
    """The table for people: mean IoU, and lowest to highest over the seeds where there are several."""
    names = list(next(iter(table.values())))
    lines = [
        f"Mean IoU over {len(seeds)} seeds ({', '.join(map(str, seeds))}), lowest to highest in brackets.",
        "",
        f"| | {' | '.join(names)} |",
        f"|---{'|---' * len(names)}|",
    ]
    for row, scores in table.items():
        lines.append(f"| {row} | {' | '.join(_cell(score) for score in scores.values())} |")
    return "\n".join(lines) + "\n"


def _cell(score: dict[str, float]) -> str:
    if score["low"] == score["high"]:
        return f"{score['mean']:.3f}"
    return f"{score['mean']:.3f} ({score['low']:.3f} to {score['high']:.3f})"
