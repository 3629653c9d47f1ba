"""The student in OpenVINO, for those who have it: on Intel and AMD processors somewhat faster in fp32."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openvino

from cmdtrack_ros.models.confidence import Confidence
from cmdtrack_ros.models.config import TEMPLATE_FIELDS, StudentConfig
from cmdtrack_ros.models.graphs import WEIGHTS_KEY, Graphs
from cmdtrack_ros.tracking.engines.contract import Query, Response, Template, TemplateCrop
from cmdtrack_ros.tracking.engines.onnx import batch, split


class OpenVinoEngine:
    """The same graphs as ONNX Runtime's.

    Args:
        threads: of the CPU, 0 = one per core.

    Raises:
        WeightsError: a graph of other weights than it is named for.
    """

    def __init__(self, config: StudentConfig, graphs: Graphs, threads: int = 0) -> None:
        self.config = config
        self.device = "cpu"
        self.confidence: Confidence | None = None
        self.name = f"OpenVINO (cpu, {graphs.precision})"
        self._template, self._search = (_compiled(graphs, file, threads) for file in (graphs.template, graphs.search))

    def encode(self, crops: Sequence[TemplateCrop]) -> list[Template]:
        pictures = np.stack([crop.picture for crop in crops])
        boxes = np.stack([crop.box for crop in crops]).astype(np.float32)
        found = self._template({"pictures": pictures, "boxes": boxes})
        parts = [found[name].copy() for name in TEMPLATE_FIELDS]
        return [Template(crop.stream, tuple(part[i : i + 1] for part in parts)) for i, crop in enumerate(crops)]

    def search(self, queries: Sequence[Query]) -> list[Response]:
        found = self._search(batch(queries))
        return split([found[name].copy() for name in ("score", "box", "weights")])


def _compiled(graphs: Graphs, file: Path, threads: int) -> openvino.CompiledModel:
    core = openvino.Core()
    model = core.read_model(file)
    origin = ["framework", WEIGHTS_KEY]
    graphs.check(file, model.get_rt_info(origin).astype(str) if model.has_rt_info(origin) else "")
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        # Otherwise bfloat16 where the processor has it: other answers on other machines.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    return core.compile_model(model, "CPU", options)
