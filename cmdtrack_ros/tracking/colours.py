"""How alike two regions of pictures are by their colours alone, wherever these are within them."""

from __future__ import annotations

import numpy as np

_LEVELS = 6  # of each channel
_STEP = -(-256 // _LEVELS)


def colours(pixels: np.ndarray) -> np.ndarray:
    """Share of each of 216 colours among pixels (..., 3) uint8; zeros where there are none."""
    levels = pixels.reshape(-1, 3).astype(int) // _STEP
    counts = np.bincount(levels @ (_LEVELS**2, _LEVELS, 1), minlength=_LEVELS**3)
    return counts / max(len(levels), 1)


def shared(a: np.ndarray, b: np.ndarray) -> float:
    """Bhattacharyya coefficient of two regions' `colours`: 0 where they share none, 1 where they are alike."""
    return float(np.sqrt(a * b).sum())
