"""The student in ONNX Runtime: on a CPU in fp32 or int8, on a GPU through CUDA or TensorRT."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from cmdtrack_ros.models.config import StudentConfig
from cmdtrack_ros.models.graphs import Graphs
from cmdtrack_ros.tracking.engines.contract import TEMPLATE_FIELDS, Query, Response, Template, TemplateCrop

PROVIDERS = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
}


class OnnxEngine:
    """Two sessions, one a graph.

    Args:
        threads: of a CPU, 0 = one per core.
        provider: a key of :data:`PROVIDERS`.
        cache: folder for what TensorRT builds, which takes minutes.
    """

    def __init__(
        self, config: StudentConfig, graphs: Graphs, threads: int = 0, provider: str = "cpu", cache: Path | None = None
    ) -> None:
        self.config = config
        self.device = "cpu" if provider == "cpu" else "cuda"
        self.name = f"ONNX Runtime ({provider}, {graphs.precision})"
        self._template = _session(graphs.template, threads, provider, cache)
        self._search = _session(graphs.search, threads, provider, cache)

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


def _session(graph: Path, threads: int, provider: str, cache: Path | None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # A spinning thread takes the core that another node, or the thread it waits for, would need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    providers: list[Any] = list(PROVIDERS[provider])
    if provider == "tensorrt" and cache is not None:
        settings = {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(cache), "trt_fp16_enable": True}
        providers[0] = (providers[0], settings)
    return onnxruntime.InferenceSession(graph, options, providers=providers)
