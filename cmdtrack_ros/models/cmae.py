"""CMAE's network, a masked autoencoder of paired pictures: each modality is restored with the other's help.

Our choice; the paper's is not public. How pictures are masked stands in ``training.tasks.cmae``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from cmdtrack_ros.models.backbone import EfficientNetLite, scaled
from cmdtrack_ros.models.config import STRIDE, CropConfig

_GROUPS = 8


@dataclass(frozen=True)
class CmaeConfig(CropConfig):
    """Shape of a CMAE network; travels in its weights file. Of the crops, only the search region's are used.

    Attributes:
        backbone: EfficientNet-Lite variant.
        streams: 1 = one backbone for both modalities (a student's), 2 = one each (a teacher's).
        channels: width of the decoders, which are thrown away afterwards; a multiple of 8.
        patch: side of a patch, pixels, a multiple of 16.
    """

    backbone: str = "lite0"
    streams: int = 1
    channels: int = 128
    patch: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels % _GROUPS:
            raise ValueError(f"channels: expected a multiple of {_GROUPS}, got {self.channels}")
        if self.patch % STRIDE or self.search_size % self.patch:
            raise ValueError(
                f"patch ({self.patch}): expected a multiple of {STRIDE} that divides search_size ({self.search_size})"
            )


class Cmae(nn.Module):
    """Backbone(s), and per modality a light decoder that sees the features of both."""

    def __init__(self, config: CmaeConfig = CmaeConfig()) -> None:
        super().__init__()
        self.config = config
        backbones = [EfficientNetLite(config.backbone) for _ in range(config.streams)]
        self.backbones = nn.ModuleList(backbones)
        self.decoders = nn.ModuleList(_decoder(2 * backbones[0].channels16, config.channels) for _ in range(2))

    def encoder(self, stream: int) -> EfficientNetLite:
        """The backbone of a stream (0 RGB, 1 aux)."""
        return cast(EfficientNetLite, self.backbones[stream % len(self.backbones)])

    def decode(self, features: list[Tensor], pictures: Tensor) -> Tensor:
        """Restored pictures (B, 2, 3, H, W), scaled as by :func:`backbone.scaled`.

        Args:
            features: at stride 16, (B, C16, H/16, W/16) of each stream.
            pictures: the masked ones (B, 2, 3, H, W) 0..255, to which the decoders' answers are added: a new
                decoder restores the colour that a patch was painted with, and learns what is missing there.
        """
        missing = []
        for own, other, decoder in zip(features, features[::-1], self.decoders, strict=True):
            missing.append(functional.pixel_shuffle(decoder(torch.cat([own, other], 1)), STRIDE))
        return scaled(pictures) + torch.stack(missing, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Masked pictures (B, 2, 3, H, W) float 0..255 -> restored ones of the same shape, scaled."""
        return self.decode([self.encoder(i)(pictures[:, i]).stride16 for i in range(2)], pictures)


def _decoder(inputs: int, channels: int) -> nn.Sequential:
    last = nn.Conv2d(channels, 3 * STRIDE**2, 1)
    for parameter in last.parameters():
        nn.init.zeros_(parameter)
    return nn.Sequential(
        _layer(inputs, channels, 1), _layer(channels, channels, 3), _layer(channels, channels, 3), last
    )


def _layer(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    # Group norm: the pictures of a batch are too different for shared statistics.
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    return nn.Sequential(convolution, nn.GroupNorm(_GROUPS, outputs), nn.ReLU6())
