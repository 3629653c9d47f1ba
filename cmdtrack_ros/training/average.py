"""Several students that went on from the same one, made one: the mean of their weights.

It costs a robot nothing, and is often better than each, above all on what none of them has seen (Wortsman et al.,
"Model soups", ICML 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.models.header import Provenance, sha256_of
from cmdtrack_ros.models.weights import load_student, save_weights
from cmdtrack_ros.training.seen import told


def average(files: Sequence[Path], output: Path) -> None:
    """Write the mean of the students in ``files``, all of one shape, to ``output``.

    Its provenance names each file's hash and recipe.

    Raises:
        ConfigError: fewer than two files, or networks of different shapes.
        WeightsError: a file is no student.
    """
    if len(files) < 2:
        raise ConfigError(f"weights to average: expected two files or more, got {len(files)}")
    students, histories = zip(*map(load_student, files), strict=True)
    mean = students[0]
    for file, student in zip(files[1:], students[1:], strict=True):
        if student.config != mean.config:
            raise ConfigError(
                f"weights {file}: its network is {student.config}, expected {mean.config} as in {files[0]}"
            )
    for count, student in enumerate(students[1:], 2):
        blend(mean, student, 1 / count)
    parts = [{"sha256": sha256_of(file), **past.recipe} for file, past in zip(files, histories, strict=True)]
    data = told(source for past in histories for source in past.data.items())
    recipe = {"name": "average", "of": parts, "split": _common_split([part.get("split") or {} for part in parts])}
    output.parent.mkdir(parents=True, exist_ok=True)
    save_weights(mean, output, Provenance(recipe, data, {}))


def _common_split(splits: list[dict[str, list[str]]]) -> dict[str, list[str]]:
    """What none of them trained on: a mean has seen what any of its parts saw."""
    return {
        name: [pattern for pattern in listed if all(pattern in split.get(name, ()) for split in splits)]
        for name, listed in splits[0].items()
    }


@torch.no_grad()
def blend(network: nn.Module, other: nn.Module, share: float) -> None:
    """Move the weights of ``network`` by ``share`` towards ``other``, in place; whole numbers are taken over."""
    pairs = list(zip(network.state_dict().values(), other.state_dict().values(), strict=True))
    floating = [(value, target) for value, target in pairs if value.dtype.is_floating_point]
    # At once: some three hundred small kernels would take a GPU longer than a forward pass.
    torch._foreach_lerp_([value for value, _ in floating], [target for _, target in floating], share)
    for value, target in pairs:
        if not value.dtype.is_floating_point:
            value.copy_(target)
