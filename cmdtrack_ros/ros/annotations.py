"""Boxes as foxglove_msgs/ImageAnnotations, which Foxglove draws on the camera's own image."""

from __future__ import annotations

from typing import Any

from cmdtrack_ros.boxes import visible
from cmdtrack_ros.drawing import BLACK, STATE_COLOURS
from cmdtrack_ros.drawing import Colour as RgbColour
from cmdtrack_ros.track import Track

try:
    from foxglove_msgs.msg import Color, ImageAnnotations, Point2, PointsAnnotation, TextAnnotation
except ImportError:
    ImageAnnotations = None

_THICKNESS, _FONT_SIZE = 2.0, 14.0  # px of the image


def to_annotations(header: Any, tracks: list[Track]) -> Any:
    """foxglove_msgs/ImageAnnotations: each target's box in the colour of its state, with name, state and score.

    Empty while no target was given, so that the last box goes away.

    Args:
        header: of the RGB image whose pixels the boxes are in; Foxglove meets the two by its stamp.
    """
    message = ImageAnnotations()
    # In version 3.4 of the messages the array has a stamp, which goes before those of its parts.
    if hasattr(message, "timestamp"):
        message.timestamp = header.stamp
    for track in tracks:
        if not visible(track.box):
            continue
        x, y, width, height = (float(v) for v in track.box)
        colour = _colour(STATE_COLOURS[track.state])
        corners = ((x, y), (x + width, y), (x + width, y + height), (x, y + height))
        message.points.append(
            PointsAnnotation(
                timestamp=header.stamp,
                type=PointsAnnotation.LINE_LOOP,
                points=[Point2(x=across, y=down) for across, down in corners],
                outline_color=colour,
                thickness=_THICKNESS,
            )
        )
        message.texts.append(
            TextAnnotation(
                timestamp=header.stamp,
                position=Point2(x=x, y=y),
                text=f"{track.target_id} {track.state.name} {track.score:.2f}".strip(),
                font_size=_FONT_SIZE,
                text_color=colour,
                background_color=_colour(BLACK, 0.6),
            )
        )
    return message


def _colour(rgb: RgbColour, alpha: float = 1.0) -> Any:
    red, green, blue = (value / 255 for value in rgb)
    return Color(r=red, g=green, b=blue, a=alpha)
