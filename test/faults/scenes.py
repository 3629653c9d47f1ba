"""What the cameras of the fault runs show: short recordings with a true box in every frame, played there and back."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from cmdtrack_ros.data.sequences import ImageSequence, load_sequence
from cmdtrack_ros.demo import demo_sequence
from cmdtrack_ros.modalities import Modality

FRAMES = 60  # of a recording
WARM, COLD = 40.0, 20.0  # degrees Celsius that the brightest and the darkest value of a thermal picture stand for


@dataclass(frozen=True)
class Scene:
    """Frames of two cameras.

    rgb: HxWx3 uint8 each. aux: HxW each, float32 degrees Celsius (thermal) or uint16 millimetres (depth).
    boxes: (n, 4) float64 x, y, w, h in px of the RGB image.
    """

    name: str
    modality: Modality
    rgb: list[np.ndarray]
    aux: list[np.ndarray]
    boxes: np.ndarray

    def index(self, number: int) -> int:
        """The frame that is shown as the `number`-th, forwards and backwards in turn, so that nothing jumps."""
        last = len(self.rgb) - 1
        return last - abs(number % (2 * last) - last)

    @property
    def aux_encoding(self) -> str:
        return "16UC1" if self.modality is Modality.DEPTH else "32FC1"


def face() -> Scene:
    """The face that the demo tracks; its thermal camera is made up of the picture's negative."""
    sequence = demo_sequence()
    rgb = [sequence.rgb(i) for i in range(FRAMES)]
    aux = [_degrees(255 - cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)) for picture in rgb]
    return Scene("face", Modality.THERMAL, rgb, aux, sequence.boxes[:FRAMES])


def thermal() -> Scene:
    """A man in smoke, whom the thermal camera sees better than the other."""
    sequence = _recording("rgbt/0117_1605_leftman")
    frames = range(len(sequence) - FRAMES, len(sequence))  # before, the image's edge cuts him
    aux = [_degrees(_one_channel(sequence.aux(i))) for i in frames]
    return Scene("thermal", Modality.THERMAL, [sequence.rgb(i) for i in frames], aux, sequence.boxes[-FRAMES:])


def depth() -> Scene:
    """A leaflet, seen by a moving depth camera."""
    sequence = _recording("rgbd/leaflet_blue_225")
    rgb, aux = ([read(i) for i in range(FRAMES)] for read in (sequence.rgb, sequence.aux))
    return Scene("depth", Modality.DEPTH, rgb, aux, sequence.boxes[:FRAMES])


SCENES = {"face": face, "thermal": thermal, "depth": depth}


def available(name: str) -> bool:
    """Whether this machine has the recording; the face comes with a package."""
    return name == "face" or _data() is not None


def _data() -> Path | None:
    folder = os.environ.get("CMDTRACK_DATA")
    return Path(folder) / "test" if folder and (Path(folder) / "test").is_dir() else None


def _recording(name: str) -> ImageSequence:
    folder = _data()
    assert folder, "set CMDTRACK_DATA to a folder that has test/"
    return load_sequence(folder / name)


def _one_channel(picture: np.ndarray) -> np.ndarray:
    return picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)


def _degrees(grey: np.ndarray) -> np.ndarray:
    return (COLD + (WARM - COLD) / 255 * grey).astype(np.float32)
