"""The student's training under a teacher."""

import pytest
import torch
from tiny_runs import STUDENT, batch, curve, stage

from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.models.head import HeadOutput
from cmdtrack_ros.models.student import Student
from cmdtrack_ros.models.teacher import PATHS
from cmdtrack_ros.models.weights import load_student
from cmdtrack_ros.training.config import DistillTraining
from cmdtrack_ros.training.loop import Trainer
from cmdtrack_ros.training.tasks.distill import DistillTask, response_loss


def test_response_of_a_perfect_pupil_costs_nothing_but_entropy():
    answer = HeadOutput(torch.randn(2, 1, 4, 4), torch.rand(2, 4, 4, 4))
    torch.testing.assert_close(response_loss(answer, answer), torch.zeros(2))
    assert (response_loss(HeadOutput(answer.score + 1, answer.box), answer) > 0).all()


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
