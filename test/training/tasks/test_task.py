"""What the stages share: losses of the streams alone."""

import torch

from cmdtrack_ros.models.head import HeadOutput
from cmdtrack_ros.training.tasks.task import view_losses


def test_misleading_stream_does_not_count_alone():
    output = HeadOutput(torch.zeros(3, 1, 8, 8), torch.rand(3, 4, 8, 8))
    batch = {"box": torch.tensor([[0.4, 0.3, 0.25, 0.2]]), "positive": torch.ones(1)}

    def single(informative):
        marked = batch | {"informative": torch.tensor([informative])}
        return view_losses(output, marked, torch.ones(1))["single"]

    rgb, aux = single([1.0, 0.0]), single([0.0, 1.0])
    assert rgb != aux
    torch.testing.assert_close(single([1.0, 1.0]), (rgb + aux) / 2)
