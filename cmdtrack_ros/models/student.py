"""The student: the compact network that runs on the robot."""

from __future__ import annotations

from torch import Tensor, nn

from cmdtrack_ros.models.backbone import EfficientNetLite
from cmdtrack_ros.models.config import STRIDE, TEMPLATE_FIELDS, StudentConfig
from cmdtrack_ros.models.fusion import GatedFusion, Neck, Relation, TemplateEncoder, TemplateFeatures
from cmdtrack_ros.models.head import CenterHead, HeadOutput


class Student(nn.Module):
    """Shared backbone for all modalities, relation to the template per modality, gated fusion, centre head.

    Pictures of B samples with M modalities each come as one batch of B * M, sample by sample.
    """

    def __init__(self, config: StudentConfig = StudentConfig()) -> None:
        super().__init__()
        self.config = config
        self.backbone = EfficientNetLite(config.backbone)
        self.neck = Neck(self.backbone.channels8, self.backbone.channels16, config.channels)
        self.template_encoder = TemplateEncoder(config.channels)
        self.relation = Relation(config.channels, (config.template_size // STRIDE) ** 2)
        self.fusion = GatedFusion(config.channels)
        self.head = CenterHead(config.channels, config.search_factor)

    def features(self, pictures: Tensor) -> Tensor:
        """Pictures (N, 3, H, W) float 0..255 -> neck features (N, C, H/16, W/16)."""
        maps = self.backbone(pictures)
        return self.neck(maps.stride8, maps.stride16)

    def encode_template(self, pictures: Tensor, box: Tensor) -> TemplateFeatures:
        """Template pictures (N, 3, T, T) float 0..255 and boxes in them (N, 4), xywh as fractions of T."""
        return self.template_encoder(self.features(pictures), box)

    def forward(self, pictures: Tensor, template: TemplateFeatures, present: Tensor) -> tuple[HeadOutput, Tensor]:
        """Find the target in search regions.

        Args:
            pictures: (B * M, 3, S, S) float 0..255; black where a modality is absent.
            template: features of B * M templates.
            present: (B, M) float, 1 where the modality is there, at least one per sample.

        Returns:
            the head's output for B samples, and the weight of each modality per cell (B, M, S/16, S/16).
        """
        relations = self.relation(self.features(pictures), template)
        fused, weights = self.fusion(relations.unflatten(0, tuple(present.shape)), present)
        return self.head(fused), weights


class TemplateNet(nn.Module):
    """What an engine runs for templates: pictures (N, T, T, 3) uint8 and boxes (N, 4), xywh as fractions of T, to
    the parts of N templates, as ``TEMPLATE_FIELDS``.
    """

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, pictures: Tensor, boxes: Tensor) -> tuple[Tensor, ...]:
        template = self.student.encode_template(_as_input(pictures, boxes), boxes)
        return tuple(getattr(template, field) for field in TEMPLATE_FIELDS)


class SearchNet(nn.Module):
    """What an engine runs for search regions: pictures (B * M, S, S, 3) uint8, the parts of B * M templates and
    ``present`` (B, M), to score (B, S', S'), box (B, 4, S', S') and weights (B, M, S', S'), S' = S / 16.
    """

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(
        self, pictures: Tensor, keys: Tensor, values: Tensor, pooled: Tensor, mask: Tensor, present: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        template = TemplateFeatures(keys, values, pooled, mask)
        output, weights = self.student(_as_input(pictures, keys), template, present)
        return output.score.sigmoid()[:, 0], output.box, weights


def _as_input(pictures: Tensor, like: Tensor) -> Tensor:
    return pictures.permute(0, 3, 1, 2).to(like.dtype)
