"""Where a student's ONNX graphs are: beside its weights, in the user's cache, or made now. No torch but for the last.

A graph's file name holds the first digits of its weights' sha256, and its metadata all of them, so that graphs
never run for other weights.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from cmdtrack_ros.errors import ConfigError, WeightsError
from cmdtrack_ros.models.header import Header

log = logging.getLogger(__name__)

WEIGHTS_KEY = "weights_sha256"
"""In a graph's metadata."""
FORMAT = 1
"""Of the exported graphs; raised when inputs, outputs or the export change, so that older caches are left alone."""


@dataclass(frozen=True)
class Graphs:
    """Files of one student's graphs.

    Attributes:
        precision: of the search graph; templates, made now and then, are fp32.
        sha256: of the weights that both must be made from.
    """

    template: Path
    search: Path
    precision: str
    sha256: str

    def check(self, file: Path, found: str) -> None:
        """WeightsError for a graph that was made from other weights; ``found``: what its metadata names."""
        if found != self.sha256:
            raise WeightsError(
                f"graph {file}: expected one of the weights {self.sha256[:12]}, it was made from "
                f"{found[:12] or 'unknown ones'}; remove it, or make it anew (`cmdtrack export`)"
            )


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/cmdtrack_ros``, ``~/.cache/cmdtrack_ros`` without that variable."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cmdtrack_ros"


def graph_file(folder: Path, header: Header, part: str, precision: str) -> Path:
    """``part``: template or search."""
    return folder / f"{header.sha256[:12]}.{part}.{precision}.v{FORMAT}.onnx"


def find(weights: Path, header: Header, part: str, precision: str) -> Path | None:
    """A graph beside the weights or in the cache."""
    files = (graph_file(folder, header, part, precision) for folder in (weights.parent, cache_folder()))
    return next((file for file in files if file.is_file()), None)


def get_graphs(weights: Path, header: Header, precision: str) -> Graphs:
    """The graphs to run, exported into the cache where they are nowhere yet (which takes torch, and seconds).

    Raises:
        ConfigError: int8, and nobody has made that graph, which takes pictures to calibrate with.
    """
    found = [find(weights, header, "template", "fp32"), find(weights, header, "search", precision)]
    if found[1] is None and precision == "int8":
        raise ConfigError(
            f"precision int8: no such graph of {weights}; `cmdtrack export {weights} --precision int8` makes one"
        )
    if None in found:
        # What lies beside the weights was shipped with them and goes first.
        made = _export(weights, header)
        found = [file or new for file, new in zip(found, made)]
    template, search = (file for file in found if file)
    return Graphs(template, search, precision, header.sha256)


def _export(weights: Path, header: Header) -> list[Path]:
    """Template and search graph in fp32, now in the cache."""
    try:
        from cmdtrack_ros.models.export import write_graphs
    except ImportError as error:
        raise ConfigError(
            f"weights {weights}: no fp32 graph of them here, and it cannot be exported ({error}); install torch and "
            "onnx, or run `cmdtrack export` where they are and bring its files along"
        ) from error
    log.info("exporting the network of %s to %s, once", weights, cache_folder())
    try:
        return write_graphs(weights, header, cache_folder())
    except OSError as error:
        raise ConfigError(f"cache {cache_folder()}: cannot be written ({error}); XDG_CACHE_HOME moves it") from error
