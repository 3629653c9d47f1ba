"""The losses of tracking."""

import torch

from cmdtrack_ros.models.head import HeadOutput
from cmdtrack_ros.training.losses.tracking import center_heatmap, giou, tracking_loss


def test_a_perfect_answer_costs_least():
    box, positive = torch.tensor([[0.4, 0.3, 0.25, 0.2]]), torch.ones(1)
    heatmap = center_heatmap(box, positive, 16)
    assert heatmap[0, 6, 8] == 1
    assert heatmap.max() == 1
    center = torch.tensor([0.525, 0.4, 0.25, 0.2]).view(1, 4, 1, 1).expand(1, 4, 16, 16)
    score = torch.where(heatmap > 0.999, 9.0, -9.0)[:, None]
    perfect = tracking_loss(HeadOutput(score, center), box, positive)
    assert perfect["l1"] < 1e-6
    assert perfect["giou"] < 1e-5
    assert perfect["score"] < 0.01
    shifted = tracking_loss(HeadOutput(score.roll(3, -1), center + 0.1), box, positive)
    assert shifted["total"] > perfect["total"] + 1


def test_absent_target_has_no_box_loss():
    losses = tracking_loss(
        HeadOutput(torch.full((1, 1, 16, 16), -9.0), torch.rand(1, 4, 16, 16)),
        torch.tensor([[0.4, 0.3, 0.25, 0.2]]),
        torch.zeros(1),
    )
    assert losses["giou"] == 0
    assert losses["l1"] == 0
    assert losses["score"] < 0.01


def test_giou_of_known_boxes():
    a = torch.tensor([[0.5, 0.5, 1.0, 1.0], [0.5, 0.5, 1.0, 1.0]])
    b = torch.tensor([[0.5, 0.5, 1.0, 1.0], [2.5, 0.5, 1.0, 1.0]])
    torch.testing.assert_close(giou(a, b), torch.tensor([1.0, -1 / 3]))
