"""Students as ONNX graphs: in fp32 the same answers, in int8 nearly so."""

from __future__ import annotations

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest

from cmdtrack_ros.errors import CmdtrackError
from cmdtrack_ros.models import export, quantize
from cmdtrack_ros.models.backbone import PIXEL_MEAN, PIXEL_SCALE
from cmdtrack_ros.models.config import TEMPLATE_FIELDS
from cmdtrack_ros.models.export import export_graphs
from cmdtrack_ros.models.quantize import quantize_search

OUTPUTS = ["score", "box", "weights"]


def run(graph: onnx.ModelProto, values: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run([output.name for output in graph.graph.output], values)


@pytest.fixture(scope="module")
def graphs(student):
    return export_graphs(student, {"weights_sha256": "ab", "precision": "fp32"})


@pytest.fixture(scope="module")
def inputs(graphs):
    """Of the search graph: one target in two streams, a block on a ground of soft shapes."""
    rng = np.random.default_rng(0)
    found = []
    for place in (60, 90, 120, 150):
        noise = rng.integers(0, 256, (2, 256, 256, 3), np.uint8)
        search = np.stack([cv2.GaussianBlur(picture, (0, 0), 6) for picture in noise])
        search[:, place : place + 64, 100:164] = (200, 60, 90)
        search[:, place + 20 : place + 40, 100:164] = (40, 60, 190)
        template = np.ascontiguousarray(search[:, place - 32 : place + 96, 68:196])
        parts = run(graphs[0], {"pictures": template, "boxes": np.full((2, 4), [0.25, 0.25, 0.5, 0.5], np.float32)})
        found.append({"pictures": search, **dict(zip(TEMPLATE_FIELDS, parts)), "present": np.ones((1, 2), np.float32)})
    return found


def test_folded_pads_change_nothing(student, graphs, inputs, monkeypatch):
    monkeypatch.setattr(export, "fold_pads", lambda graph: graph)
    unfolded = export_graphs(student, {})
    assert any(node.op_type == "Pad" for graph in unfolded for node in graph.graph.node)
    assert not any(node.op_type == "Pad" for graph in graphs for node in graph.graph.node)
    for ours, theirs in zip(run(graphs[1], inputs[0]), run(unfolded[1], inputs[0])):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_metadata_travels(graphs):
    assert {entry.key: entry.value for entry in graphs[1].metadata_props} == {
        "weights_sha256": "ab",
        "precision": "fp32",
    }


def test_graph_that_answers_otherwise_is_not_exported(student, monkeypatch):
    def spoiled(graph):
        bias = next(tensor for tensor in graph.graph.initializer if len(tensor.dims) == 1 and tensor.dims[0] > 8)
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1, bias.name))
        return graph

    monkeypatch.setattr(export, "fold_pads", spoiled)
    with pytest.raises(CmdtrackError, match="differs from torch's"):
        export_graphs(student, {})


@pytest.fixture(scope="module")
def int8(graphs, inputs):
    return quantize_search(graphs[1], inputs, {"precision": "int8"})


def test_int8_graph_is_small_and_near(graphs, inputs, int8):
    assert int8.ByteSize() < 0.35 * graphs[1].ByteSize()
    assert [entry.value for entry in int8.metadata_props] == ["int8"]
    for values in inputs:
        ours, theirs = (dict(zip(OUTPUTS, run(graph, values))) for graph in (int8, graphs[1]))
        assert np.abs(ours["score"] - theirs["score"]).max() < quantize.TOLERANCE
        best = np.unravel_index(theirs["score"].argmax(), theirs["score"].shape)
        np.testing.assert_allclose(
            ours["box"][0, :, best[1], best[2]], theirs["box"][0, :, best[1], best[2]], atol=0.05
        )


def test_what_makes_boxes_of_maps_stays_exact(int8):
    made_by = {name: node for node in int8.graph.node for name in node.output}
    for output in int8.graph.output:
        assert made_by[output.name].op_type != "DequantizeLinear", output.name


def test_pictures_are_taken_as_they_are(inputs, int8):
    """The first convolution sees each pixel exactly, without a conversion to fp32 and back."""
    stem = next(node for node in int8.graph.node if node.op_type == "Conv")
    watched = onnx.ModelProto()
    watched.CopyFrom(int8)
    watched.graph.output.append(onnx.helper.make_tensor_value_info(stem.input[0], onnx.TensorProto.FLOAT, None))
    seen = run(watched, inputs[0])[-1]
    exact = (inputs[0]["pictures"].astype(np.float32) - PIXEL_MEAN) / PIXEL_SCALE
    np.testing.assert_array_equal(seen, exact.transpose(0, 3, 1, 2))
    made_by = {name: node for node in int8.graph.node for name in node.output}
    before = made_by[stem.input[0]]
    assert before.op_type == "DequantizeLinear"
    assert made_by[before.input[0]].op_type == "Transpose" and made_by[before.input[0]].input[0] == "pictures"


def test_int8_graph_that_answers_otherwise_is_refused(graphs, inputs, monkeypatch):
    monkeypatch.setattr(quantize, "TOLERANCE", 1e-6)
    with pytest.raises(CmdtrackError, match="int8 graph: its scores differ"):
        quantize_search(graphs[1], inputs[:1], {})
