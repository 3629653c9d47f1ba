"""The stops of the tour: which recording each plays, and how its targets are named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cmdtrack_ros.cameras import Camera
from cmdtrack_ros.data import EventSequence, ImageSequence, load_sequence
from cmdtrack_ros.data.derived import Beside, DerivedSequence, DrawnAux, Mirrored, Resized
from cmdtrack_ros.demo import demo_video
from cmdtrack_ros.modalities import Modality
from cmdtrack_ros.ros.replay.operator import CLICK_TOPIC, DETECTIONS_TOPIC, Door

_SIZE = (528, 432)  # px that the demo's video is enlarged to: what the node writes on its pictures is to be read
_KINECT = np.array([[585.0, 0, 319.5], [0, 585, 239.5], [0, 0, 1]])  # of 7-Scenes, nominal


@dataclass(frozen=True)
class Scene:
    """A recording.

    Attributes:
        kind: what its targets are.
        origin: where its images come from, in words.
        real: cameras gave them, and nothing is drawn or simulated.
        matrix: (3, 3) px of the RGB camera, where positions in space are wanted.
    """

    sequence: ImageSequence
    kind: str
    origin: str
    real: bool
    matrix: np.ndarray | None = None

    @property
    def camera(self) -> Camera | None:
        """The RGB camera."""
        return None if self.matrix is None else Camera(*self.sequence.frame(0).size, self.matrix)


@dataclass(frozen=True)
class Stop:
    """A scene, and how the node is told what to follow in it.

    Attributes:
        how: the same in words.
        truth: (n, 4) true boxes of each target, by the name that its results have.
        parameters: of the node, beside those of a node as it is installed.
    """

    scene: Scene
    door: Door
    how: str
    truth: Mapping[str, np.ndarray]
    parameters: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.scene.sequence.modality.value


def stops(data: Path | None = None, frames: int | None = None) -> list[Stop]:
    """One stop a modality, each with another door.

    Args:
        data: folder of real recordings, with test/ in it; None = made from the demo's video.
        frames: to play of each recording, at most; None = all.

    Raises:
        DataError: a recording is missing or broken.
    """
    thermal, depth, event, rgb = _made(frames) if data is None else _recorded(data / "test", frames)
    boxes = {"left": rgb.sequence.boxes, "right": rgb.sequence.right_boxes}
    detector = {"detections_topic": DETECTIONS_TOPIC, "detections_class": event.kind, "detections_score": 0.5}
    return [
        Stop(thermal, "box", "box, by ~/set_target", {thermal.kind: thermal.sequence.boxes}, {}),
        Stop(depth, "click", "click", {"click": depth.sequence.boxes}, {"click_topic": CLICK_TOPIC}),
        Stop(event, "detector", "detector", {event.kind: event.sequence.boxes}, detector),
        Stop(rgb, "box", "two boxes, by ~/set_target", boxes, {"max_targets": 2}),
    ]


def _recorded(folder: Path, frames: int | None) -> tuple[Scene, Scene, Scene, Scene]:
    def load(name: str) -> ImageSequence:
        return DerivedSequence(load_sequence(folder / name), stop=frames)

    two = Beside(load("rgb/otb_Crossing"), load("rgb/otb_Man"))
    return (
        Scene(load("rgbt/0117_1605_leftman"), "person", "as recorded", True),
        Scene(load("rgbd/leaflet_blue_225"), "leaflet", "as recorded", True, _KINECT),
        Scene(load("rgbe/star_motion"), "star", "as recorded", True),
        Scene(two, "person", "two recordings side by side", True),
    )


def _made(frames: int | None) -> tuple[Scene, Scene, Scene, Scene]:
    video = DerivedSequence(Resized(demo_video(), _SIZE), stop=frames)
    focal, (width, height) = float(_SIZE[0]), _SIZE
    matrix = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    return (
        Scene(DrawnAux(video, Modality.THERMAL), "face", "thermal images are drawn", False),
        Scene(DrawnAux(video, Modality.DEPTH), "face", "depth images are drawn", False, matrix),
        Scene(EventSequence(video), "face", "events are simulated from the video", False),
        Scene(Beside(video, Mirrored(video)), "face", "a video beside its mirror image", False),
    )
