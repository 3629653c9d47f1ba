"""The student's training under a teacher."""

import pytest
import torch
from standin import write_standin
from tiny_runs import STUDENT, batch, curve, stage

from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.models.student import Student
from cmdtrack_ros.models.teacher import PATHS
from cmdtrack_ros.models.weights import load_student
from cmdtrack_ros.training.config import DistillTraining, Split
from cmdtrack_ros.training.loop import Trainer
from cmdtrack_ros.training.tasks.distill import DistillTask
from synthetic import draw_stills, make_block


def test_distillation_trains_the_student_and_leaves_the_teacher(stills, teacher_file, tmp_path):
    trainer = Trainer(stage(DistillTraining, teacher=teacher_file), stills.parent, tmp_path)
    before = {name: value.clone() for name, value in trainer.task.state_dict().items()}
    trainer.train()
    changed = {name for name, value in trainer.task.state_dict().items() if not torch.equal(value, before[name])}
    assert not any(name.startswith("teacher.") for name in changed)
    for part in ("network.", "scfd.student_common", "scfd.to_specific", "mpsd.projectors.6"):
        assert any(name.startswith(part) for name in changed), part
    assert sum(curve(tmp_path, f"train/mpsd/{name}")[2] for name in PATHS) == pytest.approx(1, abs=1e-4)
    assert 0.3 < curve(tmp_path, "train/mpsd/entropy")[2] <= 1.0001
    assert isinstance(load_student(tmp_path / "student.safetensors")[0], Student)


def test_each_part_can_be_left_out(teacher_file):
    whole = DistillTask(stage(DistillTraining, teacher=teacher_file))
    names = {name.split("/")[0] for name in whole(batch())}
    assert {"scfd", "mpsd", "response"} <= names
    for part in ("scfd", "mpsd", "response"):
        task = DistillTask(stage(DistillTraining, teacher=teacher_file, **{f"{part}_weight": 0.0}))
        assert names - {name.split("/")[0] for name in task(batch())} == {part}


def test_collapsed_selection_is_reported(teacher_file):
    task = DistillTask(stage(DistillTraining, teacher=teacher_file))
    scalars = {"mpsd/entropy": 0.9, **{f"mpsd/{name}": 0.0 for name in PATHS}}
    assert task.loss_warnings(scalars) == []
    assert "collapses onto head_aux" in task.loss_warnings(scalars | {"mpsd/entropy": 0.1, "mpsd/head_aux": 0.9})[0]


def test_unfit_teachers_are_refused(teacher_file):
    with pytest.raises(ConfigError, match="teacher: expected the weights"):
        DistillTask(stage(DistillTraining))
    with pytest.raises(ConfigError, match="its search_size is 64, the student's 96"):
        DistillTask(stage(DistillTraining, teacher=teacher_file, network=STUDENT | {"search_size": 96}))
    with pytest.raises(ConfigError, match="foreign: expected folders of foreign trackers"):
        DistillTask(stage(DistillTraining, **NO_OWN_TEACHER))


NO_OWN_TEACHER = {"scfd_weight": 0.0, "mpsd_weight": 0.0, "response_weight": 0.0}


@pytest.mark.parametrize("workers", [0, 1])
def test_foreign_trackers_teach_without_an_own_teacher(tmp_path, workers):
    folder = write_standin(tmp_path / "standin")
    make_block(tmp_path / "walk", 6)
    sources = [{"kind": "sequences", "path": "walk"}]
    pairs = {"negatives": 0.0, "shift": 0.0}
    weights = {}
    for weight in (0.0, 100.0):
        changes = {
            "foreign": [folder],
            "foreign_weight": weight,
            "pairs": pairs,
            "sources": sources,
            "workers": workers,
        }
        trainer = Trainer(stage(DistillTraining, **NO_OWN_TEACHER, **changes), tmp_path, tmp_path / str(weight))
        assert not any(name.startswith("teacher.") for name in trainer.task.state_dict())
        trainer.train()
        weights[weight] = load_student(trainer.weights)[0].state_dict()
    assert any(not torch.equal(value, weights[0.0][name]) for name, value in weights[100.0].items())
    for view in ("fused", "rgb", "aux"):
        assert max(curve(tmp_path / "100.0", f"train/foreign/{view}").values()) > 0


def test_features_of_foreign_trackers_reach_the_student(tmp_path):
    """Also through a pool, whose samples all runs share."""
    folder = write_standin(tmp_path / "standin")
    make_block(tmp_path / "walk", 6)
    common = NO_OWN_TEACHER | {"foreign": [folder], "foreign_weight": 0.0, "pool": 4}
    common |= {"sources": [{"kind": "sequences", "path": "walk"}], "steps": 2}
    weights = {}
    for weight in (0.0, 100.0):
        config = stage(DistillTraining, **common, foreign_features_weight=weight)
        trainer = Trainer(config, tmp_path, tmp_path / str(weight))
        trainer.train()
        weights[weight] = load_student(trainer.weights)[0].state_dict()
        assert not any("foreign_features" in name for name in weights[weight])
    assert any(not torch.equal(value, weights[0.0][name]) for name, value in weights[100.0].items())
    assert min(curve(tmp_path / "100.0", "train/foreign/features").values()) > 0


def test_run_says_whether_a_foreign_teacher_knows_enough_more(tmp_path, caplog):
    caplog.set_level("INFO")
    draw_stills(tmp_path / "free", 3)
    draw_stills(tmp_path / "seen", 3)
    folder = write_standin(tmp_path / "standin")
    common = NO_OWN_TEACHER | {"foreign": [folder], "steps": 1, "sources": [{"kind": "stills", "path": "free"}]}
    Trainer(stage(DistillTraining, **common), tmp_path, tmp_path / "unmeasured").train()
    assert "foreign teachers: not measured, for that the recipe needs a split and fixed_pairs" in caplog.messages
    split = {"split": Split(validation=["seen/set/visible/*"]), "fixed_pairs": 2}
    Trainer(stage(DistillTraining, **common, **split), tmp_path, tmp_path / "measured").train()
    [verdict] = [line for line in caplog.messages if line.startswith("standin: ")]
    assert "worth distilling from" in verdict
    assert verdict.endswith("(at least 0.03 above shipped is asked for).")
