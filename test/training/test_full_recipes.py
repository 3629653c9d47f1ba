"""Recipes for the public data sets: every stage runs on folders laid out like them; what the plan says of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from layouts import make_data_sets
from tiny_runs import stage
from torch import nn

from cmdtrack_ros.cli.train import shipped_config, train_app
from cmdtrack_ros.errors import ConfigError, DataError
from cmdtrack_ros.models.header import read_header
from cmdtrack_ros.training import plan as planning
from cmdtrack_ros.training.config import RECIPES, StudentTraining, load_config
from cmdtrack_ros.training.loop import Trainer

FULL = shipped_config("full/student").parent
TWO_STEPS = {"steps": 2, "batch": 2, "warmup": 1, "workers": 0, "threads": 1, "validate_every": 0, "pictures_every": 0}
STARTS = {
    "cmae_teacher": {},
    "teacher": {"init_backbone": "cmae_teacher/cmae.safetensors"},
    "cmae_student": {},
    "distill": {"init_backbone": "cmae_student/cmae.safetensors", "teacher": "teacher/teacher.safetensors"},
    "student": {"init_backbone": "cmae_student/cmae.safetensors"},
}


def test_every_stage_runs_on_the_public_layouts(tmp_path: Path) -> None:
    """Two steps of each at the recipes' own network sizes, each from what the stages before it have left."""
    data = make_data_sets(tmp_path / "data")
    assert list(STARTS) == list(planning.STAGES)
    for name, starts in STARTS.items():
        verb, needs = planning.STAGES[name]
        files = {field: tmp_path / file for field, file in starts.items()}
        assert all(f"--{field.replace('_', '-')} runs/full-{file}" in needs for field, file in starts.items())
        config = load_config(FULL / f"{name}.yaml", RECIPES[verb], **TWO_STEPS, **files)
        trainer = Trainer(config, data, tmp_path / name)
        trainer.train()
        assert read_header(trainer.weights).provenance.recipe["step"] == 2
        assert set(read_header(trainer.weights).provenance.data) == {str(s.path) for s in config.sources}


def test_plan_prints_hours_memory_and_commands(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = make_data_sets(tmp_path)
    train_app(["plan", "--data", str(data), "--gpus", "4", "--gpu", "h100"], standalone_mode=False)
    text = capsys.readouterr().out
    rows = {line.split("|")[1].strip(): line.split("|") for line in text.splitlines() if line.startswith("| ")}
    for name in planning.STAGES:
        memory, network, made, hours = (float(cell.split()[0]) for cell in rows[name][5:9])
        assert 1 < memory < 80 and network > 0 and made > 0 and hours == max(network, made)
        assert f"torchrun --nproc-per-node 4 -m cmdtrack_ros.cli train {planning.STAGES[name][0]}" in text
    assert float(rows["distill"][6]) > float(rows["student"][6])  # a teacher looks on


def test_plan_wants_its_data_and_a_known_gpu(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="LasHeR/trainingset"):
        train_app(["plan", "--data", str(tmp_path)], standalone_mode=False)
    with pytest.raises(ConfigError, match="--gpu: expected one of a100.*got 'abacus'"):
        train_app(["plan", "--gpu", "abacus"], standalone_mode=False)


def test_counts_are_those_of_the_network() -> None:
    """Against what can be computed by hand: a layer, with and without groups, forward and backward."""
    for groups in (1, 8):
        layer, counter = nn.Conv2d(8, 16, 3, padding=1, groups=groups), planning._Counter()
        with counter:
            layer(torch.ones(2, 8, 10, 10, requires_grad=True)).sum().backward()
        assert counter.operations == 3 * 2 * (2 * 16 * 10 * 10) * (8 // groups * 9)


def test_cost_grows_with_what_is_trained_and_hours_shrink_with_the_gpu() -> None:
    frozen, all_of_it = (planning.count(stage(StudentTraining, train_early=early)) for early in (False, True))
    assert all_of_it.operations > 1.2 * frozen.operations and all_of_it.states > frozen.states
    assert frozen.memory(64) - frozen.memory(32) == pytest.approx(32 * frozen.kept)
    card = planning.GPUS["a100"]
    faster = replace(card, operations=2 * card.operations, bandwidth=2 * card.bandwidth)
    assert frozen.seconds(faster) == pytest.approx(frozen.seconds(card) / 2)
