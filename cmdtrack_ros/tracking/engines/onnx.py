"""The student in ONNX Runtime: on a CPU in fp32 or int8, on a GPU through CUDA or TensorRT."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from cmdtrack_ros.models.confidence import Confidence
from cmdtrack_ros.models.config import TEMPLATE_FIELDS, StudentConfig
from cmdtrack_ros.models.graphs import WEIGHTS_KEY, Graphs
from cmdtrack_ros.tracking.engines.contract import Query, Response, Template, TemplateCrop

log = logging.getLogger(__name__)

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


@dataclass(frozen=True)
class TensorRt:
    """``cache``: folder for what TensorRT builds, which takes minutes; ``half``: compute in half precision."""

    cache: Path
    half: bool


class OnnxEngine:
    """Two sessions, one a graph.

    Args:
        threads: of a CPU, 0 = one per core.
        place: "cpu", "cuda", or TensorRT's settings.

    Raises:
        WeightsError: a graph of other weights than it is named for.
    """

    def __init__(self, config: StudentConfig, graphs: Graphs, threads: int = 0, place: str | TensorRt = "cpu") -> None:
        self.config = config
        self._template, self._search = (_session(file, threads, place) for file in (graphs.template, graphs.search))
        for file, session in ((graphs.template, self._template), (graphs.search, self._search)):
            graphs.check(file, session.get_modelmeta().custom_metadata_map.get(WEIGHTS_KEY, ""))
        used = _name(self._search.get_providers()[0])
        if used != (asked := "tensorrt" if isinstance(place, TensorRt) else place):
            log.warning("ONNX Runtime cannot use %s here and runs on %s (its own messages say why)", asked, used)
        self.device = "cpu" if used == "cpu" else "cuda"
        half = isinstance(place, TensorRt) and place.half and used == "tensorrt"
        self.confidence: Confidence | None = None
        self.name = f"ONNX Runtime ({used}, {'fp16' if half else graphs.precision})"

    def encode(self, crops: Sequence[TemplateCrop]) -> list[Template]:
        pictures = np.stack([crop.picture for crop in crops])
        boxes = np.stack([crop.box for crop in crops]).astype(np.float32)
        parts = self._template.run(list(TEMPLATE_FIELDS), {"pictures": pictures, "boxes": boxes})
        return [Template(crop.stream, tuple(part[i : i + 1] for part in parts)) for i, crop in enumerate(crops)]

    def search(self, queries: Sequence[Query]) -> list[Response]:
        return split(self._search.run(["score", "box", "weights"], batch(queries)))


def batch(queries: Sequence[Query]) -> dict[str, np.ndarray]:
    """The search graph's inputs: pictures and templates of all queries, query by query."""
    templates = [template.parts for query in queries for template in query.templates]
    inputs = dict(zip(TEMPLATE_FIELDS, (np.concatenate(parts) for parts in zip(*templates))))
    inputs["pictures"] = np.stack([picture for query in queries for picture in query.pictures])
    inputs["present"] = np.ones((len(queries), len(queries[0].pictures)), np.float32)
    return inputs


def split(outputs: Sequence[np.ndarray]) -> list[Response]:
    """The search graph's outputs as one response a query."""
    return [Response(*parts) for parts in zip(*outputs)]


def available(place: str) -> bool:
    """Whether this ONNX Runtime was built for "cuda" or "tensorrt"."""
    return _PROVIDERS[place] in onnxruntime.get_available_providers()


def _name(provider: str) -> str:
    return next(name for name, known in _PROVIDERS.items() if known == provider)


def _session(graph: Path, threads: int, place: str | TensorRt) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # A spinning thread takes the core that another node, or the thread it waits for, would need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=_providers(place))


def _providers(place: str | TensorRt) -> list[Any]:
    """What shall run the graph, and what takes over the parts that it cannot run."""
    if place == "cpu":
        return [_PROVIDERS["cpu"]]
    if not isinstance(place, TensorRt):
        return [_PROVIDERS["cuda"], _PROVIDERS["cpu"]]
    settings = {
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(place.cache),
        "trt_fp16_enable": place.half,
    }
    return [(_PROVIDERS["tensorrt"], settings), _PROVIDERS["cuda"], _PROVIDERS["cpu"]]
