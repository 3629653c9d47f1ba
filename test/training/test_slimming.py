"""A narrower student from a wider one."""

import torch

from cmdtrack_ros.models.config import StudentConfig
from cmdtrack_ros.models.student import Student
from cmdtrack_ros.training.slimming import slim

WIDE, NARROW = 32, 16
BOX = torch.tensor([[0.25, 0.3, 0.5, 0.4]]).expand(2, 4)


def silence(layer: torch.nn.Module, generator: torch.Generator) -> torch.Tensor:
    """Half of a batch norm's channels give 0 from now on; which ones."""
    layer.weight.uniform_(0.5, 1.5, generator=generator)
    layer.bias.uniform_(0.1, 0.5, generator=generator)
    silent = torch.randperm(len(layer.weight), generator=generator)[: len(layer.weight) // 2]
    layer.weight[silent] = layer.bias[silent] = 0
    return silent


@torch.no_grad()
def test_channels_that_carry_nothing_are_dropped():
    """Half of the channels are silent, so that the student without them must answer the same."""
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(1)
    wide = Student(StudentConfig(channels=WIDE, template_size=32, search_size=64)).eval()
    relation, encoder, head = wide.relation, wide.template_encoder, wide.head
    silent = silence(wide.neck.coarse[1], generator)
    wide.neck.fine[1][1].weight[silent] = 0
    encoder.place[2].weight[:, torch.randperm(WIDE, generator=generator)[:NARROW]] = 0
    relation.mix[0].weight[:, 2 * WIDE + silent] = 0
    # What depends on the number of channels by design: the scale of correlations and of the attention.
    relation.mix[0].weight[:, 3 * WIDE :] = 0
    relation.query.weight.zero_()
    relation.query.bias.zero_()
    silent = silence(relation.mix[1], generator)
    for norm in (relation.context[1][1], *(layer[1] for layer in head.trunk)):
        norm.weight[silent] = norm.bias[silent] = 0
    for norm in (relation.context[0][1], head.score[0][1], head.geometry[0][1]):
        silence(norm, generator)
    narrow = slim(wide, NARROW)
    assert narrow.config.channels == NARROW
    pictures, crops = (torch.rand(2, 3, size, size, generator=generator) * 255 for size in (64, 32))
    answers = [s(pictures, s.encode_template(crops, BOX), torch.ones(1, 2)) for s in (wide, narrow)]
    for theirs, ours in zip((answers[0][0].score, answers[0][0].box), (answers[1][0].score, answers[1][0].box)):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)
