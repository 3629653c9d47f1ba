"""Weights files: safetensors with the model's configuration and history in the metadata; never a pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cmdtrack_ros.errors import WeightsError
from cmdtrack_ros.models.cmae import Cmae, CmaeConfig
from cmdtrack_ros.models.student import Student, StudentConfig
from cmdtrack_ros.models.teacher import Teacher, TeacherConfig

SHIPPED = Path(__file__).resolve().parent.parent / "weights" / "student.safetensors"
"""The weights that come with the package: what a robot runs."""
SHIPPED_TEACHER = SHIPPED.with_name("teacher.safetensors")
"""The teacher that comes with the package: for training alone."""

_NAMES = {Student: "cmdtrack_student", Teacher: "cmdtrack_teacher", Cmae: "cmdtrack_autoencoder"}
_CONFIGS = {Student: StudentConfig, Teacher: TeacherConfig, Cmae: CmaeConfig}

Network = TypeVar("Network", Student, Teacher, Cmae)


@dataclass(frozen=True)
class Provenance:
    """Where weights come from: ``recipe`` (name and settings), ``data`` (names and terms), ``scores``
    (measured).
    """

    recipe: dict
    data: dict
    scores: dict


def sha256_of(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def save_weights(network: Network, path: str | Path, provenance: Provenance) -> None:
    """Write a network's weights and metadata; the file appears whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"model": _NAMES[type(network)], "config": json.dumps(network.config.to_dict())}
    metadata |= {name: json.dumps(getattr(provenance, name)) for name in ("recipe", "data", "scores")}
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    partial = path.with_name(path.name + ".partial")
    save_file(tensors, partial, metadata)
    partial.chmod(0o644)  # safetensors writes for the owner alone; an installed package has other readers
    partial.replace(path)


@contextmanager
def _opened(path: str | Path) -> Iterator[safe_open]:
    """A weights file to read from; WeightsError when it is missing or damaged."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise WeightsError(f"weights {path}: no such file; expected safetensors written by this package")
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"weights {path}: not a whole safetensors file ({error})") from error


def model_of(path: str | Path) -> type[Network] | None:
    """The network that a weights file holds, None when it names none; WeightsError: missing or damaged."""
    with _opened(path) as file:
        name = (file.metadata() or {}).get("model")
    return next((kind for kind, known in _NAMES.items() if known == name), None)


def load_weights(
    path: str | Path, kind: type[Network], sha256: str | None = None
) -> tuple[Network, Provenance]:
    """Read a network for inference (evaluation mode, on the CPU).

    Args:
        path: a file by :func:`save_weights`.
        kind: the network the file must hold: ``Student``, ``Teacher`` or ``Cmae``.
        sha256: if given, the file must have this hash.

    Raises:
        WeightsError: missing or damaged file, another hash, another model, or tensors that do not fit.
    """
    path = Path(path).expanduser()
    with _opened(path) as file:
        if sha256 and (found := sha256_of(path)) != sha256.lower():
            raise WeightsError(f"weights {path}: expected sha256 {sha256.lower()}, got {found}")
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no dict
    if metadata.get("model") != _NAMES[kind]:
        raise WeightsError(
            f"weights {path}: expected model {_NAMES[kind]}, got {metadata.get('model', 'no model name')}"
        )
    try:
        network = kind(_CONFIGS[kind](**json.loads(metadata["config"])))
        network.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"weights {path}: configuration and tensors do not fit this version's model: {error}"
        ) from error
    history = {name: json.loads(metadata.get(name, "{}")) for name in ("recipe", "data", "scores")}
    return network.eval(), Provenance(**history)


def load_student(path: str | Path | None = None, sha256: str | None = None) -> tuple[Student, Provenance]:
    """:func:`load_weights` of a student; None = the shipped weights."""
    return load_weights(SHIPPED if path is None else path, Student, sha256)
