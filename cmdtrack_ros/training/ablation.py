"""What each part of the distillation is worth: the same steps, data and seeds for every row of a table.

Rows: ``student`` alone; ``+ CMAE`` (its backbone pre-trained); ``+ SCFD``; ``+ MPSD``; ``all`` (with the
response, too); ``teacher``. Per seed there is one CMAE run for the students, and one teacher, which starts
from ImageNet's weights in all rows.
"""

from __future__ import annotations

import gc
import json
import logging
from pathlib import Path

import numpy as np

from cmdtrack_ros.data import Sequence, load_dataset
from cmdtrack_ros.errors import CmdtrackError
from cmdtrack_ros.models.student import Student
from cmdtrack_ros.models.teacher import Teacher
from cmdtrack_ros.models.weights import load_weights, sha256_of
from cmdtrack_ros.training.config import AblationTraining, Training
from cmdtrack_ros.training.loop import Run
from cmdtrack_ros.training.sources import open_sources
from cmdtrack_ros.training.validation import student_overlap, teacher_overlap

log = logging.getLogger(__name__)


class Interrupted(CmdtrackError):
    """A run was asked to stop before its last step."""


ROWS = ("student", "+ CMAE", "+ SCFD", "+ MPSD", "all", "teacher")


def run_ablation(config: AblationTraining, data: Path, output: Path) -> Path:
    """Train what is missing, score what is not scored, write ``ablation.json`` and ``ablation.md``; returns
    the latter.

    Interrupt and start again as you like: each run resumes from its checkpoint.
    """
    scores: dict[str, list[dict[str, float]]] = {row: [] for row in ROWS}
    for seed in config.seeds:
        folder = output / f"seed_{seed}"
        for row, weights in _train_rows(config, seed, data, folder).items():
            scores[row].append(_score(weights, row, config, data))
    table = {
        row: {name: _spread([score[name] for score in results]) for name in results[0]}
        for row, results in scores.items()
    }
    (output / "ablation.json").write_text(json.dumps({"seeds": config.seeds, "rows": table}, indent=1))
    (output / "ablation.md").write_text(markdown(table, config.seeds))
    return output / "ablation.md"


def _train_rows(config: AblationTraining, seed: int, data: Path, folder: Path) -> dict[str, Path]:
    """The weights file of each row, for one seed."""

    def train(settings: Training, name: str, **changes) -> Path:
        log.info("seed %d: %s", seed, name)
        # A run's decoded frames would stay in memory until the interpreter happens to collect them.
        gc.collect()
        run = Run(settings.model_copy(update={"seed": seed, **changes}), data, folder / name)
        run.train()
        if run.step < settings.steps:
            raise Interrupted(
                f"{run.output}: stopped at step {run.step} of {settings.steps}; start again to go on"
            )
        return run.weights

    cmae = train(config.cmae, "cmae")
    teacher = train(config.teacher, "teacher")
    return {
        "student": train(config.student, "student"),
        "+ CMAE": train(config.student, "student_cmae", init_backbone=cmae),
        "+ SCFD": train(config.distill, "scfd", teacher=teacher, mpsd_weight=0.0, response_weight=0.0),
        "+ MPSD": train(config.distill, "mpsd", teacher=teacher, scfd_weight=0.0, response_weight=0.0),
        "all": train(config.distill, "all", teacher=teacher, init_backbone=cmae),
        "teacher": teacher,
    }


def _score(weights: Path, row: str, config: AblationTraining, data: Path) -> dict[str, float]:
    """Mean IoU of each group of sequences, kept beside the weights; ``held-out`` are those of the student's
    sources.
    """
    file, digest = weights.with_name("scores.json"), sha256_of(weights)
    if file.is_file() and (kept := json.loads(file.read_text()))["sha256"] == digest:
        return kept["scores"]
    network, _ = load_weights(weights, Teacher if row == "teacher" else Student)
    measure = teacher_overlap if row == "teacher" else student_overlap
    scores = {name: measure(network, sequences)["mean"] for name, sequences in _groups(config, data).items()}
    file.write_text(json.dumps({"sha256": digest, "scores": scores}, indent=1))
    return scores


def _groups(config: AblationTraining, data: Path) -> dict[str, list[Sequence]]:
    groups = {str(path): load_dataset(data / path) for path in config.test}
    _, held_out = open_sources(config.student.sources, data)
    return {**groups, "held-out": held_out} if held_out else groups


def _spread(values: list[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "low": min(values), "high": max(values)}


def markdown(table: dict[str, dict[str, dict[str, float]]], seeds: list[int]) -> str:
    """The table for people: mean IoU, and lowest to highest over the seeds."""
    names = list(next(iter(table.values())))
    lines = [
        f"Mean IoU over {len(seeds)} seeds ({', '.join(map(str, seeds))}), lowest to highest in brackets.",
        "",
        f"| | {' | '.join(names)} |",
        f"|---{'|---' * len(names)}|",
    ]
    for row, scores in table.items():
        cells = [
            f"{score['mean']:.3f} ({score['low']:.3f} to {score['high']:.3f})" for score in scores.values()
        ]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
