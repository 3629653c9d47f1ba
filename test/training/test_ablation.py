"""The ablation's runs and its table."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from standin import write_standin
from tiny_runs import stage

from cmdtrack_ros.data.bags import write_bag
from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.training.ablation import ROWS, _plan, markdown, run_ablation
from cmdtrack_ros.training.config import RECIPES, AblationTraining, DistillTraining, Source, Split, load_config
from cmdtrack_ros.training.jobs import Run, train_all
from synthetic import Drawn, make_block, make_rgb


def test_ablation_writes_a_table_and_resumes(stills, tmp_path):
    write_bag(Drawn(4), tmp_path / "bags" / "one")
    sources = [
        {"kind": "bags", "path": str(tmp_path / "bags"), "held_out_part": 0.5},
        {"kind": "stills", "path": str(stills)},
    ]
    make_block(tmp_path / "seq" / "block", 3)
    common = {"steps": 1, "batch": 2, "sources": sources, "split": Split(validation=["seq/block"])}
    stages = {name: stage(kind, **common) for name, kind in RECIPES.items()}
    foreign = {"foreign": [write_standin(tmp_path / "standin")]}
    stages["distill"] = stages["distill"].model_copy(update=foreign)
    config = AblationTraining(seeds=[1], fixed_pairs=2, sequences=True, **stages)
    table = run_ablation(config, tmp_path, tmp_path / "out").read_text()
    assert all(f"| {row} |" in table for row in ROWS)
    assert "| thermal | aux | 2 |" in table
    assert "(at least 0.03 above student is asked for)." in table
    kept = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert (
        set(kept["rows"]) == set(kept["pairs"]["thermal, both"]) == set(kept["sequences"]["thermal, both"]) == set(ROWS)
    )
    assert list(kept["sequences"]) == [
        f"{of}, {stream}" for of in ("all", "thermal") for stream in ("both", "rgb", "aux")
    ]
    assert "Whole sequences, passes from several starts, mean of the seeds." in table
    assert "| thermal | aux | 2 |" in table.split("Whole sequences")[1]
    assert 0 <= kept["rows"]["all"]["held-out"]["mean"] <= 1
    assert kept["pairs"]["all, rgb"]["student"]["difference"] is None
    assert -1 <= kept["pairs"]["all, rgb"]["all"]["difference"]["low"] <= 1
    stamps = {file: file.stat().st_mtime_ns for file in tmp_path.glob("out/seed_1/*/last.ckpt")}
    assert len(stamps) == 9
    (tmp_path / "out" / "ablation.json").unlink()
    run_ablation(config, tmp_path, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "ablation.json").read_text()) == kept
    given = config.distill.model_copy(update={"teacher": tmp_path / "out/seed_1/teacher/teacher.safetensors"})
    run_ablation(
        config.model_copy(update={"seeds": [1, 2], "teacher": None, "distill": given}), tmp_path, tmp_path / "out"
    )
    assert (tmp_path / "out/teacher/scores.json").is_file()
    assert not (tmp_path / "out/seed_2/teacher").exists()
    assert (tmp_path / "out/seed_2/all").exists()
    assert stamps == {file: file.stat().st_mtime_ns for file in tmp_path.glob("out/seed_1/*/last.ckpt")}


def test_scoring_goes_on_with_the_recordings_that_are_left(stills, teacher_file, tmp_path):
    for name in ("one", "two"):
        make_block(tmp_path / "seq" / name, 3)
    common = {"steps": 1, "split": Split(validation=["seq/*"])}
    config = small(stills, teacher_file, **common).model_copy(update={"fixed_pairs": 2, "sequences": True})
    table = run_ablation(config, tmp_path, tmp_path / "out")
    whole = table.read_text()
    assert "| thermal | both | 4 |" in whole
    assert "Mean IoU over" not in whole  # of sequences: there are none
    file = tmp_path / "out" / "seed_1" / "scfd" / "scores.json"
    kept = json.loads(file.read_text())
    lost = {what: kept[what].pop("two") for what in ("pairs", "passes")}
    for what in lost:
        kept[what]["one"]["mark"] = {"iou": [], "score": []}
    file.write_text(json.dumps(kept))
    table.unlink()
    run_ablation(config, tmp_path, tmp_path / "out")
    found = json.loads(file.read_text())
    assert all(found[what] == {**kept[what], "two": lost[what]} for what in lost)
    assert table.read_text() == whole
    run_ablation(config.model_copy(update={"fixed_pairs": 1}), tmp_path, tmp_path / "out")
    found = json.loads(file.read_text())
    assert "mark" in found["passes"]["one"]  # which have nothing to do with the pairs
    assert "mark" not in found["pairs"]["one"]


def test_passes_of_another_form_are_not_taken(stills, teacher_file, tmp_path):
    """As they were kept when recordings with RGB alone were not seen with events."""
    make_rgb(tmp_path / "seq" / "one")
    config = small(stills, teacher_file, steps=1, split=Split(validation=["seq/*"]))
    config = config.model_copy(update={"rows": ["student"], "sequences": True})
    table = run_ablation(config, tmp_path, tmp_path / "out").read_text()
    assert "| event | aux | 2 |" in table
    file = tmp_path / "out" / "seed_1" / "student" / "scores.json"
    kept = json.loads(file.read_text())
    del kept["passes"]
    file.write_text(json.dumps({**kept, "sequences": {"one": {"modality": "rgb", "rgb": {"iou": [0.0]}}}}))
    assert run_ablation(config, tmp_path, tmp_path / "out").read_text() == table


def small(stills, teacher_file, **common) -> AblationTraining:
    """Under a given teacher."""
    common = {"sources": [{"kind": "stills", "path": str(stills)}], **common}
    stages = {name: stage(RECIPES[name], **common) for name in ("cmae", "student")}
    distill = stage(RECIPES["distill"], teacher=teacher_file, **common)
    return AblationTraining(seeds=[1], fixed_pairs=0, distill=distill, **stages)


def test_runs_at_the_same_time_give_the_same_weights(stills, tmp_path):
    """Also one that must wait for the weights of another."""
    settings = {name: stage(RECIPES[name], sources=[{"kind": "stills", "path": str(stills)}]) for name in RECIPES}
    found = []
    for jobs in (1, 3):
        cmae = Run(settings["cmae"], tmp_path / str(jobs) / "cmae")
        after = settings["student"].model_copy(update={"init_backbone": cmae.weights})
        runs = [
            cmae,
            Run(after, tmp_path / str(jobs) / "after"),
            Run(settings["student"], tmp_path / str(jobs) / "alone"),
        ]
        train_all(runs, tmp_path, jobs)
        found.append([load_file(run.weights) for run in runs])
    for one, three in zip(*found, strict=True):
        assert all(torch.equal(value, three[name]) for name, value in one.items())
    assert not torch.equal(found[0][1]["neck.coarse.0.weight"], found[0][2]["neck.coarse.0.weight"])


@pytest.mark.parametrize("one", [True, False])
def test_one_teacher_teaches_all_seeds_or_each_its_own(one, tmp_path):
    stages = {name: stage(kind) for name, kind in RECIPES.items()}
    runs, rows = _plan(AblationTraining(seeds=[1, 2], one_teacher=one, **stages), tmp_path)
    taught = {run.output: run.settings.teacher for run in runs if isinstance(run.settings, DistillTraining)}
    assert len(taught) == 8
    assert taught[tmp_path / "seed_2" / "all"] == tmp_path / f"seed_{1 if one else 2}" / "teacher/teacher.safetensors"
    assert rows["teacher"] == list(dict.fromkeys(taught.values()))


def begun(config, tmp_path) -> list[str]:
    """The folders of the runs that are planned."""
    return [run.output.relative_to(tmp_path).as_posix() for run in _plan(config, tmp_path)[0]]


def test_only_what_the_rows_need_is_trained(repository, tmp_path):
    config = load_config(repository / "config" / "train" / "foreign_ablation.yaml", AblationTraining)
    taught = config.distill.model_copy(update={"foreign": [tmp_path]})
    config = config.model_copy(update={"seeds": [1, 2], "distill": taught})
    runs, rows = _plan(config, tmp_path)
    assert list(rows) == ["student", "+ foreign teacher"]
    assert begun(config, tmp_path) == ["seed_1/student", "seed_2/student", "seed_1/foreign", "seed_2/foreign"]
    assert [str(run.settings.init) for run in runs] == ["shipped"] * 4
    assert set.union(*(run.needs for run in runs)) == {None}
    stages = {name: stage(kind) for name, kind in RECIPES.items()}
    needed = {
        "student": [],
        "+ CMAE": ["cmae", "student_cmae"],
        "+ MPSD": ["teacher", "mpsd"],
        "teacher": ["teacher"],
        "all": ["teacher", "cmae", "all"],
    }
    for row, names in needed.items():
        found = begun(AblationTraining(seeds=[1], rows=["student", row], **stages), tmp_path)
        assert sorted(found) == sorted(f"seed_1/{name}" for name in ["student", *names]), row


def test_rows_differ_in_what_they_learn_from_alone(tmp_path):
    teacher, foreign = tmp_path / "teacher", [tmp_path / "foreign"]
    stages = {name: stage(RECIPES[name]) for name in ("cmae", "student")}
    distill = stage(DistillTraining, teacher=teacher, foreign=foreign)
    runs, _ = _plan(AblationTraining(seeds=[1], **stages, distill=distill), tmp_path)
    cmae = tmp_path / "seed_1" / "cmae" / "cmae.safetensors"
    learnt = {
        "scfd": {"scfd_weight": 1.0, "teacher": teacher},
        "mpsd": {"mpsd_weight": 1.0, "teacher": teacher},
        "response": {"response_weight": 0.5, "teacher": teacher},
        "foreign": {"foreign": foreign},
    }
    nothing = {"scfd_weight": 0.0, "mpsd_weight": 0.0, "response_weight": 0.0, "foreign": [], "teacher": None}
    expected = {name: distill.model_copy(update={**nothing, **parts}) for name, parts in learnt.items()}
    expected |= {**stages, "student_cmae": stages["student"].model_copy(update={"init_backbone": cmae})}
    expected["all"] = distill.model_copy(update={"init_backbone": cmae})
    assert {run.output.name: run.settings for run in runs} == expected


def test_without_rows_there_are_those_that_the_recipe_has_the_settings_for(tmp_path):
    stages = {name: stage(RECIPES[name]) for name in ("student", "distill")}
    given = {**stages, "distill": stages["distill"].model_copy(update={"teacher": tmp_path, "mpsd_weight": 0.0})}
    assert list(_plan(AblationTraining(seeds=[1], **stages), tmp_path)[1]) == ["student"]
    rows = _plan(AblationTraining(seeds=[1], **given), tmp_path)[1]
    assert list(rows) == ["student", "+ SCFD", "+ response", "all", "teacher"]


@pytest.mark.parametrize(
    "row, changes, what",
    [
        ("+ CMAE", {}, "settings of cmae"),
        ("+ foreign teacher", {}, r"folders of foreign trackers \(distill.foreign or --foreign\)"),
        ("teacher", {}, "a teacher .*--teacher"),
        ("+ SCFD", {}, "a teacher .*--teacher"),
        ("+ SCFD", {"teacher": "shipped", "scfd_weight": 0}, "distill.scfd_weight above 0"),
        ("all", {}, "a teacher .*--teacher.*, or none of distill's scfd_weight"),
        (
            "all",
            {"scfd_weight": 0, "mpsd_weight": 0, "response_weight": 0},
            "one of distill's scfd_weight.* above 0, or",
        ),
    ],
)
def test_row_without_what_it_needs_is_refused(row, changes, what, tmp_path):
    stages = {"student": stage(RECIPES["student"]), "distill": stage(DistillTraining, **changes)}
    with pytest.raises(ConfigError, match=rf"^rows: '{re.escape(row)}' needs {what}.*, and there is none$"):
        run_ablation(AblationTraining(seeds=[1], rows=["student", row], **stages), tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_run_that_fails_stops_the_others(stills, teacher_file, tmp_path):
    config = small(stills, teacher_file, steps=1_000_000)
    nowhere = config.student.model_copy(update={"sources": [Source(kind="stills", path=tmp_path / "nowhere")]})
    with pytest.raises(FileNotFoundError, match="nowhere"):
        run_ablation(config.model_copy(update={"student": nowhere}), tmp_path, tmp_path / "out", 2)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupt_ends_all_runs_after_a_whole_step(stills, teacher_file, tmp_path, number):
    """Of a parent that is killed, too: nobody else would end them."""
    config = small(stills, teacher_file, steps=1_000_000)
    (tmp_path / "ablation.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json", exclude={"teacher"})))
    command = [sys.executable, "-m", "cmdtrack_ros.cli", "train", "ablation", "--jobs", "2", "--data", str(tmp_path)]
    command += ["--config", str(tmp_path / "ablation.yaml"), "--output", str(tmp_path / "out")]
    errors = (tmp_path / "errors").open("w+")
    process = subprocess.Popen(command, stderr=errors, start_new_session=True)
    until(lambda: len(list(tmp_path.glob("out/seed_1/*/last.ckpt"))) == 2 or process.poll() is not None)
    if number is signal.SIGINT:
        os.killpg(process.pid, number)  # as by Ctrl-C
    else:
        process.send_signal(number)
    code = process.wait(60)
    until(lambda: not alive(process.pid))
    said = Path(errors.name).read_text()
    if number is signal.SIGKILL:
        assert code == -number
    else:
        assert code == 1, said
        assert said.splitlines()[-1].endswith("start again to go on")
    assert said.count("the same command goes on from there") == 2, said
    assert "Traceback" not in said
    for file in tmp_path.glob("out/seed_1/*/last.ckpt"):
        assert 0 < torch.load(file, weights_only=True)["step"] < 1_000_000


def until(condition) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(group: int) -> bool:
    """Whether a process of the group is left; one that ended and that nobody waits for is not."""
    found = subprocess.run(["ps", "-eo", "pgid=,stat="], capture_output=True, text=True, check=True).stdout
    return any(int(line.split()[0]) == group and "Z" not in line for line in found.splitlines())


def test_ablation_table_shows_mean_and_spread():
    table = {"student": {"test": {"mean": 0.5, "low": 0.45, "high": 0.55}}}
    assert "| student | 0.500 (0.450 to 0.550) |" in markdown(table, [1, 2])
