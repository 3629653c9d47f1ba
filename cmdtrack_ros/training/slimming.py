"""A narrower student that starts from a wider one's strongest channels.

Our choice, after Liu et al., "Learning Efficient Convolutional Networks through Network Slimming" (ICCV 2017): what a
channel carries is told by its batch norm, and here also by the weights of those who read it. No data is needed; a
short training afterwards lets the channels that are left take over.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from cmdtrack_ros.models.student import Student

_QUANTILES = torch.distributions.Normal(0.0, 1.0).icdf(torch.linspace(0.005, 0.995, 100))


def slim(student: Student, channels: int) -> Student:
    """The student with only ``channels`` of its neck's, fusion's and head's, fewer than it has."""
    slimmed = Student(replace(student.config, channels=channels))
    kept = _kept_channels(student, channels)
    wide, narrow = student.state_dict(), slimmed.state_dict()
    for name, value in narrow.items():
        rows, columns = next((kept for prefix, kept in kept.items() if name.startswith(prefix)), (None, None))
        source = wide[name]
        if rows is not None and source.ndim:
            source = source[rows]
        if columns is not None and source.ndim > 1:
            source = source[:, columns]
        value.copy_(source)
    slimmed.load_state_dict(narrow)
    return slimmed.eval()


def _kept_channels(student: Student, channels: int) -> dict[str, tuple[Tensor | None, Tensor | None]]:
    """Per prefix of parameter names, which outputs and which inputs are kept; None = all of them."""
    encoder, relation, head = student.template_encoder, student.relation, student.head
    width, half = student.config.channels, channels // 2
    trunk = [layer[0] for layer in head.trunk]
    read_of_neck = _read(relation.mix[0])[: 2 * width].unflatten(0, (2, width)).sum(0)
    neck = _strongest(_carried(student.neck.coarse[1], student.neck.fine[1][1]) * read_of_neck, channels)
    place = _strongest(encoder.place[0].weight.norm(dim=1) * encoder.place[2].weight.norm(dim=0), channels)
    # From the relation to the end of the head's trunk, all is added up: one choice for the whole way.
    writers = [relation.mix[1], relation.context[1][1], *(layer[1] for layer in head.trunk)]
    readers = [relation.context[0][0], student.fusion.gate[0][0], *trunk, head.score[0][0], head.geometry[0][0]]
    way = _strongest(sum(map(_carried, writers)) * sum(map(_read, readers)), channels)
    context = _strongest(_carried(relation.context[0][1]) * _read(relation.context[1][0]), channels)
    score = _strongest(_carried(head.score[0][1]) * _read(head.score[1]), half)
    geometry = _strongest(_carried(head.geometry[0][1]) * _read(head.geometry[1]), half)
    rest = torch.arange(3 * width, relation.mix[0].weight.shape[1])
    return {
        "neck.coarse": (neck, None),
        "neck.fine.1": (neck, None),
        "template_encoder.place.0": (place, None),
        "template_encoder.place.2": (neck, place),
        "template_encoder.value": (neck, neck),
        "relation.query": (neck, neck),
        "relation.mix": (way, torch.cat([neck, width + neck, 2 * width + neck, rest])),
        "relation.context.0": (context, way),
        "relation.context.1": (way, context),
        "fusion.gate.0.0": (None, way),
        "head.trunk": (way, way),
        "head.score.0": (score, way),
        "head.score.1": (None, score),
        "head.geometry.0": (geometry, way),
        "head.geometry.1": (None, geometry),
    }


def _carried(*norms: nn.Module) -> Tensor:
    """Root mean square of each channel after the sum of these batch norms and a ReLU6, were their inputs normal."""
    mean = sum(norm.bias for norm in norms)
    deviation = sum(norm.weight.square() for norm in norms).sqrt()
    return (mean + deviation * _QUANTILES[:, None]).clamp(0, 6).square().mean(0).sqrt().detach()


def _read(layer: nn.Module) -> Tensor:
    """How much a convolution takes from each of its inputs."""
    return layer.weight.detach().abs().sum((0, 2, 3))


def _strongest(importance: Tensor, count: int) -> Tensor:
    return importance.topk(count).indices.sort().values
