"""Sequences made of other sequences: a part of the frames, or other images of the same frames."""

from __future__ import annotations

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
