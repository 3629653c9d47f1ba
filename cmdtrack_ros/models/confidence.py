"""From what a tracker sees of its own answer to the probability that the box is right (IoU above 0.5).

A logistic regression, fitted for one weights file (``cmdtrack evaluate-confidence --fit``) and kept beside it, named
by its hash as the graphs are. No torch.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cmdtrack_ros.errors import WeightsError
from cmdtrack_ros.models.graphs import WEIGHTS_KEY, cache_folder
from cmdtrack_ros.models.header import Header

log = logging.getLogger(__name__)

EVIDENCE = (
    "response",
    "rival",
    "mass",
    "spread",
    "size_spread",
    "cells",
    "recent_response",
    "recent_mass",
    "agreement",
)
"""What the probability is computed from, in this order; see ``tracking.evidence``."""
FORMAT = 1
"""Of the file; raised when the meaning of the evidence changes, so that older fits are left alone."""


@dataclass(frozen=True)
class Confidence:
    """Logit of the probability = ``bias`` + ``factors`` * evidence, one factor for each of :data:`EVIDENCE`.

    about: what it was fitted on, for the file; its "prior" is a list of the same of those that it goes on from,
        oldest first.
    curvature: (n + 1, n + 1) second derivatives of the fit's loss by the n factors and the bias: how sure it is of
        each; None of a fit that did not keep them.
    """

    bias: float
    factors: tuple[float, ...]
    about: dict[str, Any]
    curvature: np.ndarray | None = field(default=None, compare=False)

    def probability(self, evidence: np.ndarray) -> float:
        """Of (len(EVIDENCE),) finite numbers."""
        logit = self.bias + float(np.dot(self.factors, evidence))
        return 1 / (1 + math.exp(-min(max(logit, -30.0), 30.0)))


def lineage(about: dict[str, Any]) -> list[dict[str, Any]]:
    """What a fit and those that it goes on from were fitted on, oldest first, one without a "prior" each."""
    prior = about.get("prior", [])
    # Files once had the last one as "prior", with what came before it nested in it.
    before = lineage(prior) if isinstance(prior, dict) else [dict(one) for one in prior]
    return [*before, {key: value for key, value in about.items() if key != "prior"}]


def confidence_file(folder: Path, header: Header) -> Path:
    """The file of these weights in a folder."""
    return folder / f"{header.sha256[:12]}.confidence.v{FORMAT}.json"


def find_confidence(weights: Path, header: Header) -> Confidence | None:
    """What was fitted for a weights file, from beside it or from the cache; None where nobody did, which is logged.

    Raises:
        WeightsError: a file that is damaged, or was fitted for other weights.
    """
    files = [confidence_file(folder, header) for folder in (weights.parent, cache_folder())]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        log.warning(
            "weights %s: not calibrated, so the score is the network's own and no probability "
            "(`cmdtrack evaluate-confidence --fit` calibrates them)",
            weights,
        )
        return None
    return _read(file, header)


def _read(file: Path, header: Header) -> Confidence:
    try:
        content = json.loads(file.read_text())
        numbers = [float(content["bias"]), *(float(content["factors"][name]) for name in EVIDENCE)]
        *prior, about = lineage(dict(content["about"]))
        about |= {"prior": prior} if prior else {}
        made_for = str(content[WEIGHTS_KEY])
        curvature = np.array(content["curvature"], float) if "curvature" in content else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{file}: expected a bias and a factor for each of {', '.join(EVIDENCE)} "
            f"({type(error).__name__}: {error}); remove it, or make it anew (`cmdtrack evaluate-confidence --fit`)"
        ) from error
    if not np.isfinite(numbers).all():
        raise WeightsError(f"{file}: expected finite numbers, got {numbers}")
    side = len(numbers)
    if curvature is not None and not (curvature.shape == (side, side) and np.isfinite(curvature).all()):
        raise WeightsError(f"{file}: expected {side} x {side} finite numbers as curvature, got {curvature.tolist()}")
    if made_for != header.sha256:
        raise WeightsError(
            f"{file}: expected one of the weights {header.sha256[:12]}, it was fitted for {made_for[:12]}"
        )
    return Confidence(numbers[0], tuple(numbers[1:]), about, curvature)


def to_json(confidence: Confidence, header: Header) -> str:
    """The text of :func:`confidence_file`."""
    content = {
        WEIGHTS_KEY: header.sha256,
        "bias": round(confidence.bias, 4),
        "factors": {name: round(factor, 4) for name, factor in zip(EVIDENCE, confidence.factors)},
        "about": confidence.about,
    }
    if confidence.curvature is not None:
        content["curvature"] = [[float(f"{value:.12g}") for value in row] for row in confidence.curvature]
    return json.dumps(content, indent=1) + "\n"
