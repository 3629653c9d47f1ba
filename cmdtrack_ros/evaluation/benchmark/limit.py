"""How near the network comes to the machine's limit.

share = (GMACs of the search graph / seconds of the network step) / (GMACs of a matrix product / its seconds)

Both run in float32, in ONNX Runtime, on the same number of threads, in the same rounds. A share of 1 would be a
network in which everything but multiplication is free. GMACs are counted from the shapes of convolutions and
matrix products in the ONNX file.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from cmdtrack_ros.errors import ConfigError

_OTHER_PRODUCTS = {"ConvTranspose", "Einsum", "Gemm", "QLinearConv", "QLinearMatMul"}
_PRODUCT_SIDE = 1024
_IR_VERSION = 8


def count_gmacs(graph: onnx.ModelProto, sizes: Mapping[str, int]) -> float:
    """Billions of multiplications with addition in one run.

    Args:
        sizes: of the inputs' named dimensions.

    Raises:
        ConfigError: a dimension without a size, or an operator that multiplies and is not counted.
    """
    if others := {node.op_type for node in graph.graph.node} & _OTHER_PRODUCTS:
        raise ConfigError(f"GMACs: expected Conv and MatMul alone, got {', '.join(sorted(others))} too")
    shapes = _shapes(graph, sizes)
    total = 0.0
    for node in graph.graph.node:
        if node.op_type == "Conv":  # the weights' shape: outputs, inputs of a group, height, width
            total += math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
        elif node.op_type == "MatMul":
            total += math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    return total / 1e9


def _shapes(graph: onnx.ModelProto, sizes: Mapping[str, int]) -> dict[str, list[int]]:
    sized = onnx.ModelProto()
    sized.CopyFrom(graph)
    for value in sized.graph.input:
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param and dimension.dim_param not in sizes:
                raise ConfigError(f"GMACs: input {value.name} has a dimension {dimension.dim_param} without a size")
            if dimension.dim_param:
                dimension.dim_value = sizes[dimension.dim_param]
    inferred = onnx.shape_inference.infer_shapes(sized, strict_mode=True, data_prop=True).graph
    shapes = {
        value.name: [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
    }
    return shapes | {tensor.name: list(tensor.dims) for tensor in inferred.initializer}


class MatrixProduct:
    """A large float32 matrix product in ONNX Runtime on ``threads`` threads: the rate that nothing exceeds."""

    def __init__(self, threads: int, side: int = _PRODUCT_SIDE) -> None:
        values = np.random.default_rng(0).random((2, side, side), np.float32)
        a, c = (helper.make_tensor_value_info(name, TensorProto.FLOAT, (side, side)) for name in "ac")
        product = helper.make_node("MatMul", ["a", "b"], ["c"])
        graph = helper.make_graph([product], "product", [a], [c], [numpy_helper.from_array(values[1], "b")])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=_IR_VERSION)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as the engine's
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._input, self._gmacs = {"a": values[0]}, side**3 / 1e9

    def gmacs_per_second(self, times: int = 10) -> float:
        """The median rate of several products."""
        return float(np.median([self._gmacs / self._seconds() for _ in range(times + 1)][1:]))

    def _seconds(self) -> float:
        began = time.perf_counter()
        self._session.run(None, self._input)
        return time.perf_counter() - began
