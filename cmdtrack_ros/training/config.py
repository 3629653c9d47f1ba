"""The training configuration: one YAML file, checked before anything is loaded."""

from __future__ import annotations

import os
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cmdtrack_ros.errors import ConfigError


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Strict):
    """One source of training pairs.

    ``kind``: ``sequences`` (any layout of ``cmdtrack_ros.data``) or ``stills``. ``path``: a folder, below the data folder when
    relative. ``share``: relative frequency. ``max_gap``: largest distance of a pair, frames. ``held_out``: sequences never
    trained on, used for validation. ``terms``: under which the data may be used, for the weights' metadata.
    """

    kind: str = Field(pattern="^(sequences|stills)$")
    path: Path
    share: float = Field(gt=0)
    max_gap: int = Field(default=100, gt=0)
    held_out: list[str] = []
    terms: str = ""


class StudentTraining(_Strict):
    """Settings of a student's training run.

    ``steps`` of ``batch`` pairs; ``learning_rate`` for new layers, ``backbone_learning_rate`` for the backbone from stride
    8 on (the stages before stay frozen), both with a linear warm-up over ``warmup`` steps and a cosine decay to 1 %.
    ``single_weight``: weight of the losses of each modality alone. ``ema``: decay of the averaged weights that are saved.
    ``threads``, ``workers``: of torch in the training process, and data processes beside it.
    """

    name: str
    steps: int = Field(gt=0)
    batch: int = Field(default=16, gt=0)
    learning_rate: float = Field(default=1e-3, gt=0)
    backbone_learning_rate: float = Field(default=1e-4, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    warmup: int = Field(default=100, ge=0)
    clip_norm: float = Field(default=5.0, gt=0)
    single_weight: float = Field(default=0.3, ge=0)
    ema: float = Field(default=0.998, gt=0, lt=1)
    seed: int = 1
    threads: int = Field(default=2, gt=0)
    workers: int = Field(default=0, ge=0)
    checkpoint_every: int = Field(default=250, gt=0)
    validate_every: int = Field(default=500, gt=0)
    sources: list[Source] = Field(min_length=1)


def load_config(path: str | Path) -> StudentTraining:
    """Read and check a configuration; ConfigError names the file and each wrong field."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"training configuration {path}: no such file")
    try:
        return StudentTraining.model_validate(yaml.safe_load(path.read_text()))
    except (ValidationError, yaml.YAMLError) as error:
        raise ConfigError(f"training configuration {path}: {error}") from error


def data_folder(given: str | Path | None) -> Path:
    """The folder that relative source paths start from: the argument, or the variable CMDTRACK_DATA."""
    folder = given or os.environ.get("CMDTRACK_DATA")
    if not folder or not Path(folder).is_dir():
        raise ConfigError(f"data folder: expected an existing folder by --data or CMDTRACK_DATA, got {folder!r}")
    return Path(folder)
