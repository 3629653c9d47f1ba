"""Boxes proposed around a point: on real recordings, and where there is nothing to propose."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from cmdtrack_ros.boxes import iou
from cmdtrack_ros.data.sequences import load_sequence
from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.modalities import AuxEncoder
from cmdtrack_ros.tracking.proposal import propose

FIXED = (0.15, 0.2, 0.3)
"""Sides of the boxes to compare with, as shares of the image's shorter one."""


def clicks(folder: Path, frames: int) -> Iterator[tuple[list[np.ndarray], np.ndarray, np.ndarray]]:
    """Pictures, a point up to 20 % of the box off its centre, and the true box, of a recording's frames."""
    sequence = load_sequence(folder)
    shown = [i for i, box in enumerate(sequence.boxes) if np.isfinite(box).all() and min(box[2:]) >= 8]
    rng = np.random.default_rng(zlib.crc32(folder.name.encode()))
    for place in np.linspace(0, len(shown) - 1, frames):
        index = shown[int(place)]
        frame, box = sequence.frame(index), sequence.boxes[index]
        aux = None if frame.aux is None else AuxEncoder(sequence.modality)(frame.aux)
        pictures = [picture for picture in (frame.rgb, aux) if picture is not None]
        point = box[:2] + box[2:] * (0.5 + rng.uniform(-0.2, 0.2, 2))
        yield pictures, np.clip(point, 1, np.array(pictures[0].shape[1::-1]) - 2), box


def test_proposals_are_better_than_boxes_of_a_fixed_size(shared_data: Path, repository: Path) -> None:
    split = yaml.safe_load((repository / "config" / "train" / "split.yaml").read_text())
    names = [name for name in split["validation"] if name.split("/")[-2] in ("rgb", "thermal", "rgbd")]
    folders = [folder for name in names for folder in sorted(shared_data.glob(name))]
    proposed, fixed = [], []
    for folder in folders:
        for pictures, point, box in clicks(folder, frames=2):
            proposed.append(float(iou(propose(pictures, point), box)))
            sides = np.array(FIXED) * min(pictures[0].shape[:2])
            fixed.append([float(iou(np.array([*point - side / 2, side, side]), box)) for side in sides])
    assert len(proposed) >= 60
    best = np.median(fixed, axis=0).max(), (np.array(fixed) > 0.5).mean(axis=0).max()
    assert np.median(proposed) > best[0] + 0.1
    assert (np.array(proposed) > 0.5).mean() > best[1] + 0.2


def test_object_on_a_plain_ground_is_found_from_near_its_centre() -> None:
    picture = np.full((240, 320, 3), 90, np.uint8)
    picture[80:140, 200:230] = (200, 40, 60)
    picture += np.random.default_rng(0).integers(0, 12, picture.shape, np.uint8)
    for point in ((210, 99), (215, 110), (220, 121)):
        assert iou(propose([picture], np.array(point)), np.array([200, 80, 30, 60])) > 0.6, point


@pytest.mark.parametrize("point", [(-1, 5), (320, 5), (5, 240), (float("nan"), 5)])
def test_point_outside_of_the_image_is_refused(point: tuple) -> None:
    with pytest.raises(ConfigError, match="inside of the 320x240 image"):
        propose([np.zeros((240, 320, 3), np.uint8)], np.array(point))


def test_box_at_the_corner_stays_inside() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    x, y, w, h = propose([picture], np.array([79.5, 59.5]))
    assert x >= 0 and y >= 0 and x + w <= 80 and y + h <= 60
