"""Training of the teacher, on the same pairs and with the same losses as a student's; also under foreign trackers."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cmdtrack_ros.data import ImageSequence
from cmdtrack_ros.models.backbone import EfficientNetLite
from cmdtrack_ros.models.fusion import TemplateFeatures
from cmdtrack_ros.models.head import HeadOutput
from cmdtrack_ros.models.teacher import PATHS, Teacher, TeacherPaths
from cmdtrack_ros.training.config import TeacherTraining
from cmdtrack_ros.training.losses.response import foreign_losses
from cmdtrack_ros.training.losses.tracking import tracking_loss
from cmdtrack_ros.training.parallel import mean_over_processes
from cmdtrack_ros.training.tasks.pictures import first_rows, tracking_picture
from cmdtrack_ros.training.tasks.task import STREAMS, Batch, Task, presence_views, view_losses
from cmdtrack_ros.training.validation import engine_of, mean_overlap


class TeacherTask(Task):
    """The tracking losses of the teacher: with all streams, with each alone, and per path of its fusion."""

    weights_file = "teacher.safetensors"
    network_type = Teacher
    network: Teacher
    config: TeacherTraining

    def backbones(self) -> list[EfficientNetLite]:
        return list(self.network.backbones)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        teacher, count = self.network, len(batch["present"])
        views, both = presence_views(batch["present"])
        paths = self._paths(batch, views)
        output = teacher.head(paths.final)
        losses = view_losses(output, batch, both)
        own = TeacherPaths(paths.maps[:count], paths.valid[:count], paths.weights[:count])
        per_path, _ = path_losses(teacher, own, batch)
        # The last path is the answer itself and has its loss already.
        valid = own.valid[:, :-1]
        losses["paths"] = (per_path[:, :-1] * valid).sum() / mean_over_processes(valid.sum()).clamp(min=1)
        total = (
            losses["fused"] + self.config.single_weight * losses["single"] + self.config.path_weight * losses["paths"]
        )
        if self.config.foreign:
            taught, parts = foreign_losses(output, batch, both)
            losses |= parts
            total = total + self.config.foreign_weight * taught
        return {"loss": total, **losses}

    @torch.no_grad()
    def pictures(self, batch: Batch) -> np.ndarray:
        batch = first_rows(batch)
        views, _ = presence_views(batch["present"])
        return tracking_picture(batch, self.network.head(self._paths(batch, views).final))

    def _paths(self, batch: Batch, views: Tensor) -> TeacherPaths:
        """The paths of the 3 B samples of ``presence_views``."""
        templates = [_repeated(template) for template in self._templates(batch)]
        return self.network.paths(self._neck(batch["search"]).repeat(3, 1, 1, 1, 1), templates, views)

    def _templates(self, batch: Batch) -> list[TemplateFeatures]:
        features = self._neck(batch["template"])
        return [
            encoder(features[:, i], batch["template_box"]) for i, encoder in enumerate(self.network.template_encoders)
        ]

    def _neck(self, pictures: Tensor) -> Tensor:
        """Pictures (B, 2, 3, H, W) uint8 -> neck features (B, 2, C, H/16, W/16)."""
        streams = []
        for i in range(STREAMS):
            stride8 = self.to_stride8(i, pictures[:, i])
            streams.append(self.network.necks[i](stride8, self.network.backbones[i].late(stride8)))
        return torch.stack(streams, 1)

    def validate(self, network: Teacher, sequences: list[ImageSequence]) -> dict[str, float]:
        return mean_overlap(engine_of(network), sequences)


def _repeated(template: TemplateFeatures) -> TemplateFeatures:
    parts = (template.keys, template.values, template.pooled, template.mask)
    return TemplateFeatures(*(part.repeat(3, *[1] * (part.ndim - 1)) for part in parts))


def path_losses(teacher: Teacher, paths: TeacherPaths, batch: Batch) -> tuple[Tensor, HeadOutput]:
    """The head's tracking loss on each path (B, P), and its output for the B * P maps, sample by sample."""
    count = len(PATHS)
    output = teacher.head(paths.maps.flatten(0, 1))
    losses = tracking_loss(
        output, batch["box"].repeat_interleave(count, 0), batch["positive"].repeat_interleave(count, 0)
    )
    return losses["total"].unflatten(0, (-1, count)), output
