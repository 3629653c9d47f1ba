"""Sequences made of other sequences: a part of the frames, or other images of the same frames."""

from __future__ import annotations

import cv2
import numpy as np

from cmdtrack_ros.data.sequences import ImageSequence
from cmdtrack_ros.modalities import Modality


class DerivedSequence(ImageSequence):
    """Frames ``start`` .. ``stop`` (exclusive) of another sequence, with all that is known of them.

    A subclass shows other images by overriding ``rgb`` or ``aux``; ``modality``: of the aux stream then.
    """

    def __init__(
        self, source: ImageSequence, start: int = 0, stop: int | None = None, *, modality: Modality | None = None
    ) -> None:
        part = slice(start, stop)
        super().__init__(
            source.name,
            source.modality if modality is None else modality,
            source.boxes[part],
            source.stamps[part],
            layout=source.layout,
            aux_boxes=None if source.aux_boxes is None else source.aux_boxes[part],
            labelled=source.labelled[part],
            anchors=None if source.anchors is None else source.anchors[part],
        )
        self._source, self._start = source, start

    def rgb(self, index: int) -> np.ndarray | None:
        return self._source.rgb(self._start + index)

    def aux(self, index: int) -> np.ndarray | None:
        return self._source.aux(self._start + index)


class Blackout(DerivedSequence):
    """A sequence whose stream ``black`` (``rgb`` or ``aux``) shows zeros from frame ``since`` on."""

    def __init__(self, source: ImageSequence, black: str, since: int) -> None:
        super().__init__(source)
        self._black, self._since = black, since

    def rgb(self, index: int) -> np.ndarray | None:
        return self._shown(super().rgb(index), "rgb", index)

    def aux(self, index: int) -> np.ndarray | None:
        return self._shown(super().aux(index), "aux", index)

    def _shown(self, image: np.ndarray | None, stream: str, index: int) -> np.ndarray | None:
        black = image is not None and stream == self._black and index >= self._since
        return np.zeros_like(image) if black else image


class OneStream(DerivedSequence):
    """A sequence of which only the stream ``shown`` (``rgb`` or ``aux``) is there."""

    def __init__(self, source: ImageSequence, shown: str) -> None:
        super().__init__(source)
        self._shown = shown

    def rgb(self, index: int) -> np.ndarray | None:
        return super().rgb(index) if self._shown == "rgb" else None

    def aux(self, index: int) -> np.ndarray | None:
        return super().aux(index) if self._shown == "aux" else None


class Resized(DerivedSequence):
    """A sequence stretched to ``size`` (width, height), its frames ``rate`` Hz apart where one is given."""

    def __init__(
        self,
        source: ImageSequence,
        size: tuple[int, int],
        rate: float | None = None,
        start: int = 0,
        stop: int | None = None,
    ) -> None:
        super().__init__(source, start, stop)
        self._size = size
        self.boxes = _scaled(self.boxes, source.rgb(start), source.aux(start), size)
        if self.aux_boxes is not None:
            self.aux_boxes = _scaled(self.aux_boxes, source.aux(start), source.rgb(start), size)
        if rate is not None:
            self.stamps = np.arange(len(self)) / rate

    def rgb(self, index: int) -> np.ndarray | None:
        return self._stretched(super().rgb(index))

    def aux(self, index: int) -> np.ndarray | None:
        return self._stretched(super().aux(index))

    def _stretched(self, image: np.ndarray | None) -> np.ndarray | None:
        if image is None:
            return None
        # Depth must not be blended across edges.
        smooth = image.dtype == np.uint8
        return cv2.resize(image, self._size, interpolation=cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST)


def _scaled(boxes: np.ndarray, image: np.ndarray | None, other: np.ndarray | None, size: tuple[int, int]) -> np.ndarray:
    """Boxes (n, 4) of an image, of ``other`` where that is missing, at another size (width, height)."""
    shown = other if image is None else image
    return boxes if shown is None else boxes * np.tile(np.divide(size, shown.shape[1::-1]), 2)


class GreyAsDepth(DerivedSequence):
    """A sequence with depth made up from the brightness of its colour images: 16-bit millimetres, for timing alone."""

    def __init__(self, source: ImageSequence) -> None:
        super().__init__(source, modality=Modality.DEPTH)

    def aux(self, index: int) -> np.ndarray | None:
        rgb = self.rgb(index)
        return None if rgb is None else 500 + cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.uint16) * 20
