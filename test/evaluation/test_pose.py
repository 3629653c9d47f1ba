"""The error of positions in space, on drawn sequences whose target stands at a known distance."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.evaluation.pose import parse_camera, true_depth

BOX = np.array([60.0, 40.0, 40.0, 40.0])


def scene(near: float, far: float) -> tuple[np.ndarray, np.ndarray]:
    """A red disc before a green wall that also fills the corners of its box: rgb, metres."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:120, :160]
    disc = np.hypot(rows - 60, columns - 80) < 14  # some two fifths of the box
    rgb = np.where(disc[..., None], (200, 40, 40), (40, 160, 60)) + rng.integers(-15, 15, (120, 160, 3))
    return rgb.astype(np.uint8), np.where(disc, near, far).astype(np.float32)


def test_truth_is_the_target_although_the_wall_has_more_of_the_box() -> None:
    rgb, metres = scene(2.0, 4.0)
    inside = metres[40:80, 60:100]
    assert np.median(inside) == 4.0
    assert true_depth(rgb, metres, BOX) == 2.0


def test_no_truth_where_the_sensor_sees_too_little() -> None:
    rgb, metres = scene(0.0, 4.0)
    assert true_depth(rgb, metres, BOX) is None
    rgb, metres = scene(2.0, 4.0)
    metres[:58] = metres[60:] = 0  # two rows are left
    assert true_depth(rgb, metres, BOX) is None
    assert true_depth(rgb, metres, np.array([300.0, 300.0, 20.0, 20.0])) is None


@pytest.mark.parametrize("text", ["585", "585,585,320", "0,585,320,240", "585,nan,320,240", "a,b,c,d", "585,585,1e9,0"])
def test_a_wrong_camera_is_said(text: str) -> None:
    with pytest.raises(ConfigError, match="expected fx,fy,cx,cy in px"):
        parse_camera(text)


def test_focal_lengths_and_principal_point_are_where_they_belong() -> None:
    matrix = parse_camera("585, 580, 319.5, 239.5")
    assert (
        matrix[0].tolist() == [585, 0, 319.5]
        and matrix[1].tolist() == [0, 580, 239.5]
        and math.isclose(matrix[2, 2], 1)
    )
