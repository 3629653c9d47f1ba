"""Small recordings and pictures made on the spot, and the command line as a user calls it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

from cmdtrack_ros.data.sequences import ImageSequence
from cmdtrack_ros.modalities import Modality

SIZE = (120, 160)
FRAMES = 24


def make_folder(folder: Path, seed: int = 0, frames: int = FRAMES, absent: tuple[int, ...] = ()) -> Path:
    """A DepthTrack-like sequence: a textured square that moves over noise, in colour and in depth."""
    rng = np.random.default_rng(seed)
    background = rng.integers(0, 90, (*SIZE, 3), np.uint8)
    target = cv2.resize(
        rng.integers(100, 255, (6, 6, 3), np.uint8), (30, 30), interpolation=cv2.INTER_NEAREST
    )
    (folder / "color").mkdir(parents=True)
    (folder / "depth").mkdir()
    boxes = []
    for i in range(frames):
        x, y = 20 + 2 * i, 30 + i
        colour, depth = background.copy(), np.full(SIZE, 3000, np.uint16)
        colour[y : y + 30, x : x + 30], depth[y : y + 30, x : x + 30] = target, 1200
        cv2.imwrite(str(folder / "color" / f"{i + 1:08d}.jpg"), colour)
        cv2.imwrite(str(folder / "depth" / f"{i + 1:08d}.png"), depth)
        boxes.append("nan,nan,nan,nan" if i in absent else f"{x},{y},30,30")
    (folder / "groundtruth.txt").write_text("\n".join(boxes) + "\n")
    return folder


class Drawn(ImageSequence):
    """A bright block that moves over a dark ground, in both streams."""

    def __init__(self, frames=6, name="drawn"):
        boxes = np.array([[20.0 + 3 * i, 30, 24, 20] for i in range(frames)])
        super().__init__(name, Modality.THERMAL, boxes, np.arange(frames) / 30)
        self.places = boxes.astype(int)

    def rgb(self, index):
        image = np.full((96, 128, 3), 40, np.uint8)
        x, y, w, h = self.places[index]
        image[y : y + h, x : x + w] = (200, 90, 30)
        return image

    def aux(self, index):
        return self.rgb(index)[..., 0]


def draw_stills(folder: Path, count: int = 6) -> Path:
    """Registered pairs of pictures with blocks on noise."""
    rng = np.random.default_rng(0)
    for name in ("visible", "infrared"):
        (folder / "set" / name).mkdir(parents=True)
    for index in range(count):
        rgb = cv2.GaussianBlur(rng.integers(0, 255, (120, 160, 3), np.uint8), (0, 0), 5)
        x, y = rng.integers(10, 90, 2)
        cv2.rectangle(
            rgb, (int(x), int(y) // 2), (int(x) + 40, int(y) // 2 + 30), rng.integers(0, 255, 3).tolist(), -1
        )
        cv2.imwrite(str(folder / "set" / "visible" / f"{index}.png"), rgb)
        cv2.imwrite(str(folder / "set" / "infrared" / f"{index}.png"), 255 - rgb[..., 0])
    return folder


def run_cli(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "cmdtrack_ros.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
    )
