"""What a weights file says of itself, read without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from cmdtrack_ros.errors import WeightsError
from cmdtrack_ros.models.config import StudentConfig

SHIPPED = Path(__file__).resolve().parent.parent / "weights" / "student.safetensors"
"""The weights that come with the package: what a robot runs."""
NANO = SHIPPED.with_name("nano.safetensors")
"""A student at less than half the cost that comes with the package, too."""
PERMISSIVE = SHIPPED.with_name("permissive.safetensors")
"""A student that comes with the package, trained only on data whose terms allow products."""
SHIPPED_TEACHER = SHIPPED.with_name("teacher.safetensors")
"""The teacher that comes with the package: for training alone."""
_NAMED = {"shipped": SHIPPED, "nano": NANO, "permissive": PERMISSIVE}
_SHOWN = 100  # characters of a path that cannot be one


@dataclass(frozen=True)
class Provenance:
    """Where weights come from: ``recipe`` (name and settings), ``data`` (names and terms), ``scores`` (measured)."""

    recipe: dict
    data: dict
    scores: dict


@dataclass(frozen=True)
class Header:
    """``model``: name of the network, None where the file names none; ``config``: its fields; ``sha256``: of the
    file.
    """

    model: str | None
    config: dict[str, Any]
    provenance: Provenance
    sha256: str


def weights_file(weights: str | Path | None) -> Path:
    """The file of a student that a user names: by its path, or ``shipped`` (also None), ``nano`` or ``permissive``.

    WeightsError for a path that the system refuses; whether a file is there is not asked.
    """
    return _NAMED.get(str(weights or "shipped")) or _checked_path(weights or "")


def _checked_path(path: str | Path) -> Path:
    """With the home folder in place of ``~``; WeightsError for a path that the system refuses."""
    try:
        found = Path(path).expanduser()
        found.is_file()  # raises where a name is too long, or a folder is closed to us
    except (OSError, RuntimeError) as error:  # RuntimeError: the home of nobody
        text, reason = str(path), getattr(error, "strerror", None) or error
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text):,} characters)"
        raise WeightsError(f"weights {shown}: expected the path of a file ({reason})") from error
    return found


def sha256_of(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@contextmanager
def opened(path: str | Path, framework: str = "numpy") -> Iterator[safe_open]:
    """A weights file to read from; WeightsError when it is missing or damaged."""
    path = _checked_path(path)
    if not path.is_file():
        raise WeightsError(f"weights {path}: no such file; expected safetensors written by this package")
    try:
        with safe_open(path, framework) as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"weights {path}: not a whole safetensors file ({error})") from error


def read_header(path: str | Path, sha256: str | None = None) -> Header:
    """The metadata of a weights file.

    Args:
        sha256: if given, the file must have this hash.

    Raises:
        WeightsError: missing or damaged file, another hash, a tensor that holds NaN or Inf, or metadata that is not
            JSON.
    """
    path = _checked_path(path)
    with opened(path) as file:
        metadata = file.metadata() or {}
        for name in file.keys():  # noqa: SIM118 - no dictionary
            if wrong := np.count_nonzero(~np.isfinite(file.get_tensor(name))):
                raise WeightsError(f"weights {path}: tensor {name} holds {wrong} values that are NaN or infinite")
    found = sha256_of(path)
    if sha256 and found != sha256.lower():
        raise WeightsError(f"weights {path}: expected sha256 {sha256.lower()}, got {found}")
    try:
        config, *history = (json.loads(metadata.get(name, "{}")) for name in ("config", "recipe", "data", "scores"))
    except ValueError as error:
        raise WeightsError(f"weights {path}: its metadata is not JSON ({error})") from error
    if not all(isinstance(part, dict) for part in (config, *history)):
        raise WeightsError(f"weights {path}: its metadata is not made of JSON objects")
    return Header(metadata.get("model"), config, Provenance(*history), found)


def student_config(path: str | Path, header: Header) -> StudentConfig:
    """The configuration of the student in a weights file; WeightsError when it cannot be one."""
    try:
        return StudentConfig(**header.config)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"weights {path}: its configuration is no student's of this version ({error})") from error


def check_student(weights: str | Path | None) -> None:
    """WeightsError where what :func:`weights_file` finds cannot be read, or says of itself that it is no student."""
    path = weights_file(weights)
    student_config(path, read_header(path))
