"""The picture an operator looks at."""

from __future__ import annotations

import cv2
import numpy as np

from cmdtrack_ros.modalities import AuxEncoder, Modality
from cmdtrack_ros.ros.pipeline import Outcome
from cmdtrack_ros.tracking import TargetState

_COLOURS = {TargetState.TRACKING: (60, 220, 60), TargetState.UNCERTAIN: (255, 180, 0), TargetState.LOST: (255, 60, 60)}


def draw(outcome: Outcome, modality: Modality | str) -> np.ndarray:
    """The RGB image (the auxiliary one where RGB is missing) with box, state and score -> HxWx3 uint8 RGB."""
    image = outcome.rgb.copy() if outcome.rgb is not None else AuxEncoder(modality)(outcome.aux).copy()
    track = outcome.track
    if track.state == TargetState.IDLE:
        return image
    colour = _COLOURS[track.state]
    unit = max(image.shape[0] / 480, 0.5)
    x, y, w, h = track.box
    corner, opposite = (round(x), round(y)), (round(x + w), round(y + h))
    cv2.rectangle(image, corner, opposite, colour, max(round(2 * unit), 1))
    text = f"{track.state.name} {track.score:.2f}  rgb {track.weight_rgb:.2f} aux {track.weight_aux:.2f}"
    at = (round(8 * unit), round(20 * unit))
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5 * unit, (0, 0, 0), max(round(3 * unit), 2), cv2.LINE_AA)
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5 * unit, colour, max(round(unit), 1), cv2.LINE_AA)
    return image
