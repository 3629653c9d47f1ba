"""The depth of a target inside its box: drawn scenes whose depth is known."""

from __future__ import annotations

import numpy as np
import pytest

from cmdtrack_ros.cameras import Camera
from cmdtrack_ros.tracking.world import Reading, TargetDepth, inside, locate, read_depth

BOX, FOCAL, HALF = np.array([0.0, 0, 60, 120]), 500.0, 0.06
FRAME = 33_000_000  # ns


def scene(target: float, behind: float, fraction: float = 0.5, holes: float = 0.3, seed: int = 0) -> np.ndarray:
    """A box of 60 x 120 px, filled to a fraction by a target in its middle; noise of 1 %, holes."""
    metres = np.full((120, 60), behind)
    side = round(60 * fraction)
    metres[:, (60 - side) // 2 : (60 + side) // 2] = target
    rng = np.random.default_rng(seed)
    metres *= rng.normal(1, 0.01, metres.shape)
    metres[rng.random(metres.shape) < holes] = 0
    return metres.astype(np.float32)


@pytest.mark.parametrize("fraction", [0.35, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("behind", [2.4, 4.0, 9.0])
def test_the_target_and_not_what_is_behind_it(fraction: float, behind: float) -> None:
    reading = read_depth(scene(2.0, behind, fraction), BOX, HALF)
    assert reading and abs(reading.depth - 2.0) < 0.02 and 0.01 < reading.spread < 0.04


def test_what_covers_a_part_of_the_target_is_not_the_target() -> None:
    metres = scene(2.0, 4.0, 0.8)
    metres[80:] = 1.0  # the lower third
    reading = read_depth(metres, BOX, HALF)
    assert reading and abs(reading.depth - 2.0) < 0.02


def test_too_few_readings() -> None:
    assert read_depth(scene(2.0, 4.0, holes=0.97), BOX, HALF) is None
    assert read_depth(np.zeros((120, 60), np.float32), BOX, HALF) is None
    outside = np.array([700.0, 500, 60, 120])
    rows, columns = inside(outside, 640, 480)
    assert TargetDepth().update(np.ones((480, 640), np.float32)[rows, columns], outside, FOCAL, 0) is None


def test_an_outlier_is_bridged_and_a_change_followed() -> None:
    target = TargetDepth()
    depths = [2.0, 2.03, 0.6, 2.06, 3.5, 0.6, 2.1, 0.8, 0.8, 0.8]
    readings = [target.update(scene(d, 9.0, seed=i), BOX, FOCAL, i * FRAME) for i, d in enumerate(depths)]
    found = [reading.depth for reading in readings if reading]
    np.testing.assert_allclose(found, [2.0, 2.03, 2.03, 2.06, 2.06, 2.06, 2.1, 2.1, 2.1, 0.8], atol=0.02)
    assert [reading.held for reading in readings if reading] == [d in (0.6, 3.5) for d in depths[:7]] + [
        True,
        True,
        False,
    ]
    assert readings[2].spread > readings[1].spread, "less is known"


def test_the_place_of_a_box() -> None:
    camera = Camera(640, 480, np.array([[500.0, 0, 319.5], [0, 500, 239.5], [0, 0, 1]]))
    place = locate(camera, np.array([390.0, 180, 60, 120]), Reading(2.0, 0.05))
    assert place is not None
    np.testing.assert_allclose(place.position, [0.4, 0, 2.0])
    np.testing.assert_allclose(place.size, [0.24, 0.48, 0.1])
    assert (np.linalg.eigvalsh(place.covariance) > 0).all()
    np.testing.assert_allclose(place.covariance[2, 2], 0.05**2 + 0.02**2)
    np.testing.assert_allclose(place.covariance[1, 1], (0.05 * 0.48) ** 2)
