"""Tiny folders laid out as the public data sets are, with something to see in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

FRAMES = 6
SIZE = 96


def make_data_sets(folder: Path, sequences: int = 2) -> Path:
    """The training parts of LasHeR, DepthTrack and VisEvent, as the full recipes expect them below ``--data``."""
    makers: dict[str, Callable[[Path, int], None]] = {
        "LasHeR/trainingset": _lasher,
        "DepthTrack/train": _depthtrack,
        "VisEvent/train": _visevent,
    }
    for place, make in makers.items():
        for seed in range(sequences):
            make(folder / place / f"sequence{seed}", seed)
    return folder


def _lasher(path: Path, seed: int) -> None:
    _pictures(path / "visible", "v%03d.jpg", seed)
    _pictures(path / "infrared", "i%03d.jpg", seed)
    for name in ("init.txt", "visible.txt", "infrared.txt"):
        _boxes(path / name)


def _depthtrack(path: Path, seed: int) -> None:
    _pictures(path / "color", "%08d.jpg", seed)
    _pictures(path / "depth", "%08d.png", seed, depth=True)
    _boxes(path / "groundtruth.txt")


def _visevent(path: Path, seed: int) -> None:
    _pictures(path / "vis_imgs", "frame%04d.bmp", seed)
    _pictures(path / "event_imgs", "frame%04d.bmp", seed)
    _boxes(path / "groundtruth.txt")
    (path / "absent_label.txt").write_text("1\n" * FRAMES)


def _boxes(path: Path) -> None:
    path.write_text("".join(f"{20 + 4 * i},{30 + 2 * i},24,20\n" for i in range(FRAMES)))


def _pictures(folder: Path, pattern: str, seed: int, depth: bool = False) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    ground, target = rng.integers(0, 120, (SIZE, SIZE, 3)), rng.integers(120, 255, (20, 24, 3))
    for i in range(FRAMES):
        picture = ground.copy()
        picture[30 + 2 * i : 50 + 2 * i, 20 + 4 * i : 44 + 4 * i] = target
        image = (500 + 10 * picture[..., 0]).astype(np.uint16) if depth else picture.astype(np.uint8)
        assert cv2.imwrite(str(folder / (pattern % (i + 1))), image)
