"""The benchmark: who is measured, what is computed from it, and what is said of it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from cmdtrack_ros.data.bags import Bag
from cmdtrack_ros.data.sequences import load_sequence
from cmdtrack_ros.errors import CmdtrackError, ConfigError, DataError
from cmdtrack_ros.evaluation.baselines import TrackerSpec, make_tracker
from cmdtrack_ros.evaluation.benchmark import competitors, report
from cmdtrack_ros.evaluation.benchmark.competitors import Competitor, gather, name_of
from cmdtrack_ros.evaluation.benchmark.limit import MatrixProduct, count_gmacs
from cmdtrack_ros.evaluation.benchmark.machine import CLEAN_LIMIT, Interference, Watch, foreign_cores
from cmdtrack_ros.evaluation.benchmark.node import CASES, CaseResult, run_node
from cmdtrack_ros.evaluation.benchmark.rounds import WARM_UP, Measured, Spread, Timing, cost, ratio, run_rounds
from cmdtrack_ros.evaluation.benchmark.run import Plan, Result, added
from cmdtrack_ros.modalities import Modality
from cmdtrack_ros.track import TargetState, Track
from synthetic import Drawn, make_folder

BUSY = "import os\nif os.fork(): os._exit(0)\nprint(os.getpid(), flush=True)\nwhile True: pass"


class Spy:
    """A tracker that notes the order in which all of its kind are called."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self.name, self.calls = name, calls

    def init(self, rgb, aux, box):
        self.calls.append(f"{self.name} init {rgb.shape[1]}")
        return Track(box, 1.0)

    def update(self, rgb, aux):
        self.calls.append(self.name)
        return Track(np.zeros(4), 1.0)


def timing(*rounds_ms: float, network: float = 0.5) -> Timing:
    """Two frames a round around a mean; a share of it is spent in the network."""
    return Timing([[{"total": ms + d, "network": ms * network} for d in (-1, 1)] for ms in rounds_ms])


def made_up(node: dict | None = None, cores: float = 0.0) -> Result:
    measured = Measured(
        {
            "ours onnx int8": timing(10, 20, 30),
            "ours": timing(10, 20, 30),
            "ours onnx fp32": timing(20, 40, 60),
            "ours, 2 targets": timing(15, 28, 60),
            "csrt": timing(40, 40, 40),
            "nanotrack x 2": timing(10, 10, 20),
            "ours 4K": timing(15, 30, 90),
            "ours onnx int8 4K": timing(15, 30, 90),
        },
        {1: [100.0, 50.0, 50.0]},
    )
    names = ("ours onnx int8", "ours onnx fp32", "ours, 2 targets", "csrt")
    everybody = [Competitor(name, Spy(name, []), 1) for name in names]
    plan = Plan(3, 2, sizes=("VGA", "4K"), threads=(1,))
    skipped = {"ours openvino": "openvino is not installed"}
    return Result(
        plan, "made up", everybody, "ours onnx int8", measured, 0.9, node or {}, skipped, Interference(cores, 0.0)
    )


def test_every_round_runs_everybody_on_the_same_frames(tmp_path):
    calls: list[str] = []
    field_of_two = [Competitor(name, Spy(name, calls), 1) for name in ("ours a", "csrt")]
    recording = load_sequence(make_folder(tmp_path / "square"))
    measured = run_rounds(2, 1, field_of_two, {"VGA": recording, "4K": recording}, {}, lambda: None)
    one = ["init 160", *[""] * (WARM_UP + 1)]
    expected = [f"{name} {what}".strip() for _ in range(2) for name in ("ours a", "csrt", "ours a") for what in one]
    assert calls == expected
    assert {name: [len(frames) for frames in found.rounds] for name, found in measured.times.items()} == {
        "ours a": [1, 1], "csrt": [1, 1], "ours a 4K": [1, 1]
    }  # fmt: skip


def test_a_recording_that_is_too_short_is_named():
    with pytest.raises(DataError, match="expected 8 frames.*--frames 5.*it has 6"):
        run_rounds(1, 5, [], {"VGA": Drawn(6)}, {}, lambda: None)


def test_ratios_are_taken_round_by_round():
    assert ratio([10, 20, 30], [40, 40, 40]) == Spread(0.5, 0.25, 0.75)
    ratios = made_up().ratios
    assert ratios["ours / csrt"] == Spread(0.5, 0.25, 0.75)
    assert ratios["ours / nanotrack x 2"] == Spread(1.5, 1.0, 2.0)
    assert ratios["ours onnx fp32 / nanotrack x 2"] == Spread(3.0, 2.0, 4.0)
    assert ratios["4K / VGA"] == Spread(1.5, 1.5, 3.0)
    assert ratios["2 targets / 1"] == Spread(1.5, 1.4, 2.0)
    assert set(ratios) == {
        "ours / csrt", "ours / nanotrack x 2", "ours onnx fp32 / csrt", "ours onnx fp32 / nanotrack x 2", "4K / VGA",
        "2 targets / 1",
    }  # fmt: skip


def test_limit_is_the_rate_of_the_network_over_that_of_a_product():
    # 0.9 GMACs in half of 20, 40 and 60 ms are 90, 45 and 30 GMAC/s.
    limit = made_up().limits[1]
    assert (limit.median, limit.low, limit.high) == pytest.approx((0.9, 0.6, 0.9))


def test_two_trackers_add_up_frame_by_frame():
    both = added(timing(10, 20), timing(1, 2))
    assert both.means == [11, 22]
    assert both.steps == {"network": pytest.approx(8.25)}


def test_baselines_are_not_charged_for_our_order_of_colours(tmp_path):
    sequence = load_sequence(make_folder(tmp_path / "square"))
    tracker = make_tracker(TrackerSpec("kcf", "aux"), sequence.modality)
    tracker.init(None, sequence.aux(0), sequence.boxes[0])
    times = tracker.update(None, sequence.aux(1)).times_ms
    assert times["convert"] > 0 and times["encode"] > 0
    assert cost(times) == pytest.approx(times["total"] - times["convert"])
    assert times["network"] < cost(times)


@pytest.mark.parametrize("name, size, threads", [("x", "VGA", 1), ("x 4K", "4K", 1), ("x 720p 8 threads", "720p", 8)])
def test_names_say_what_is_not_usual(name, size, threads):
    assert name_of("x", size, threads) == name


def convolution_and_product(height: int | str) -> onnx.ModelProto:
    """1x4xHx8 -> grouped 3x3 convolution of stride 2 to 6 channels -> rows times an 4x5 matrix."""
    weights = [np.zeros((6, 2, 3, 3), np.float32), np.zeros((4, 5), np.float32)]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], group=2, strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["y"], ["z"]),
        helper.make_node("MatMul", ["z", "m"], ["out"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 4, height, 8))
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    constants = [numpy_helper.from_array(w, name) for w, name in zip(weights, "wm")]
    graph = helper.make_graph(nodes, "hand made", [x], [out], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_gmacs_of_a_graph_made_by_hand():
    convolution, product = 6 * 5 * 4 * (2 * 3 * 3), 6 * 5 * 5 * 4
    assert count_gmacs(convolution_and_product("height"), {"height": 10}) == pytest.approx(
        (convolution + product) / 1e9
    )
    with pytest.raises(ConfigError, match="dimension height without a size"):
        count_gmacs(convolution_and_product("height"), {})


def test_gmacs_of_products_that_are_not_counted_are_refused():
    graph = convolution_and_product(10)
    graph.graph.node[2].op_type = "Gemm"
    with pytest.raises(ConfigError, match="expected Conv and MatMul alone, got Gemm"):
        count_gmacs(graph, {})


def test_rate_of_a_matrix_product_is_that_of_its_size():
    product = MatrixProduct(1, side=64)
    product._seconds = lambda: 0.5
    assert product.gmacs_per_second() == pytest.approx(64**3 / 1e9 / 0.5)


@pytest.mark.parametrize("seconds, busy, own, cores", [(10, 12, 10, 0.2), (10, 10, 10, 0.0), (2, 1, 1.1, 0.0)])
def test_others_are_those_who_are_not_us(seconds, busy, own, cores):
    assert foreign_cores(seconds, busy, own) == pytest.approx(cores)


def test_a_busy_process_beside_makes_a_run_unclean():
    """Forked away, so that it is nobody's child; what this process computes meanwhile is its own."""
    parent = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, text=True)
    busy = psutil.Process(int(parent.stdout.readline()))
    parent.wait()
    try:
        watch, started, began = Watch(), time.monotonic(), sum(busy.cpu_times()[:2])
        while (used := sum(busy.cpu_times()[:2]) - began) < 0.5:
            pass
        found, seconds = watch.interference(), time.monotonic() - started
    finally:
        busy.kill()
    assert not found.clean
    assert found.cores > 0.5 * used / seconds
    assert "NOT CLEAN" in report.verdict(found)


def test_a_run_is_clean_up_to_the_limit():
    assert Interference(CLEAN_LIMIT, 0.0).clean and not Interference(CLEAN_LIMIT + 0.01, 0.0).clean
    assert report.verdict(Interference(0.02, 0.0)).startswith("clean: other processes used 0.02 of a core")


@dataclass
class Played:
    tracks: list[Track]
    diagnostics: dict[str, str]
    seconds: float = 4.0
    cpu_seconds: float = 2.0
    peak_memory_mb: float = 300.0
    startup_seconds: float = 1.2


def answered(count: int, latency_ms: float) -> Played:
    tracks = [Track(np.zeros(4), 1.0, latency=latency_ms / 1e3) for _ in range(count)]
    steps = ("arrival", "pairing", "waiting", "processing", "publication")
    diagnostics = {f"{step} {p} (ms)": f"{i}.5" for i, step in enumerate(steps) for p in ("p50", "p95", "p99")}
    return Played(tracks, diagnostics)


def test_the_node_is_played_what_its_cameras_would_have_sent(tmp_path):
    recording, seen = Drawn(12), []

    def play(bag: Path, parameters: dict, topics: list[str], log: Path) -> Played:
        log.touch()  # each case has one of its own, in a folder that is there
        with Bag(bag) as opened:
            seen.append((bag.name, parameters["modality"], len(topics), round(opened.duration_ns / 1e6)))
        if "60" in bag.name:
            raise CmdtrackError("the node ended while starting")
        played = answered(5, 10.0 + len(seen))
        played.tracks.append(Track(np.zeros(4), 0.0, TargetState.IDLE, latency=9.0))
        return played

    results, failed = run_node(2, 10, recording, None, play, tmp_path, lambda: None)
    first = [("30 Hz", "thermal", 2, 300), ("60 Hz", "thermal", 2, 150), ("30 Hz 720p depth", "depth", 2, 300)]
    assert seen == [*first, first[0], first[2]]
    assert failed == {"60 Hz": "the node ended while starting"}
    case = results["30 Hz"]
    assert case.values["answered"] == [0.5, 0.5] and case.values["cpu"] == [0.5, 0.5]
    assert case.values["p50_ms"] == pytest.approx([11, 14])
    assert list(case.steps) == ["arrival", "pairing", "waiting", "tracking", "publication"]
    assert case.steps["tracking"] == {"p50": 3.5, "p95": 3.5, "p99": 3.5}
    assert len(case.latencies_ms) == 10


def test_depth_cameras_are_staged_as_16_bit_at_their_size():
    depth = CASES[2].staged(Drawn(8), 5)
    frame = depth.frame(3)
    assert frame.rgb.shape == (720, 1280, 3) and frame.aux.shape == (720, 1280) and frame.aux.dtype == np.uint16
    assert len(depth) == 5 and depth.modality is Modality.DEPTH
    np.testing.assert_allclose(depth.boxes[0], np.array([20.0, 30, 24, 20]) * [10, 7.5, 10, 7.5])


def silent_node() -> CaseResult:
    """A node that answered nothing."""
    case = CaseResult()
    case.add(Played([], {}), 10)
    return case


def test_json_has_the_shape_that_others_read():
    good = CaseResult()
    good.add(answered(10, 12.0), 10)
    made = made_up({"30 Hz": good, "60 Hz": silent_node()}, cores=0.7)
    text = json.dumps(report.as_json(made, "cmdtrack benchmark"), allow_nan=False)
    found = json.loads(text)
    assert found["tracker_ms"]["ours"] == 20 and found["tracker_ms"]["csrt"] == 40
    assert found["ratio"]["ours / csrt"] == 0.5 and found["ratio_range"]["ours / csrt"] == [0.25, 0.75]
    assert {key: found["node"]["30 Hz"][key] for key in ("answered", "p50_ms", "p95_ms", "cpu")} == {
        "answered": 1.0, "p50_ms": pytest.approx(12.0), "p95_ms": pytest.approx(12.0), "cpu": 0.5
    }  # fmt: skip
    assert found["node"]["60 Hz"]["answered"] == 0 and found["node"]["60 Hz"]["p50_ms"] is None
    assert found["node"]["30 Hz"]["steps"]["waiting"]["p95_ms"] == 2.5
    assert found["limit"] == pytest.approx(0.9)
    assert found["clean"] is False and found["others_cores"] == 0.7
    assert found["command"] == "cmdtrack benchmark" and found["versions"]["numpy"] == np.__version__
    assert {"processor", "cores", "flags"} <= set(found["machine"])
    assert found["skipped"] == {"ours openvino": "openvino is not installed"}


def test_tables_and_plot_show_a_node_that_answered_nothing(tmp_path):
    made = made_up({"30 Hz": silent_node()}, cores=0.7)
    console = Console(width=200, record=True)
    for part in report.tables(made):
        console.print(part)
    lines = console.export_text().splitlines()
    assert any("0.0%" in line and "nan" in line for line in lines)
    assert lines[0].startswith("NOT CLEAN")
    assert any("ours / csrt" in line and "0.50" in line for line in lines)
    assert "skipped: ours openvino: openvino is not installed" in lines
    report.plot(made).savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_who_is_not_there_is_skipped_with_a_reason(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(competitors, "find_spec", lambda name: None if name == "openvino" else name)
    monkeypatch.setattr(competitors, "GPU_ENGINES", ("torch", "tensorrt"))
    found = gather(Modality.RGB, (1,), ("onnx", "openvino"), None, None, "cuda", targets=3)
    names = [one.base for one in found.competitors]
    assert names[0] == "ours onnx fp32" and names[-4:] == ["ours, 2 targets", "ours, 3 targets", "csrt", "kcf"]
    assert found.headline in names and not any("cuda" in name for name in names)
    assert found.skipped["ours openvino"] == "openvino is not installed"
    assert found.skipped["ours torch cuda"] == "no GPU that it can use; it would run as torch (cpu, fp32)"
    assert "expected a GPU" in found.skipped["ours tensorrt cuda"]
    assert "--nanotrack-weights" in found.skipped["nanotrack"]
