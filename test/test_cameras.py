"""Camera models: the formulas of their papers, worked out here by hand, and what a CameraInfo may say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from cmdtrack_ros.cameras import Camera, camera_from, is_rectified
from cmdtrack_ros.errors import ConfigError

WIDTH, HEIGHT, FX, FY, CX, CY = 640, 480, 500.0, 510.0, 321.0, 239.0
K = np.array([[FX, 0, CX], [0, FY, CY], [0, 0, 1]])
LENSES = {  # calibrations of real cameras: a Kinect of TUM RGB-D, an Azure Kinect, a wide lens, a fisheye
    "plumb_bob": (0.2624, -0.9531, -0.0054, 0.0026, 1.1633),
    "rational_polynomial": (0.51, -2.63, 0.0006, -0.0001, 1.51, 0.39, -2.45, 1.44),
    "equidistant": (-0.01, 0.02, -0.01, 0.001),
}


def info(**fields: Any) -> SimpleNamespace:
    """A CameraInfo of `K`; P has nine tenths of its focal lengths."""
    p = np.column_stack([K * [[0.9, 1, 1], [1, 0.9, 1], [1, 1, 1]], np.zeros(3)])
    roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0, do_rectify=False)
    good = {"width": WIDTH, "height": HEIGHT, "distortion_model": "plumb_bob", "d": [], "k": K.ravel(), "p": p.ravel()}
    good |= {"r": np.eye(3).ravel(), "binning_x": 0, "binning_y": 0, "roi": roi}
    return SimpleNamespace(header=SimpleNamespace(frame_id="optical"), **good | fields)


def distorted(model: str, d: tuple[float, ...], x: float, y: float) -> tuple[float, float]:
    """Brown and Conrady's formula, with a denominator where there is one, or Kannala and Brandt's."""
    r2 = x * x + y * y
    if model == "equidistant":
        angle = np.arctan(np.sqrt(r2))
        scale = angle * (1 + sum(k * angle ** (2 * i + 2) for i, k in enumerate(d))) / np.sqrt(r2)
        return x * scale, y * scale
    k1, k2, p1, p2, k3, k4, k5, k6 = [*d, 0, 0, 0][:8]
    scale = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
    return (x * scale + 2 * p1 * x * y + p2 * (r2 + 2 * x * x), y * scale + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y)


@pytest.mark.parametrize("model", LENSES)
def test_a_point_is_seen_where_the_formula_says(model: str) -> None:
    camera = camera_from(info(distortion_model=model, d=LENSES[model]), "topic")
    x, y = distorted(model, LENSES[model], 0.3 / 2, -0.2 / 2)
    np.testing.assert_allclose(camera.project([[0.3, -0.2, 2.0]]), [[FX * x + CX, FY * y + CY]], atol=1e-6)


WIDE = camera_from(info(distortion_model="equidistant", d=[0.01, 0, 0, 0], k=[200, 0, 321, 0, 200, 239, 0, 0, 1]), "")
TURNED = {"r": cv2.Rodrigues(np.array([0.02, -0.03, 0.01]))[0].ravel()}


@pytest.mark.parametrize("lens", [*LENSES, "wide", "turned", "none"])
def test_a_whole_image_is_projected_as_its_points_are(lens: str) -> None:
    """To a tenth of a pixel, and nothing is shown that the lens does not show; 88 degrees from the axis, too."""
    fields = {"distortion_model": lens, "d": LENSES[lens]} if lens in LENSES else {}
    camera = WIDE if lens == "wide" else camera_from(info(**fields, **(TURNED if lens == "turned" else {})), "topic")
    rng = np.random.default_rng(0)
    angles = rng.uniform(0, np.radians(88 if lens == "wide" else 60), (200, 300))
    turns, metres = rng.uniform(0, 2 * np.pi, angles.shape), rng.uniform(0.3, 9, angles.shape)
    metres[::20] *= -1  # behind the camera
    points = np.stack([np.sin(angles) * np.cos(turns), np.sin(angles) * np.sin(turns), np.cos(angles)]) * metres
    points = points.astype(np.float32)
    exact = camera.project(points.reshape(3, -1).T).T.reshape(2, *angles.shape)
    found = np.stack(camera.project_image(*points))

    def inside(pixels: np.ndarray, margin: float) -> np.ndarray:
        x, y = pixels
        return (x > -margin) & (y > -margin) & (x < WIDTH - 1 + margin) & (y < HEIGHT - 1 + margin) & (points[2] > 0)

    shown = inside(exact, 0)
    assert shown.mean() > 0.1 and np.abs(found - exact)[:, shown].max() < 0.1
    assert not (inside(found, 0) & ~inside(exact, 0.5)).any()


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("model", LENSES)
def test_every_pixel_leads_to_a_ray_and_back(model: str, rectified: bool) -> None:
    turned, _ = cv2.Rodrigues(np.array([0.02, -0.03, 0.01]))
    camera = camera_from(info(distortion_model=model, d=LENSES[model], r=turned.ravel()), "topic", rectified)
    grid = np.stack(np.meshgrid(np.linspace(0, WIDTH - 1, 12), np.linspace(0, HEIGHT - 1, 9)), -1).reshape(-1, 2)
    np.testing.assert_allclose(camera.project(camera.rays(grid) * 3.0), grid, atol=1e-3)
    assert camera.frame_id == "optical" and (camera.width, camera.height) == (WIDTH, HEIGHT)


def test_raw_and_rectified_images_agree_as_opencv_rectifies() -> None:
    turned, _ = cv2.Rodrigues(np.array([0.02, -0.03, 0.01]))
    message = info(distortion_model="plumb_bob", d=LENSES["plumb_bob"], r=turned.ravel())
    raw, rectified = camera_from(message, "topic"), camera_from(message, "topic", rectified=True)
    to_raw = cv2.initUndistortRectifyMap(
        K, np.array(message.d), turned, message.p.reshape(3, 4), (WIDTH, HEIGHT), cv2.CV_32FC1
    )
    pixels = np.array([[100.0, 80.0], [320.0, 240.0], [600.0, 400.0]])
    expected = [[m[int(y), int(x)] for m in to_raw] for x, y in pixels]
    np.testing.assert_allclose(raw.project(rectified.rays(pixels)), expected, atol=1e-3)


def test_what_is_not_in_view_has_no_pixel() -> None:
    camera = camera_from(info(d=(-0.4, 0.1, 0, 0, -0.05)), "topic")
    assert np.isnan(camera.project([[0, 0, -1.0], [0, 0, 0], [np.nan, 0, 1], [3.0, 0, 1.0]])).all(), "folds back"
    assert camera.project(np.zeros((0, 3))).shape == (0, 2) and camera.rays(np.zeros((0, 2))).shape == (0, 3)
    assert np.isnan(camera.rays([[20 * WIDTH, 0]])).all()


def test_a_camera_without_distortion() -> None:
    for message in (info(), info(distortion_model="none", d=[0.0] * 5), info(r=[0.0] * 9)):
        camera = camera_from(message, "topic")
        np.testing.assert_allclose(camera.rays([[CX + FX, CY - FY]]), [[1, -1, 1]])
    np.testing.assert_allclose(Camera(WIDTH, HEIGHT, K).project([[1, 1, 1]]), [[FX + CX, FY + CY]])


@pytest.mark.parametrize(
    "fields, says",
    [
        ({"k": np.zeros(9)}, "k is all zeros: the camera is not calibrated"),
        ({"k": -K.ravel()}, "k: expected fx, 0, cx"),
        ({"k": np.full(9, np.nan)}, "k: expected 9 numbers"),
        ({"k": (K + [[0, 3, 0], [0, 0, 0], [0, 0, 0]]).ravel()}, "k: expected fx, 0, cx"),
        ({"k": (K * [[1, 1, 100], [1, 1, 1], [1, 1, 1]]).ravel()}, "k: .* a centre near the image of 640x480"),
        ({"r": 2 * np.eye(3).ravel()}, "r: expected a rotation"),
        ({"r": -np.eye(3).ravel()}, "r: expected a rotation"),
        ({"width": 0}, "width: expected 1 to"),
        ({"height": 2**31}, "height: expected 1 to"),
        ({"binning_x": 2}, "binning_x: expected 0 or 1, got 2"),
        ({"roi": SimpleNamespace(x_offset=0, y_offset=10, width=640, height=400)}, "roi: expected the whole image"),
        ({"d": [0.1, 0.2, 0.3]}, "d: expected 4, 5, 8, 12, 14 coefficients of plumb_bob, got 3"),
        ({"d": [0.1, np.inf, 0, 0, 0]}, "d: expected 5 numbers"),
        ({"d": [0.1] * 5, "distortion_model": "equidistant"}, "d: expected 4 coefficients of equidistant, got 5"),
        ({"d": [0.1] * 5, "distortion_model": "ftheta"}, "distortion_model: expected one of plumb_bob"),
    ],
)
def test_unusable_camera_infos(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=f"^/front/camera_info: {says}"):
        camera_from(info(**fields), "/front/camera_info")


def test_a_rectified_image_needs_p() -> None:
    message = info(p=np.zeros(12), roi=SimpleNamespace(x_offset=0, y_offset=0, width=WIDTH, height=HEIGHT))
    camera_from(message, "topic")
    with pytest.raises(ConfigError, match="topic: p is all zeros"):
        camera_from(message, "topic", rectified=True)


def test_rectified_images_are_known_by_their_name() -> None:
    assert all(map(is_rectified, ("/rgb/image_rect", "/rgb/image_rect_color/compressed", "/rgb_rectified/image")))
    assert not any(map(is_rectified, ("/rgb/image_raw", "/direct/image", "/rectangle/image")))
