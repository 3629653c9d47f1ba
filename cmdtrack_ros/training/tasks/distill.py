"""Training of the student under a teacher: tracking losses, SCFD, MPSD, and the teacher's response."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.models.backbone import fold_batch_norm
from cmdtrack_ros.models.config import CropConfig
from cmdtrack_ros.models.head import HeadOutput
from cmdtrack_ros.models.header import SHIPPED_TEACHER
from cmdtrack_ros.models.teacher import PATHS, Teacher, TeacherPaths
from cmdtrack_ros.models.weights import load_weights
from cmdtrack_ros.training.config import DistillTraining
from cmdtrack_ros.training.losses.mpsd import PathDistillation, entropy, select
from cmdtrack_ros.training.losses.scfd import STREAMS, FeatureDistillation
from cmdtrack_ros.training.losses.tracking import L1_WEIGHT, tracking_loss
from cmdtrack_ros.training.tasks.student import StudentPass, StudentTask
from cmdtrack_ros.training.tasks.task import Batch
from cmdtrack_ros.training.tasks.teacher import path_losses


@dataclass(frozen=True)
class _TeacherAnswer:
    """A teacher's view of B samples: its paths, each one's tracking loss (B, P), the last one's output."""

    paths: TeacherPaths
    path_losses: Tensor
    final: HeadOutput


class DistillTask(StudentTask):
    """loss = tracking + scfd_weight * (sum of the six losses of ``scfd``) + mpsd_weight * ``mpsd`` +
    response_weight * response.
    """

    config: DistillTraining

    def __init__(self, config: DistillTraining) -> None:
        super().__init__(config)
        self.teacher = fold_batch_norm(load_weights(teacher_file(config), Teacher)[0]).requires_grad_(False)
        for name in (field.name for field in fields(CropConfig)):
            if (theirs := getattr(self.teacher.config, name)) != (ours := getattr(config.network, name)):
                raise ConfigError(f"teacher {config.teacher}: its {name} is {theirs}, the student's {ours}")
        widths = config.network.channels, self.teacher.config.channels
        self.scfd = FeatureDistillation(*widths, config.feature_channels) if config.scfd_weight else None
        self.mpsd = PathDistillation(*widths) if config.mpsd_weight else None

    def train(self, mode: bool = True) -> DistillTask:
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        config, student = self.config, self.run(batch)
        losses = self.tracking(student, batch)
        features = self._teacher_features(batch)
        if self.scfd is not None:
            parts = self.scfd(student.features, features, batch["present"])
            losses |= {f"scfd/{name}": value for name, value in parts.items()}
            losses["loss"] = losses["loss"] + config.scfd_weight * torch.stack(list(parts.values())).sum()
        if self.mpsd is None and not config.response_weight:
            return losses
        teacher = self._teacher_answer(features, batch)
        losses["teacher"] = teacher.path_losses[:, -1].mean()
        if self.mpsd is not None:
            losses |= self._mpsd_losses(student, teacher, batch)
            losses["loss"] = losses["loss"] + config.mpsd_weight * losses["mpsd/loss"]
        if config.response_weight:
            losses["response"] = _response(student, teacher, batch)
            losses["loss"] = losses["loss"] + config.response_weight * losses["response"]
        return losses

    @torch.no_grad()
    def _teacher_features(self, batch: Batch) -> Tensor:
        """The teacher's neck features (B, 2, Ct, S, S) of the search regions."""
        pictures = batch["search"].float()
        return torch.stack([self.teacher.features(i, _channels_last(pictures[:, i])) for i in range(STREAMS)], 1)

    @torch.no_grad()
    def _teacher_answer(self, features: Tensor, batch: Batch) -> _TeacherAnswer:
        pictures = batch["template"].float()
        templates = [
            self.teacher.encode_template(i, _channels_last(pictures[:, i]), batch["template_box"])
            for i in range(STREAMS)
        ]
        paths = self.teacher.paths(features, templates, batch["present"])
        losses, output = path_losses(self.teacher, paths, batch)
        final = (part.unflatten(0, (-1, len(PATHS)))[:, -1] for part in (output.score, output.box))
        return _TeacherAnswer(paths, losses, HeadOutput(*final))

    def _mpsd_losses(self, student: StudentPass, teacher: _TeacherAnswer, batch: Batch) -> dict[str, Tensor]:
        config, valid = self.config, teacher.paths.valid
        weights = select(teacher.path_losses, valid, config.selection_temperature, config.selection_floor)
        loss = self.mpsd(student.fused, teacher.paths.maps, weights, batch["box"], batch["positive"])
        mean = {f"mpsd/{name}": weight for name, weight in zip(PATHS, weights.mean(0), strict=True)}
        return {"mpsd/loss": loss, "mpsd/entropy": entropy(weights, valid).mean(), **mean}

    def loss_warnings(self, scalars: dict[str, float]) -> list[str]:
        level = scalars.get("mpsd/entropy", 1.0)
        if level >= self.config.entropy_warning:
            return []
        path = max(PATHS, key=lambda name: scalars[f"mpsd/{name}"])
        return [
            (
                f"the selection of paths collapses onto {path}: entropy {level:.2f}, "
                f"expected {self.config.entropy_warning} or more; "
                "raise selection_temperature or selection_floor"
            )
        ]


def teacher_file(config: DistillTraining) -> Path:
    """The file of the teacher that a configuration names; ConfigError when it names none."""
    if config.teacher is None:
        raise ConfigError("teacher: expected the weights of a teacher run, by --teacher or in the configuration")
    return SHIPPED_TEACHER if str(config.teacher) == "shipped" else config.teacher


def _response(student: StudentPass, teacher: _TeacherAnswer, batch: Batch) -> Tensor:
    """Mean of :func:`response_loss`, which is 0 for a sample whose teacher is no better than the student."""
    count, theirs = len(batch["box"]), teacher.path_losses[:, -1]
    own = HeadOutput(student.output.score[:count].float(), student.output.box[:count].float())
    with torch.no_grad():
        helps = (theirs < tracking_loss(own, batch["box"], batch["positive"])["total"]).float()
    return (response_loss(own, teacher.final) * helps).mean()


def _channels_last(pictures: Tensor) -> Tensor:
    return pictures.contiguous(memory_format=torch.channels_last)


def response_loss(student: HeadOutput, teacher: HeadOutput) -> Tensor:
    """The student's answer against the teacher's, (B,).

    Score: sum over cells of |p - q|^2 * BCE(p, q), p the student's and q the teacher's probability (quality
    focal loss, Li et al., "Generalized Focal Loss", NeurIPS 2020, eq. 5, beta 2). Box: mean absolute
    difference, weighted by q.
    """
    logits, target = student.score[:, 0], teacher.score[:, 0].float().sigmoid()
    entropies = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    score = ((logits.sigmoid() - target).square() * entropies).sum((1, 2))
    share = target / target.sum((1, 2), keepdim=True).clamp(min=1e-6)
    box = ((student.box - teacher.box.float()).abs().mean(1) * share).sum((1, 2)) * target.amax((1, 2))
    return score + L1_WEIGHT * box
