"""Small recordings and pictures made on the spot, and the command line as a user calls it."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer

from cmdtrack_ros.data.bags import AUX_TOPIC, RGB_TOPIC, TRUTH_TOPIC
from cmdtrack_ros.data.bags.messages import IMAGE, TARGET_BOX, message_types
from cmdtrack_ros.data.bags.writer import METADATA_VERSION
from cmdtrack_ros.data.sequences import ImageSequence
from cmdtrack_ros.modalities import Modality

AUX_TYPES = {Modality.THERMAL: np.uint16, Modality.DEPTH: np.uint16, Modality.EVENT: np.uint8}
SIZE = (120, 160)
FRAMES = 24


def make_folder(folder: Path, seed: int = 0, frames: int = FRAMES, absent: tuple[int, ...] = ()) -> Path:
    """A DepthTrack-like sequence: a textured square that moves over noise, in colour and in depth."""
    rng = np.random.default_rng(seed)
    background = rng.integers(0, 90, (*SIZE, 3), np.uint8)
    target = cv2.resize(rng.integers(100, 255, (6, 6, 3), np.uint8), (30, 30), interpolation=cv2.INTER_NEAREST)
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
        cv2.rectangle(rgb, (int(x), int(y) // 2), (int(x) + 40, int(y) // 2 + 30), rng.integers(0, 255, 3).tolist(), -1)
        cv2.imwrite(str(folder / "set" / "visible" / f"{index}.png"), rgb)
        cv2.imwrite(str(folder / "set" / "infrared" / f"{index}.png"), 255 - rgb[..., 0])
    return folder


def run_cli(*arguments: object, file_size: int | None = None) -> subprocess.CompletedProcess:
    """`cmdtrack ARGUMENTS` in a process of its own; file_size: of what it writes, bytes at most."""
    command = [sys.executable, "-m", "cmdtrack_ros.cli", *map(str, arguments)]
    # Python keeps byte code that was cut off by a limit, and every later import of the module fails.
    environment = os.environ | ({} if file_size is None else {"PYTHONDONTWRITEBYTECODE": "1"})
    if file_size is not None:
        command = ["prlimit", f"--fsize={file_size}", *command]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def write_free_running_bag(path: Path, rgb: list[int], aux: list[int], wrong: dict[int, int] | None = None) -> Path:
    """A bag of two cameras with clocks of their own: stamps in ns, each image 48x64 and grey by its number.

    The true box is that of the first RGB image. wrong: other stamps, of single RGB images by their number, than
    the times when they are recorded.
    """
    store = message_types()
    types = store.types

    def header(stamp: int) -> object:
        return types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](*divmod(stamp, 10**9)), "")

    def camera(topic: str, times: list[int], encoding: str, channels: int) -> list[tuple[int, str, object]]:
        stamps = {**dict(enumerate(times)), **(wrong or {} if topic == RGB_TOPIC else {})}
        pixels = [np.full(48 * 64 * channels, number, np.uint8) for number in range(len(times))]
        return [
            (time, topic, types[IMAGE](header(stamps[number]), 48, 64, encoding, 0, 64 * channels, pixels[number]))
            for number, time in enumerate(times)
        ]

    messages = [(rgb[0], TRUTH_TOPIC, types[TARGET_BOX](header(rgb[0]), "target", "", 20.0, 15.0, 16.0, 12.0))]
    messages += camera(RGB_TOPIC, rgb, "rgb8", 3) + camera(AUX_TOPIC, aux, "mono8", 1)
    with Writer(path, version=METADATA_VERSION, storage_plugin=StoragePlugin.MCAP) as writer:
        writer.set_custom_data("modality", "thermal")
        kinds = {TRUTH_TOPIC: TARGET_BOX, RGB_TOPIC: IMAGE, AUX_TOPIC: IMAGE}
        connections = {name: writer.add_connection(name, kind, typestore=store) for name, kind in kinds.items()}
        for stamp, topic, message in sorted(messages, key=lambda entry: entry[0]):
            writer.write(connections[topic], stamp, store.serialize_cdr(message, kinds[topic]))
    return path


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


def make_rgb(folder: Path) -> Path:
    """An OTB-like sequence of four frames: a block that moves over noise, in RGB alone."""
    (folder / "img").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 90, (96, 128, 3), np.uint8)
    for i in range(4):
        image = noise.copy()
        image[30:60, 20 + 8 * i : 50 + 8 * i] += 150
        cv2.imwrite(str(folder / "img" / f"{i}.png"), image)
    (folder / "groundtruth_rect.txt").write_text("".join(f"{20 + 8 * i},30,30,30\n" for i in range(4)))
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
