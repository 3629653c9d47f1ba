"""The exceptions this package raises on bad input, and what it remarks where it goes on. Every message names what was
expected and what came.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


class CmdtrackError(Exception):
    """Base of all errors a caller may want to catch and show without a traceback."""


class ConfigError(CmdtrackError, ValueError):
    """A parameter or configuration value that cannot be used."""


class DataError(CmdtrackError):
    """A file, folder or recording that is missing, truncated or laid out otherwise than expected."""


class ImageError(CmdtrackError, ValueError):
    """An image whose size, type or encoding cannot be used."""


class WeightsError(CmdtrackError):
    """A weights file that is missing, damaged, or belongs to another model."""


class Remark(NamedTuple):
    """What is to be told about a frame: a cause of the node's diagnostics, and what exactly."""

    cause: str
    text: str


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turns an OSError into a DataError that names the file: of a full disk, Python says no name."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from error
