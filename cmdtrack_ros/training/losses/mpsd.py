"""MPSD, multi-path selection distillation. Our choice; the paper's is not public.

The teacher's fusion has P paths (``models.teacher.PATHS``): per depth of exchange and per stream served, and
the final answer. Each yields a map T_p (B, Ct, S, S) that the teacher's head could read. The student's fused
features F (B, Cs, S, S) learn all of them at once, each through a 1x1 convolution Q_p that is thrown away
afterwards, weighted per sample by how much the path helps:

- help:      L_p (B,) = the tracking loss of the teacher's head on T_p, against the truth;
- selection: w_p = (1 - floor) softmax_p(-L_p / temperature) + floor / (number of valid paths), over the paths
  whose stream is present;
- loss       = mean over samples of sum_p w_p sum over cells of a_i (1 - cos(Q_p F, T_p))_i.

a (S, S) sums to 1: half of it is even, the other half follows the target's heat map, where there is a target.
No gradient reaches w. The floor keeps every path alive; the mean weights and the entropy of w (1 = even, 0 =
one path alone) are logged.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cmdtrack_ros.models.teacher import PATHS
from cmdtrack_ros.training.losses.scfd import distance
from cmdtrack_ros.training.losses.tracking import center_heatmap


class PathDistillation(nn.Module):
    """The loss above; all its weights are thrown away after training."""

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.projectors = nn.ModuleList(nn.Conv2d(student_channels, teacher_channels, 1) for _ in PATHS)

    def forward(self, fused: Tensor, maps: Tensor, weights: Tensor, box: Tensor, positive: Tensor) -> Tensor:
        """``fused`` (B, Cs, S, S), ``maps`` (B, P, Ct, S, S), ``weights`` (B, P) by :func:`select`, ``box``
        (B, 4), ``positive`` (B,) -> ().
        """
        projected = torch.stack([projector(fused) for projector in self.projectors], 1)
        attention = cell_attention(box, positive, fused.shape[-1])
        per_path = (distance(projected, maps) * attention.unsqueeze(1)).sum((2, 3))
        return (per_path * weights).sum(1).mean()


def select(losses: Tensor, valid: Tensor, temperature: float, floor: float) -> Tensor:
    """Weights (B, P) that sum to 1 per sample, from the losses (B, P) of each path and which of them are
    ``valid`` (B, P).
    """
    chosen = (-losses.detach() / temperature).masked_fill(valid == 0, -torch.inf).softmax(1)
    return (1 - floor) * chosen + floor * valid / valid.sum(1, keepdim=True)


def entropy(weights: Tensor, valid: Tensor) -> Tensor:
    """Entropy (B,) of the weights (B, P) over that of even weights of the valid paths: 1 = even, 0 = one path
    alone.
    """
    own = -(weights * weights.clamp(min=1e-9).log()).sum(1)
    return own / valid.sum(1).clamp(min=2).log()


def cell_attention(box: Tensor, positive: Tensor, size: int) -> Tensor:
    """How much each cell counts, (B, S, S), sums to 1 per sample."""
    heat = center_heatmap(box, positive, size)
    total = heat.sum((1, 2), keepdim=True)
    even = torch.full_like(heat, 1 / size**2)
    return torch.where(total > 0, 0.5 * even + 0.5 * heat / total.clamp(min=1e-6), even)
