"""`cmdtrack benchmark` as a user calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from synthetic import make_folder, run_cli

QUICK = ("benchmark", "--quick", "--rounds", 1, "--frames", 2)


def test_benchmark_of_the_demo_beside_a_busy_process(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        files = ("--json", tmp_path / "new" / "benchmark.json", "--plot", tmp_path / "plot.png")
        done = run_cli(*QUICK, "--no-node", *files)
    finally:
        busy.kill()
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("NOT CLEAN, do not quote these figures: other processes used ")
    assert (tmp_path / "plot.png").is_file()
    found = json.loads((tmp_path / "new" / "benchmark.json").read_text())
    assert found["clean"] is False
    assert {"ours", "ours 720p", "ours onnx fp32", "ours onnx int8", "csrt", "kcf"} <= set(found["tracker_ms"])
    assert "csrt 720p" not in found["tracker_ms"]
    assert {"ours / csrt", "720p / VGA", "2 targets / 1"} <= set(found["ratio"])
    assert set(found["tracker"]["ours"]["steps_ms"]) == {"encode", "crop", "network", "decode", "template"}
    assert 0 < found["limit"] < 2
    assert found["node"] == {} and found["skipped"]["node"] == "not asked for (--no-node)"
    assert "benchmark --quick" in found["command"]


def test_benchmark_names_what_is_wrong_before_it_measures(tmp_path: Path) -> None:
    for arguments, cause in (
        (("--plot", tmp_path / "plot.xyz"), "expected a name that ends in one of"),
        (("--recording", make_folder(tmp_path / "short", frames=4)), "it has 4 frames in all"),
    ):
        done = run_cli(*QUICK, "--no-node", *arguments)
        assert done.returncode == 1 and cause in done.stderr and "Traceback" not in done.stderr


@pytest.mark.ros
def test_benchmark_of_the_node(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    recording = make_folder(tmp_path / "square", frames=12)
    done = run_cli(*QUICK, "--recording", recording, "--json", tmp_path / "benchmark.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "benchmark.json").read_text())
    assert set(found["node"]) == {"30 Hz", "60 Hz", "30 Hz 720p depth"}
    for case in found["node"].values():
        assert 0 < case["answered"] <= 1 and case["p50_ms"] <= case["p95_ms"] <= case["p99_ms"]
        assert case["cpu"] > 0 and case["memory_mb"] > 50 and case["startup_s"] > 0
        assert set(case["steps"]) == {"arrival", "pairing", "waiting", "tracking", "publication"}
        assert all(step["p50_ms"] <= step["p99_ms"] for step in case["steps"].values())
