"""Foreign trackers as teachers: what they see in clean RGB, for every stream of the same moment. Our choice, all of it.

They look at the RGB pictures of a training pair before anything is done to them, in a search region of the same place
and scale as the student's. Of several, the one that is most right is heard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from cmdtrack_ros.boxes import iou
from cmdtrack_ros.training.fixed_pairs import FixedPair
from cmdtrack_ros.training.foreign import ForeignPairs, find_foreign
from cmdtrack_ros.training.sources import ViewPair

RIGHT = 0.5
"""Least IoU with the truth, or with another teacher, of what is taught."""


@dataclass(frozen=True)
class Lesson:
    """What is taught of a pair.

    Attributes:
        box: (4,) xywh px of the search view.
        score: how sure its teacher is, 0 to 1.
        weight: its IoU with the truth, or with the other teachers' boxes; 0 below ``RIGHT``.
    """

    box: np.ndarray
    score: float
    weight: float


class ForeignTeachers:
    """Foreign networks, one from each folder; opened in the process that asks them, as they cannot move to another.

    ``show_features``: they also show how they see a whole search region (:meth:`features`).

    Raises:
        WeightsError: a folder holds none, already when this is made.
    """

    def __init__(self, folders: Sequence[Path], show_features: bool = False) -> None:
        for folder in folders:
            find_foreign(folder)
        self._folders, self.show_features = folders, show_features

    @cached_property
    def _networks(self) -> list[ForeignPairs]:
        return [ForeignPairs(find_foreign(folder)) for folder in self._folders]

    def teach(self, pair: ViewPair, near: np.ndarray) -> Lesson | None:
        """``near`` (4,) xywh px: where and how large the target is believed to be in the search view.

        None where there is nothing to teach: another target, or no RGB.
        """
        if not pair.same or pair.template.rgb is None or pair.search.rgb is None:
            return None
        shown = FixedPair(pair.template, pair.search, near)
        answers = [network.best(shown, stream=0) for network in self._networks]
        boxes, scores = (np.array(part) for part in zip(*answers, strict=True))
        return choose(boxes, scores, pair.search.box if pair.true else None)

    def features(self, picture: np.ndarray) -> np.ndarray:
        """How all of them see a picture (S, S, 3) uint8 RGB: (C, S/16, S/16) float16, network after network."""
        return np.concatenate([network.network.features(picture) for network in self._networks]).astype(np.float16)


def choose(boxes: np.ndarray, scores: np.ndarray, truth: np.ndarray | None) -> Lesson:
    """The most right of the answers (n, 4), (n,).

    With a ``truth`` (4,) that is the one with the largest IoU; without, the one that agrees best with the others
    (mean IoU), of two the surer one. A single teacher without truth has nothing to agree with, and weight 0.
    """
    if truth is not None:
        right = iou(boxes, truth)
    else:
        agreement = iou(boxes[:, None], boxes[None])
        right = (agreement.sum(1) - agreement.diagonal()) / max(len(boxes) - 1, 1)
    best = max(range(len(boxes)), key=lambda i: (round(float(right[i]), 6), float(scores[i])))
    weight = float(right[best])
    return Lesson(boxes[best], float(scores[best]), weight if weight >= RIGHT else 0.0)
