"""What each part of the distillation is worth: the same steps, data and seeds for every row of a table.

Rows: ``student`` alone; ``+ CMAE`` (its backbone pre-trained); ``+ SCFD``; ``+ MPSD``; ``+ response``;
``+ foreign teacher``; ``all`` that the recipe has; ``teacher``. Trained is what the recipe's rows need. Per seed there
is one CMAE run for the students. The teacher is a run from ImageNet's weights, per seed or one for all, or it is given:
one for all seeds.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from itertools import chain, cycle
from pathlib import Path
from typing import Any, get_args

import numpy as np
from tqdm import tqdm

from cmdtrack_ros.data import ImageSequence, load_dataset, load_sequence
from cmdtrack_ros.errors import ConfigError, writing
from cmdtrack_ros.models.header import sha256_of
from cmdtrack_ros.tracking.engines.contract import Engine
from cmdtrack_ros.tracking.tracker import Tracker
from cmdtrack_ros.training import comparison
from cmdtrack_ros.training.comparison import compare
from cmdtrack_ros.training.config import AblationTraining, Row, StudentTraining, Training
from cmdtrack_ros.training.fixed_pairs import EnginePairs, Overlaps, Unit, measure_each, open_units
from cmdtrack_ros.training.jobs import Run, train_all
from cmdtrack_ros.training.loop import set_up_cpu
from cmdtrack_ros.training.measure import measure_pairs, open_engine, passes, validation_sequences
from cmdtrack_ros.training.pool import PoolPlace
from cmdtrack_ros.training.sources import open_sources
from cmdtrack_ros.training.tasks.distill import teacher_file
from cmdtrack_ros.training.validation import find_device, mean_overlap

ROWS: tuple[str, ...] = get_args(Row)
_WEIGHTS = {"+ SCFD": "scfd_weight", "+ MPSD": "mpsd_weight", "+ response": "response_weight"}
_TAUGHT = {*_WEIGHTS, "all", "teacher"}


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
    found = {row: [network.found for network in seeds] for row, seeds in networks.items()}
    return _report(found, yardstick, config, data, output)


def _report(
    found: dict[str, list[dict]], yardstick: _Yardstick, config: AblationTraining, data: Path, output: Path
) -> Path:
    """``found``: of the networks of each row, one per seed."""
    groups = {
        row: {name: _spread([one["scores"][name] for one in seeds]) for name in seeds[0]["scores"]}
        for row, seeds in found.items()
    }
    pairs = compare({row: [one["pairs"] for one in seeds] for row, seeds in found.items()})
    names = [path.name for path in yardstick.sequences]
    passed = compare(
        {row: [{name: one["passes"][name] for name in names} for one in seeds] for row, seeds in found.items()}
    )
    results = {"seeds": config.seeds, "rows": groups, "pairs": _plain(pairs), "sequences": _plain(passed)}
    _write(output / "ablation.json", json.dumps(results, indent=1))
    text = markdown(groups, config.seeds) if yardstick.groups else ""
    if pairs:
        text += f"\nFixed pairs, mean of the seeds. {comparison.markdown(pairs)}"
        text += _worth(config, [one["pairs"] for one in found["student"]], data, output / "measure")
    if passed:
        text += f"\nWhole sequences, passes from several starts, mean of the seeds. {comparison.markdown(passed)}"
    _write(output / "ablation.md", text)
    return output / "ablation.md"


def _plain(table: comparison.Table) -> dict:
    """For JSON."""
    return {
        f"{modality}, {stream}": {row: asdict(entry) for row, entry in entries.items()}
        for (modality, stream), entries in table.items()
    }


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


def _rows(config: AblationTraining) -> list[str]:
    """Those of the recipe, in the table's order; ConfigError: something that one of them needs is not there."""
    distill = config.distill
    taught = config.teacher is not None or distill.teacher is not None
    own = any(getattr(distill, weight) for weight in _WEIGHTS.values())
    teacher = "a teacher (its settings, distill.teacher or --teacher)"
    foreign = "folders of foreign trackers (distill.foreign or --foreign)"
    needs = [
        ("+ CMAE", config.cmae is not None, "settings of cmae"),
        *((row, taught, teacher) for row in (*_WEIGHTS, "teacher")),
        *((row, getattr(distill, weight) > 0, f"distill.{weight} above 0") for row, weight in _WEIGHTS.items()),
        ("+ foreign teacher", bool(distill.foreign), foreign),
        ("all", taught or not own, f"{teacher}, or none of distill's {', '.join(_WEIGHTS.values())}"),
        ("all", own or bool(distill.foreign), f"one of distill's {', '.join(_WEIGHTS.values())} above 0, or {foreign}"),
    ]
    missing = {row: what for row, there, what in reversed(needs) if not there}
    if wrong := [f"{row!r} needs {missing[row]}, and there is none" for row in config.rows or () if row in missing]:
        raise ConfigError(f"rows: {'; '.join(wrong)}")
    return [row for row in ROWS if row in (ROWS if config.rows is None else config.rows) and row not in missing]


def _plan(config: AblationTraining, output: Path) -> tuple[list[Run], dict[str, list[Path]]]:
    """The runs that are needed, and the weights files of each row, one per seed; of one teacher for all seeds, one."""
    rows = _rows(config)
    runs: list[Run] = []
    # Those without foreign trackers see the samples of those with them, and do not listen.
    pools = PoolPlace(output / "samples", tuple(config.distill.foreign), config.distill.wants_foreign_features)
    same: list[dict] = [{}] * len(config.seeds)

    def train(name: str, settings: Training, per_seed: list[dict] = same) -> list[Path]:
        """One run per seed, with changes of its settings."""
        planned = [
            Run(settings.model_copy(update={"seed": seed, **own}), output / f"seed_{seed}" / name, pools)
            for seed, own in zip(config.seeds, per_seed)
        ]
        runs.extend(planned)
        return [run.weights for run in planned]

    teacher, taught, cmae = list[Path](), same, same
    if config.distill.teacher is not None:
        teacher = [teacher_file(config.distill)]
    elif config.teacher is not None and not _TAUGHT.isdisjoint(rows):  # first, as most of the others wait for it
        teacher = train("teacher", config.teacher, same[:1] if config.one_teacher else same)
        taught = [{"teacher": file} for _, file in zip(config.seeds, cycle(teacher))]
    if config.cmae is not None and not {"+ CMAE", "all"}.isdisjoint(rows):
        cmae = [{"init_backbone": file} for file in train("cmae", config.cmae)]
    whole = [{**a, **b} for a, b in zip(taught, cmae, strict=True)]
    per_seed = {**dict.fromkeys(_WEIGHTS, taught), "+ CMAE": cmae, "all": whole}
    students = {row: train(*_student(row, config), per_seed.get(row, same)) for row in rows if row != "teacher"}
    return runs, {**students, "teacher": teacher} if "teacher" in rows else students


def _student(row: str, config: AblationTraining) -> tuple[str, StudentTraining]:
    """The name of a row's runs and their settings, but for what differs from seed to seed."""
    distill = config.distill
    if row in ("student", "+ CMAE"):
        return "student" if row == "student" else "student_cmae", config.student
    if row == "all":
        return "all", distill
    without: dict[str, Any] = {**dict.fromkeys(_WEIGHTS.values(), 0.0), "foreign": []}
    if row == "+ foreign teacher":  # waits for no own teacher
        return "foreign", distill.model_copy(update={**without, "foreign": distill.foreign, "teacher": None})
    weight = _WEIGHTS[row]
    return weight.removesuffix("_weight"), distill.model_copy(update={**without, weight: getattr(distill, weight)})


@dataclass(frozen=True)
class _Yardstick:
    """What networks are scored on.

    Attributes:
        groups: of whole sequences, seen as they are.
        units: of which each has ``count`` fixed pairs.
        sequences: folders of whole sequences, seen as ``passes`` of ``measure.py`` says.
    """

    groups: dict[str, list[ImageSequence]]
    units: list[Unit]
    count: int
    sequences: list[Path]


def _yardstick(config: AblationTraining, data: Path) -> _Yardstick:
    """The test folders and, as ``held-out``, the sequences of the student's sources; the student's split."""
    groups = {str(path): load_dataset(data / path) for path in config.test}
    split = config.student.split
    _, held_out = open_sources(config.student.sources, data, split)
    units = open_units(split, data) if split is not None and config.fixed_pairs else []
    sequences = validation_sequences(split, data) if split is not None and config.sequences else []
    return _Yardstick({**groups, "held-out": held_out} if held_out else groups, units, config.fixed_pairs, sequences)


@dataclass(frozen=True)
class _Network:
    """A network of the table, and what is known of it.

    Attributes:
        file: keeps what is known.
        key: of what that is known: the weights and what they were scored on.
        found: ``scores``, mean IoU of each group of sequences, and of all; ``pairs``, overlaps of each unit;
            ``passes``, mean IoU of each sequence's.
    """

    weights: Path
    file: Path
    key: dict[str, Any]
    found: dict[str, dict]

    def add(self, what: str, found: dict) -> None:
        self.found[what].update(found)
        _write(self.file, json.dumps({**self.key, **self.found}))

    def lacks(self, yardstick: _Yardstick) -> bool:
        """Whether anything of it is not known yet."""
        units, sequences = {unit.name for unit in yardstick.units}, {path.name for path in yardstick.sequences}
        unscored = bool(yardstick.groups) and not self.found["scores"]
        return unscored or not units <= set(self.found["pairs"]) or not sequences <= set(self.found["passes"])


def _network(weights: Path, row: str, yardstick: _Yardstick, config: AblationTraining, output: Path) -> _Network:
    """With what is kept of it beside its weights; a given teacher lies where nothing may be written."""
    given = row == "teacher" and config.teacher is None
    file = output / "teacher" / "scores.json" if given else weights.with_name("scores.json")
    key = {"sha256": sha256_of(weights), "units": [unit.name for unit in yardstick.units], "count": yardstick.count}
    kept = json.loads(file.read_text()) if file.is_file() else {}
    known = kept if kept.items() >= key.items() else {}
    whole = kept if kept.get("sha256") == key["sha256"] else {}  # of these, no units are asked
    found = {"scores": known.get("scores", {}), "pairs": known.get("pairs", {}), "passes": whole.get("passes", {})}
    return _Network(weights, file, key, found)


def _score(networks: list[_Network], yardstick: _Yardstick) -> None:
    """What is not known yet: the groups network by network; the fixed pairs in one pass of all networks, kept unit by
    unit; whole sequences network by network, kept one by one."""
    place, asked = find_device(), [network for network in networks if network.lacks(yardstick)]
    engines = {str(network.file): open_engine(network.weights, place) for network in asked}
    for network in tqdm(asked, unit="network", disable=not yardstick.groups):
        if yardstick.groups and not network.found["scores"]:
            network.add("scores", _sequence_scores(engines[str(network.file)], yardstick))
    left = [unit for unit in yardstick.units if any(unit.name not in network.found["pairs"] for network in asked)]
    trackers = {name: EnginePairs(engine) for name, engine in engines.items()}
    for overlaps in measure_each(trackers, left, yardstick.count, bar=bool(left)):
        for network in asked:
            network.add("pairs", overlaps[str(network.file)])
    for network in asked:
        _pass(network, engines[str(network.file)], yardstick.sequences)


def _pass(network: _Network, engine: Engine, sequences: list[Path]) -> None:
    """Whole sequences, those that are not known yet."""
    left = [path for path in sequences if path.name not in network.found["passes"]]
    for path in tqdm(left, unit="sequence", desc="/".join(network.file.parts[-3:-1]), disable=not left):
        found = passes(lambda modality: Tracker(engine, modality), load_sequence(path))
        network.add("passes", {path.name: found})


def _sequence_scores(engine: Engine, yardstick: _Yardstick) -> dict[str, float]:
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
