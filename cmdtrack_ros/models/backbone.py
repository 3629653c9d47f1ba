"""EfficientNet-Lite up to stride 16 in plain torch.

Architecture: Tan and Le, "EfficientNet" (ICML 2019), in the Lite form of the TensorFlow TPU repository: no
squeeze-excitation, ReLU6 everywhere, and a stem that is not scaled with the width.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TypeVar, cast

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cmdtrack_ros.models.config import BACKBONES

# (repeats, kernel, stride, expansion, output channels) of EfficientNet-B0, stem excluded, up to stride 16.
_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112))
_STEM = 32

Module = TypeVar("Module", bound=nn.Module)


PIXEL_MEAN = 127.0
PIXEL_SCALE = 128.0
"""The published Lite weights expect (pixel - 127) / 128 in RGB order."""


def scaled(pictures: Tensor) -> Tensor:
    """0..255 -> about -1..1, as the backbone sees them."""
    return (pictures - PIXEL_MEAN) / PIXEL_SCALE


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding, which puts the odd pixel after the image, not before."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        total = kernel - stride if stride > 1 else kernel - 1
        if total % 2 == 0:
            return functional.conv2d(x, self.weight, self.bias, self.stride, total // 2, 1, self.groups)
        before, after = total // 2, total - total // 2
        padded = functional.pad(x, (before, after, before, after))
        return functional.conv2d(padded, self.weight, self.bias, self.stride, 0, 1, self.groups)


def conv_bn(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, act: bool = True
) -> nn.Sequential:
    """SAME convolution, batch norm and, if ``act``, ReLU6. ``stride`` 2 expects an even input size."""
    layers: list[nn.Module] = [
        SameConv2d(inputs, outputs, kernel, stride, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01),
    ]
    return nn.Sequential(*layers, nn.ReLU6()) if act else nn.Sequential(*layers)


class InvertedBottleneck(nn.Module):
    """Expand 1x1, depthwise kxk, project 1x1; residual where the shape stays."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = conv_bn(inputs, hidden, 1) if expansion > 1 else nn.Identity()
        self.depthwise = conv_bn(hidden, hidden, kernel, stride, groups=hidden)
        self.project = conv_bn(hidden, outputs, 1, act=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


@dataclass(frozen=True)
class Features:
    """Feature maps of a backbone: ``stride8`` (N, C8, H/8, W/8) and ``stride16`` (N, C16, H/16, W/16)."""

    stride8: Tensor
    stride16: Tensor


class EfficientNetLite(nn.Module):
    """Backbone: pictures (N, 3, H, W), float 0..255 RGB, H and W multiples of 16 -> :class:`Features`."""

    def __init__(self, variant: str = "lite0") -> None:
        super().__init__()
        width, depth = BACKBONES[variant]
        self.stem = conv_bn(3, _STEM, 3, 2)
        channels, stages = _STEM, []
        for index, (repeats, kernel, stride, expansion, outputs) in enumerate(_STAGES):
            outputs = _round_channels(outputs * width)
            # The Lite family does not deepen its first stage.
            repeats = repeats if index == 0 else math.ceil(repeats * depth)
            blocks = []
            for block in range(repeats):
                blocks.append(InvertedBottleneck(channels, outputs, kernel, stride if block == 0 else 1, expansion))
                channels = outputs
            stages.append(nn.Sequential(*blocks))
        self.early = nn.Sequential(*stages[:3])
        self.late = nn.Sequential(*stages[3:])
        self.channels8 = _round_channels(_STAGES[2][4] * width)
        self.channels16 = channels

    def to_stride8(self, pictures: Tensor) -> Tensor:
        """The high-resolution half of the network, usually frozen in training."""
        return self.early(self.stem(scaled(pictures)))

    def forward(self, pictures: Tensor) -> Features:
        stride8 = self.to_stride8(pictures)
        return Features(stride8, self.late(stride8))

    def load_imagenet(self, published: dict[str, Tensor]) -> None:
        """Start from a published ``efficientnet-lite*`` state dict, whose layers have the same order.

        Raises:
            ValueError: a layer's shape differs, i.e. the state dict is of another variant.
        """
        theirs = [(name, value) for name, value in published.items() if "num_batches_tracked" not in name]
        ours = {name: value for name, value in self.state_dict().items() if "num_batches_tracked" not in name}
        for (name, target), (their_name, value) in zip(ours.items(), theirs, strict=False):
            if target.shape != value.shape:
                raise ValueError(
                    f"{their_name}: expected shape {tuple(target.shape)} for {name}, got {tuple(value.shape)}"
                )
            target.copy_(value)


def fold_batch_norm(module: Module) -> Module:
    """A copy in evaluation mode with batch norms folded into convolutions: same answers, faster."""
    folded = copy.deepcopy(module).eval()
    for part in folded.modules():
        if isinstance(part, nn.Sequential) and len(part) > 1 and isinstance(part[1], nn.BatchNorm2d):
            part[0] = fuse_conv_bn_eval(cast(nn.Conv2d, part[0]), part[1])
            part[1] = nn.Identity()
    return folded


def _round_channels(channels: float) -> int:
    """Nearest multiple of 8 that is not more than 10 % below, as in the published networks."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
