"""The search graph in int8: static, per channel, with ranges taken from pictures that the student was trained on."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from cmdtrack_ros.errors import CmdtrackError
from cmdtrack_ros.models.backbone import PIXEL_MEAN, PIXEL_SCALE

TOLERANCE = 0.2
"""Largest difference of an int8 graph's scores (of any cell) from fp32's, on average over the inputs it is made with:
some 0.03 is usual, up to 0.1 with drawn pictures; more than this is no rounding."""
_OPERATORS = ["Conv", "Clip", "Add", "Mul", "Concat"]
"""What is quantised. Depthwise convolutions are, or most of the gain is lost to conversions around them; the softmax
over streams and the comparison with the template are not: with one stream alone their ranges are others."""


class _Reader(CalibrationDataReader):
    def __init__(self, inputs: Iterable[dict[str, np.ndarray]]) -> None:
        self._inputs = iter(inputs)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._inputs, None)


def quantize_search(
    graph: onnx.ModelProto, inputs: Sequence[dict[str, np.ndarray]], about: dict[str, str]
) -> onnx.ModelProto:
    """An fp32 search graph in int8, by the least and greatest values that ``inputs`` (of the graph) bring about.

    ``about`` becomes its metadata.

    Raises:
        CmdtrackError: its scores for these inputs are not those of the fp32 graph, within :data:`TOLERANCE`.
    """
    source = onnx.ModelProto()
    source.CopyFrom(graph)
    # Constants are folded, and shapes are not needed; without this mark there would be advice to do either.
    add_pre_process_metadata(source)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "int8.onnx"
        quantize_static(
            source,
            file,
            _Reader(inputs),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            op_types_to_quantize=_OPERATORS,
            nodes_to_exclude=_after_last_convolutions(graph),
        )
        quantized = onnx.load(str(file))
    _take_pictures_as_they_are(quantized)
    onnx.helper.set_model_props(quantized, about)
    onnx.checker.check_model(quantized)
    _check(quantized, graph, inputs)
    return quantized


def _after_last_convolutions(model: onnx.ModelProto) -> list[str]:
    """Nodes that feed no convolution: what makes scores and boxes of the network's last maps stays in fp32."""
    needed: set[str] = set()  # by a convolution, directly or not
    last = []
    for node in reversed(model.graph.node):  # in topological order, so that users come first
        feeds = not needed.isdisjoint(node.output)
        if feeds or node.op_type == "Conv":
            needed.update(node.input)
        if not feeds and node.op_type != "Conv":
            last.append(node.name)
    return last


def _check(quantized: onnx.ModelProto, graph: onnx.ModelProto, inputs: Sequence[dict[str, np.ndarray]]) -> None:
    ours, theirs = (
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        for model in (quantized, graph)
    )
    gaps = [np.abs(ours.run(["score"], values)[0] - theirs.run(["score"], values)[0]).max() for values in inputs]
    if (gap := float(np.mean(gaps))) > TOLERANCE:
        raise CmdtrackError(f"int8 graph: its scores differ from those in fp32 by {gap:.2g}, expected {TOLERANCE}")


def _take_pictures_as_they_are(model: onnx.ModelProto) -> None:
    """A picture is 8-bit already: its values, of scale 1/128 around 127, are the first convolution's input."""
    graph = model.graph
    made_by = {output: node for node in graph.node for output in node.output}
    stem = next(node for node in graph.node if node.op_type == "Conv")
    dequantize = made_by[stem.input[0]]
    quantize = made_by[dequantize.input[0]]
    source = quantize
    while source.op_type != "Cast":  # back over the scaling of the pictures
        source = made_by[source.input[0]]
    if [node.op_type for node in (dequantize, quantize)] != ["DequantizeLinear", "QuantizeLinear"]:
        raise CmdtrackError("int8 graph: expected the first convolution to take a quantised picture")
    scale, zero = "pictures_scale", "pictures_zero"
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(1 / PIXEL_SCALE, np.float32), scale),
            numpy_helper.from_array(np.array(PIXEL_MEAN, np.uint8), zero),
        ]
    )
    dequantize.input[:] = [source.input[0], scale, zero]
    _remove_unused(graph)


def _remove_unused(graph: onnx.GraphProto) -> None:
    """Drop nodes and constants that no output needs any more."""
    outputs = {output.name for output in graph.output}
    while unused := [
        node
        for node in graph.node
        if not any(name in outputs or any(name in other.input for other in graph.node) for name in node.output)
    ]:
        for node in unused:
            graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
