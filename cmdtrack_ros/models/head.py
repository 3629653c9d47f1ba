"""Anchor-free centre head: where the target's centre is, and the box around each possible centre."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cmdtrack_ros.models.backbone import conv_bn


@dataclass(frozen=True)
class HeadOutput:
    """Head output over an S x S grid of cells.

    Attributes:
        score (B, 1, S, S): logit that the target's centre lies in the cell.
        box (B, 4, S, S): centre x, centre y, width, height, as fractions of the search region's side.
    """

    score: Tensor
    box: Tensor


class CenterHead(nn.Module):
    """Fused features (B, C, S, S) -> :class:`HeadOutput`.

    The centre is predicted as an offset of -1 to 2 cells from the cell's corner, so that a cell beside the
    true one can still give the right box; the size as a fraction of four sides of the target's last box. A target
    thus has the same size in a wider or narrower search region, and weights serve regions of any width.

    Args:
        search_factor: of the network's crops.
    """

    def __init__(self, channels: int, search_factor: float) -> None:
        super().__init__()
        self.size_scale = 4.0 / search_factor
        self.trunk = nn.ModuleList([conv_bn(channels, channels, 3) for _ in range(2)])
        self.score = nn.Sequential(conv_bn(channels, channels // 2, 3), nn.Conv2d(channels // 2, 1, 1))
        self.geometry = nn.Sequential(conv_bn(channels, channels // 2, 3), nn.Conv2d(channels // 2, 4, 1))
        # A rare positive among 256 cells: start from a low score, or the first steps only unlearn it.
        nn.init.constant_(self.score[-1].get_parameter("bias"), -3.0)
        # sigmoid(-1.1) = 0.25: a target as large as it was.
        nn.init.constant_(self.geometry[-1].get_parameter("bias")[2:], -1.1)

    def forward(self, features: Tensor) -> HeadOutput:
        for layer in self.trunk:
            features = features + layer(features)
        geometry = self.geometry(features).sigmoid()
        cells = features.shape[-1]
        cell = torch.arange(cells, device=features.device, dtype=features.dtype)
        center_x = (cell.view(1, 1, cells) + geometry[:, 0] * 3 - 1) / cells
        center_y = (cell.view(1, cells, 1) + geometry[:, 1] * 3 - 1) / cells
        size = geometry[:, 2:] * self.size_scale
        return HeadOutput(self.score(features), torch.cat([torch.stack([center_x, center_y], 1), size], 1))
