"""Several processes that train as one with a larger batch would: shared counts and batch statistics."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, distributed, nn


def processes() -> int:
    """How many processes train together; 1 without `torchrun`."""
    return int(os.environ.get("WORLD_SIZE", 1)) if distributed.is_torchelastic_launched() else 1


def processes_here() -> int:
    """How many of them run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if distributed.is_torchelastic_launched() else 1


class _Sum(torch.autograd.Function):
    """Sum over all processes; what each does with the sum flows back to all."""

    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        total = value.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return _Sum.apply(gradient.contiguous())


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a tensor over all processes; gradients go back to each of them."""
    if not distributed.is_initialized():
        return value
    return _Sum.apply(value) / distributed.get_world_size()


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of all processes. torch's own SyncBatchNorm does not run on CPUs."""

    running_mean: Tensor  # as of every batch norm of our networks; torch allows None
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W); N, H and W must be the same in all processes."""
        if not self.training:
            return super().forward(x)
        values = x.float()
        own = torch.stack([values.mean((0, 2, 3)), values.square().mean((0, 2, 3))])
        mean, square = mean_over_processes(own)
        variance = (square - mean.square()).clamp(min=0)
        with torch.no_grad():
            count = x.numel() / x.shape[1] * distributed.get_world_size()
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return (values * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)).to(x.dtype)


def share_batch_norm(module: nn.Module) -> None:
    """Replace every batch norm below ``module`` by one that is shared, in place; the weights stay."""
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            shared = SharedBatchNorm2d(child.num_features, child.eps, child.momentum)
            shared.load_state_dict(child.state_dict())
            for own, old in zip(shared.parameters(), child.parameters(), strict=True):
                own.requires_grad_(old.requires_grad)
            setattr(module, name, shared)
        else:
            share_batch_norm(child)
