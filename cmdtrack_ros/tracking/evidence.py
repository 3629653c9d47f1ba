"""What speaks for and against a box, from the network's response around it."""

from __future__ import annotations

import math

import numpy as np

from cmdtrack_ros.tracking.engines.contract import Response

_RECENT = 0.8  # share of the past in what is averaged over some frames
_FLOOR = 0.02  # added to scores before their ratio is taken: below it they are noise


class Evidence:
    """Collects, frame by frame, the numbers that :class:`cmdtrack_ros.models.confidence.Confidence` weighs.

    response: logit of the score of the chosen cell. rival: log of the highest score beyond the box over that one's.
    mass: logit of the chosen cell's and its neighbours' share of all scores. spread, size_spread: deviation of centre
    and of size, in sizes of the box, among the boxes of all cells with at least half that score. cells: log of their
    number. recent_response, recent_mass: averages of response and mass over the last frames. agreement: IoU of the last
    look back.

    Attributes:
        agreement: how well the present target leads back to the first one, 0 to 1; until that was looked at, 1.
    """

    def __init__(self) -> None:
        self.agreement = 1.0
        self._recent: np.ndarray | None = None

    def forget(self) -> None:
        """Average anew: the next frame looks elsewhere."""
        self._recent = None

    def of(self, response: Response, row: int, column: int) -> np.ndarray:
        """The numbers, in the order of ``EVIDENCE``, for the box of a cell."""
        score = response.score
        best = float(score[row, column])
        now = np.array([_logit(best), _logit(_share_near(score, row, column))])
        self._recent = now if self._recent is None else _RECENT * self._recent + (1 - _RECENT) * now
        rival = math.log((_beyond(response, row, column) + _FLOOR) / (best + _FLOOR))
        spread, size_spread, cells = _spreads(response, best)
        return np.array([now[0], rival, now[1], spread, size_spread, cells, *self._recent, self.agreement])


def _logit(share: float) -> float:
    share = min(max(share, 0.005), 0.995)
    return math.log(share / (1 - share))


def _share_near(score: np.ndarray, row: int, column: int) -> float:
    near = score[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
    return float(near.sum() / max(float(score.sum()), 1e-6))


def _beyond(response: Response, row: int, column: int) -> float:
    """The highest score of cells that the cell's box does not cover; within 1.5 cells all count as covered."""
    cells = response.score.shape[0]
    width, height = (max(float(side) * cells / 2, 1.5) for side in response.box[2:, row, column])
    others = response.score.copy()
    others[_reach(row, height), _reach(column, width)] = 0.0
    return float(others.max())


def _reach(place: int, half: float) -> slice:
    """Cells up to ``half`` a box away."""
    return slice(max(place - int(half), 0), place + int(half) + 1)


def _spreads(response: Response, best: float) -> tuple[float, float, float]:
    strong = response.score >= best / 2
    shares = np.maximum(response.score[strong], 1e-6)
    boxes = response.box[:, strong].astype(np.float64)
    shares = shares / shares.sum()
    mean = boxes @ shares
    x, y, w, h = np.sqrt(((boxes - mean[:, None]) ** 2) @ shares).tolist()
    width, height = max(float(mean[2]), 1e-3), max(float(mean[3]), 1e-3)
    center, size = math.hypot(x / width, y / height), math.hypot(w / width, h / height)
    return min(center, 1.0), min(size, 1.0), math.log(len(shares))
