"""Trackers of others, to be measured beside ours and to learn from; each looks at one picture, RGB or encoded aux.

Their weights are no part of this package: ONNX files in a folder that the user names. Crops, decoding and smoothing
follow the published descriptions (NanoTrack: HonglinChu/SiamTrackers; FEAR: Borsuk et al., "FEAR: Fast, Efficient,
Accurate and Robust Visual Tracker", ECCV 2022), written anew.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from cmdtrack_ros.boxes import Crop, clip_box, mean_colour
from cmdtrack_ros.errors import ConfigError, ImageError, Remark, WeightsError
from cmdtrack_ros.modalities import AuxEncoder, Modality
from cmdtrack_ros.track import Track
from cmdtrack_ros.training.fixed_pairs import Answer, FixedPair, pictures_of

# Imported when a network is opened: training without foreign trackers needs neither onnx nor ONNX Runtime.
if TYPE_CHECKING:
    import onnxruntime

FEAR_MEAN = np.array([123.675, 116.28, 103.53], np.float32)


@dataclass(frozen=True)
class Candidates:
    """What a network answers, cell by cell: ``boxes`` (n, 4) xywh px of the image, ``scores`` (n,) in [0, 1]."""

    boxes: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Smoothing:
    """How a tracker chooses among candidates from frame to frame.

    Attributes:
        penalty: of a change of size and shape, exponent.
        window: share of a Hanning window over the search region in the ranking.
        rate: of the new size, times its score.
    """

    penalty: float
    window: float
    rate: float


class ForeignNetwork(ABC):
    """A siamese network with box regression, through ONNX Runtime on one CPU thread.

    Attributes:
        cells: of its answer, along each side.
        features_session: makes its features; their channels are those of its output.
    """

    name: str
    smoothing: Smoothing
    cells: int
    features_session: onnxruntime.InferenceSession

    @property
    def channels(self) -> int:
        """Of its features."""
        return int(self.features_session.get_outputs()[0].shape[1])

    @abstractmethod
    def encode(self, picture: np.ndarray, box: np.ndarray) -> np.ndarray:
        """Features of the target in ``box`` (4,) xywh px of a picture HxWx3 uint8 RGB."""

    @abstractmethod
    def search(self, picture: np.ndarray, template: np.ndarray, near: np.ndarray) -> Candidates:
        """Candidates around ``near`` (4,) xywh px, where and how large the target last was."""

    @abstractmethod
    def features(self, picture: np.ndarray) -> np.ndarray:
        """What it compares with a template, of a whole picture (S, S, 3) uint8 RGB: (C, S/16, S/16) float32, S a
        multiple of 16.
        """


class NanoTrack(ForeignNetwork):
    """NanoTrack v3. Files ``*backbone*.onnx`` and ``*head*.onnx``."""

    name = "nanotrack"
    smoothing = Smoothing(penalty=0.138, window=0.455, rate=0.348)
    cells = 15
    _TEMPLATE, _SEARCH, _STRIDE = 127, 255, 16

    def __init__(self, backbone: Path, head: Path) -> None:
        self.features_session = _session(_of_any_size(backbone))  # the file is fixed to search regions
        self._head = _session(str(head))
        along = (np.arange(self.cells) - self.cells // 2) * self._STRIDE
        self._x, self._y = np.meshgrid(along, along)

    def encode(self, picture: np.ndarray, box: np.ndarray) -> np.ndarray:
        return self._encoded(self._crop(box, self._TEMPLATE).cut(picture))

    def search(self, picture: np.ndarray, template: np.ndarray, near: np.ndarray) -> Candidates:
        crop = self._crop(near, self._SEARCH)
        classes, sides = _run(self._head, template, self._encoded(crop.cut(picture)))
        left, top, right, bottom = sides[0]
        center = crop.size / 2
        low = np.stack([self._x - left, self._y - top], -1) + center
        boxes = np.concatenate([low, np.stack([left + right, top + bottom], -1)], -1).reshape(-1, 4)
        odds = np.exp(classes[0, 1] - classes[0, 0])
        return Candidates(crop.to_image(boxes), (odds / (1 + odds)).ravel())

    def _crop(self, box: np.ndarray, size: int) -> Crop:
        x, y, w, h = (float(value) for value in box)
        side = float(np.sqrt((w + 0.5 * (w + h)) * (h + 0.5 * (w + h)))) * size / self._TEMPLATE
        return Crop(x + w / 2, y + h / 2, max(side, 1.0), size)

    def features(self, picture: np.ndarray) -> np.ndarray:
        return self._encoded(picture)[0]

    def _encoded(self, picture: np.ndarray) -> np.ndarray:
        blue_first = picture[..., ::-1].astype(np.float32)
        return _run(self.features_session, blue_first.transpose(2, 0, 1)[None])[0]


class Fear(ForeignNetwork):
    """FEAR-XS. Files ``*template*.onnx`` and ``*track*.onnx``."""

    name = "fear"
    smoothing = Smoothing(penalty=0.062, window=0.38, rate=0.765)
    cells = 16
    _TEMPLATE, _SEARCH, _STRIDE = 128, 256, 16

    def __init__(self, template: Path, track: Path) -> None:
        # The file is fixed to templates.
        self.features_session, self._tracker = _session(_of_any_size(template)), _session(str(track))
        along = np.arange(self.cells) * self._STRIDE
        self._x, self._y = np.meshgrid(along, along)

    def encode(self, picture: np.ndarray, box: np.ndarray) -> np.ndarray:
        return _run(self.features_session, _stretched(picture, _widened(box, 0.2), self._TEMPLATE))[0]

    def search(self, picture: np.ndarray, template: np.ndarray, near: np.ndarray) -> Candidates:
        window = _widened(near, 2.0)
        sides, scores = _run(self._tracker, _stretched(picture, window, self._SEARCH), template)
        left, top, right, bottom = sides[0]
        low = np.stack([self._x - left, self._y - top], -1)
        boxes = np.concatenate([low, np.stack([left + right, top + bottom], -1)], -1).reshape(-1, 4)
        scale = np.tile(window[2:] / self._SEARCH, 2)
        boxes = boxes * scale + np.concatenate([window[:2], [0, 0]])
        return Candidates(boxes, 1 / (1 + np.exp(-scores.ravel())))

    def features(self, picture: np.ndarray) -> np.ndarray:
        return _run(self.features_session, _normalised(picture))[0][0]


class ForeignTracker:
    """A foreign network from frame to frame, with the smoothing its authors chose.

    It looks at RGB where there is RGB, else at the aux image, drawn as our network sees it.
    """

    def __init__(self, network: ForeignNetwork, modality: Modality | str) -> None:
        self._network, self._encoder = network, AuxEncoder(modality)
        window = np.hanning(network.cells)
        self._window = np.outer(window, window).ravel()
        self._box: np.ndarray = np.full(4, np.nan)
        self._template: np.ndarray = np.empty(0)

    def init(self, rgb: np.ndarray | None, aux: np.ndarray | None, box: np.ndarray) -> Track:
        self._encoder.reset()
        self._box = np.asarray(box, np.float64)
        self._template = self._network.encode(self._picture(rgb, aux), self._box)
        return Track(self._box, 1.0, remarks=self._remarks(rgb))

    def update(self, rgb: np.ndarray | None, aux: np.ndarray | None) -> Track:
        picture, smoothing = self._picture(rgb, aux), self._network.smoothing
        found = self._network.search(picture, self._template, self._box)
        kept = np.exp((1 - _change(found.boxes, self._box)) * smoothing.penalty)
        ranked = kept * found.scores * (1 - smoothing.window) + self._window * smoothing.window
        best = int(ranked.argmax())
        rate = float(kept[best] * found.scores[best]) * smoothing.rate
        center = found.boxes[best, :2] + found.boxes[best, 2:] / 2
        size = (1 - rate) * self._box[2:] + rate * found.boxes[best, 2:]
        self._box = clip_box(np.concatenate([center - size / 2, size]), picture.shape[1], picture.shape[0], 10.0)
        return Track(self._box, float(found.scores[best]), remarks=self._remarks(rgb))

    def _picture(self, rgb: np.ndarray | None, aux: np.ndarray | None) -> np.ndarray:
        if rgb is not None:
            return rgb
        if aux is None:
            raise ImageError("both images are None: expected an RGB image or an auxiliary image")
        return self._encoder(aux)

    def _remarks(self, rgb: np.ndarray | None) -> tuple[Remark, ...]:
        """On the picture: one of RGB was not encoded."""
        return self._encoder.remarks if rgb is None else ()


class ForeignPairs:
    """A foreign network, on RGB or aux alone."""

    def __init__(self, network: ForeignNetwork) -> None:
        self.network = network

    def answer(self, pairs: Sequence[FixedPair]) -> list[dict[str, Answer]]:
        return [
            {name: self.best(pair, *streams) for name, streams in pair.streams().items() if len(streams) == 1}
            for pair in pairs
        ]

    def best(self, pair: FixedPair, stream: int) -> Answer:
        """To one stream, which the pair must have."""
        shown, searched = (pictures_of(view)[stream] for view in (pair.template, pair.search))
        assert shown is not None and searched is not None, "asked for a stream that the pair does not have"
        found = self.network.search(searched, self.network.encode(shown, pair.template.box), pair.near)
        best = int(found.scores.argmax())
        return found.boxes[best], float(found.scores[best])


def find_foreign(folder: Path) -> ForeignNetwork:
    """The foreign network whose files lie in ``folder``.

    Raises:
        WeightsError: they are none that is known.
        ConfigError: what runs them is not installed.
    """
    for kind, names in ((NanoTrack, ("backbone", "head")), (Fear, ("template", "track"))):
        files = [sorted(folder.glob(f"*{name}*.onnx")) for name in names]
        if all(len(found) == 1 for found in files):
            try:
                return kind(*(found[0] for found in files))
            except ModuleNotFoundError as error:
                raise ConfigError(f"{folder}: {error.name} is needed for it (pip install {error.name})") from error
            except Exception as error:  # onnx and ONNX Runtime raise whatever their parsers meet
                raise WeightsError(f"{folder}: its networks cannot be read ({error})") from error
    raise WeightsError(
        f"{folder}: expected one *backbone*.onnx and one *head*.onnx (NanoTrack v3), or one *template*.onnx and one "
        "*track*.onnx (FEAR-XS)"
    )


def _of_any_size(file: Path) -> bytes:
    """A fully convolutional network that takes pictures of other sizes than its file says."""
    import onnx

    model = onnx.load(str(file))
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dimension in value.type.tensor_type.shape.dim[2:]:
            dimension.Clear()
    return model.SerializeToString()


def _session(model: str | bytes) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _run(session: onnxruntime.InferenceSession, *inputs: np.ndarray) -> list[Any]:
    names = (value.name for value in session.get_inputs())
    return session.run(None, dict(zip(names, map(np.ascontiguousarray, inputs), strict=True)))


def _widened(box: np.ndarray, share: float) -> np.ndarray:
    """``box`` (4,) xywh with ``share`` of its width and height more on each side."""
    size = box[2:] * (1 + 2 * share)
    return np.concatenate([box[:2] + (box[2:] - size) / 2, size])


def _stretched(picture: np.ndarray, window: np.ndarray, size: int) -> np.ndarray:
    """The window (4,) xywh px of a picture as (1, 3, size, size) float32, normalised; the mean colour outside."""
    scale = size / np.maximum(window[2:], 1.0)
    offset = 0.5 * scale - 0.5 - window[:2] * scale
    matrix = np.array([[scale[0], 0, offset[0]], [0, scale[1], offset[1]]])
    fill = mean_colour(picture[::8, ::8])
    part = cv2.warpAffine(picture, matrix, (size, size), borderMode=cv2.BORDER_CONSTANT, borderValue=fill)
    return _normalised(part)


def _normalised(picture: np.ndarray) -> np.ndarray:
    return (picture - FEAR_MEAN).astype(np.float32).transpose(2, 0, 1)[None]


def _change(boxes: np.ndarray, last: np.ndarray) -> np.ndarray:
    """(n,) at least 1: how much larger or smaller, and how much wider or narrower, boxes (n, 4) are than the last."""
    sizes, before = np.maximum(boxes[:, 2:], 1e-3), np.maximum(last[2:], 1e-3)
    scale = _ratio(_padded(sizes) / _padded(before[None]))
    shape = _ratio((before[0] / before[1]) / (sizes[:, 0] / sizes[:, 1]))
    return scale * shape


def _padded(sizes: np.ndarray) -> np.ndarray:
    around = sizes.sum(-1) * 0.5
    return np.sqrt((sizes[:, 0] + around) * (sizes[:, 1] + around))


def _ratio(value: np.ndarray) -> np.ndarray:
    return np.maximum(value, 1 / value)
