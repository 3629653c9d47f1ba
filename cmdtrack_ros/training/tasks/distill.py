"""Training of the student under teachers: tracking losses, SCFD, MPSD, the teacher's response, foreign trackers."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.models.backbone import fold_batch_norm
from cmdtrack_ros.models.config import CropConfig
from cmdtrack_ros.models.head import HeadOutput
from cmdtrack_ros.models.header import SHIPPED_TEACHER
from cmdtrack_ros.models.teacher import PATHS, Teacher, TeacherPaths
from cmdtrack_ros.models.weights import load_weights
from cmdtrack_ros.training.config import DistillTraining
from cmdtrack_ros.training.foreign import find_foreign
from cmdtrack_ros.training.losses.foreign_features import ForeignFeatures
from cmdtrack_ros.training.losses.mpsd import PathDistillation, entropy, select
from cmdtrack_ros.training.losses.response import foreign_losses, response_losses
from cmdtrack_ros.training.losses.scfd import STREAMS, FeatureDistillation
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
    response_weight * (sum of the views of ``response_losses``) + foreign_weight * (sum of those of ``lesson_losses``) +
    foreign_features_weight * ``foreign_features``.
    """

    config: DistillTraining

    def __init__(self, config: DistillTraining) -> None:
        super().__init__(config)
        own = config.scfd_weight or config.mpsd_weight or config.response_weight
        if not own and not config.foreign:
            raise ConfigError(
                "foreign: expected folders of foreign trackers (--foreign), or weights for an own teacher"
            )
        self.teacher = _load_teacher(config) if own else None
        self.scfd, self.mpsd = None, None
        if self.teacher is not None:
            widths = config.network.channels, self.teacher.config.channels
            self.scfd = FeatureDistillation(*widths, config.feature_channels) if config.scfd_weight else None
            self.mpsd = PathDistillation(*widths) if config.mpsd_weight else None
        self.foreign_features = None
        if config.wants_foreign_features:
            channels = [find_foreign(folder).channels for folder in config.foreign]
            self.foreign_features = ForeignFeatures(config.network.channels, channels)

    def train(self, mode: bool = True) -> DistillTask:
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        student = self.run(batch)
        losses = self.tracking(student, batch)
        if self.config.foreign:
            taught, parts = foreign_losses(student.output, batch, student.both)
            losses |= parts
            losses["loss"] = losses["loss"] + self.config.foreign_weight * taught
        if self.foreign_features is not None:
            shown = batch["present"] * batch["informative"] * batch["taught_features_weight"][:, None]
            losses["foreign/features"] = self.foreign_features(student.features, batch["taught_features"], shown)
            losses["loss"] = losses["loss"] + self.config.foreign_features_weight * losses["foreign/features"]
        return losses if self.teacher is None else self._under_own(self.teacher, student, losses, batch)

    def _under_own(
        self, network: Teacher, student: StudentPass, losses: dict[str, Tensor], batch: Batch
    ) -> dict[str, Tensor]:
        """``losses`` with those under the own teacher."""
        config, features = self.config, _teacher_features(network, batch)
        if self.scfd is not None:
            parts = self.scfd(student.features, features, batch["present"])
            losses |= {f"scfd/{name}": value for name, value in parts.items()}
            losses["loss"] = losses["loss"] + config.scfd_weight * torch.stack(list(parts.values())).sum()
        if self.mpsd is None and not config.response_weight:
            return losses
        teacher = _teacher_answer(network, features, batch)
        losses["teacher"] = teacher.path_losses[:, -1].mean()
        if self.mpsd is not None:
            losses |= self._mpsd_losses(student, teacher, batch)
            losses["loss"] = losses["loss"] + config.mpsd_weight * losses["mpsd/loss"]
        if config.response_weight:
            theirs = teacher.path_losses[:, -1]
            parts = response_losses(student.output, teacher.final, theirs, batch, student.both)
            losses |= {f"response/{name}": value for name, value in parts.items()}
            losses["loss"] = losses["loss"] + config.response_weight * torch.stack(list(parts.values())).sum()
        return losses

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


def _load_teacher(config: DistillTraining) -> Teacher:
    teacher = fold_batch_norm(load_weights(teacher_file(config), Teacher)[0]).requires_grad_(False)
    for name in (field.name for field in fields(CropConfig)):
        if (theirs := getattr(teacher.config, name)) != (ours := getattr(config.network, name)):
            raise ConfigError(f"teacher {config.teacher}: its {name} is {theirs}, the student's {ours}")
    return teacher


@torch.no_grad()
def _teacher_features(teacher: Teacher, batch: Batch) -> Tensor:
    """The teacher's neck features (B, 2, Ct, S, S) of the search regions."""
    pictures = batch["search"].float()
    return torch.stack([teacher.features(i, _channels_last(pictures[:, i])) for i in range(STREAMS)], 1)


@torch.no_grad()
def _teacher_answer(teacher: Teacher, features: Tensor, batch: Batch) -> _TeacherAnswer:
    pictures = batch["template"].float()
    templates = [
        teacher.encode_template(i, _channels_last(pictures[:, i]), batch["template_box"]) for i in range(STREAMS)
    ]
    paths = teacher.paths(features, templates, batch["present"])
    losses, output = path_losses(teacher, paths, batch)
    final = (part.unflatten(0, (-1, len(PATHS)))[:, -1] for part in (output.score, output.box))
    return _TeacherAnswer(paths, losses, HeadOutput(*final))


def _channels_last(pictures: Tensor) -> Tensor:
    return pictures.contiguous(memory_format=torch.channels_last)
