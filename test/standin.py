"""A stand-in for a foreign tracker: an ONNX network of FEAR-XS's inputs and outputs that finds the brightest place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save


def write_standin(folder: Path, side: float = 51.2, shift: float = 0.0) -> Path:
    """Its files in ``folder``. A box of ``side`` px of its search region (51.2: the size the target last had), moved by
    ``shift`` px along x.
    """
    folder.mkdir(parents=True)
    half = side / 2
    distances = np.array([half - shift, half, half + shift, half], np.float32).reshape(1, 4, 1, 1)
    constants = {
        "distances": distances.repeat(16, 2).repeat(16, 3),
        "scale": np.float32(0.05),
        "nothing": np.float32(0),
    }
    pool = {"kernel_shape": [33, 33], "strides": [16, 16], "pads": [16, 16, 16, 16]}  # a cell lies at its corner
    nodes = [
        helper.make_node("ReduceMean", ["search"], ["grey"], axes=[1], keepdims=1),
        helper.make_node("AveragePool", ["grey"], ["bright"], **pool),
        helper.make_node("Mul", ["bright", "scale"], ["found"]),
        helper.make_node("ReduceMean", ["template"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "nothing"], ["unused"]),
        helper.make_node("Add", ["found", "unused"], ["scores"]),
        helper.make_node("Add", ["distances", "unused"], ["sides"]),
    ]
    inputs = {"search": (1, 3, 256, 256), "template": (1, 3, 8, 8)}
    _write(folder / "track.onnx", nodes, inputs, {"sides": (1, 4, 16, 16), "scores": (1, 1, 16, 16)}, constants)
    nodes = [helper.make_node("AveragePool", ["picture"], ["template"], kernel_shape=[16, 16], strides=[16, 16])]
    _write(folder / "template.onnx", nodes, {"picture": (1, 3, 128, 128)}, {"template": (1, 3, 8, 8)}, {})
    return folder


def _write(file: Path, nodes: list, inputs: dict, outputs: dict, constants: dict) -> None:
    values = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in given.items()]
        for given in (inputs, outputs)
    )
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, file.stem, *values, initializer=stored)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), file)
