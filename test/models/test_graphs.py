"""Where graphs are found, and that those of other weights are not."""

from __future__ import annotations

import shutil
import sys

import onnx
import pytest

from cmdtrack_ros import __version__
from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.models.graphs import cache_folder, find, get_graphs
from cmdtrack_ros.models.header import NANO, PERMISSIVE, SHIPPED, read_header

HEADER = read_header(SHIPPED)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache_folder()


@pytest.mark.parametrize("weights", [SHIPPED, NANO, PERMISSIVE], ids=["student", "nano", "permissive"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_shipped_weights_need_no_torch_on_any_processor(cache, weights, precision):
    """`cmdtrack export` makes their graphs anew when the weights change."""
    header = read_header(weights)
    graphs = get_graphs(weights, header, precision)
    assert {graphs.template.parent, graphs.search.parent} == {weights.parent}
    for file, made_in in ((graphs.template, "fp32"), (graphs.search, precision)):
        about = {entry.key: entry.value for entry in onnx.load(str(file)).metadata_props}
        assert about["weights_sha256"] == header.sha256
        assert (about["precision"], about["package_version"]) == (made_in, __version__)
    if precision == "int8":
        assert about["recipe"] and int(about["samples"]) > 0 and about["seed"].isdigit()
    assert not cache.exists()


def test_graphs_are_exported_once(cache, tmp_path, monkeypatch):
    weights = tmp_path / "student.safetensors"
    shutil.copy(SHIPPED, weights)
    first = get_graphs(weights, HEADER, "fp32")
    assert first.search.parent == cache
    monkeypatch.setitem(sys.modules, "cmdtrack_ros.models.export", None)
    assert get_graphs(weights, HEADER, "fp32") == first
    assert sorted(path.name for path in cache.iterdir()) == sorted([first.template.name, first.search.name])


def test_graphs_of_other_weights_are_not_found(untrained, tmp_path):
    """New weights in the same place: what was exported for the old ones is not theirs."""
    weights = tmp_path / "student.safetensors"
    shutil.copy(SHIPPED, weights)
    for file in SHIPPED.parent.glob("*.onnx"):
        shutil.copy(file, tmp_path)
    assert find(weights, HEADER, "search", "int8")
    shutil.copy(untrained, weights)
    assert find(weights, read_header(weights), "search", "int8") is None
    assert find(weights, read_header(weights), "template", "fp32") is None


def test_export_that_is_not_possible_says_what_to_do(untrained, monkeypatch):
    monkeypatch.setitem(sys.modules, "cmdtrack_ros.models.export", None)
    with pytest.raises(ConfigError, match="no fp32 graph.*cmdtrack export"):
        get_graphs(untrained, read_header(untrained), "fp32")


def test_cache_that_cannot_be_written_is_named(monkeypatch, tmp_path, untrained):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="XDG_CACHE_HOME"):
        get_graphs(untrained, read_header(untrained), "fp32")
