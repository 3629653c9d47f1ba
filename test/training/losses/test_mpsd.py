"""MPSD: the selection of paths, and what a chosen path costs."""

import torch
from torch.nn import functional

from cmdtrack_ros.models.teacher import PATHS
from cmdtrack_ros.training.losses.mpsd import PathDistillation, cell_attention, entropy, select

BOX = torch.tensor([[0.25, 0.3, 0.5, 0.4]])


def test_selection_prefers_paths_that_help_and_keeps_a_floor():
    losses, valid = (torch.tensor([[1.0, 3.0, 2.0], [1.0, 0.0, 2.0]]), torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0]]))
    weights = select(losses, valid, 1.0, 0.3)
    torch.testing.assert_close(weights.sum(1), torch.ones(2))
    assert weights[0].argmax() == 0
    assert weights[0].min() >= 0.1
    assert weights[1, 1] == 0
    torch.testing.assert_close(select(losses, valid, 1.0, 0.0)[1, 0], torch.tensor(1.0).sigmoid())


def test_entropy_is_one_when_even_and_low_when_collapsed():
    valid = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
    weights = torch.tensor([[1 / 3] * 3, [0.5, 0.0, 0.5], [1.0, 0.0, 0.0]])
    torch.testing.assert_close(entropy(weights, valid), torch.tensor([1.0, 1.0, 0.0]))


def test_cells_at_the_target_count_more():
    attention = cell_attention(torch.tensor([[0.4, 0.3, 0.25, 0.2]] * 2), torch.tensor([1.0, 0.0]), 16)
    torch.testing.assert_close(attention.sum((1, 2)), torch.ones(2))
    assert attention[0, 6, 8] > 20 * attention[0, 0, 0]
    assert attention[1].max() == attention[1].min()


def test_path_loss_vanishes_when_the_student_has_learned_the_chosen_path():
    module = PathDistillation(6, 6)
    fused, maps = torch.randn(1, 6, 4, 4), torch.randn(1, len(PATHS), 6, 4, 4)
    torch.nn.init.dirac_(module.projectors[2].weight)
    torch.nn.init.zeros_(module.projectors[2].bias)
    maps[:, 2] = 3 * fused
    chosen = functional.one_hot(torch.tensor([2]), len(PATHS)).float()
    assert module(fused, maps, chosen, BOX, torch.ones(1)) < 1e-3
    assert module(fused, maps, chosen.roll(1), BOX, torch.ones(1)) > 0.2
