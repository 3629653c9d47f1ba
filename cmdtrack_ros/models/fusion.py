"""How a search region is compared with the template, and how two modalities become one.

Our choice; the paper's is not public. Both parts are small on purpose: the teacher's elaborate fusion is
meant to be distilled into this one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from cmdtrack_ros.models.backbone import conv_bn

_EXCLUDED = -1e4
"""Stands for minus infinity in a softmax or a maximum; finite, so that half precision and ONNX agree."""


@dataclass(frozen=True)
class TemplateFeatures:
    """What is kept of a template, for M modality pictures and Z = 8 x 8 cells of C channels.

    Attributes:
        keys (M, Z, C): neck features of each cell.
        values (M, Z, C): the same with each cell's place in the target box mixed in.
        pooled (M, C): mean feature of the cells inside the target box.
        mask (M, Z): share of each cell that the target box covers, 0..1.
    """

    keys: Tensor
    values: Tensor
    pooled: Tensor
    mask: Tensor


class TemplateEncoder(nn.Module):
    """Neck features of a template and the target's box in it -> :class:`TemplateFeatures`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.place = nn.Sequential(nn.Linear(5, channels), nn.ReLU6(), nn.Linear(channels, channels))
        self.value = nn.Linear(channels, channels)

    def forward(self, features: Tensor, box: Tensor) -> TemplateFeatures:
        """``features`` (M, C, S, S), ``box`` (M, 4) xywh as fractions of the template's side."""
        cells, mask = _cells_in_box(features.shape[-1], box)
        keys = features.flatten(2).transpose(1, 2)
        values = self.value(keys) + self.place(torch.cat([cells, mask.unsqueeze(-1)], -1))
        weight = mask / mask.sum(1, keepdim=True).clamp(min=1e-3)
        return TemplateFeatures(keys, values, (keys * weight.unsqueeze(-1)).sum(1), mask)


def _cells_in_box(size: int, box: Tensor) -> tuple[Tensor, Tensor]:
    """Per cell of a ``size`` x ``size`` grid: place (M, Z, 4) and coverage by the box (M, Z).

    Place is the distance from the box's left, top, right and bottom edge to the cell's centre, in box sides,
    within -1..2.
    """
    low = torch.arange(size, device=box.device, dtype=box.dtype) / size
    high, center = low + 1 / size, low + 0.5 / size
    x, y, w, h = (box[:, i : i + 1] for i in range(4))
    w, h = w.clamp(min=1e-3), h.clamp(min=1e-3)
    cover_x = (torch.minimum(high, x + w) - torch.maximum(low, x)).clamp(min=0) * size
    cover_y = (torch.minimum(high, y + h) - torch.maximum(low, y)).clamp(min=0) * size
    mask = (cover_y.unsqueeze(2) * cover_x.unsqueeze(1)).flatten(1)
    left = ((center - x) / w).clamp(-1, 2).unsqueeze(1).expand(-1, size, -1).flatten(1)
    top = ((center - y) / h).clamp(-1, 2).unsqueeze(2).expand(-1, -1, size).flatten(1)
    return torch.stack([left, top, 1 - left, 1 - top], -1), mask


class Relation(nn.Module):
    """Compares every cell of a search region with every cell of the template of the same modality.

    Its output at a cell mixes the cell itself, its product with the pooled target, its correlation with each
    template cell, the best correlation inside and outside of the target box, and what a cross-attention reads
    from the template (which tells where in the box the matching part lies).
    """

    def __init__(self, channels: int, template_cells: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels, 1)
        self.mix = conv_bn(3 * channels + template_cells + 2, channels, 1)
        self.context = nn.Sequential(conv_bn(channels, channels, 3), conv_bn(channels, channels, 3))

    def forward(self, search: Tensor, template: TemplateFeatures) -> Tensor:
        """``search`` (M, C, H, W) -> (M, C, H, W)."""
        batch, channels, height, width = search.shape
        correlation = torch.bmm(template.keys, search.flatten(2)) * channels**-0.5
        attention = torch.bmm(template.keys, self.query(search).flatten(2)) * channels**-0.5
        read = torch.bmm(template.values.transpose(1, 2), attention.softmax(1))
        mask = template.mask.unsqueeze(-1)
        inside = (correlation + (1 - mask) * -50.0).amax(1, keepdim=True).clamp(min=-50.0)
        outside = (correlation + mask * -50.0).amax(1, keepdim=True).clamp(min=-50.0)
        flat = search.flatten(2)
        stacked = torch.cat([flat, flat * template.pooled.unsqueeze(-1), read, correlation, inside, outside], 1)
        mixed = self.mix(stacked.view(batch, -1, height, width))
        return mixed + self.context(mixed)


class GatedFusion(nn.Module):
    """Per cell, a weight for each modality (softmax over those present) and the weighted sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(conv_bn(channels, 32, 3), nn.Conv2d(32, 1, 1))

    def forward(self, relations: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """``relations`` (B, M, C, H, W), ``present`` (B, M) -> fused (B, C, H, W), weights (B, M, H, W)."""
        batch, modalities = present.shape
        logits = self.gate(relations.flatten(0, 1)).view(batch, modalities, *relations.shape[-2:])
        logits = logits + ((1 - present) * _EXCLUDED)[..., None, None]
        weights = logits.softmax(1)
        return (relations * weights.unsqueeze(2)).sum(1), weights


class Neck(nn.Module):
    """Backbone features at two strides -> one map at stride 16 with ``channels`` channels."""

    def __init__(self, channels8: int, channels16: int, channels: int) -> None:
        super().__init__()
        self.coarse = conv_bn(channels16, channels, 1, act=False)
        self.fine = nn.Sequential(
            conv_bn(channels8, channels8, 3, 2, groups=channels8), conv_bn(channels8, channels, 1, act=False)
        )

    def forward(self, stride8: Tensor, stride16: Tensor) -> Tensor:
        return functional.relu6(self.coarse(stride16) + self.fine(stride8))
