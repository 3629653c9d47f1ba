"""A student as ONNX graphs: one for templates, one for search regions, any number of targets and streams at once.

Graphs carry in their metadata what they were made from, and are checked against torch when they are made.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from cmdtrack_ros.errors import CmdtrackError
from cmdtrack_ros.models.backbone import fold_batch_norm
from cmdtrack_ros.models.fusion import TemplateFeatures
from cmdtrack_ros.models.graphs import graph_file
from cmdtrack_ros.models.header import Header
from cmdtrack_ros.models.student import Student
from cmdtrack_ros.models.weights import load_student

TOLERANCE = 1e-3
"""Largest difference between torch's answers and an exported fp32 graph's."""
_TEMPLATE_FIELDS = ("keys", "values", "pooled", "mask")
_OPSET = 17


class TemplateNet(nn.Module):
    """Pictures (N, T, T, 3) uint8 and boxes (N, 4) xywh in fractions of T -> the parts of N templates."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, pictures: Tensor, boxes: Tensor) -> tuple[Tensor, ...]:
        template = self.student.encode_template(_as_input(pictures, boxes), boxes)
        return tuple(getattr(template, field) for field in _TEMPLATE_FIELDS)


class SearchNet(nn.Module):
    """Pictures (B * M, S, S, 3) uint8, B * M templates and ``present`` (B, M) -> score (B, S', S'), box
    (B, 4, S', S') and weights (B, M, S', S').
    """

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(
        self, pictures: Tensor, keys: Tensor, values: Tensor, pooled: Tensor, mask: Tensor, present: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        template = TemplateFeatures(keys, values, pooled, mask)
        output, weights = self.student(_as_input(pictures, keys), template, present)
        return output.score.sigmoid()[:, 0], output.box, weights


def _as_input(pictures: Tensor, like: Tensor) -> Tensor:
    return pictures.permute(0, 3, 1, 2).to(like.dtype)


def export_graphs(student: Student, about: dict[str, str]) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The template graph and the search graph, fp32, checked; ``about`` becomes their metadata.

    Raises:
        CmdtrackError: a graph does not answer as torch does.
    """
    student = fold_batch_norm(student)
    template, search = TemplateNet(student).eval(), SearchNet(student).eval()
    generator = torch.Generator().manual_seed(0)
    pictures = _random_pictures(2, student.config.template_size, generator)
    boxes = torch.tensor([[0.25, 0.25, 0.5, 0.5], [0.3, 0.2, 0.4, 0.6]])
    with torch.no_grad():
        parts = template(pictures, boxes)
    regions = _random_pictures(2, student.config.search_size, generator)
    about = {**about, "config": json.dumps(student.config.to_dict())}
    graphs = (
        _export(template, {"pictures": pictures, "boxes": boxes}, _TEMPLATE_FIELDS, about),
        _export(
            search,
            {"pictures": regions, **dict(zip(_TEMPLATE_FIELDS, parts)), "present": torch.ones(1, 2)},
            ("score", "box", "weights"),
            about,
        ),
    )
    return graphs


def write_graphs(weights: Path, header: Header, folder: Path) -> list[Path]:
    """Export both fp32 graphs of a weights file into ``folder``; each file appears whole or not at all."""
    student, _ = load_student(weights)
    graphs = export_graphs(student, {"weights_sha256": header.sha256})
    files = [graph_file(folder, header, part, "fp32") for part in ("template", "search")]
    for file, graph in zip(files, graphs):
        save_graph(graph, file)
    return files


def save_graph(graph: onnx.ModelProto, file: Path) -> None:
    """Write a graph in one step."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    onnx.save(graph, str(partial))
    partial.replace(file)


def _random_pictures(count: int, size: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)


def _export(
    network: nn.Module, example: dict[str, Tensor], outputs: Iterable[str], about: dict[str, str]
) -> onnx.ModelProto:
    written, outputs = io.BytesIO(), list(outputs)
    batched = {name: {0: "batch" if name in ("present", *outputs) else "pictures"} for name in (*example, *outputs)}
    batched["present"] = batched["weights"] = {0: "batch", 1: "streams"}
    with warnings.catch_warnings(), torch.no_grad():
        # The exporter based on tracing is announced to go; the newer one takes ten times as long.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            tuple(example.values()),
            written,
            dynamo=False,
            opset_version=_OPSET,
            input_names=list(example),
            output_names=outputs,
            dynamic_axes={name: axes for name, axes in batched.items() if name in (*example, *outputs)},
        )
        expected = network(*example.values())
    graph = fold_pads(_with_constants_folded(written.getvalue()))
    onnx.helper.set_model_props(graph, about)
    onnx.checker.check_model(graph)
    _check(graph, example, outputs, expected)
    return graph


def _with_constants_folded(graph: bytes) -> onnx.ModelProto:
    """The graph after ONNX Runtime's standard-conforming simplifications."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(Path(folder) / "graph.onnx")
        options.log_severity_level = 3
        onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)


def fold_pads(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with each padding by zeros made part of the convolution after it.

    A `Pad` of its own keeps ONNX Runtime from its blocked memory layout; a convolution pads for nothing.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    uses = Counter(name for node in model.graph.node for name in node.input)
    pads = {
        node.output[0]: node
        for node in model.graph.node
        if node.op_type == "Pad" and node.input[1] in constants and uses[node.output[0]] == 1
    }
    for node in [node for node in model.graph.node if node.op_type == "Conv" and node.input[0] in pads]:
        pad = pads[node.input[0]]
        # A `Pad` lists (n, c, h, w) before and after, a convolution (h, w) before and after.
        _, _, *before, _, _, bottom, right = numpy_helper.to_array(constants[pad.input[1]]).tolist()
        own = next(attribute for attribute in node.attribute if attribute.name == "pads")
        own.ints[:] = [a + b for a, b in zip(own.ints, [*before, bottom, right])]
        node.input[0] = pad.input[0]
        model.graph.node.remove(pad)
    used = {name for node in model.graph.node for name in node.input}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in used]:
        model.graph.initializer.remove(tensor)
    return model


def _check(
    model: onnx.ModelProto, example: dict[str, Tensor], outputs: list[str], expected: tuple[Tensor, ...]
) -> None:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    got = session.run(outputs, {name: value.numpy() for name, value in example.items()})
    for name, ours, theirs in zip(outputs, got, expected):
        if (difference := float(np.abs(ours - theirs.numpy()).max())) > TOLERANCE:
            raise CmdtrackError(f"export: output {name} differs from torch's by {difference:.2g}, expected {TOLERANCE}")
