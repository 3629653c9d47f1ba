"""Engines run a student: ONNX Runtime on a CPU, torch on a GPU. Both give the same answers.

An engine works on lists with one entry per modality that is present, one or two of them.
"""

from __future__ import annotations

import io
import logging
import warnings
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.models.backbone import fold_batch_norm
from cmdtrack_ros.models.fusion import TemplateFeatures
from cmdtrack_ros.models.student import STRIDE, Student, StudentConfig

log = logging.getLogger(__name__)

_TEMPLATE_FIELDS = ("keys", "values", "pooled", "mask")


@dataclass(frozen=True)
class Response:
    """The network's answer over an S x S grid of cells.

    Attributes:
        score (S, S) float32: probability that the target's centre lies in the cell.
        box (4, S, S) float32: centre x, centre y, width, height in fractions of the search region.
        weights (M, S, S) float32: weight of each modality, in the order of the pictures; sums to 1 over M.
    """

    score: np.ndarray
    box: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Template:
    """A target's features in one stream.

    Attributes:
        stream: 0 RGB, 1 aux.
        parts: arrays of the engine that made them, one a field of ``models.fusion.TemplateFeatures``.
    """

    stream: int
    parts: tuple[Any, ...]

    def blended(self, recent: Template, share: float) -> Template:
        """Between two moments: ``1 - share`` of this one and ``share`` of a recent one of the same stream."""
        return Template(
            self.stream, tuple((1 - share) * a + share * b for a, b in zip(self.parts, recent.parts))
        )


class Engine(Protocol):
    """What a tracker needs of a network."""

    config: StudentConfig
    name: str

    def encode_template(self, picture: np.ndarray, box: np.ndarray, stream: int) -> Template:
        """Picture (T, T, 3) uint8 of a stream (0 RGB, 1 aux), and box (4,) xywh in fractions of T."""

    def search(self, pictures: list[np.ndarray], templates: list[Template]) -> Response:
        """Pictures (S, S, 3) uint8 of the modalities present, and their templates."""


class _TemplateNet(nn.Module):
    """From uint8 picture (1, T, T, 3) and box (1, 4) to the template's tensors."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, picture: Tensor, box: Tensor) -> tuple[Tensor, ...]:
        template = self.student.encode_template(_as_input(picture, box), box)
        return tuple(getattr(template, field) for field in _TEMPLATE_FIELDS)


class _SearchNet(nn.Module):
    """From uint8 pictures (M, S, S, 3) and M templates to score, box and weights of one sample."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, pictures: Tensor, *template: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        present = torch.ones(1, pictures.shape[0], dtype=template[0].dtype, device=pictures.device)
        output, weights = self.student(_as_input(pictures, template[0]), TemplateFeatures(*template), present)
        return output.score.sigmoid()[0, 0].float(), output.box[0].float(), weights[0].float()


def _as_input(pictures: Tensor, like: Tensor) -> Tensor:
    return pictures.permute(0, 3, 1, 2).to(like.dtype)


class TorchEngine:
    """The student in torch; in half precision on a GPU."""

    def __init__(self, student: Student, device: torch.device) -> None:
        self.config = student.config
        self.name = f"torch ({device})"
        self._device = device
        self._dtype = torch.float16 if device.type == "cuda" else torch.float32
        student = fold_batch_norm(student).to(device, self._dtype, memory_format=torch.channels_last)
        self._template, self._search = _TemplateNet(student).eval(), _SearchNet(student).eval()

    @torch.inference_mode()
    def encode_template(self, picture: np.ndarray, box: np.ndarray, stream: int) -> Template:
        fractions = torch.as_tensor(box, dtype=self._dtype, device=self._device)[None]
        return Template(
            stream, self._template(torch.as_tensor(picture, device=self._device)[None], fractions)
        )

    @torch.inference_mode()
    def search(self, pictures: list[np.ndarray], templates: list[Template]) -> Response:
        joined = [torch.cat(parts) for parts in zip(*(template.parts for template in templates))]
        answer = self._search(torch.as_tensor(np.stack(pictures), device=self._device), *joined)
        return Response(*(part.cpu().numpy() for part in answer))


class OnnxEngine:
    """The student in ONNX Runtime on the CPU; two to three times faster there than torch.

    The graphs (template; search with one and with two modalities) are exported when the engine is made.
    """

    def __init__(self, student: Student, threads: int = 0) -> None:
        self.config = student.config
        self.name = "onnxruntime (cpu)"
        student = fold_batch_norm(student)
        size = self.config.template_size
        picture, box = torch.zeros(1, size, size, 3, dtype=torch.uint8), torch.full((1, 4), 0.25)
        template = _TemplateNet(student).eval()
        self._template = _session(template, (picture, box), threads)
        size = self.config.search_size
        with torch.no_grad():
            parts = template(picture, box)
        self._search = {
            count: _session(
                _SearchNet(student).eval(),
                (
                    torch.zeros(count, size, size, 3, dtype=torch.uint8),
                    *(part.repeat_interleave(count, 0) for part in parts),
                ),
                threads,
            )
            for count in (1, 2)
        }

    def encode_template(self, picture: np.ndarray, box: np.ndarray, stream: int) -> Template:
        return Template(
            stream, tuple(_run(self._template, [picture[None], np.asarray(box, np.float32)[None]]))
        )

    def search(self, pictures: list[np.ndarray], templates: list[Template]) -> Response:
        joined = [np.concatenate(parts) for parts in zip(*(template.parts for template in templates))]
        return Response(*_run(self._search[len(pictures)], [np.stack(pictures), *joined]))


def _session(network: nn.Module, example: tuple[Tensor, ...], threads: int):
    import onnxruntime

    graph = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # The exporter based on tracing is announced to go; the newer one takes ten times as long.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            example,
            graph,
            dynamo=False,
            opset_version=17,
            input_names=[f"in{i}" for i in range(len(example))],
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(graph.getvalue(), options, providers=["CPUExecutionProvider"])


def _run(session, inputs: list[np.ndarray]) -> list[np.ndarray]:
    return session.run(None, {f"in{i}": value for i, value in enumerate(inputs)})


def make_engine(student: Student, device: str = "auto", threads: int = 0) -> Engine:
    """The engine for ``device``: "auto" (a GPU if there is one), "cpu" or "cuda".

    ``threads``: of a CPU engine, 0 = one per core. A GPU that is asked for and absent gives a warning and the
    CPU.

    Raises:
        ConfigError: another device name, or negative ``threads``.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device: expected auto, cpu or cuda, got {device!r}")
    if threads < 0:
        raise ConfigError(f"threads: expected 0 (one per core) or more, got {threads}")
    if device != "cpu" and torch.cuda.is_available():
        return TorchEngine(student, torch.device("cuda"))
    if device == "cuda":
        log.warning(
            "device: cuda was asked for, but torch %s sees no GPU; running on the CPU", torch.__version__
        )
    try:
        return OnnxEngine(student, threads)
    except ImportError as error:
        log.warning("ONNX Runtime is not installed (%s); running on torch, two to three times slower", error)
        if threads:
            torch.set_num_threads(threads)
        return TorchEngine(student, torch.device("cpu"))


def cells(config: StudentConfig) -> int:
    """Cells along a side of the response."""
    return config.search_size // STRIDE
