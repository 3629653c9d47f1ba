"""SCFD, specific-common feature distillation. Our choice; the paper's is not public.

Shapes: B samples, modalities m in {rgb, aux}, S x S cells, teacher features t_m (B, Ct, S, S), student
features u_m (B, Cs, S, S), both of the search region, after the neck. Cells of an absent modality count
nowhere.

Separation of the teacher, learned beside the student (the teacher itself does not change). With t^ = t
normalised over its channels, 1x1 convolutions give a common part c_m and a specific part s_m, both (B, D, S,
S), and restore r_m = R_m [c_m, s_m]:

- agree   = mean over cells with both modalities of 1 - cos(c_rgb, c_aux): what is common looks the same in
  both;
- apart   = mean over m and all D x D pairs of channels of corr(c_m, s_m)^2, over all cells: the two parts
  share nothing;
- restore = mean over m, cells and channels of (r_m - t^_m)^2: together they lose nothing;
- spread  = mean over m and channels of max(0, 1 - std(c_m)), over all cells: the common part is no constant.

Distillation, with sg = no gradient, c_bar = the mean of c_m over the modalities present, and 1x1 convolutions
P_m and Q of the student:

- specific = mean over m and cells of 1 - cos(P_m u_m, sg s_m);
- common   = mean over m and cells of 1 - cos(Q u_m, sg c_bar), one Q for both: the shared backbone must show
  what both share.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

STREAMS = 2


class FeatureDistillation(nn.Module):
    """The losses above; all its weights are thrown away after training."""

    def __init__(self, student_channels: int, teacher_channels: int, channels: int) -> None:
        super().__init__()
        self.to_common = per_stream(teacher_channels, channels)
        self.to_specific = per_stream(teacher_channels, channels)
        self.restore = per_stream(2 * channels, teacher_channels)
        self.student_specific = per_stream(student_channels, channels)
        self.student_common = nn.Conv2d(student_channels, channels, 1)

    def forward(self, student: Tensor, teacher: Tensor, present: Tensor) -> dict[str, Tensor]:
        """``student`` (B, 2, Cs, S, S), ``teacher`` (B, 2, Ct, S, S) without gradient, ``present`` (B, 2) ->
        six losses, each ().
        """
        teacher = functional.layer_norm(teacher.float().transpose(2, 4), teacher.shape[2:3]).transpose(2, 4)
        common, specific = self.separate(teacher)
        losses = self._separation(teacher, common, specific, present)
        common, specific = common.detach(), specific.detach()
        share = present / present.sum(1, keepdim=True)
        both = (common * share[..., None, None, None]).sum(1)
        own = each(self.student_specific, student)
        shared = torch.stack([self.student_common(student[:, i]) for i in range(STREAMS)], 1)
        losses["specific"] = mean_of_present(distance(own, specific), present)
        losses["common"] = mean_of_present(distance(shared, both.unsqueeze(1).expand_as(shared)), present)
        return losses

    def separate(self, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised teacher features (B, 2, Ct, S, S) -> common and specific part (B, 2, D, S, S)."""
        return each(self.to_common, teacher), each(self.to_specific, teacher)

    def _separation(self, teacher: Tensor, common: Tensor, specific: Tensor, present: Tensor) -> dict[str, Tensor]:
        restored = each(self.restore, torch.cat([common, specific], 2))
        apart, spread = [], []
        for i in range(STREAMS):
            c, deviation = standardised(common[:, i].float(), present[:, i])
            s, _ = standardised(specific[:, i].float(), present[:, i])
            apart.append((c.t() @ s).square().mean())
            spread.append((1 - deviation).clamp(min=0).mean() * present[:, i].amax())
        return {
            "agree": mean_of_present(distance(common[:, :1], common[:, 1:]), present.prod(1, keepdim=True)),
            "apart": torch.stack(apart).mean(),
            "spread": torch.stack(spread).mean(),
            "restore": mean_of_present((restored.float() - teacher).square().mean(2), present),
        }


def per_stream(inputs: int, outputs: int) -> nn.ModuleList:
    """A 1x1 convolution for each stream."""
    return nn.ModuleList(nn.Conv2d(inputs, outputs, 1) for _ in range(STREAMS))


def each(layers: nn.ModuleList, features: Tensor) -> Tensor:
    """Layer m of stream m, (B, 2, C, S, S) -> (B, 2, D, S, S)."""
    return torch.stack([layer(features[:, i]) for i, layer in enumerate(layers)], 1)


def distance(a: Tensor, b: Tensor) -> Tensor:
    """1 - cosine of the channels of each cell, (B, M, C, S, S) twice -> (B, M, S, S)."""
    return 1 - functional.cosine_similarity(a.float(), b.float(), dim=2, eps=1e-4)


def standardised(features: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """(B, D, S, S) -> cells x channels (B * S * S, D) with mean 0 and sum of squares 1 over the cells of
    present samples (0 elsewhere), and each channel's standard deviation (D,)."""
    cells = features.transpose(1, 3).flatten(0, 2)
    weight = present.repeat_interleave(features.shape[-1] ** 2)
    weight = (weight / weight.sum().clamp(min=1)).unsqueeze(1)
    centred = cells - (cells * weight).sum(0)
    deviation = ((centred.square() * weight).sum(0) + 1e-6).sqrt()
    return centred / deviation * weight.sqrt(), deviation


def mean_of_present(values: Tensor, present: Tensor) -> Tensor:
    """Mean over the cells of (B, M, S, S) of what is present (B, M)."""
    return (values.mean((2, 3)) * present).sum() / present.sum().clamp(min=1)
