"""Whole data sets, in processes that fail, are killed, and start again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.evaluation import results, runner
from cmdtrack_ros.evaluation.baselines import parse_spec
from cmdtrack_ros.evaluation.protocols import Protocol
from synthetic import FRAMES, make_folder, run_cli


def boxes_of(output: Path) -> dict[str, bytes]:
    """The files of boxes and confidences; times are never twice the same."""
    # A kill in the middle of a write leaves a hidden part of a file behind.
    files = {str(f.relative_to(output)): f for f in output.glob("results/**/*.txt") if f.name[0] != "."}
    return {name: f.read_bytes() for name, f in files.items() if "/time/" not in name}


def test_summary_has_what_it_promises(dataset, tmp_path):
    specs = [parse_spec("csrt"), parse_spec("kcf@aux")]
    scores, _ = runner.evaluate([dataset], specs, tmp_path / "out", jobs=2, progress=False)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["tracker"] == "csrt" and set(summary["trackers"]) == {"csrt", "kcf@aux"}
    assert set(summary["sequences"]) == {"square0", "square1", "square2"}
    for one in summary["sequences"].values():
        assert one["frames"] == FRAMES and one["fps"] > 0 and 0.7 < one["mean_iou"] <= 1
    assert {"mean_iou", "sr", "pr", "npr", "f"} <= set(summary["mean"])
    assert scores[0].mean["mean_iou"] == pytest.approx(
        np.mean([one["mean_iou"] for one in summary["sequences"].values()]), abs=1e-6
    )


def test_finished_sequences_are_not_run_again(dataset, tmp_path):
    output = tmp_path / "out"
    runner.evaluate([dataset], [parse_spec("kcf")], output, progress=False)
    before = {f: f.stat().st_mtime_ns for f in (output / "results").rglob("*.txt")}
    lost = results.run_files(output / "results" / "kcf", "square1", Protocol.LONGTERM)[0]
    content = lost.read_bytes()
    lost.unlink()
    runner.evaluate([dataset], [parse_spec("kcf")], output, progress=False)
    after = {f: f.stat().st_mtime_ns for f in (output / "results").rglob("*.txt")}
    assert lost.read_bytes() == content
    assert {f for f in before if after[f] != before[f]} == {lost}


def test_broken_sequences_are_named_and_the_others_kept(dataset, tmp_path):
    def damage(name: str):
        return make_folder(dataset / name, 9)

    (damage("undecodable") / "color" / "00000010.jpg").write_bytes(b"not an image")
    (damage("gap") / "depth" / "00000010.png").unlink()
    truth = damage("short_truth") / "groundtruth.txt"
    truth.write_text("\n".join(truth.read_text().splitlines()[:-3]) + "\n")
    for image in (damage("empty") / "color").iterdir():
        image.unlink()
    make_folder(dataset / "never_visible", absent=tuple(range(FRAMES)))
    (score,), _ = runner.evaluate([dataset], [parse_spec("kcf")], tmp_path / "out", progress=False)
    assert set(score.sequences) == {"square0", "square1", "square2"}
    causes = {
        "undecodable": "00000010.jpg",
        "gap": "depth",
        "short_truth": "groundtruth.txt",
        "empty": "color",
        "never_visible": "no frame has a ground-truth box",
    }
    assert set(score.failures) == set(causes)
    for name, cause in causes.items():
        assert cause in score.failures[name] and name in score.failures[name]
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["failures"] == score.failures


def test_output_of_other_settings_is_refused(dataset, tmp_path):
    output = tmp_path / "out"
    runner.evaluate([dataset], [parse_spec("mosse")], output, progress=False)
    with pytest.raises(ConfigError, match="another run"):
        runner.evaluate([dataset / "square0"], [parse_spec("mosse")], output, progress=False)
    with pytest.raises(ConfigError, match="protocol"):
        runner.evaluate([dataset], [parse_spec("mosse")], output, protocol=Protocol.OPE, progress=False)
    both, _ = runner.evaluate([dataset], [parse_spec("kcf"), parse_spec("mosse")], output, progress=False)
    assert [score.tracker for score in both] == ["kcf", "mosse"]


def test_sequences_of_one_name_are_refused(tmp_path):
    make_folder(tmp_path / "a" / "square")
    make_folder(tmp_path / "b" / "square")
    with pytest.raises(ConfigError, match="same name"):
        runner.open_dataset([tmp_path / "a", tmp_path / "b"])


def test_a_killed_run_resumes_to_the_same_bytes(tmp_path):
    for seed in range(4):
        make_folder(tmp_path / "data" / f"square{seed}", seed, frames=40)
    tracker = ("--tracker", "csrt", "--tracker", "kcf")
    whole = run_cli("evaluate", tmp_path / "data", *tracker, "--output", tmp_path / "whole", "--protocol", "ope")
    assert whole.returncode == 0, whole.stderr
    command = [sys.executable, "-m", "cmdtrack_ros.cli", "evaluate", str(tmp_path / "data"), *tracker]
    command += ["--output", str(tmp_path / "killed"), "--protocol", "ope"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "killed").glob("results/*/*.txt"))) < 2:
        assert time.monotonic() < deadline and process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    # The parent alone, as the kernel does when memory runs out; its workers must follow it.
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {f: f.stat().st_mtime_ns for f in (tmp_path / "killed").glob("results/*/*.txt")}
    while _members(process.pid):
        assert time.monotonic() < deadline, "workers outlive their killed parent"
        time.sleep(0.05)
    done |= {f: f.stat().st_mtime_ns for f in (tmp_path / "killed").glob("results/*/*.txt")}
    assert 2 <= len(done) < 8
    assert subprocess.run(command, capture_output=True, timeout=300).returncode == 0
    assert boxes_of(tmp_path / "killed") == boxes_of(tmp_path / "whole")
    assert {f: f.stat().st_mtime_ns for f in done} == done


def _members(session: int) -> list[int]:
    """Processes that are alive in the session; zombies do not count."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found
