"""Training of the student by itself, on pairs from sequences and stills."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cmdtrack_ros.data import ImageSequence
from cmdtrack_ros.models.backbone import EfficientNetLite
from cmdtrack_ros.models.head import HeadOutput
from cmdtrack_ros.models.student import Student
from cmdtrack_ros.training.config import StudentTraining
from cmdtrack_ros.training.tasks.pictures import first_rows, tracking_picture
from cmdtrack_ros.training.tasks.task import STREAMS, Batch, Task, presence_views, view_losses
from cmdtrack_ros.training.validation import engine_of, mean_overlap


@dataclass(frozen=True)
class StudentPass:
    """What a student computes for B samples.

    Attributes:
        features (B, 2, C, S, S): neck features of the search regions.
        fused (B, C, S, S): what its head sees, with all streams present.
        output: of the head, for the 3 B samples of ``presence_views``.
        both (B,): 1 where both streams are there.
    """

    features: Tensor
    fused: Tensor
    output: HeadOutput
    both: Tensor


class StudentTask(Task):
    """The tracking losses of the student, with all streams and with each alone."""

    weights_file = "student.safetensors"
    network_type = Student
    network: Student
    config: StudentTraining

    def backbones(self) -> list[EfficientNetLite]:
        return [self.network.backbone]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.tracking(self.run(batch), batch)

    def tracking(self, student: StudentPass, batch: Batch) -> dict[str, Tensor]:
        """The losses of tracking."""
        losses = view_losses(student.output, batch, student.both)
        return {"loss": losses["fused"] + self.config.single_weight * losses["single"], **losses}

    def run(self, batch: Batch) -> StudentPass:
        """The network on a batch, with the early stages frozen or not."""
        student, count = self.network, len(batch["present"])
        boxes = batch["template_box"].repeat_interleave(STREAMS, 0)
        template = student.template_encoder(self._neck(batch["template"]), boxes)
        features = self._neck(batch["search"])
        relations = student.relation(features, template).unflatten(0, (-1, STREAMS))
        views, both = presence_views(batch["present"])
        fused, _ = student.fusion(relations.repeat(3, 1, 1, 1, 1), views)
        return StudentPass(features.unflatten(0, (-1, STREAMS)), fused[:count], student.head(fused), both)

    def _neck(self, pictures: Tensor) -> Tensor:
        """Pictures (B, 2, 3, H, W) uint8 -> neck features (2 B, C, H/16, W/16)."""
        stride8 = self.to_stride8(0, pictures.flatten(0, 1))
        return self.network.neck(stride8, self.network.backbone.late(stride8))

    @torch.no_grad()
    def pictures(self, batch: Batch) -> np.ndarray:
        batch = first_rows(batch)
        return tracking_picture(batch, self.run(batch).output)

    def validate(self, network: Student, sequences: list[ImageSequence]) -> dict[str, float]:
        return mean_overlap(engine_of(network), sequences)
