"""A student's features drawn to those of foreign trackers: knowledge of more data than ours, cell by cell. Our choice.

A foreign tracker sees the clean RGB picture of a search region; its features t (C, S, S) are what it would compare with
a template. Every stream of the same moment learns to see the like: what it finds in RGB is the target for thermal,
depth and events. With t~ = t standardised, channel by channel, over the cells of a batch, u_m the student's features of
stream m after the neck, and a 1x1 convolution P_m:

    loss = mean over streams, cells and foreign trackers of 1 - cos(P_m u_m, t~).

A stream that is absent or made to mislead, and a sample without RGB, count nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from cmdtrack_ros.training.losses.scfd import distance, each, mean_of_present, per_stream


class ForeignFeatures(nn.Module):
    """The loss above; its weights are thrown away after training.

    Args:
        student_channels: of the student's neck.
        foreign_channels: of each foreign tracker's features.
    """

    def __init__(self, student_channels: int, foreign_channels: Sequence[int]) -> None:
        super().__init__()
        self.parts = list(foreign_channels)
        self.project = per_stream(student_channels, sum(self.parts))

    def forward(self, student: Tensor, taught: Tensor, shown: Tensor) -> Tensor:
        """``student`` (B, 2, Cs, S, S), ``taught`` (B, C, S, S), ``shown`` (B, 2) 1 where a stream learns -> ()."""
        own = each(self.project, student)
        target = normalised(taught.float(), (shown.amax(1) > 0).float()).unsqueeze(1).expand_as(own)
        parts = zip(own.split(self.parts, 2), target.split(self.parts, 2), strict=True)
        distances = [distance(one, other) for one, other in parts]
        return mean_of_present(sum(distances[1:], distances[0]) / len(distances), shown)


def normalised(features: Tensor, counted: Tensor) -> Tensor:
    """(B, C, S, S) with mean 0 and deviation 1 of each channel over the cells of the samples that are ``counted`` (B,)
    by 1; of networks without a bias in common, the mean alone would make all cells look alike.
    """
    share = counted / counted.sum().clamp(min=1)
    mean = (features.mean((2, 3)) * share[:, None]).sum(0)
    centred = features - mean[:, None, None]
    deviation = ((centred.square().mean((2, 3)) * share[:, None]).sum(0) + 1e-6).sqrt()
    return centred / deviation[:, None, None]
