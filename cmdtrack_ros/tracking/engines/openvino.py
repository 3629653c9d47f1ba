"""The student in OpenVINO, for those who have it: on Intel and AMD processors somewhat faster in fp32."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import openvino

from cmdtrack_ros.models.config import StudentConfig
from cmdtrack_ros.models.graphs import Graphs
from cmdtrack_ros.tracking.engines.contract import TEMPLATE_FIELDS, Query, Response, Template, TemplateCrop
from cmdtrack_ros.tracking.engines.onnx import batch, split


class OpenVinoEngine:
    """The same graphs as ONNX Runtime's.

    Args:
        threads: of the CPU, 0 = one per core.
        bf16: compute in bfloat16 where the processor can; answers differ by some 1e-2.
    """

    def __init__(self, config: StudentConfig, graphs: Graphs, threads: int = 0, bf16: bool = False) -> None:
        self.config = config
        self.device = "cpu"
        self.name = f"OpenVINO (cpu, {'bf16' if bf16 else graphs.precision})"
        options = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
        }
        core = openvino.Core()
        self._template = core.compile_model(str(graphs.template), "CPU", options)
        self._search = core.compile_model(str(graphs.search), "CPU", options)

    def encode(self, crops: Sequence[TemplateCrop]) -> list[Template]:
        pictures = np.stack([crop.picture for crop in crops])
        boxes = np.stack([crop.box for crop in crops]).astype(np.float32)
        found = self._template({"pictures": pictures, "boxes": boxes})
        parts = [found[name].copy() for name in TEMPLATE_FIELDS]
        return [Template(crop.stream, tuple(part[i : i + 1] for part in parts)) for i, crop in enumerate(crops)]

    def search(self, queries: Sequence[Query]) -> list[Response]:
        found = self._search(batch(queries))
        return split([found[name].copy() for name in ("score", "box", "weights")])
