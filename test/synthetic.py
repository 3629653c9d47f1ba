"""Small recordings made on the spot, and the command line as a user calls it."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

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


def run_cli(*arguments: object) -> subprocess.CompletedProcess:
    """`cmdtrack ARGUMENTS` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "cmdtrack_ros.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
    )


def make_block(folder: Path, frames: int = 12) -> Path:
    """A LasHeR-like sequence at 10 Hz: a bright block that moves over noise, seen alike by two cameras."""
    noise = np.random.default_rng(0).integers(0, 90, SIZE, np.uint8)
    for name, letter in (("visible", "v"), ("infrared", "i")):
        (folder / name).mkdir(parents=True)
        for i in range(frames):
            image = noise.copy()
            image[40:70, 30 + 2 * i : 60 + 2 * i] += 150
            assert cv2.imwrite(str(folder / name / f"{letter}{i:03d}.png"), image)
    (folder / "init.txt").write_text("".join(f"{30 + 2 * i},40,30,30\n" for i in range(frames)))
    (folder / "meta.json").write_text('{"fps": 10}')
    return folder


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open() as file:
        return list(csv.DictReader(file))


def make_vot(folder: Path, anchors: dict[int, int]) -> Path:
    """`make_folder` as a VOT sequence with multi-start anchors: frame -> 1 (forward) or -1 (backward)."""
    make_folder(folder)
    (folder / "sequence").write_text("channels.color=color/%08d.jpg\nchannels.depth=depth/%08d.png\n")
    np.savetxt(folder / "anchor.value", [anchors.get(i, 0) for i in range(FRAMES)])
    return folder
