"""A student as ONNX graphs: one for templates, one for search regions, any number of targets and streams at once.

Graphs carry in their metadata what they were made from, and are checked against torch when they are made.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import Tensor, nn

import cmdtrack_ros
from cmdtrack_ros.errors import CmdtrackError
from cmdtrack_ros.models.backbone import fold_batch_norm
from cmdtrack_ros.models.config import TEMPLATE_FIELDS
from cmdtrack_ros.models.graphs import WEIGHTS_KEY, graph_file
from cmdtrack_ros.models.header import Header
from cmdtrack_ros.models.student import SearchNet, Student, TemplateNet
from cmdtrack_ros.models.weights import load_student

TOLERANCE = 1e-3
"""Largest difference between torch's answers and an exported fp32 graph's."""
_OPSET = 17


def export_graphs(student: Student, about: dict[str, str]) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The template graph and the search graph, fp32, checked; ``about`` becomes their metadata.

    Raises:
        CmdtrackError: a graph does not answer as torch does.
    """
    folded = fold_batch_norm(student)
    template, search = TemplateNet(folded).eval(), SearchNet(folded).eval()
    generator = torch.Generator().manual_seed(0)
    pictures = _random_pictures(2, student.config.template_size, generator)
    boxes = torch.tensor([[0.25, 0.25, 0.5, 0.5], [0.3, 0.2, 0.4, 0.6]])
    with torch.no_grad():
        parts = template(pictures, boxes)
    regions = _random_pictures(2, student.config.search_size, generator)
    return (
        _export(template, {"pictures": pictures, "boxes": boxes}, TEMPLATE_FIELDS, about),
        _export(
            search,
            {"pictures": regions, **dict(zip(TEMPLATE_FIELDS, parts)), "present": torch.ones(1, 2)},
            ("score", "box", "weights"),
            about,
        ),
    )


def write_graphs(weights: Path, header: Header, folder: Path) -> list[Path]:
    """Export the template graph and the search graph of a weights file, fp32, into ``folder``.

    Raises:
        WeightsError: weights that cannot be read, or are no student's.
        CmdtrackError: a graph does not answer as torch does.
    """
    student, _ = load_student(weights, header.sha256)
    graphs = export_graphs(student, describe(header, "fp32"))
    files = [graph_file(folder, header, part, "fp32") for part in ("template", "search")]
    for file, graph in zip(files, graphs):
        save_graph(graph, file)
    return files


def describe(header: Header, precision: str) -> dict[str, str]:
    """A graph's metadata: the weights it is made from, their configuration, and what made it."""
    return {
        WEIGHTS_KEY: header.sha256,
        "config": json.dumps(header.config),
        "package_version": cmdtrack_ros.__version__,
        "precision": precision,
    }


def save_graph(graph: onnx.ModelProto, file: Path) -> None:
    """Write a graph; the file appears whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    onnx.save(graph, str(partial))
    partial.replace(file)


def _random_pictures(count: int, size: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)


def _export(
    network: nn.Module, example: dict[str, Tensor], outputs: Sequence[str], about: dict[str, str]
) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        traced, simpler = Path(folder) / "traced.onnx", Path(folder) / "simpler.onnx"
        _trace(network, example, outputs, traced)
        _fold_constants(traced, simpler)
        graph = fold_pads(onnx.load(str(simpler)))
        expected = network(*example.values())
    onnx.helper.set_model_props(graph, about)
    onnx.checker.check_model(graph)
    _check(graph, example, outputs, expected)
    return graph


def _trace(network: nn.Module, example: dict[str, Tensor], outputs: Sequence[str], file: Path) -> None:
    names = (*example, *outputs)
    axes = {name: {0: "batch" if name in outputs else "pictures"} for name in names}
    axes |= {name: {0: "batch", 1: "streams"} for name in ("present", "weights") if name in names}
    with warnings.catch_warnings():
        # The exporter based on tracing is announced to go; the newer one takes ten times as long.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            tuple(example.values()),
            file,
            dynamo=False,
            opset_version=_OPSET,
            input_names=list(example),
            output_names=list(outputs),
            dynamic_axes=axes,
        )


def _fold_constants(graph: Path, simpler: Path) -> None:
    """Write a graph after ONNX Runtime's standard-conforming simplifications."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(simpler)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


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
    model: onnx.ModelProto, example: dict[str, Tensor], outputs: Sequence[str], expected: tuple[Tensor, ...]
) -> None:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    got = session.run(list(outputs), {name: value.numpy() for name, value in example.items()})
    for name, ours, theirs in zip(outputs, got, expected):
        if (difference := float(np.abs(ours - theirs.numpy()).max())) > TOLERANCE:
            raise CmdtrackError(f"export: output {name} differs from torch's by {difference:.2g}, expected {TOLERANCE}")
