"""Losses of the tracking task."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from cmdtrack_ros.models.head import HeadOutput

SCORE_WEIGHT, GIOU_WEIGHT, L1_WEIGHT = 1.0, 2.0, 5.0


def center_heatmap(box: Tensor, positive: Tensor, size: int) -> Tensor:
    """Target of the score map: a Gaussian around the box's centre that is 1 in the cell of the centre.

    Args:
        box: (B, 4) xywh, fractions of the search region.
        positive: (B,) 1 where the target is there, else 0.

    Returns:
        (B, S, S). The standard deviation is 0.12 of the box's sides, 0.6 to 2 cells.
    """
    cells = torch.arange(size, device=box.device, dtype=box.dtype)
    center = ((box[:, :2] + box[:, 2:] / 2) * size).floor()
    sigma = (box[:, 2:] * size * 0.12).clamp(0.6, 2.0)
    along = torch.exp(-0.5 * ((cells - center[..., None]) / sigma[..., None]) ** 2)
    return along[:, 1, :, None] * along[:, 0, None, :] * positive[:, None, None]


def focal_loss(logits: Tensor, heatmap: Tensor) -> Tensor:
    """Penalty-reduced focal loss (Law and Deng, "CornerNet", ECCV 2018, eq. 1; alpha 2, beta 4), (B, S, S) ->
    (B,).
    """
    probability = logits.sigmoid()
    hit = heatmap > 0.999
    positive = (1 - probability) ** 2 * functional.logsigmoid(logits) * hit
    negative = (1 - heatmap) ** 4 * probability**2 * functional.logsigmoid(-logits) * ~hit
    return -(positive + negative).sum((1, 2))


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU (Rezatofighi et al., CVPR 2019) of boxes (..., 4) given as centre x, centre y, w, h ->
    (...).
    """
    a_low, a_high = a[..., :2] - a[..., 2:] / 2, a[..., :2] + a[..., 2:] / 2
    b_low, b_high = b[..., :2] - b[..., 2:] / 2, b[..., :2] + b[..., 2:] / 2
    overlap = (torch.minimum(a_high, b_high) - torch.maximum(a_low, b_low)).clamp(min=0).prod(-1)
    union = a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - overlap
    hull = (torch.maximum(a_high, b_high) - torch.minimum(a_low, b_low)).prod(-1)
    return overlap / union.clamp(min=1e-6) - (hull - union) / hull.clamp(min=1e-6)


def tracking_loss(output: HeadOutput, box: Tensor, positive: Tensor) -> dict[str, Tensor]:
    """Per-sample losses (B,): ``score``, ``giou``, ``l1`` and their weighted sum ``total``.

    ``box`` (B, 4) xywh in fractions of the search region. Box losses count where the heat map is above 0.1,
    so that the cells beside the centre learn the same box.
    """
    # In half precision, small boxes and scores would lose most of their digits.
    logits, boxes = output.score.float(), output.box.float()
    heatmap = center_heatmap(box, positive, logits.shape[-1])
    near = heatmap * (heatmap > 0.1)
    share = near / near.sum((1, 2), keepdim=True).clamp(min=1e-6)
    center = torch.cat([box[:, :2] + box[:, 2:] / 2, box[:, 2:]], 1)
    target = center[:, None, None].expand(-1, *heatmap.shape[1:], -1)
    predicted = boxes.permute(0, 2, 3, 1)
    losses = {
        "score": focal_loss(logits[:, 0], heatmap),
        "giou": ((1 - giou(predicted, target)) * share).sum((1, 2)),
        "l1": ((predicted - target).abs().mean(-1) * share).sum((1, 2)),
    }
    losses["total"] = SCORE_WEIGHT * losses["score"] + GIOU_WEIGHT * losses["giou"] + L1_WEIGHT * losses["l1"]
    return losses
