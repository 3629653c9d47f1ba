"""Who is measured: this package's tracker on every engine that is there, and the trackers of OpenCV."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np

from cmdtrack_ros.errors import CmdtrackError
from cmdtrack_ros.evaluation.baselines import AUX, RGB, TrackerSpec, make_tracker, nanotrack_files
from cmdtrack_ros.modalities import AuxEncoder, Modality
from cmdtrack_ros.track import Track
from cmdtrack_ros.tracking.drive import BoxTracker
from cmdtrack_ros.tracking.engines.choose import make_engine
from cmdtrack_ros.tracking.engines.contract import Engine
from cmdtrack_ros.tracking.tracker import Tracker, see, update_together

SIZES = {"VGA": (640, 480), "720p": (1280, 720), "1080p": (1920, 1080), "4K": (3840, 2160)}
"""Width and height of the images."""
DEFAULT_SIZE = "VGA"
OURS, NANOTRACK, NANOTRACK_AUX, NANOTRACK_TWICE = "ours", "nanotrack", "nanotrack@aux", "nanotrack x 2"
GPU_ENGINES = ("torch", "onnx", "tensorrt")
ENGINE_PACKAGES = {"onnx": "onnxruntime", "torch": "torch", "openvino": "openvino"}


@dataclass(frozen=True)
class Competitor:
    """A tracker on a number of threads.

    Attributes:
        base: what it is, without threads and image size.
        runs: its engine.
    """

    base: str
    tracker: BoxTracker
    threads: int
    runs: str = "OpenCV"

    def name(self, size: str) -> str:
        return name_of(self.base, size, self.threads)


def together_name(targets: int) -> str:
    """Of ours with so many targets at once."""
    return f"{OURS}, {targets} targets"


def name_of(base: str, size: str = DEFAULT_SIZE, threads: int = 1) -> str:
    """``base``, then what is not the usual: an image size other than VGA, more than one thread."""
    parts = [base, "" if size == DEFAULT_SIZE else size, "" if threads == 1 else f"{threads} threads"]
    return " ".join(part for part in parts if part)


class Together:
    """Trackers of one engine on the same frames, a target each: the first one's box, and parts of it.

    Parts: what is tracked has no influence on what a frame costs, as long as it is in sight.
    """

    def __init__(self, engine: Engine, modality: Modality, targets: int) -> None:
        self._trackers = [Tracker(engine, modality) for _ in range(targets)]
        self._encoder = AuxEncoder(modality)

    def init(self, rgb: np.ndarray | None, aux: np.ndarray | None, box: np.ndarray) -> Track:
        self._encoder.reset()
        frame = see(rgb, aux, self._encoder)
        shares = [1 - 0.5 * i / len(self._trackers) for i in range(len(self._trackers))]
        places = [box * [1, 1, share, 1] for share in shares]
        tracks = [tracker.start(frame, place) for tracker, place in zip(self._trackers, places)]
        return tracks[0]

    def update(self, rgb: np.ndarray | None, aux: np.ndarray | None) -> Track:
        tracks = update_together(self._trackers, see(rgb, aux, self._encoder))
        return replace(tracks[0], times_ms=tracks[-1].times_ms)  # of all: the last one is ready when all are


@dataclass
class Lineup:
    """Everybody who is there, and why the others are not.

    Attributes:
        headline: which of ours the node would choose on this machine's CPU.
        skipped: who is not there -> reason.
    """

    competitors: list[Competitor]
    headline: str
    skipped: dict[str, str]


def gather(
    modality: Modality,
    threads: Sequence[int],
    engines: Sequence[str],
    weights: Path | None,
    nanotrack_weights: Path | None,
    device: str,
    targets: int = 2,
) -> Lineup:
    """Load all trackers.

    Args:
        modality: of the aux stream; RGB = there is none.
        threads: to measure everybody on.
        engines: keys of :data:`ENGINE_PACKAGES`, to run on the CPU.
        device: "cuda" or "auto" adds the engines of a GPU.
        targets: that ours follows at once, at most.
    """
    lineup = Lineup([], "", {})
    for engine, precision in _cpu_engines(engines, lineup):
        for count in threads:
            _add_ours(lineup, modality, weights, f"{OURS} {engine} {precision}", count, engine, "cpu", precision)
    for engine in () if device == "cpu" else GPU_ENGINES:
        _add_ours(lineup, modality, weights, f"{OURS} {engine} cuda", 1, engine, "cuda", "auto")
    _add_together(lineup, modality, threads, weights, targets)
    for spec in _baselines(modality, nanotrack_weights, lineup):
        lineup.competitors += [Competitor(spec.label, make_tracker(spec, modality), count) for count in threads]
    return lineup


def _cpu_engines(engines: Sequence[str], lineup: Lineup) -> Iterator[tuple[str, str]]:
    for engine in engines:
        package = ENGINE_PACKAGES[engine]
        if find_spec(package) is None:
            lineup.skipped[f"{OURS} {engine}"] = f"{package} is not installed"
            continue
        yield engine, "fp32"
        if engine != "torch":
            yield engine, "int8"


def _add_ours(
    lineup: Lineup,
    modality: Modality,
    weights: Path | None,
    base: str,
    threads: int,
    engine: str,
    device: str,
    precision: str,
) -> None:
    try:
        made = make_engine(weights, engine=engine, device=device, precision=precision, threads=threads)
    except CmdtrackError as error:
        lineup.skipped[base] = str(error)
        return
    # An engine that finds no GPU runs on the CPU, where it has been measured under its own name.
    if f"({'tensorrt' if engine == 'tensorrt' else device}" not in made.name:
        lineup.skipped[base] = f"no GPU that it can use; it would run as {made.name}"
        return
    lineup.competitors.append(Competitor(base, Tracker(made, modality), threads, made.name))


def _add_together(
    lineup: Lineup, modality: Modality, threads: Sequence[int], weights: Path | None, targets: int
) -> None:
    """Several targets on the engine that the node would choose on the CPU; that one is the headline."""
    for count in threads:
        engine = make_engine(weights, device="cpu", threads=count)
        lineup.headline = next(
            one.base for one in lineup.competitors if (one.runs, one.threads) == (engine.name, count)
        )
        for number in range(2, targets + 1):
            joined = Together(engine, modality, number)
            lineup.competitors.append(Competitor(together_name(number), joined, count, engine.name))


def _baselines(modality: Modality, nanotrack_weights: Path | None, lineup: Lineup) -> Iterator[TrackerSpec]:
    yield TrackerSpec("csrt", RGB)
    yield TrackerSpec("kcf", RGB)
    if nanotrack_weights is None:
        lineup.skipped[NANOTRACK] = "no weights were given (--nanotrack-weights)"
        return
    files = nanotrack_files(nanotrack_weights)
    yield TrackerSpec(NANOTRACK, RGB, files)
    if modality is Modality.RGB:
        lineup.skipped[NANOTRACK_TWICE] = "the recording has one stream"
    else:
        yield TrackerSpec(NANOTRACK, AUX, files)


@contextmanager
def library_threads(count: int) -> Iterator[None]:
    """OpenCV, and torch where it is loaded, on ``count`` threads; ONNX Runtime's sessions have threads of their own."""
    torch = sys.modules.get("torch")
    before = cv2.getNumThreads(), torch.get_num_threads() if torch else None
    cv2.setNumThreads(count)
    if torch:
        torch.set_num_threads(count)
    yield
    cv2.setNumThreads(before[0])
    if torch:
        torch.set_num_threads(before[1])
