"""`cmdtrack evaluate`, `score` and `report` as a user calls them."""

from __future__ import annotations

import json
import os

import pytest

from cmdtrack_ros.models.header import NANO, sha256_of
from synthetic import make_folder, run_cli


def test_evaluate_score_and_report_from_the_command_line(dataset, tmp_path):
    output = tmp_path / "out"
    done = run_cli("evaluate", dataset, "--tracker", "kcf", "--output", output)
    assert done.returncode == 0, done.stderr
    assert "mean_iou" in done.stdout and (output / "report.html").is_file()
    scored = run_cli("score", output, dataset, "--output", tmp_path / "scored")
    assert scored.returncode == 0, scored.stderr
    first, second = (json.loads((f / "summary.json").read_text()) for f in (output, tmp_path / "scored"))
    assert first["sequences"] == second["sequences"]
    compared = run_cli("report", output, tmp_path / "out", "--output", tmp_path / "both.html")
    assert compared.returncode == 0 and "out/kcf" in (tmp_path / "both.html").read_text()


def test_command_line_names_what_is_wrong(dataset, tmp_path):
    make_folder(dataset / "bad", 5)
    (dataset / "bad" / "color" / "00000003.jpg").write_bytes(b"")
    done = run_cli("evaluate", dataset, "--tracker", "mosse", "--output", tmp_path / "out")
    assert done.returncode == 1
    assert "FAILED mosse on bad" in done.stderr and "00000003.jpg" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(json.loads((tmp_path / "out" / "summary.json").read_text())["sequences"]) == 3
    for arguments, cause in (
        (("evaluate", tmp_path / "nowhere", "--output", tmp_path / "o"), "nowhere"),
        (("score", tmp_path, dataset), "no result file"),
        (("report", dataset, "--output", tmp_path / "r.html"), "run.json"),
    ):
        failed = run_cli(*arguments)
        assert failed.returncode == 1 and cause in failed.stderr and "Traceback" not in failed.stderr


def test_our_tracker_is_evaluated_on_each_stream(dataset, tmp_path):
    pytest.importorskip("torch")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    trackers = [part for name in ("ours", "ours@aux") for part in ("--tracker", name)]
    done = run_cli("evaluate", dataset / "square0", *trackers, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    answered = {name: len(one["sequences"]) for name, one in summary["trackers"].items()}
    assert answered == {"ours": 1, "ours@aux": 1}
    settings = json.loads((tmp_path / "out" / "run.json").read_text())
    assert all(settings["trackers"].values()), "the weights' hash is part of the settings"


def test_nano_weights_are_evaluated_by_their_name(dataset, tmp_path):
    arguments = ("--tracker", "ours", "--weights", "nano", "--output", tmp_path / "out")
    done = run_cli("evaluate", dataset / "square0", *arguments)
    assert done.returncode == 0, done.stderr
    settings = json.loads((tmp_path / "out" / "run.json").read_text())
    assert settings["trackers"]["ours"] == {"nano.safetensors": sha256_of(NANO)}
