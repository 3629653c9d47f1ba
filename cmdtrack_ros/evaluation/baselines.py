"""Every tracker that can be evaluated, behind one interface: init(rgb, aux, box) and update(rgb, aux).

A tracker is named ``NAME`` or ``NAME@STREAM``: ``ours`` (both streams), ``ours@rgb``, ``ours@aux``, ``csrt``,
``csrt@aux`` ... OpenCV's trackers look at one stream, RGB unless told otherwise.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cmdtrack_ros.errors import ConfigError, DataError, ImageError, Remark, WeightsError
from cmdtrack_ros.modalities import AuxEncoder, Modality
from cmdtrack_ros.models.header import SHIPPED, sha256_of
from cmdtrack_ros.track import Track
from cmdtrack_ros.tracking.drive import BoxTracker
from cmdtrack_ros.tracking.stopwatch import Stopwatch

logger = logging.getLogger(__name__)

BOTH, RGB, AUX = "both", "rgb", "aux"
STREAMS = (BOTH, RGB, AUX)


@dataclass(frozen=True)
class TrackerSpec:
    """Which tracker, on which stream, with which weights.

    Attributes:
        name: ``ours`` or a key of :data:`OPENCV_TRACKERS`.
        stream: ``both`` (``ours`` only), ``rgb`` or ``aux``.
        weights: files of the tracker's networks; for ``ours`` empty = the shipped weights.
        device: where ``ours`` runs: auto, cpu or cuda.
    """

    name: str
    stream: str = BOTH
    weights: tuple[Path, ...] = ()
    device: str = "cpu"

    @property
    def label(self) -> str:
        """The name used for folders and tables: ``NAME`` or ``NAME@STREAM``."""
        default = BOTH if self.name == "ours" else RGB
        return self.name if self.stream == default else f"{self.name}@{self.stream}"

    def hashes(self) -> dict[str, str]:
        """File name -> sha256 of the networks; WeightsError for a file that cannot be read."""
        files = self.weights or ((SHIPPED,) if self.name == "ours" else ())
        try:
            return {file.name: sha256_of(file) for file in files}
        except OSError as error:
            raise WeightsError(
                f"{error.filename}: the weights of '{self.label}' cannot be read ({error.strerror})"
            ) from error


def parse_spec(
    text: str, nanotrack: Path | None = None, vit: Path | None = None, ours: Path | None = None, device: str = "cpu"
) -> TrackerSpec:
    """``NAME[@STREAM]`` -> TrackerSpec.

    Args:
        nanotrack: folder with NanoTrack's ``*backbone*.onnx`` and ``*head*.onnx``; needed by ``nanotrack``.
        vit: ONNX file; needed by ``vit``.
        ours: weights of this package's tracker, None = the shipped ones.

    Raises:
        ConfigError: unknown name or stream, or weights that were not given.
        WeightsError: weights that are not there.
    """
    name, _, stream = text.partition("@")
    if name == "nano":
        raise ConfigError(
            f"tracker '{text}': two are called alike: --tracker ours --weights nano is this package's smaller student, "
            "--tracker nanotrack is OpenCV's NanoTrack"
        )
    if name != "ours" and name not in OPENCV_TRACKERS:
        raise ConfigError(
            f"tracker '{text}': expected one of ours, {', '.join(OPENCV_TRACKERS)}, each with @rgb or @aux if wanted"
        )
    stream = stream or (BOTH if name == "ours" else RGB)
    if stream not in STREAMS or (stream == BOTH and name != "ours"):
        raise ConfigError(f"tracker '{text}': expected stream rgb or aux, got '{stream}'")
    weights = {"nanotrack": lambda: nanotrack_files(nanotrack), "vit": lambda: vit_file(vit)}.get(
        name, lambda: (ours,) if name == "ours" and ours else ()
    )()
    return TrackerSpec(name, stream, weights, device if name == "ours" else "cpu")


def nanotrack_files(folder: Path | None) -> tuple[Path, Path]:
    """The backbone and head files of NanoTrack in ``folder``; of several versions the one that OpenCV runs.

    OpenCV's tracker is made for v2: it loads v3 and fails at the first frame, hence the trial. Files belong
    together whose names differ in "backbone" and "head" alone.

    Raises:
        ConfigError: no folder, or several versions in it that run.
        WeightsError: no such files, or none that run.
    """
    if folder is None:
        raise ConfigError("tracker 'nanotrack' needs the folder of its two ONNX files (--nanotrack-weights)")
    backbones = sorted(Path(folder).glob("*backbone*.onnx"))
    versions = [(file, file.with_name(file.name.replace("backbone", "head"))) for file in backbones]
    versions = [version for version in versions if version[1].is_file()]
    if not versions:
        raise WeightsError(f"{folder}: expected *backbone*.onnx and a *head*.onnx of the same name, found none")
    refused = {version: reason for version in versions if (reason := _why_nanotrack_fails(version))}
    usable = [version for version in versions if version not in refused]
    faults = "; ".join(f"{_names(version)}: {reason}" for version, reason in refused.items())
    if not usable:
        raise WeightsError(f"{folder}: cv2.TrackerNano, which is for NanoTrack v2, does not run its files: {faults}")
    if len(usable) > 1:
        found = "; ".join(_names(version) for version in usable)
        raise ConfigError(f"{folder}: expected one version of NanoTrack that runs, found {found}")
    if refused:
        logger.warning("%s: tracker 'nanotrack' takes %s, not %s", folder, _names(usable[0]), faults)
    return usable[0]


def _names(files: Iterable[Path]) -> str:
    return " and ".join(file.name for file in files)


def _why_nanotrack_fails(files: tuple[Path, Path]) -> str:
    """OpenCV's reason, empty where the tracker runs."""
    blank = np.zeros((64, 64, 3), np.uint8)
    try:
        tracker = OPENCV_TRACKERS["nanotrack"](files)
        tracker.init(blank, (16, 16, 32, 32))
        tracker.update(blank)
    except cv2.error as error:
        return str(error.err or error).strip()
    return ""


def vit_file(path: Path | None) -> tuple[Path]:
    """The ONNX file of the ViT tracker; ConfigError or WeightsError when it is not there."""
    if path is None:
        raise ConfigError("tracker 'vit' needs its ONNX file (--vit-weights)")
    if not Path(path).is_file():
        raise WeightsError(f"{path}: no such file, expected the ONNX file of OpenCV's ViT tracker")
    return (Path(path),)


def make_tracker(spec: TrackerSpec, modality: Modality | str) -> BoxTracker:
    """A tracker of ``spec`` for sequences whose aux stream is of ``modality`` (RGB = there is none).

    Raises:
        DataError: the tracker looks at the aux stream and there is none.
        WeightsError: weights that cannot be used.
    """
    modality = Modality(modality)
    if spec.stream == AUX and modality is Modality.RGB:
        raise DataError(f"tracker '{spec.label}' needs an aux stream and the sequence has RGB only")
    if spec.name != "ours":
        return OpenCVTracker(spec, modality)
    tracker = _load_ours(spec.weights, modality, spec.device)
    return tracker if spec.stream == BOTH else SingleStream(tracker, spec.stream)


@lru_cache(maxsize=2)
def _load_ours(weights: tuple[Path, ...], modality: Modality, device: str) -> BoxTracker:
    # Torch takes seconds to import, and the OpenCV baselines do without it. All streams share one tracker,
    # which takes long to load; `init` makes it start afresh.
    from cmdtrack_ros.tracking.tracker import load_tracker

    return load_tracker(weights[0] if weights else None, modality=modality, device=device, threads=1)


class SingleStream:
    """This package's tracker with one of its streams withheld."""

    def __init__(self, tracker: BoxTracker, stream: str) -> None:
        self._tracker, self._stream = tracker, stream

    def _select(self, rgb: np.ndarray | None, aux: np.ndarray | None) -> tuple[np.ndarray | None, np.ndarray | None]:
        return (rgb, None) if self._stream == RGB else (None, aux)

    def init(self, rgb: np.ndarray | None, aux: np.ndarray | None, box: np.ndarray) -> Track:
        return self._tracker.init(*self._select(rgb, aux), box)

    def update(self, rgb: np.ndarray | None, aux: np.ndarray | None) -> Track:
        return self._tracker.update(*self._select(rgb, aux))


class OpenCVTracker:
    """One of OpenCV's trackers on one stream; the aux stream is drawn as the network of ``ours`` sees it.

    A tracker that reports no target keeps its last box with confidence 0; those without a confidence of their
    own report 1 otherwise. ``times_ms`` of an update has "encode" (of an aux image), "convert" (to OpenCV's order of
    colours, which a program built on OpenCV would not need) and "network" (OpenCV's tracker, whatever it is).
    """

    def __init__(self, spec: TrackerSpec, modality: Modality) -> None:
        self._spec = spec
        self._encoder = AuxEncoder(modality) if spec.stream == AUX else None
        self._tracker: Any = None  # OpenCV's, from `init` on
        self._box: np.ndarray = np.full(4, np.nan)

    def _picture(self, rgb: np.ndarray | None, aux: np.ndarray | None, clock: Stopwatch) -> np.ndarray | None:
        image = rgb if self._encoder is None else aux
        if image is None:
            return None
        with clock.step("encode"):
            picture = image if self._encoder is None else self._encoder(image)
        with clock.step("convert"):
            return cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)

    def init(self, rgb: np.ndarray | None, aux: np.ndarray | None, box: np.ndarray) -> Track:
        """Start on ``box``, which OpenCV rounds to whole pixels (MOSSE: keeps)."""
        if self._encoder is not None:
            self._encoder.reset()
        picture = self._picture(rgb, aux, Stopwatch())
        if picture is None:
            raise ImageError(f"tracker '{self._spec.label}': the first frame has no {self._spec.stream} image")
        self._box = np.asarray(box, np.float64)
        self._tracker = OPENCV_TRACKERS[self._spec.name](self._spec.weights)
        rectangle = inside(self._box, picture.shape[1], picture.shape[0])
        try:
            self._tracker.init(picture, rectangle)
        except cv2.error as error:
            raise ImageError(
                f"tracker '{self._spec.label}' cannot start on box {self._box.tolist()}: {error}"
            ) from error
        return Track(self._box, 1.0, remarks=self._remarks())

    def update(self, rgb: np.ndarray | None, aux: np.ndarray | None) -> Track:
        clock = Stopwatch()
        picture = self._picture(rgb, aux, clock)
        if picture is None:
            return Track(self._box, 0.0)
        with clock.step("network"):
            found, box = self._tracker.update(picture)
        if not found:
            return Track(self._box, 0.0, times_ms=clock.stop(), remarks=self._remarks())
        self._box = np.asarray(box, np.float64)
        score = self._tracker.getTrackingScore() if hasattr(self._tracker, "getTrackingScore") else 1.0
        score = float(np.clip(score, 0.0, 1.0))
        return Track(self._box, score, times_ms=clock.stop(), remarks=self._remarks())

    def _remarks(self) -> tuple[Remark, ...]:
        """On the picture that was made last."""
        return () if self._encoder is None else self._encoder.remarks


def inside(box: np.ndarray, width: int, height: int) -> tuple[int, int, int, int]:
    """``box`` (4,) xywh rounded and cut to the image; OpenCV's trackers abort on one that leaves it."""
    left, top = (int(np.clip(round(v), 0, limit - 2)) for v, limit in zip(box[:2], (width, height)))
    right = int(np.clip(round(box[0] + box[2]), left + 2, width))
    bottom = int(np.clip(round(box[1] + box[3]), top + 2, height))
    return left, top, right - left, bottom - top


def _nanotrack(weights: tuple[Path, ...]) -> Any:
    parameters = cv2.TrackerNano_Params()
    parameters.backbone, parameters.neckhead = (str(path) for path in weights)
    return cv2.TrackerNano_create(parameters)


def _vit(weights: tuple[Path, ...]) -> Any:
    parameters = cv2.TrackerVit_Params()
    parameters.net = str(weights[0])
    return cv2.TrackerVit_create(parameters)


OPENCV_TRACKERS: dict[str, Callable[[tuple[Path, ...]], Any]] = {
    "csrt": lambda weights: cv2.TrackerCSRT_create(),
    "kcf": lambda weights: cv2.TrackerKCF_create(),
    "mil": lambda weights: cv2.TrackerMIL_create(),
    "mosse": lambda weights: cv2.legacy.TrackerMOSSE_create(),
    "nanotrack": _nanotrack,
    "vit": _vit,
}
