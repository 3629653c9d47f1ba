"""A student's answer drawn to another network's: the own teacher's, or a foreign tracker's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from cmdtrack_ros.models.head import HeadOutput
from cmdtrack_ros.training.losses.tracking import L1_WEIGHT, center_heatmap, giou, tracking_loss

VIEWS = ("fused", "rgb", "aux")


def response_losses(
    output: HeadOutput, teacher: HeadOutput, theirs: Tensor, batch: dict[str, Tensor], both: Tensor
) -> dict[str, Tensor]:
    """The head's output for the 3 B samples of ``presence_views`` against the teacher's of B samples, which saw all
    streams that are there: what both show is the target of what each shows alone, too.

    ``fused``, ``rgb``, ``aux`` (): the mean over samples of :func:`imitation_loss`, 0 where the teacher is no better
    than the student: where its tracking loss ``theirs`` (B,) is not below the student's own in that view. Views are
    asked as by :func:`lesson_losses`.
    """
    output = HeadOutput(output.score.float(), output.box.float())
    score, box = teacher.score[:, 0].float().sigmoid(), teacher.box.float()
    losses = imitation_loss(output, score.repeat(3, 1, 1), box.repeat(3, 1, 1, 1)).unflatten(0, (3, -1))
    with torch.no_grad():
        own = tracking_loss(output, batch["box"].repeat(3, 1), batch["positive"].repeat(3))["total"]
        helps = (theirs < own.unflatten(0, (3, -1))).float()
    means = (losses * helps * _asked(batch, both)).mean(1)
    return dict(zip(VIEWS, means, strict=True))


def imitation_loss(student: HeadOutput, target: Tensor, box: Tensor) -> Tensor:
    """The student's answer against probabilities ``target`` (B, S, S) and boxes (B, 4, S, S or 1, 1), (B,).

    Score: sum over cells of |p - q|^2 * BCE(p, q), p the student's and q the teacher's probability (quality
    focal loss, Li et al., "Generalized Focal Loss", NeurIPS 2020, eq. 5, beta 2). Box: mean absolute
    difference, weighted by q.
    """
    logits = student.score[:, 0]
    entropies = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    score = ((logits.sigmoid() - target).square() * entropies).sum((1, 2))
    share = target / target.sum((1, 2), keepdim=True).clamp(min=1e-6)
    difference = ((student.box - box).abs().mean(1) * share).sum((1, 2)) * target.amax((1, 2))
    return score + L1_WEIGHT * difference


def lesson_losses(output: HeadOutput, batch: dict[str, Tensor], both: Tensor) -> dict[str, Tensor]:
    """The head's output for the 3 B samples of ``presence_views`` against what foreign teachers saw in clean RGB.

    ``fused``, ``rgb``, ``aux`` (): the mean over samples of w * :func:`imitation_loss`. The target of the score is the
    heat map of the taught box, as high as its teacher was sure (a foreign response map is as wide as the target, ours
    as its centre); w is how right the teacher was, 0 where the student itself is nearer to the truth. Streams made to
    mislead are not asked alone, and a sample with one stream counts in ``fused`` only. ``share`` (): of the samples'
    views that learn.
    """
    output = HeadOutput(output.score.float(), output.box.float())
    x, y, w, h = batch["taught_box"].unbind(1)
    taught = torch.stack([x + w / 2, y + h / 2, w, h], 1)
    heat = center_heatmap(batch["taught_box"], batch["taught_score"], output.score.shape[-1])
    losses = imitation_loss(output, heat.repeat(3, 1, 1), taught.repeat(3, 1)[..., None, None]).unflatten(0, (3, -1))
    weights = batch["taught_weight"] * _asked(batch, both) * _nearer(taught, output, batch)
    means = (losses * weights).mean(1)
    return {**dict(zip(VIEWS, means, strict=True)), "share": (weights > 0).float().mean()}


def foreign_losses(output: HeadOutput, batch: dict[str, Tensor], both: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum of the views of :func:`lesson_losses` (), and all of them as ``foreign/...``, for the log."""
    parts = lesson_losses(output, batch, both)
    return torch.stack([parts[view] for view in VIEWS]).sum(), {f"foreign/{name}": v for name, v in parts.items()}


def _asked(batch: dict[str, Tensor], both: Tensor) -> Tensor:
    """(3, B) 1 for the samples' views that are taught."""
    return torch.cat([torch.ones_like(both)[None], both * batch["informative"].T])


@torch.no_grad()
def _nearer(taught: Tensor, output: HeadOutput, batch: dict[str, Tensor]) -> Tensor:
    """(3, B) 1 where ``taught`` (B, 4) is nearer to the true box than the best cell's; or where nobody knows that."""
    x, y, w, h = batch["box"].unbind(1)
    truth = torch.stack([x + w / 2, y + h / 2, w, h], 1)
    best = output.score.flatten(1).argmax(1)
    own = output.box.flatten(2)[torch.arange(len(best), device=best.device), :, best].unflatten(0, (3, -1))
    nearer = giou(own, truth.expand_as(own)) < giou(taught, truth)
    return (nearer | (batch["taught_true"] == 0)).float()
