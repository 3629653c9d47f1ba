"""CMAE: what is masked, and what the network learns to restore."""

import numpy as np
import pytest
import torch
from tiny_runs import batch, pictures, stage

from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.training.config import CmaeTraining, StudentTraining, TeacherTraining
from cmdtrack_ros.training.loop import Trainer
from cmdtrack_ros.training.tasks.cmae import CmaeTask, complementary_mask, paint_over, structure
from synthetic import Drawn


def test_structure_is_where_the_picture_changes():
    x = torch.full((1, 2, 3, 64, 64), 90.0)
    x[0, 0, :, :32, :32] += torch.rand(32, 32) * 100
    level = structure(x, 32)
    assert level.shape == (1, 2, 2, 2)
    assert level[0, 0].argmax() == 0
    assert level[0, 0, 1, 1] < 0.2


def test_the_stream_that_shows_less_loses_the_patch():
    """RGB has texture on the left, aux on the right: aux loses the left, RGB the right, and no place loses
    both.
    """
    x = torch.full((8, 2, 3, 128, 128), 90.0)
    x[:, 0, :, :, :64] += torch.rand(8, 1, 128, 64) * 100
    x[:, 1, :, :, 64:] += torch.rand(8, 1, 128, 64) * 30
    mask = complementary_mask(x, 32, 0.5, torch.rand(8, 2, 4, 4))
    assert mask.shape == (8, 2, 4, 4)
    assert (mask.sum(1) <= 1).all()
    assert mask.sum((1, 2, 3)).tolist() == [8] * 8
    assert mask[:, 1, :, :2].sum() > 8 * mask[:, 0, :, :2].sum()
    assert mask[:, 0, :, 2:].sum() > 8 * mask[:, 1, :, 2:].sum()


def test_painting_changes_masked_patches_alone():
    x, mask = pictures(1), torch.zeros(1, 2, 2, 2)
    mask[0, 1, 0, 1] = 1
    painted = paint_over(x, mask)
    assert torch.equal(painted[0, 0], x[0, 0])
    torch.testing.assert_close(painted[0, 1, :, :32, 32:], x[0, 1].mean((1, 2)).view(3, 1, 1).expand(3, 32, 32))
    assert torch.equal(painted[0, 1, :, 32:], x[0, 1, :, 32:])


def test_cmae_learns_to_fill_in_from_the_other_modality():
    """Aux is RGB turned negative. A new decoder restores the paint (0), a trained one what is under it."""
    task = CmaeTask(stage(CmaeTraining)).train()
    shown = batch(4, ((1, 1),) * 4)
    blocks = torch.rand(4, 1, 3, 8, 8).mul(255).repeat_interleave(8, 3).repeat_interleave(8, 4)
    shown["search"] = torch.cat([blocks, 255 - blocks], 1).byte()
    optimiser = torch.optim.AdamW(task.parameter_groups())
    restored = []
    for _ in range(60):
        losses = task(shown)
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
        restored.append(float(losses["restored"]))
    assert restored[0] == pytest.approx(0, abs=1e-5)
    assert restored[-1] > 0.3


def test_cmae_draws_and_starts_students_and_teachers(stills, tmp_path):
    trainer = Trainer(stage(CmaeTraining, pictures_every=2), stills.parent, tmp_path / "cmae")
    trainer.train()
    assert (tmp_path / "cmae" / "pictures" / "000002.png").is_file()
    student = Trainer(
        stage(StudentTraining, init_backbone=trainer.weights), stills.parent, tmp_path / "student"
    ).task.network
    ours = trainer.average.encoder(0).state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in student.backbone.state_dict().items())
    with pytest.raises(ConfigError, match="expected 2 x lite0, got 1 x lite0"):
        Trainer(stage(TeacherTraining, init_backbone=trainer.weights), stills.parent, tmp_path / "teacher")


def test_cmae_reports_how_much_is_restored():
    task = CmaeTask(stage(CmaeTraining))
    score = task.validate(task.network, [Drawn()])["restored"]
    assert score < 1
    assert task.validate(task.network, [Drawn()])["restored"] == pytest.approx(score)
    picture = task.pictures(batch())
    assert picture.shape == (3 * 64, 6 * 64, 3)
    assert picture.dtype == np.uint8
