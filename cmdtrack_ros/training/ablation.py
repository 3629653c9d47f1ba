"""What each part of the distillation is worth: the same steps, data and seeds for every row of a table.

Rows: ``student`` alone; ``+ CMAE`` (its backbone pre-trained); ``+ SCFD``; ``+ MPSD``; ``+ response``;
``+ foreign teacher`` (where the recipe names some); ``all``; ``teacher``. Per seed there is one CMAE run for the
students. The teacher is a run from ImageNet's weights, per seed or one for all, or it is given: one for all seeds.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from itertools import chain, cycle
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cmdtrack_ros.data import ImageSequence, load_dataset
from cmdtrack_ros.errors import writing
from cmdtrack_ros.models.header import sha256_of
from cmdtrack_ros.models.student import Student
from cmdtrack_ros.models.teacher import Teacher
from cmdtrack_ros.models.weights import load_weights
from cmdtrack_ros.tracking.engines.contract import Engine
from cmdtrack_ros.training import comparison
from cmdtrack_ros.training.comparison import compare
from cmdtrack_ros.training.config import AblationTraining, Training
from cmdtrack_ros.training.fixed_pairs import EnginePairs, Overlaps, Unit, measure_each, open_units
from cmdtrack_ros.training.jobs import Run, train_all
from cmdtrack_ros.training.loop import set_up_cpu
from cmdtrack_ros.training.measure import measure_pairs
from cmdtrack_ros.training.pool import PoolPlace
from cmdtrack_ros.training.sources import open_sources
from cmdtrack_ros.training.tasks.distill import teacher_file
from cmdtrack_ros.training.validation import engine_of, find_device, mean_overlap

ROWS = ("student", "+ CMAE", "+ SCFD", "+ MPSD", "+ response", "+ foreign teacher", "all", "teacher")


def run_ablation(config: AblationTraining, data: Path, output: Path, jobs: int = 1) -> Path:
    """Train what is missing, score what is not scored, write ``ablation.json`` and ``ablation.md``; returns
    the latter.

    Interrupt and start again as you like: each run resumes from its checkpoint.

    Args:
        jobs: runs at the same time, see ``jobs.py``, which also says what is raised.
    """
    runs, rows = _plan(config, output)
    train_all(runs, data, jobs)
    yardstick = _yardstick(config, data)
    networks = {row: [_network(file, row, yardstick, config, output) for file in files] for row, files in rows.items()}
    set_up_cpu(config.student.threads)
    _score(list(chain(*networks.values())), yardstick)
    results = {row: [network.found for network in seeds] for row, seeds in networks.items()}
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
    text = markdown(table, config.seeds) if yardstick.groups else ""
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
        partial = file.with_name(file.name + ".partial")
        partial.write_text(text)
        partial.replace(file)


def _plan(config: AblationTraining, output: Path) -> tuple[list[Run], dict[str, list[Path]]]:
    """All runs, and the weights files of each row, one per seed; of one teacher for all seeds, one."""
    runs: list[Run] = []
    # Those without foreign trackers see the samples of those with them, and do not listen.
    pools = PoolPlace(output / "samples", tuple(config.distill.foreign), config.distill.wants_foreign_features)
    same: list[dict] = [{}] * len(config.seeds)

    def train(name: str, settings: Training, per_seed: list[dict] = same, **changes: Any) -> list[Path]:
        """One run per seed, with changes of the settings: of each seed, and of all."""
        planned = [
            Run(settings.model_copy(update={"seed": seed, **own, **changes}), output / f"seed_{seed}" / name, pools)
            for seed, own in zip(config.seeds, per_seed)
        ]
        runs.extend(planned)
        return [run.weights for run in planned]

    if config.teacher is None:
        teacher, taught = [teacher_file(config.distill)], same
    else:  # first, as most of the others wait for it
        teacher = train("teacher", config.teacher, same[:1] if config.one_teacher else same)
        taught = [{"teacher": file} for _, file in zip(config.seeds, cycle(teacher))]
    cmae = [{"init_backbone": file} for file in train("cmae", config.cmae)]
    without = {"scfd_weight": 0.0, "mpsd_weight": 0.0, "response_weight": 0.0, "foreign": []}

    def part(name: str, **own: Any) -> list[Path]:
        return train(name, config.distill, taught, **{**without, **own})

    foreign = config.distill.foreign
    alone = {**without, "foreign": foreign, "teacher": None}  # waits for no own teacher
    rows = {
        "student": train("student", config.student),
        "+ CMAE": train("student_cmae", config.student, cmae),
        "+ SCFD": part("scfd", scfd_weight=config.distill.scfd_weight),
        "+ MPSD": part("mpsd", mpsd_weight=config.distill.mpsd_weight),
        "+ response": part("response", response_weight=config.distill.response_weight),
        **({"+ foreign teacher": train("foreign", config.distill, **alone)} if foreign else {}),
        "all": train("all", config.distill, [{**a, **b} for a, b in zip(taught, cmae, strict=True)]),
        "teacher": teacher,
    }
    return runs, rows


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


@dataclass(frozen=True)
class _Network:
    """A network of the table, and what is known of it.

    Attributes:
        kind: ``Student`` or ``Teacher``.
        file: keeps what is known.
        key: of what that is known: the weights and what they were scored on.
        found: ``scores``, mean IoU of each group of sequences, and of all; ``pairs``, overlaps of each unit.
    """

    weights: Path
    kind: type[Student] | type[Teacher]
    file: Path
    key: dict[str, Any]
    found: dict[str, dict]

    def add(self, what: str, found: dict) -> None:
        self.found[what].update(found)
        _write(self.file, json.dumps({**self.key, **self.found}))


def _network(weights: Path, row: str, yardstick: _Yardstick, config: AblationTraining, output: Path) -> _Network:
    """With what is kept of it beside its weights; a given teacher lies where nothing may be written."""
    given = row == "teacher" and config.teacher is None
    file = output / "teacher" / "scores.json" if given else weights.with_name("scores.json")
    key = {"sha256": sha256_of(weights), "units": [unit.name for unit in yardstick.units], "count": yardstick.count}
    kept = json.loads(file.read_text()) if file.is_file() else {}
    known = kept if kept.items() >= key.items() else {"scores": {}, "pairs": {}}
    found = {what: known[what] for what in ("scores", "pairs")}
    return _Network(weights, Teacher if row == "teacher" else Student, file, key, found)


def _score(networks: list[_Network], yardstick: _Yardstick) -> None:
    """What is not known yet: sequences network by network, the fixed pairs in one pass of all, kept unit by unit."""
    names, place = {unit.name for unit in yardstick.units}, find_device()
    asked = [network for network in networks if not network.found["scores"] or names - set(network.found["pairs"])]
    engines = {
        str(network.file): engine_of(load_weights(network.weights, network.kind)[0].to(place)) for network in asked
    }
    for network in tqdm(asked, unit="network", disable=not yardstick.groups):
        if not network.found["scores"]:
            network.add("scores", _sequence_scores(engines[str(network.file)], yardstick))
    left = [unit for unit in yardstick.units if any(unit.name not in network.found["pairs"] for network in asked)]
    trackers = {name: EnginePairs(engine) for name, engine in engines.items()}
    for overlaps in measure_each(trackers, left, yardstick.count):
        for network in asked:
            network.add("pairs", overlaps[str(network.file)])


def _sequence_scores(engine: Engine, yardstick: _Yardstick) -> dict[str, float]:
    if not yardstick.groups:
        return {}
    scores = {name: mean_overlap(engine, sequences)["mean"] for name, sequences in yardstick.groups.items()}
    counts = [len(sequences) for sequences in yardstick.groups.values()]
    return {**scores, "all sequences": float(np.average(list(scores.values()), weights=counts))}


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
