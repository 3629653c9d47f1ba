"""What each part of the distillation is worth: the same steps, data and seeds for every row of a table.

Rows: ``student`` alone; ``+ CMAE`` (its backbone pre-trained); ``+ SCFD``; ``+ MPSD``; ``+ foreign teacher``
(where the recipe names some); ``all`` (with the response, too); ``teacher``. Per seed there is one CMAE run for
the students. The teacher is either one run per seed, from ImageNet's weights, or given: one for all seeds.
"""

from __future__ import annotations

import gc
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from cmdtrack_ros.data import ImageSequence, load_dataset
from cmdtrack_ros.errors import CmdtrackError, writing
from cmdtrack_ros.models.header import sha256_of
from cmdtrack_ros.models.student import Student
from cmdtrack_ros.models.teacher import Teacher
from cmdtrack_ros.models.weights import load_weights
from cmdtrack_ros.training import comparison
from cmdtrack_ros.training.comparison import compare
from cmdtrack_ros.training.config import AblationTraining, Training
from cmdtrack_ros.training.fixed_pairs import EnginePairs, Overlaps, Unit, measure, open_units
from cmdtrack_ros.training.loop import Trainer
from cmdtrack_ros.training.measure import measure_pairs
from cmdtrack_ros.training.sources import open_sources
from cmdtrack_ros.training.tasks.distill import teacher_file
from cmdtrack_ros.training.validation import engine_of, mean_overlap

log = logging.getLogger(__name__)


ROWS = ("student", "+ CMAE", "+ SCFD", "+ MPSD", "+ foreign teacher", "all", "teacher")


class AblationStoppedError(CmdtrackError):
    """A run was asked to stop before its last step."""


def run_ablation(config: AblationTraining, data: Path, output: Path) -> Path:
    """Train what is missing, score what is not scored, write ``ablation.json`` and ``ablation.md``; returns
    the latter.

    Interrupt and start again as you like: each run resumes from its checkpoint.
    """
    weights = _train_rows(config, data, output)
    yardstick = _yardstick(config, data)
    # A given teacher lies where nothing may be written beside it.
    given = output / "teacher" / "scores.json" if config.teacher is None else None
    results = {
        row: [_score(file, row, yardstick, given if row == "teacher" else None) for file in files]
        for row, files in weights.items()
    }
    table = {
        row: {name: _spread([result["scores"][name] for result in seeds]) for name in seeds[0]["scores"]}
        for row, seeds in results.items()
    }
    pairs = compare({row: [result["pairs"] for result in seeds] for row, seeds in results.items()})
    rows = {
        f"{modality}, {stream}": {row: asdict(entry) for row, entry in entries.items()}
        for (modality, stream), entries in pairs.items()
    }
    _write(output / "ablation.json", json.dumps({"seeds": config.seeds, "rows": table, "pairs": rows}, indent=1))
    text = markdown(table, config.seeds)
    if pairs:
        text += f"\nFixed pairs, mean of the seeds. {comparison.markdown(pairs)}"
        text += _worth(config, [result["pairs"] for result in results["student"]], data, output / "measure")
    _write(output / "ablation.md", text)
    return output / "ablation.md"


def _worth(config: AblationTraining, student: list[Overlaps], data: Path, folder: Path) -> str:
    """Of each foreign teacher, whether it knows enough more than the student alone."""
    split, names = config.student.split, [str(path) for path in config.distill.foreign]
    if split is None or not names:
        return ""
    found = measure_pairs(names, split, data, folder, config.fixed_pairs)
    table = compare({"student": student, **{name: [overlaps] for name, overlaps in found.items()}})
    return "".join(f"\n{line}\n" for line in comparison.verdicts(table))


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
    without = {"scfd_weight": 0.0, "mpsd_weight": 0.0, "response_weight": 0.0, "foreign": []}

    def part(name: str, **own) -> list[Path]:
        return train(name, config.distill, taught, **{**without, **own})

    foreign = config.distill.foreign
    return {
        "student": student,
        "+ CMAE": student_cmae,
        "+ SCFD": part("scfd", scfd_weight=config.distill.scfd_weight),
        "+ MPSD": part("mpsd", mpsd_weight=config.distill.mpsd_weight),
        **({"+ foreign teacher": part("foreign", foreign=foreign)} if foreign else {}),
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


@dataclass(frozen=True)
class _Yardstick:
    """What networks are scored on: whole sequences in groups, and ``count`` fixed pairs of each unit."""

    groups: dict[str, list[ImageSequence]]
    units: list[Unit]
    count: int


def _yardstick(config: AblationTraining, data: Path) -> _Yardstick:
    """The test folders and, as ``held-out``, the sequences of the student's sources; pairs of the student's split."""
    groups = {str(path): load_dataset(data / path) for path in config.test}
    split = config.student.split
    _, held_out = open_sources(config.student.sources, data, split)
    units = open_units(split, data) if split is not None and config.fixed_pairs else []
    return _Yardstick({**groups, "held-out": held_out} if held_out else groups, units, config.fixed_pairs)


def _score(weights: Path, row: str, yardstick: _Yardstick, file: Path | None) -> dict[str, dict]:
    """``scores``: mean IoU of each group of sequences, and of all; ``pairs``: overlaps of the fixed pairs. Kept in
    ``file``, None = beside the weights.
    """
    file = file or weights.with_name("scores.json")
    key = {"sha256": sha256_of(weights), "units": [unit.name for unit in yardstick.units], "count": yardstick.count}
    if file.is_file() and (kept := json.loads(file.read_text())).items() >= key.items():
        return kept
    engine = engine_of(load_weights(weights, Teacher if row == "teacher" else Student)[0])
    scores = {name: mean_overlap(engine, sequences)["mean"] for name, sequences in yardstick.groups.items()}
    counts = [len(sequences) for sequences in yardstick.groups.values()]
    scores["all sequences"] = float(np.average(list(scores.values()), weights=counts))
    pairs = measure({row: EnginePairs(engine)}, yardstick.units, yardstick.count)[row]
    result = {"scores": scores, "pairs": pairs}
    _write(file, json.dumps({**key, **result}))
    return result


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
