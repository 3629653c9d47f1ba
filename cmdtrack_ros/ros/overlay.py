"""The picture an operator looks at while the node runs."""

from __future__ import annotations

import cv2
import numpy as np

from cmdtrack_ros.modalities import AuxEncoder, Modality
from cmdtrack_ros.overlay import STATE_COLOURS
from cmdtrack_ros.ros.pipeline import Outcome
from cmdtrack_ros.tracking import TargetState


def draw(outcome: Outcome, modality: Modality | str) -> np.ndarray:
    """Box, state and score on the RGB image, or on the auxiliary one where RGB is missing; HxWx3 uint8."""
    image = outcome.rgb if outcome.rgb is not None else AuxEncoder(modality)(outcome.aux)
    image = image.copy()
    track = outcome.track
    if track.state == TargetState.IDLE:
        return image
    colour = STATE_COLOURS[track.state.name]
    unit = max(image.shape[0] / 480, 0.5)
    x, y, w, h = track.box
    cv2.rectangle(image, (round(x), round(y)), (round(x + w), round(y + h)), colour, max(round(2 * unit), 1))
    text = f"{track.state.name} {track.score:.2f}  rgb {track.weight_rgb:.2f} aux {track.weight_aux:.2f}"
    at, font = (round(8 * unit), round(20 * unit)), cv2.FONT_HERSHEY_SIMPLEX
    for ink, thickness in (((0, 0, 0), 3), (colour, 1)):  # a dark rim keeps it readable on any ground
        cv2.putText(image, text, at, font, 0.5 * unit, ink, max(round(thickness * unit), 1), cv2.LINE_AA)
    return image
