"""What a tracker needs of a network, whatever runs it. No torch.

All engines give the same answers, up to the precision they compute in. What belongs to one moment (the
templates of both streams, the search regions of several targets) goes through an engine as one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from cmdtrack_ros.models.confidence import Confidence
from cmdtrack_ros.models.config import STRIDE, StudentConfig


@dataclass(frozen=True)
class TemplateCrop:
    """What a template is made from.

    Attributes:
        picture: (T, T, 3) uint8.
        box: (4,) xywh of the target, in fractions of T.
        stream: 0 RGB, 1 aux.
    """

    picture: np.ndarray
    box: np.ndarray
    stream: int


@dataclass(frozen=True)
class Template:
    """A target's features in one stream.

    Attributes:
        stream: 0 RGB, 1 aux.
        parts: arrays of the engine that made them, as ``models.config.TEMPLATE_FIELDS``.
    """

    stream: int
    parts: tuple[Any, ...]

    def blended(self, recent: Template, share: float) -> Template:
        """Between two moments: ``1 - share`` of this one and ``share`` of a recent one of the same stream."""
        return Template(self.stream, tuple((1 - share) * a + share * b for a, b in zip(self.parts, recent.parts)))


@dataclass(frozen=True)
class Query:
    """A target's search region: pictures (S, S, 3) uint8 of the M streams present, and their templates."""

    pictures: list[np.ndarray]
    templates: list[Template]


@dataclass(frozen=True)
class Response:
    """The network's answer over an S x S grid of cells.

    Attributes:
        score (S, S) float32: probability that the target's centre lies in the cell.
        box (4, S, S) float32: centre x, centre y, width, height in fractions of the search region.
        weights (M, S, S) float32: weight of each stream, in the order of the pictures; sums to 1 over M.
    """

    score: np.ndarray
    box: np.ndarray
    weights: np.ndarray


class Engine(Protocol):
    """Runs a student (or, for evaluation, a teacher)."""

    config: StudentConfig
    name: str
    """Runtime, device and precision, for the log."""
    device: str
    """Where it runs: cpu or cuda."""
    confidence: Confidence | None
    """How the network's answers become a probability; None where nobody calibrated it."""

    def encode(self, crops: Sequence[TemplateCrop]) -> list[Template]:
        """One template a crop."""

    def search(self, queries: Sequence[Query]) -> list[Response]:
        """One response a query; all queries have the same number of streams."""


def cells(config: StudentConfig) -> int:
    """Cells along a side of a response."""
    return config.search_size // STRIDE
