"""Weights files: safetensors with the model's configuration and history in the metadata; never a pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError
from safetensors.torch import save_file

from cmdtrack_ros.errors import WeightsError
from cmdtrack_ros.models.cmae import Cmae, CmaeConfig
from cmdtrack_ros.models.config import StudentConfig
from cmdtrack_ros.models.header import Provenance, opened, read_header, weights_file
from cmdtrack_ros.models.student import Student
from cmdtrack_ros.models.teacher import Teacher, TeacherConfig

_NAMES = {Student: "cmdtrack_student", Teacher: "cmdtrack_teacher", Cmae: "cmdtrack_autoencoder"}
_CONFIGS = {Student: StudentConfig, Teacher: TeacherConfig, Cmae: CmaeConfig}

Network = TypeVar("Network", Student, Teacher, Cmae)


def save_weights(network: Network, path: str | Path, provenance: Provenance) -> None:
    """Write a network's weights and metadata; the file appears whole or not at all.

    Raises:
        WeightsError: a folder or disk that cannot be written.
    """
    path = Path(path)
    metadata = {"model": _NAMES[type(network)], "config": json.dumps(network.config.to_dict())}
    metadata |= {name: json.dumps(getattr(provenance, name)) for name in ("recipe", "data", "scores")}
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, partial, metadata)
        partial.chmod(0o644)  # safetensors writes for the owner alone; an installed package has other readers
        partial.replace(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"weights {path}: cannot be written ({error})") from error


def model_of(path: str | Path) -> type[Network] | None:
    """The network that a weights file holds, None when it names none; WeightsError: missing or damaged."""
    name = read_header(path).model
    return next((kind for kind, known in _NAMES.items() if known == name), None)


def load_weights(path: str | Path, kind: type[Network], sha256: str | None = None) -> tuple[Network, Provenance]:
    """Read a network for inference (evaluation mode, on the CPU).

    Args:
        path: a file by :func:`save_weights`.
        kind: the network the file must hold: ``Student``, ``Teacher`` or ``Cmae``.
        sha256: if given, the file must have this hash.

    Raises:
        WeightsError: missing or damaged file, another hash, another model, or tensors that do not fit.
    """
    header = read_header(path, sha256)
    if header.model != _NAMES[kind]:
        raise WeightsError(f"weights {path}: expected model {_NAMES[kind]}, got {header.model or 'no model name'}")
    with opened(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dictionary
    try:
        network = kind(_CONFIGS[kind](**header.config))
        network.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"weights {path}: configuration and tensors do not fit this version's model: {error}"
        ) from error
    return network.eval(), header.provenance


def load_student(path: str | Path | None = None, sha256: str | None = None) -> tuple[Student, Provenance]:
    """:func:`load_weights` of a student, by a path or a name that :func:`weights_file` knows."""
    return load_weights(weights_file(path), Student, sha256)
