"""The teacher's training."""

import pytest
import torch
from tiny_runs import BOX, STUDENT, TEACHER, batch, curve, pictures, stage

from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.models.config import StudentConfig
from cmdtrack_ros.models.header import Provenance
from cmdtrack_ros.models.student import Student
from cmdtrack_ros.models.weights import save_weights
from cmdtrack_ros.training.config import TeacherTraining
from cmdtrack_ros.training.tasks.teacher import TeacherTask


@pytest.mark.parametrize("present", [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0)])
def test_teacher_from_a_student_answers_as_it_does_before_it_learns(tmp_path, present):
    torch.manual_seed(1)
    student = Student(StudentConfig(**STUDENT)).eval()
    save_weights(student, tmp_path / "student.safetensors", Provenance({}, {}, {}))
    config = stage(
        TeacherTraining, network={**TEACHER, "channels": STUDENT["channels"]}, init=tmp_path / "student.safetensors"
    )
    teacher = TeacherTask(config).network.eval()
    shown, crops = pictures(), pictures(size=32, seed=1)
    present = torch.tensor([present] * 2)
    own = student.encode_template(crops.flatten(0, 1), BOX.expand(4, 4))
    with torch.no_grad():
        templates = [teacher.encode_template(i, crops[:, i], BOX.expand(2, 4)) for i in range(2)]
        answers = teacher(shown, templates, present), student(shown.flatten(0, 1), own, present)
    torch.testing.assert_close(answers[0][0].score, answers[1][0].score)
    torch.testing.assert_close(answers[0][0].box, answers[1][0].box)
    with pytest.raises(ConfigError, match="channels is 48, that of the student to start from 32"):
        TeacherTask(stage(TeacherTraining, init=tmp_path / "student.safetensors"))


def test_teacher_trains_with_a_loss_per_path(teacher_file):
    losses = list(curve(teacher_file.parent, "train/paths").values())
    assert len(losses) == 2
    assert all(0 < value < 100 for value in losses)


def test_foreign_trackers_teach_a_teacher(tmp_path):
    """What they taught of each sample pulls, the more the larger its weight."""
    losses = {}
    for weight in (0.0, 50.0):
        torch.manual_seed(0)
        task = TeacherTask(stage(TeacherTraining, foreign=[tmp_path], foreign_weight=weight))
        shown = batch() | {
            "taught_box": torch.tensor([[0.4, 0.3, 0.25, 0.2]]).expand(3, 4),
            "taught_score": torch.full((3,), 0.9),
            "taught_weight": torch.tensor([0.8, 0.0, 0.8]),
            "taught_true": torch.zeros(3),
        }
        losses[weight] = task.eval()(shown)
    assert losses[0.0]["foreign/share"] > 0
    taught = sum(losses[0.0][f"foreign/{view}"] for view in ("fused", "rgb", "aux"))
    assert taught > 0
    torch.testing.assert_close(losses[50.0]["loss"], losses[0.0]["loss"] + 50 * taught, rtol=1e-3, atol=1e-3)
