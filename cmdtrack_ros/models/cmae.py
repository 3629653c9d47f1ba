"""Masked autoencoder for paired pictures: each modality is restored with the help of the other.

Our choice; the paper's is not public. The encoder is a convolutional backbone, hence masked patches are
painted over in the picture (with its mean colour) rather than dropped, as a transformer could.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from cmdtrack_ros.models.backbone import PIXEL_MEAN, PIXEL_SCALE, EfficientNetLite
from cmdtrack_ros.models.config import STRIDE

_GROUPS = 8


@dataclass(frozen=True)
class CmaeConfig:
    """Shape of an autoencoder; travels in its weights file.

    Attributes:
        backbone: EfficientNet-Lite variant.
        streams: 1 = one backbone for both modalities (a student's), 2 = one each (a teacher's).
        channels: width of the decoders, which are thrown away afterwards; a multiple of 8.
        patch: side of a patch, pixels, a multiple of 16.
        template_size, search_size, template_factor, search_factor: as in ``StudentConfig``; only search crops
            are used.
    """

    backbone: str = "lite0"
    streams: int = 1
    channels: int = 128
    patch: int = 32
    template_size: int = 128
    search_size: int = 256
    template_factor: float = 2.0
    search_factor: float = 4.0

    def __post_init__(self) -> None:
        if self.streams not in (1, 2):
            raise ValueError(f"streams: expected 1 or 2, got {self.streams}")
        if self.channels % _GROUPS:
            raise ValueError(f"channels: expected a multiple of {_GROUPS}, got {self.channels}")
        if self.patch % STRIDE or self.search_size % self.patch:
            raise ValueError(
                f"patch ({self.patch}): expected a multiple of {STRIDE} that divides search_size "
                f"({self.search_size})"
            )

    def to_dict(self) -> dict:
        """The configuration as plain values, for JSON."""
        return asdict(self)


class Cmae(nn.Module):
    """Backbone(s), and per modality a light decoder that sees the features of both."""

    def __init__(self, config: CmaeConfig = CmaeConfig()) -> None:
        super().__init__()
        self.config = config
        self.backbones = nn.ModuleList(EfficientNetLite(config.backbone) for _ in range(config.streams))
        self.decoders = nn.ModuleList(
            _decoder(2 * self.backbones[0].channels16, config.channels) for _ in range(2)
        )

    def encoder(self, stream: int) -> EfficientNetLite:
        """The backbone of a stream (0 RGB, 1 aux)."""
        return self.backbones[stream % len(self.backbones)]

    def decode(self, features: list[Tensor], pictures: Tensor) -> Tensor:
        """Restored pictures (B, 2, 3, H, W), scaled as by :func:`scaled`.

        Args:
            features: at stride 16, (B, C16, H/16, W/16) of each stream.
            pictures: the masked ones (B, 2, 3, H, W) 0..255, to which the decoders' answers are added: a new
                decoder restores the colour that a patch was painted with, and learns what is missing there.
        """
        missing = []
        for own, other, decoder in zip(features, features[::-1], self.decoders):
            missing.append(functional.pixel_shuffle(decoder(torch.cat([own, other], 1)), STRIDE))
        return scaled(pictures) + torch.stack(missing, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Masked pictures (B, 2, 3, H, W) float 0..255 -> restored ones of the same shape, scaled."""
        return self.decode([self.encoder(i)(pictures[:, i]).stride16 for i in range(2)], pictures)


def _decoder(inputs: int, channels: int) -> nn.Sequential:
    last = nn.Conv2d(channels, 3 * STRIDE**2, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(
        _layer(inputs, channels, 1), _layer(channels, channels, 3), _layer(channels, channels, 3), last
    )


def _layer(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    # Group norm: the pictures of a batch are too different for shared statistics.
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    return nn.Sequential(convolution, nn.GroupNorm(_GROUPS, outputs), nn.ReLU6())


def scaled(pictures: Tensor) -> Tensor:
    """0..255 -> about -1..1, as the backbone sees them."""
    return (pictures - PIXEL_MEAN) / PIXEL_SCALE


def structure(pictures: Tensor, patch: int) -> Tensor:
    """How much there is to see in each patch of each modality.

    The mean absolute difference of neighbouring grey values in the patch, over its mean in the picture: 1 =
    as much as the average patch of the same picture, which makes modalities of different contrast comparable.

    ``pictures`` (B, 2, 3, H, W) 0..255 -> (B, 2, H/patch, W/patch).
    """
    grey = pictures.mean(2)
    across, down = torch.zeros_like(grey), torch.zeros_like(grey)
    across[..., :, 1:] = grey.diff(dim=-1).abs()
    down[..., 1:, :] = grey.diff(dim=-2).abs()
    energy = functional.avg_pool2d(across + down, patch)
    return energy / energy.mean((2, 3), keepdim=True).clamp(min=1e-3)


def complementary_mask(
    pictures: Tensor, patch: int, ratio: float, noise: Tensor, sharpness: float = 2.0
) -> Tensor:
    """Which modality loses which patch: 1 = masked, (B, 2, H/patch, W/patch); never both at one place.

    With s = :func:`structure` of the patch, a place's complementarity is k = log s_rgb - log s_aux: where RGB
    shows more (k > 0) it can fill in for aux, so aux is masked there with probability sigmoid(sharpness * k),
    else RGB. Of all places the ``ratio`` with the largest max(s_rgb, s_aux) + Gumbel noise are masked: an
    empty patch teaches nothing, and cannot help.

    Args:
        pictures: (B, 2, 3, H, W) float 0..255.
        noise: (B, 2, H/patch, W/patch) uniform in (0, 1); all the randomness there is.
    """
    level = structure(pictures, patch)
    k = level[:, 0].clamp(min=1e-3).log() - level[:, 1].clamp(min=1e-3).log()
    aux_loses = (noise[:, 0] < (sharpness * k).sigmoid()).to(pictures.dtype)
    worth = level.amax(1) - (-noise[:, 1].clamp(1e-6, 1 - 1e-6).log()).log()
    flat = worth.flatten(1)
    chosen = flat.topk(max(round(ratio * flat.shape[1]), 1), 1).indices
    place = torch.zeros_like(flat).scatter_(1, chosen, 1.0).view_as(worth)
    return torch.stack([place * (1 - aux_loses), place * aux_loses], 1)


def paint_over(pictures: Tensor, mask: Tensor) -> Tensor:
    """Pictures (B, 2, 3, H, W) with the masked patches in the picture's mean colour."""
    pixels = per_pixel(mask, pictures.shape[-1]).unsqueeze(2)
    return torch.where(pixels > 0, pictures.mean((3, 4), keepdim=True), pictures)


def per_pixel(mask: Tensor, size: int) -> Tensor:
    """Mask per patch (B, 2, h, w) -> per pixel (B, 2, size, size)."""
    return functional.interpolate(mask, size=(size, size), mode="nearest")
