"""A student's features drawn to those of foreign trackers."""

import pytest
import torch

from cmdtrack_ros.training.losses.foreign_features import ForeignFeatures, normalised

ALL = torch.ones(4, 2)


def same_projection(module: ForeignFeatures, to: torch.Tensor) -> ForeignFeatures:
    for project in module.project:
        project.weight.data, project.bias.data = to[..., None, None].clone(), torch.zeros(len(to))
    return module


def test_a_student_that_sees_the_same_costs_nothing_and_one_that_sees_nothing_one():
    taught = torch.randn(4, 5, 6, 6) * torch.tensor([1.0, 100, 1, 1, 0.1])[:, None, None] + 50
    module = same_projection(ForeignFeatures(5, [3, 2]), torch.eye(5))
    same = normalised(taught, torch.ones(4))[:, None].expand(-1, 2, -1, -1, -1)
    assert module(same, taught, ALL).item() == pytest.approx(0, abs=1e-4)
    assert module(-same, taught, ALL).item() == pytest.approx(2, abs=1e-4)
    assert module(torch.randn(4, 2, 5, 6, 6), taught, ALL).item() == pytest.approx(1, abs=0.15)


def test_foreign_trackers_count_alike_however_many_channels_they_have():
    taught = torch.randn(4, 9, 6, 6)
    module = same_projection(ForeignFeatures(9, [8, 1]), torch.eye(9))
    same = normalised(taught, torch.ones(4))
    wrong = torch.cat([same[:, :8], -same[:, 8:]], 1)[:, None].expand(-1, 2, -1, -1, -1)
    assert module(wrong, taught, ALL).item() == pytest.approx(1, abs=1e-3)


def test_what_is_not_shown_does_not_count():
    taught, student = torch.randn(4, 5, 6, 6), torch.randn(4, 2, 5, 6, 6)
    module = ForeignFeatures(5, [5])
    shown = torch.tensor([[1.0, 1], [0, 1], [1, 0], [0, 0]])
    loss = module(student, taught, shown)
    student[1, 0], student[2, 1], student[3] = 7.0, -3.0, 9.0
    taught[3] = 1e3  # a sample without RGB is black
    torch.testing.assert_close(module(student, taught, shown), loss)
    assert module(student, taught, 0 * ALL) == 0
