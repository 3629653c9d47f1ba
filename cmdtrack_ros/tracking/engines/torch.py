"""The student in torch: on a GPU in half precision with its kernels recorded once, on a CPU for comparison."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from cmdtrack_ros.models.backbone import fold_batch_norm
from cmdtrack_ros.models.confidence import Confidence
from cmdtrack_ros.models.student import SearchNet, Student, TemplateNet
from cmdtrack_ros.tracking.engines.contract import Query, Response, Template, TemplateCrop

_RECORDED = 32
"""Most pictures of a call whose kernels are recorded: more keep a GPU busy as it is, and a recording keeps the memory
it computes in."""


class TorchEngine:
    """A copy of a student on ``device``. Template parts stay there; pictures go there through pinned memory.

    half: compute in half precision.
    """

    def __init__(self, student: Student, device: torch.device, half: bool = False) -> None:
        self.config = student.config
        self.device = device.type
        self.confidence: Confidence | None = None
        self.name = f"torch ({device}, {'fp16' if half else 'fp32'})"
        dtype = torch.float16 if half else torch.float32
        folded = fold_batch_norm(student).to(device, dtype)
        folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's types lack it
        self._template = _Recorded(TemplateNet(folded).eval(), device, dtype)
        self._search = _Recorded(SearchNet(folded).eval(), device, dtype)

    def encode(self, crops: Sequence[TemplateCrop]) -> list[Template]:
        pictures = torch.from_numpy(np.stack([crop.picture for crop in crops]))
        boxes = torch.from_numpy(np.stack([crop.box for crop in crops])).float()
        parts = self._template(pictures, boxes)
        return [Template(crop.stream, tuple(part[i : i + 1] for part in parts)) for i, crop in enumerate(crops)]

    def search(self, queries: Sequence[Query]) -> list[Response]:
        pictures = torch.from_numpy(np.stack([p for query in queries for p in query.pictures]))
        templates = [template.parts for query in queries for template in query.templates]
        joined = [torch.cat(parts) for parts in zip(*templates)]
        present = torch.ones(len(queries), len(queries[0].pictures))
        answer = [part.float().cpu().numpy() for part in self._search(pictures, *joined, present)]
        return [Response(*parts) for parts in zip(*answer)]


class _Recorded:
    """A network whose kernels are recorded once for each shape of its inputs (a CUDA graph), then replayed.

    Launching some two hundred small kernels one by one takes a GPU longer than running them. On a CPU the
    network is called as usual, but answers into the same memory again, as a replay does: tests there cover it.
    """

    def __init__(self, network: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        self._network, self._device, self._dtype = network, device, dtype
        self._inputs: dict[tuple, list[Tensor]] = {}
        self._outputs: dict[tuple, Sequence[Tensor]] = {}
        self._graphs: dict[tuple, torch.cuda.CUDAGraph] = {}

    @torch.inference_mode()
    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """The network's outputs."""
        if len(inputs[0]) > _RECORDED:
            return list(self._network(*(value.to(self._device, self._dtype_of(value)) for value in inputs)))
        shapes = tuple(value.shape for value in inputs)
        if shapes not in self._inputs:
            self._inputs[shapes] = [self._buffer(value) for value in inputs]
        for buffer, value in zip(self._inputs[shapes], inputs):
            pinned = self._device.type == "cuda" and value.device.type == "cpu"
            buffer.copy_(value.pin_memory() if pinned else value, non_blocking=True)
        if self._device.type == "cuda":
            if shapes not in self._graphs:
                self._record(shapes)
            self._graphs[shapes].replay()
        else:
            self._call(shapes)
        # The next call overwrites them.
        return [output.clone() for output in self._outputs[shapes]]

    def _call(self, shapes: tuple) -> None:
        answer = self._network(*self._inputs[shapes])
        for kept, new in zip(self._outputs.setdefault(shapes, answer), answer):
            kept.copy_(new)

    def _buffer(self, value: Tensor) -> Tensor:
        return torch.empty(value.shape, dtype=self._dtype_of(value), device=self._device)

    def _dtype_of(self, value: Tensor) -> torch.dtype:
        return self._dtype if value.is_floating_point() else value.dtype

    def _record(self, shapes: tuple) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # cuDNN chooses its kernels before the recording
                self._network(*self._inputs[shapes])
        torch.cuda.current_stream().wait_stream(stream)
        self._graphs[shapes] = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graphs[shapes]):
            self._outputs[shapes] = self._network(*self._inputs[shapes])
