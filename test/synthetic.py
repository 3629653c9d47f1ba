"""Small recordings made on the spot, and the command line as a user calls it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

from cmdtrack_ros.data.sequences import ImageSequence
from cmdtrack_ros.modalities import Modality

AUX_TYPES = {Modality.THERMAL: np.uint16, Modality.DEPTH: np.uint16, Modality.EVENT: np.uint8}
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


class RandomSequence(ImageSequence):
    """Random pictures, the same for every access."""

    def __init__(
        self, modality: Modality = Modality.THERMAL, count: int = 12, size: tuple[int, int] = (24, 33)
    ) -> None:
        boxes = np.arange(count)[:, None] + [2.0, 3.5, 10, 12]
        boxes[4:5] = np.nan
        super().__init__("made up", modality, boxes, 7.0 + np.arange(count) / 25)
        self.size = size

    def rgb(self, index: int) -> np.ndarray:
        return np.random.default_rng(index).integers(0, 256, (*self.size, 3), np.uint8)

    def aux(self, index: int) -> np.ndarray | None:
        if self.modality is Modality.RGB:
            return None
        dtype = AUX_TYPES[self.modality]
        shape = (*self.size, 3) if self.modality is Modality.EVENT else self.size
        return np.random.default_rng(index + 100).integers(0, np.iinfo(dtype).max, shape, dtype)


def run_cli(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "cmdtrack_ros.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
    )
