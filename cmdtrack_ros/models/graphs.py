"""Where a student's ONNX graphs are: beside its weights, in the user's cache, or made now. No torch but for the last.

A graph's file name holds the first digits of its weights' sha256, so that graphs never run for other weights.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.models.header import Header

log = logging.getLogger(__name__)

FORMAT = 1
"""Of the exported graphs; raised when inputs, outputs or the export change, so that older caches are left alone."""


@dataclass(frozen=True)
class Graphs:
    """Files of one student's graphs. ``precision``: of the search graph; templates, made now and then, are fp32."""

    template: Path
    search: Path
    precision: str


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
    search = find(weights, header, "search", precision)
    if search is None and precision == "int8":
        raise ConfigError(
            f"precision int8: no int8 graph of {weights}; `cmdtrack export {weights} --int8 ...` makes one"
        )
    template = find(weights, header, "template", "fp32")
    if template is None or search is None:
        log.info("exporting the network of %s, once", weights)
        from cmdtrack_ros.models.export import write_graphs

        write_graphs(weights, header, cache_folder())
        template, search = (
            graph_file(cache_folder(), header, "template", "fp32"),
            search or graph_file(cache_folder(), header, "search", precision),
        )
    return Graphs(template, search, precision)
