"""Objects that move before a background: a segment of one still picture, pasted over another still.

Videos with boxes are few, and in a moving still the surroundings move along with the target. Here the target
leaves what was behind it in the template, and only what moves by itself makes most of the events.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from cmdtrack_ros.data.events import simulate_events
from cmdtrack_ros.training.augment import Rng, grey, shifted, warp

Pictures = list
"""RGB HxWx3 uint8, and infrared of the same size or None."""
Moment = tuple[np.ndarray, np.ndarray, np.ndarray]
"""RGB and aux HxWx3 uint8, box (4,) xywh px."""

_SEGMENTATION_SIDE = 160
"""Longer side at which pictures are segmented, px."""


@dataclass(frozen=True)
class Cutout:
    """Part of a picture.

    Attributes:
        pictures: whole pictures it is part of, RGB and infrared or None.
        mask: HxW uint8, 255 on the part.
        box: (4,) xywh px of the part.
    """

    pictures: Pictures
    mask: np.ndarray
    box: np.ndarray


def segment(image: np.ndarray, rng: Rng) -> tuple[np.ndarray, float]:
    """Labels of a picture's segments (Felzenszwalb, 2004), int32 of a smaller size, and the scale."""
    scale = _SEGMENTATION_SIDE / max(image.shape[:2])
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    segmenter = cv2.ximgproc.segmentation.createGraphSegmentation(0.6, float(rng.uniform(100, 500)), 30)
    return segmenter.processImage(small), scale


def segment_bounds(labels: np.ndarray) -> np.ndarray:
    """Bounding boxes (n, 4) xywh of the labels of a HxW int image."""
    rows, columns = np.indices(labels.shape)
    count = int(labels.max()) + 1
    bounds = np.empty((count, 4), np.float64)
    for axis, index in ((0, columns), (1, rows)):
        low, high = np.full(count, 1 << 30), np.full(count, -1)
        np.minimum.at(low, labels.ravel(), index.ravel())
        np.maximum.at(high, labels.ravel(), index.ravel())
        bounds[:, axis], bounds[:, axis + 2] = low, high - low + 1
    return bounds[bounds[:, 2] > 0]


def cut_out(pictures: Pictures, rng: Rng) -> Cutout:
    """A random object-like segment without holes; an ellipse where there is none."""
    rgb, aux = pictures
    labels, _ = segment(aux if aux is not None and rng.random() < 0.6 else rgb, rng)
    mask = np.zeros(labels.shape, np.uint8)
    candidates = _object_like(labels)
    if len(candidates):
        part = (labels == int(rng.choice(candidates))).astype(np.uint8)
        outlines, _ = cv2.findContours(part, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(mask, outlines, -1, 255, cv2.FILLED)
    else:
        sides = np.array(labels.shape[::-1])
        axes = rng.uniform(0.08, 0.25, 2) * sides
        center = rng.uniform(axes, sides - axes)
        cv2.ellipse(mask, (center.tolist(), (2 * axes).tolist(), 0.0), 255, cv2.FILLED)
    mask = cv2.resize(mask, rgb.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return Cutout(pictures, mask, np.array(cv2.boundingRect(mask), np.float64))


def _object_like(labels: np.ndarray) -> np.ndarray:
    """The labels of segments that touch no edge, are neither tiny nor large nor long, and fill their box."""
    boxes, counts = segment_bounds(labels), np.bincount(labels.ravel())
    used = np.flatnonzero(counts)
    area, aspect = boxes[:, 2] * boxes[:, 3], boxes[:, 2] / boxes[:, 3]
    inside = (boxes[:, :2] > 0).all(1) & (boxes[:, :2] + boxes[:, 2:] < labels.shape[::-1]).all(1)
    fit = inside & (area > 60) & (area < 0.3 * labels.size) & (aspect > 0.25) & (aspect < 4)
    return used[fit & (counts[used] > 0.35 * area)]


def moments(scene: Pictures, cutout: Cutout, rng: Rng) -> tuple[Moment, Moment]:
    """The part before the scene, twice, at different places: RGB, aux, box (4,) xywh px each.

    Without infrared, aux is the events of the last frame interval, in which the part moved by 1
    to 6 px and the camera by up to 3 px along each axis. Frames of event cameras are often grey; so are 40 %
    here.
    """
    if scene[1] is None and rng.random() < 0.4:
        scene = [grey(scene[0]), None]
        cutout = replace(cutout, pictures=[grey(cutout.pictures[0]), None])
    height, width = scene[0].shape[:2]
    sides = np.array([width, height])
    size = float(np.exp(rng.uniform(np.log(0.1), np.log(0.35)))) * np.sqrt(height * width)
    place = rng.uniform(0.15, 0.85, 2) * sides
    threshold = float(rng.uniform(0.08, 0.3))
    first = _moment(scene, cutout, place, size, 0.0, threshold, rng)
    # The place it left lies within the search region more often than not.
    place = np.clip(place + rng.uniform(-1.6, 1.6, 2) * size, 0.05 * sides, 0.95 * sides)
    motion = cv2.getRotationMatrix2D((width / 2, height / 2), rng.normal(0, 5), np.exp(rng.normal(0, 0.05)))
    motion[:, 2] += rng.normal(0, 0.05, 2) * sides
    moved = [None if picture is None else warp(picture, motion) for picture in scene]
    size *= float(np.exp(rng.normal(0, 0.12)))
    return first, _moment(moved, cutout, place, size, float(rng.normal(0, 0.15)), threshold, rng)


def _moment(
    scene: Pictures, cutout: Cutout, place: np.ndarray, size: float, angle: float, threshold: float, rng: Rng
) -> Moment:
    pictures, box = _pasted(scene, cutout, place, size, angle)
    if pictures[1] is not None:
        return pictures[0], pictures[1], box
    direction, speed = rng.uniform(0, 2 * np.pi), rng.uniform(1, 6)
    earlier = place - speed * np.array([np.cos(direction), np.sin(direction)])
    shift = rng.uniform(-3, 3, 2) * (rng.random() < 0.7)
    behind = shifted(scene[0], shift)
    previous, _ = _pasted([behind, None], cutout, earlier, size, angle)
    return pictures[0], simulate_events(previous[0], pictures[0], threshold=threshold), box


def _pasted(
    scene: Pictures, cutout: Cutout, place: np.ndarray, size: float, angle: float
) -> tuple[Pictures, np.ndarray]:
    """The scene with the part centred at ``place``, of side ``size`` (both px), turned by ``angle`` (rad)."""
    height, width = scene[0].shape[:2]
    x, y, w, h = cutout.box
    scale = size / np.sqrt(w * h)
    matrix = cv2.getRotationMatrix2D((x + w / 2, y + h / 2), np.degrees(angle), scale)
    matrix[:, 2] += place - [x + w / 2, y + h / 2]
    mask = cv2.warpAffine(cutout.mask, matrix, (width, height))
    box = np.array(cv2.boundingRect((mask > 127).astype(np.uint8)), np.float64)
    share = cv2.GaussianBlur(mask, (0, 0), 0.8)[..., None].astype(np.float32) / 255
    result: Pictures = []
    for below, above in zip(scene, cutout.pictures, strict=True):
        if below is None or above is None:
            result.append(None)
            continue
        top = cv2.warpAffine(above, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
        result.append((below + (top.astype(np.float32) - below) * share).astype(np.uint8))
    return result, box


def propose_box(image: np.ndarray, rng: Rng) -> np.ndarray:
    """An object-like box (4,) xywh px: the bounds of a segment of a picture (Felzenszwalb, 2004)."""
    height, width = image.shape[:2]
    labels, scale = segment(image, rng)
    boxes = segment_bounds(labels) / scale
    area = boxes[:, 2] * boxes[:, 3] / (width * height)
    aspect = boxes[:, 2] / boxes[:, 3]
    fit = (area > 0.003) & (area < 0.3) & (aspect > 0.2) & (aspect < 5) & (boxes[:, 2:].min(1) > 12)
    if fit.any():
        return boxes[fit][int(rng.integers(fit.sum()))]
    size = np.exp(rng.uniform(np.log(0.1), np.log(0.5), 2)) * [width, height]
    return np.concatenate([rng.uniform(0, 1, 2) * ([width, height] - size), size])
