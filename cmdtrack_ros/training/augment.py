"""Changes of appearance, each HxWx3 uint8 -> HxWx3 uint8; random ones draw from the generator passed in."""

from __future__ import annotations

import cv2
import numpy as np

Rng = np.random.Generator


def warp(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The picture moved by an affine ``matrix`` (2, 3) in px; its border is repeated outside."""
    return cv2.warpAffine(image, matrix, image.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)


def shifted(image: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """The picture moved by ``shift`` (2,) px along x and y, as :func:`warp`."""
    return warp(image, np.array([[1, 0, shift[0]], [0, 1, shift[1]]]))


def lighting(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Contrast, brightness and gamma; with colour pictures also a little colour balance."""
    values = np.arange(256, dtype=np.float32) / 255
    values = values ** np.exp(rng.normal(0, 0.2))
    balance = np.exp(rng.normal(0, 0.05, 3))
    table = (values[:, None] - 0.5) * np.exp(rng.normal(0, 0.2)) * balance + 0.5 + rng.normal(0, 0.06)
    return cv2.LUT(image, np.clip(table * 255, 0, 255).astype(np.uint8)[None])


def grey(image: np.ndarray) -> np.ndarray:
    """Drop the colours."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def blur(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Defocus, or motion blur along a random direction of up to 9 px."""
    if rng.random() < 0.5:
        return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 2.0))
    length = int(rng.integers(3, 10))
    kernel = np.zeros((length, length), np.float32)
    angle = rng.uniform(0, np.pi)
    reach = np.array([np.cos(angle), np.sin(angle)]) * (length - 1) / 2
    middle = np.full(2, (length - 1) / 2)
    start, end = (tuple(round(v) for v in middle + sign * reach) for sign in (-1, 1))
    cv2.line(kernel, start, end, 1.0)
    return cv2.filter2D(image, -1, kernel / kernel.sum())


def noise(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Gaussian sensor noise of 2 to 15 grey levels."""
    grain = rng.standard_normal(image.shape[:2], np.float32)[..., None] * rng.uniform(2, 15)
    return np.clip(image + grain, 0, 255).astype(np.uint8)


def degrade(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Make a stream nearly useless: dark, saturated, in smoke, or a dead sensor."""
    kind = rng.integers(4)
    if kind == 0:
        return noise(cv2.convertScaleAbs(image, alpha=rng.uniform(0.02, 0.2)), rng)
    if kind == 1:
        return cv2.convertScaleAbs(image, alpha=rng.uniform(1.5, 4.0), beta=rng.uniform(40, 160))
    if kind == 2:
        return _smoke(image, rng)
    return np.full_like(image, int(rng.integers(256)))


def _smoke(image: np.ndarray, rng: Rng) -> np.ndarray:
    height, width = image.shape[:2]
    density = cv2.resize(rng.random((5, 5), np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    density = np.clip(rng.uniform(0.6, 1.0) + 0.3 * (density - 0.5), 0, 1)[..., None]
    return (image * (1 - density) + rng.uniform(140, 230) * density).astype(np.uint8)


def veil(pictures: list[np.ndarray], rng: Rng) -> list[np.ndarray]:
    """Drifting haze or darkness that leaves traces of what is behind it: one strength, own clouds."""
    strength, spread = rng.uniform(0.5, 1.0), rng.uniform(0.0, 1.0)
    level = rng.uniform(120, 230) if rng.random() < 0.7 else rng.uniform(0, 20)
    veiled = [_behind_clouds(picture, strength, spread, level, rng) for picture in pictures]
    return [noise(picture, rng) for picture in veiled] if rng.random() < 0.4 else veiled


def _behind_clouds(image: np.ndarray, strength: float, spread: float, level: float, rng: Rng) -> np.ndarray:
    height, width = image.shape[:2]
    clouds = cv2.resize(rng.random((4, 4), np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    density = np.clip(strength + spread * (clouds - 0.5), 0, 0.97)[..., None]
    return (image * (1 - density) + level * density).astype(np.uint8)


def photometric(image: np.ndarray, rng: Rng, colour: bool) -> np.ndarray:
    """The everyday mixture of the above; ``colour`` pictures sometimes lose their colours."""
    for change, share in ((lighting, 0.8), (blur, 0.15), (noise, 0.15)):
        if rng.random() < share:
            image = change(image, rng)
    loses_colour = rng.random() < 0.15  # drawn for either kind, so that a seed gives both the same changes
    return grey(image) if colour and loses_colour else image
