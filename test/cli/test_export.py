"""`cmdtrack export` as a user calls it."""

from __future__ import annotations

from pathlib import Path

import onnx
import yaml

from cmdtrack_ros.models.graphs import find, graph_file
from cmdtrack_ros.models.header import read_header
from synthetic import draw_stills, run_cli


def test_export_leaves_both_graphs_beside_the_weights(untrained: Path, tmp_path: Path) -> None:
    weights = tmp_path / "student.safetensors"
    weights.write_bytes(untrained.read_bytes())
    done = run_cli("export", weights)
    assert done.returncode == 0, done.stderr
    for part in ("template", "search"):
        file = graph_file(tmp_path, read_header(weights), part, "fp32")
        assert str(file) in done.stdout and file.is_file()


def test_int8_comes_from_a_recipe(tmp_path: Path) -> None:
    draw_stills(tmp_path / "stills")
    recipe = tmp_path / "mine.yaml"
    sources = [{"kind": "stills", "path": "stills"}]
    recipe.write_text(yaml.safe_dump({"name": "mine", "steps": 1, "sources": sources}))
    out = tmp_path / "out"
    options = ("--precision", "int8", "--output", out, "--config", recipe, "--data", tmp_path, "--seed", "3")
    done = run_cli("export", *options)
    assert done.returncode == 0, done.stderr
    assert "Increased scale" not in done.stderr
    from cmdtrack_ros.models.header import SHIPPED

    header = read_header(SHIPPED)
    about = {
        entry.key: entry.value for entry in onnx.load(str(graph_file(out, header, "search", "int8"))).metadata_props
    }
    assert (about["recipe"], about["seed"], about["precision"]) == ("mine", "3", "int8")
    assert find(out / "student.safetensors", header, "search", "int8").parent == out


def test_errors_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "no.safetensors").write_text("no")
    for arguments, message in (
        ([tmp_path / "no.safetensors"], "not a whole safetensors file"),
        (["--precision", "int8", "--data", tmp_path / "none"], "expected an existing folder"),
    ):
        done = run_cli("export", *arguments)
        assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
