"""The teacher: two streams with their own weights that talk to each other at three depths. It never runs on a
robot.

Our choice; the paper's is not public.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.models.backbone import EfficientNetLite
from cmdtrack_ros.models.config import STRIDE, CropConfig
from cmdtrack_ros.models.fusion import GatedFusion, Neck, Relation, TemplateEncoder, TemplateFeatures
from cmdtrack_ros.models.head import CenterHead, HeadOutput
from cmdtrack_ros.models.student import Student

STREAMS = 2
PATHS = ("neck_rgb", "neck_aux", "relation_rgb", "relation_aux", "head_rgb", "head_aux", "final")
"""Ways through the teacher's fusion: depth of the exchange and the stream it serves, and the answer of all
together.
"""


@dataclass(frozen=True)
class TeacherConfig(CropConfig):
    """Shape of a teacher; travels in its weights file.

    Attributes:
        backbone: EfficientNet-Lite variant of each stream.
        channels: width of neck, relation, exchanges and head.
        heads: of each cross-attention; a divisor of ``channels``.
    """

    backbone: str = "lite2"
    channels: int = 192
    heads: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels % self.heads:
            raise ValueError(f"heads: expected a divisor of channels ({self.channels}), got {self.heads}")


@dataclass(frozen=True)
class TeacherPaths:
    """What each of the P paths would hand to the head.

    Attributes:
        maps (B, P, C, S, S): features, in the order of :data:`PATHS`.
        valid (B, P): 1 where the path's stream is there; "final" always is.
        weights (B, 2, S, S): the fusion's weight of each modality.
    """

    maps: Tensor
    valid: Tensor
    weights: Tensor

    @property
    def final(self) -> Tensor:
        """(B, C, S, S) of the last path."""
        return self.maps[:, -1]


class CrossAttention(nn.Module):
    """What one map reads from another: queries of the receiver, keys and values of the giver, with learned
    places.

    Starts silent (its output layer is zero), so that a new teacher is two independent trackers.
    """

    def __init__(self, channels: int, heads: int, cells: int) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(cells, channels) * 0.02)
        self.receiver_norm, self.giver_norm = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)
        nn.init.zeros_(self.attention.out_proj.weight)

    def forward(self, receiver: Tensor, giver: Tensor) -> Tensor:
        """(B, C, S, S) twice -> the message to the receiver (B, C, S, S)."""
        query, value = self.receiver_norm(_as_cells(receiver)), self.giver_norm(_as_cells(giver))
        message, _ = self.attention(query + self.place, value + self.place, value, need_weights=False)
        return message.transpose(1, 2).reshape(receiver.shape)


class Exchange(nn.Module):
    """Cross-attention in both directions, each with its own weights; silent where a stream is absent."""

    def __init__(self, channels: int, heads: int, cells: int) -> None:
        super().__init__()
        self.to_rgb = CrossAttention(channels, heads, cells)
        self.to_aux = CrossAttention(channels, heads, cells)

    def forward(self, streams: Tensor, present: Tensor) -> Tensor:
        """``streams`` (B, 2, C, S, S), ``present`` (B, 2) -> the same with what they read (B, 2, C, S, S)."""
        rgb, aux = streams.unbind(1)
        messages = torch.stack([self.to_rgb(rgb, aux), self.to_aux(aux, rgb)], 1)
        return streams + messages * present.prod(1).view(-1, 1, 1, 1, 1)


class Teacher(nn.Module):
    """Backbone, neck, template encoder and relation per stream; exchanges after neck and relation, and before
    the head.
    """

    def __init__(self, config: TeacherConfig = TeacherConfig()) -> None:
        super().__init__()
        self.config = config
        channels, cells = config.channels, (config.search_size // STRIDE) ** 2
        backbones = [EfficientNetLite(config.backbone) for _ in range(STREAMS)]
        self.backbones = nn.ModuleList(backbones)
        widths = backbones[0].channels8, backbones[0].channels16
        self.necks = nn.ModuleList(Neck(*widths, channels) for _ in range(STREAMS))
        self.template_encoders = nn.ModuleList(TemplateEncoder(channels) for _ in range(STREAMS))
        self.relations = nn.ModuleList(
            Relation(channels, (config.template_size // STRIDE) ** 2) for _ in range(STREAMS)
        )
        self.at_neck = Exchange(channels, config.heads, cells)
        self.at_relation = Exchange(channels, config.heads, cells)
        self.fusion = GatedFusion(channels)
        self.at_head = nn.ModuleList(CrossAttention(channels, config.heads, cells) for _ in range(STREAMS))
        self.head = CenterHead(channels, config.search_factor)

    def start_from(self, student: Student) -> None:
        """Take a student's weights in both streams; with the silent exchanges, it then answers as the student
        does.

        ConfigError when backbone, channels or crops differ.
        """
        for name, theirs in student.config.to_dict().items():
            if (ours := getattr(self.config, name)) != theirs:
                raise ConfigError(f"teacher: {name} is {ours}, that of the student to start from {theirs}")
        per_stream = (
            (self.backbones, student.backbone),
            (self.necks, student.neck),
            (self.template_encoders, student.template_encoder),
            (self.relations, student.relation),
        )
        for parts, theirs in per_stream:
            for part in parts:
                part.load_state_dict(theirs.state_dict())
        self.fusion.load_state_dict(student.fusion.state_dict())
        self.head.load_state_dict(student.head.state_dict())

    def features(self, stream: int, pictures: Tensor) -> Tensor:
        """Pictures (N, 3, H, W) float 0..255 of one stream (0 RGB, 1 aux) -> neck features (N, C, H/16,
        W/16).
        """
        maps = self.backbones[stream](pictures)
        return self.necks[stream](maps.stride8, maps.stride16)

    def encode_template(self, stream: int, pictures: Tensor, box: Tensor) -> TemplateFeatures:
        """Template pictures (N, 3, T, T) of one stream and boxes in them (N, 4), xywh as fractions of T."""
        return self.template_encoders[stream](self.features(stream, pictures), box)

    def paths(self, search: Tensor, templates: list[TemplateFeatures], present: Tensor) -> TeacherPaths:
        """Neck features of the search regions (B, 2, C, S, S), the templates of each stream and ``present``
        (B, 2).
        """
        seen = self.at_neck(search, present)
        related = torch.stack([self.relations[i](seen[:, i], templates[i]) for i in range(STREAMS)], 1)
        exchanged = self.at_relation(related, present)
        fused, weights = self.fusion(exchanged, present)
        messages = torch.stack([self.at_head[i](fused, exchanged[:, i]) for i in range(STREAMS)], 1)
        messages = messages * present[..., None, None, None]
        read = fused.unsqueeze(1) + messages
        final = fused + messages.sum(1)
        maps = torch.cat([related, exchanged, read, final.unsqueeze(1)], 1)
        return TeacherPaths(maps, torch.cat([present.repeat(1, 3), torch.ones_like(present[:, :1])], 1), weights)

    def forward(
        self, pictures: Tensor, templates: list[TemplateFeatures], present: Tensor
    ) -> tuple[HeadOutput, Tensor]:
        """Find the target in search regions.

        Args:
            pictures: (B, 2, 3, S, S) float 0..255; anything where a modality is absent.
            templates: of each stream, B templates.
            present: (B, 2) float, 1 where the modality is there, at least one per sample.

        Returns:
            the head's output for B samples, and the weight of each modality per cell (B, 2, S/16, S/16).
        """
        search = torch.stack([self.features(i, pictures[:, i]) for i in range(STREAMS)], 1)
        paths = self.paths(search, templates, present)
        return self.head(paths.final), paths.weights


def _as_cells(features: Tensor) -> Tensor:
    """(B, C, S, S) -> (B, S * S, C)."""
    return features.flatten(2).transpose(1, 2)
