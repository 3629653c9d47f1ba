"""Sequences made of other sequences: a part of the frames, or other images of the same frames."""

from __future__ import annotations

import cv2
import numpy as np

from cmdtrack_ros.boxes import clip_box, visible, visible_fraction
from cmdtrack_ros.data.sequences import ImageSequence
from cmdtrack_ros.errors import DataError
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


class Misregistered(DerivedSequence):
    """A registered sequence as two cameras beside each other would have seen it: RGB is a window of 0.7 of the image,
    the aux image another view of it, of 0.6 to 1.5 times that width, turned by up to 6 degrees, shifted by up to 0.15
    of the width and seen a little from the side; nothing shows beyond what both cameras saw.

    Attributes:
        homography: (3, 3) the truth: aux pixel -> RGB pixel.
    """

    def __init__(self, source: ImageSequence, seed: int) -> None:
        super().__init__(source)
        rng = np.random.default_rng(seed)
        self._width, self._height = source.frame(0).size
        self._window = np.array([self._width * 7 // 10, self._height * 7 // 10])
        while True:
            self._origin = rng.integers(0, np.array([self._width, self._height]) - self._window)
            self._view = self._draw(rng)
            corners = np.array(
                [[[0, 0]], [[self._width, 0]], [[self._width, self._height]], [[0, self._height]]], float
            )
            seen = cv2.perspectiveTransform(corners, self._view)[:, 0]
            if (seen >= 0).all() and (seen < [self._width, self._height]).all():
                break
        to_window = np.array([[1, 0, -self._origin[0]], [0, 1, -self._origin[1]], [0, 0, 1.0]])
        self.homography = to_window @ self._view
        self.boxes = np.array([clip_box(b - [*self._origin, 0, 0], *self._window) for b in source.boxes])
        self.aux_boxes = None

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        scale, turn = 0.7 * np.exp(rng.uniform(np.log(0.6), np.log(1.5))), np.radians(rng.uniform(-6, 6))
        turned = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        middle = self._origin + self._window / 2 + rng.uniform(-0.15, 0.15, 2) * self._window
        view, tilt = np.eye(3), np.eye(3)
        view[:2, :2], view[:2, 2] = turned, middle - turned @ [(self._width - 1) / 2, (self._height - 1) / 2]
        tilt[2, :2] = rng.uniform(-0.02, 0.02, 2) / self._width
        return view @ tilt

    def rgb(self, index: int) -> np.ndarray | None:
        image, (x, y), (w, h) = super().rgb(index), self._origin, self._window
        return None if image is None else np.ascontiguousarray(image[y : y + h, x : x + w])

    def aux(self, index: int) -> np.ndarray | None:
        image = super().aux(index)
        if image is None:
            return None
        smooth = cv2.INTER_NEAREST if self.modality is Modality.DEPTH else cv2.INTER_LINEAR
        return cv2.warpPerspective(image, self._view, (self._width, self._height), flags=smooth | cv2.WARP_INVERSE_MAP)


class GreyAsDepth(DerivedSequence):
    """A sequence with depth made up from the brightness of its colour images: 16-bit millimetres, for timing alone."""

    def __init__(self, source: ImageSequence) -> None:
        super().__init__(source, modality=Modality.DEPTH)

    def aux(self, index: int) -> np.ndarray | None:
        rgb = self.rgb(index)
        return None if rgb is None else 500 + cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.uint16) * 20


_DRAWN = {Modality.THERMAL: (30700, 29500), Modality.DEPTH: (900, 2600)}  # target (in the first frame) and wall
_DRAWN_NOISE = 12.0  # standard deviation


class DrawnAux(DerivedSequence):
    """A sequence whose aux images are drawn around its true boxes: an ellipse in each, warmer than its surroundings
    (thermal, 16-bit hundredths of a kelvin) or nearer (depth, 16-bit millimetres, and so far away as the box is small).

    For a look at what a node does with such images where no recording of them is at hand; it says nothing of how well.
    """

    def __init__(self, source: ImageSequence, modality: Modality) -> None:
        super().__init__(source, modality=modality)
        if modality not in _DRAWN:
            raise DataError(f"{source.name}: {modality} images cannot be drawn, expected thermal or depth")

    def aux(self, index: int) -> np.ndarray | None:
        rgb, box = self.rgb(index), self.boxes[index]
        if rgb is None:
            return None
        image = np.full(rgb.shape[:2], _DRAWN[self.modality][1], np.float32)
        if visible(box):
            x, y, w, h = box.tolist()
            cv2.ellipse(image, ((x + w / 2, y + h / 2), (w, h), 0), self._value(box), -1)
        noise = np.random.default_rng(index).normal(0, _DRAWN_NOISE, image.shape)
        return np.round(image + noise).astype(np.uint16)

    def _value(self, box: np.ndarray) -> float:
        value = float(_DRAWN[self.modality][0])
        if self.modality is Modality.THERMAL:
            return value
        first = self.boxes[visible(self.boxes)][0]
        return value * float(np.sqrt(first[2] * first[3] / (box[2] * box[3])))


class Mirrored(DerivedSequence):
    """A sequence as a mirror shows it."""

    def __init__(self, source: ImageSequence) -> None:
        super().__init__(source)
        width = source.frame(0).size[0]
        self.boxes = _mirrored(source.boxes, width)
        self.aux_boxes = None if source.aux_boxes is None else _mirrored(source.aux_boxes, width)

    def rgb(self, index: int) -> np.ndarray | None:
        return _flipped(super().rgb(index))

    def aux(self, index: int) -> np.ndarray | None:
        return _flipped(super().aux(index))


def _mirrored(boxes: np.ndarray, width: int) -> np.ndarray:
    return np.column_stack([width - boxes[:, 0] - boxes[:, 2], boxes[:, 1:]])


def _flipped(image: np.ndarray | None) -> np.ndarray | None:
    return None if image is None else np.ascontiguousarray(image[:, ::-1])


class Beside(DerivedSequence):
    """The RGB images of two sequences side by side in one, while both last, at the first one's rate.

    Attributes:
        boxes: of the left one's target.
        right_boxes: (n, 4) of the right one's.
    """

    def __init__(self, left: ImageSequence, right: ImageSequence) -> None:
        count = min(len(left), len(right))
        super().__init__(left, 0, count, modality=Modality.RGB)
        self.name = f"{left.name} beside {right.name}"
        self._right = right
        self.right_boxes = right.boxes[:count] + [left.frame(0).size[0], 0, 0, 0]

    def rgb(self, index: int) -> np.ndarray:
        """Both images, the lower one with black below it; DataError where one of them is missing."""
        images = [image for image in (super().rgb(index), self._right.rgb(index)) if image is not None]
        if len(images) < 2:
            raise DataError(f"{self.name}, frame {index}: expected an RGB image of both, one of them is missing")
        height = max(image.shape[0] for image in images)
        return np.hstack([np.pad(image, ((0, height - image.shape[0]), (0, 0), (0, 0))) for image in images])

    def aux(self, index: int) -> None:
        return None


class Bounced(DerivedSequence):
    """A sequence played forward and backward in turn until it has at least ``frames`` frames."""

    def __init__(self, source: ImageSequence, frames: int) -> None:
        super().__init__(source)
        count = len(source)
        there = np.arange(count)
        turn = np.concatenate([there, there[-2:0:-1]])
        self._order = np.resize(turn, max(frames, count))
        self.boxes, self.labelled = source.boxes[self._order], source.labelled[self._order]
        self.aux_boxes = None if source.aux_boxes is None else source.aux_boxes[self._order]
        self.anchors = None
        interval = float(np.median(np.diff(source.stamps))) if count > 1 else 1.0
        self.stamps = np.arange(len(self._order)) * interval

    def rgb(self, index: int) -> np.ndarray | None:
        return self._source.rgb(int(self._order[index]))

    def aux(self, index: int) -> np.ndarray | None:
        return self._source.aux(int(self._order[index]))


class Covered(DerivedSequence):
    """A sequence whose target is hidden in frames ``since`` .. ``until`` (exclusive) by a patch of the background
    beside it, in both streams; it has no true box there.
    """

    _MARGIN = 0.2  # of the box's sides, hidden around it

    def __init__(self, source: ImageSequence, since: int, until: int) -> None:
        super().__init__(source)
        self._true = source.boxes
        self._hidden = range(since, until)
        self.boxes = self.boxes.copy()
        self.boxes[since:until] = np.nan

    def rgb(self, index: int) -> np.ndarray | None:
        return self._shown(super().rgb(index), index)

    def aux(self, index: int) -> np.ndarray | None:
        return self._shown(super().aux(index), index)

    def _shown(self, image: np.ndarray | None, index: int) -> np.ndarray | None:
        if image is None or index not in self._hidden or not visible(self._true[index]):
            return image
        height, width = image.shape[:2]
        x, y, w, h = self._true[index]
        grown = np.array([x - self._MARGIN * w, y - self._MARGIN * h, (1 + 2 * self._MARGIN) * w, 0])
        grown[3] = (1 + 2 * self._MARGIN) * h
        left, top, w, h = np.round(clip_box(grown, width, height)).astype(int)
        w, h = min(w, width - left), min(h, height - top)
        room = {(-w, 0): left, (w, 0): width - left - w, (0, -h): top, (0, h): height - top - h}
        right, down = max(room, key=lambda shift: room[shift] / max(abs(shift[0]), abs(shift[1])))
        from_x, from_y = np.clip([left + right, top + down], 0, [width - w, height - h])
        image = image.copy()
        image[top : top + h, left : left + w] = image[from_y : from_y + h, from_x : from_x + w].copy()
        return image


class Leaving(DerivedSequence):
    """A window of a sequence that goes with the target, turns away until it is out of sight in frames ``since`` ..
    ``until`` (exclusive), and returns. True boxes are those in the window, none where less than a quarter shows.

    Raises:
        DataError: no side of the target has room for a window at all those times.
    """

    _LARGEST = 0.6  # of the image's side
    _TURN = 8  # frames that turning away or back takes

    def __init__(self, source: ImageSequence, since: int, until: int) -> None:
        super().__init__(source)
        size = np.array(source.frame(0).size)
        self._axis, self._side, window = self._place(source.boxes, size, since, until)
        self._window = size.copy()
        self._window[self._axis] = window
        self._origins = [
            self._origin(box, size, turn) for box, turn in zip(_filled(source.boxes), self._turns(since, until))
        ]
        self.boxes = np.array([self._seen(box, origin) for box, origin in zip(source.boxes, self._origins)])
        self.aux_boxes = None

    def _place(self, boxes: np.ndarray, size: np.ndarray, since: int, until: int) -> tuple[int, int, int]:
        """Axis (0 x, 1 y), side (-1 or 1) and length of the largest window that fits beside the target."""
        part = boxes[since:until][visible(boxes[since:until])]
        best = (0, 1, 0)
        for axis in (0, 1):
            before, after = part[:, axis], size[axis] - part[:, axis] - part[:, axis + 2]
            for side, room in ((-1, before), (1, after)):
                length = int(min(room.min() if len(room) else 0, self._LARGEST * size[axis]))
                if length / size[axis] > best[2] / size[best[0]]:
                    best = (axis, side, length)
        if best[2] < max(64, 1.5 * np.nanmax(boxes[:, best[0] + 2])):
            raise DataError("the target leaves no room for a window beside it")
        return best

    def _turns(self, since: int, until: int) -> np.ndarray:
        """(n,) how far the window has turned away, 0 to 1."""
        frames = np.arange(len(self))
        return np.clip(1 - np.maximum(since - frames, frames - until + 1) / self._TURN, 0, 1)

    def _origin(self, box: np.ndarray, size: np.ndarray, turn: float) -> np.ndarray:
        """The window's corner [px]; beside the box where ``turn`` is 1, around it where 0."""
        origin, axis, length = np.zeros(2, int), self._axis, self._window[self._axis]
        around = np.clip(box[axis] + box[axis + 2] / 2 - length / 2, 0, size[axis] - length)
        beside = box[axis] - length if self._side < 0 else box[axis] + box[axis + 2]
        beside = np.clip(np.floor(beside) if self._side < 0 else np.ceil(beside), 0, size[axis] - length)
        origin[axis] = round((1 - turn) * around + turn * beside)
        return origin

    def _seen(self, box: np.ndarray, origin: np.ndarray) -> np.ndarray:
        moved = box - np.array([*origin, 0, 0])
        if not visible(box) or visible_fraction(moved, *self._window) < 0.25:
            return np.full(4, np.nan)
        return clip_box(moved, *self._window)

    def rgb(self, index: int) -> np.ndarray | None:
        return self._shown(super().rgb(index), index)

    def aux(self, index: int) -> np.ndarray | None:
        return self._shown(super().aux(index), index)

    def _shown(self, image: np.ndarray | None, index: int) -> np.ndarray | None:
        if image is None:
            return None
        x, y = self._origins[index]
        return np.ascontiguousarray(image[y : y + self._window[1], x : x + self._window[0]])


def _filled(boxes: np.ndarray) -> np.ndarray:
    """Boxes (n, 4) with the last known one, before it the first, where there is none."""
    seen = np.flatnonzero(visible(boxes))
    last = np.searchsorted(seen, np.arange(len(boxes)), side="right") - 1
    return boxes[seen[np.maximum(last, 0)]]
