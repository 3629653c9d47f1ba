"""Which engine is chosen, and that it says so."""

from __future__ import annotations

import logging
import sys

import pytest
import torch

from cmdtrack_ros.errors import ConfigError, WeightsError
from cmdtrack_ros.tracking.engines import choose
from cmdtrack_ros.tracking.engines.choose import make_engine

VNNI = {"sse2", "avx2", "avx512_vnni"}
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="checks what happens without a GPU")


@pytest.fixture
def chosen(monkeypatch, caplog):
    """Chooses without loading: (runtime, place, precision), and the log."""

    def ask(flags=VNNI, gpu=False, **settings):
        monkeypatch.setattr(choose, "processor_flags", lambda: set(flags))
        monkeypatch.setattr(choose, "_finds_gpu", lambda engine: gpu and engine != "openvino")
        loaded = []

        class Named:
            name = "stand-in"

        monkeypatch.setattr(choose, "_load", lambda *what: loaded.append(what[:3]) or Named())
        caplog.clear()
        with caplog.at_level(logging.INFO):
            make_engine(**settings)
        return loaded[0], caplog.text

    return ask


@pytest.mark.parametrize(
    "settings, flags, gpu, expected, reasons",
    [
        ({}, VNNI, False, ("onnx", "cpu", "int8"), ("no GPU", "avx512_vnni")),
        ({}, {"asimd", "asimddp"}, False, ("onnx", "cpu", "int8"), ("asimddp",)),
        ({}, {"sse2", "avx2"}, False, ("onnx", "cpu", "fp32"), ("no instructions for int8",)),
        ({"precision": "fp32"}, VNNI, False, ("onnx", "cpu", "fp32"), ("fp32 was asked for",)),
        ({"precision": "int8"}, set(), False, ("onnx", "cpu", "int8"), ("int8 was asked for",)),
        ({}, VNNI, True, ("torch", "cuda", "fp16"), ("a GPU was found",)),
        ({"precision": "fp32"}, VNNI, True, ("torch", "cuda", "fp32"), ("fp32 was asked for",)),
        ({"device": "cpu"}, VNNI, True, ("onnx", "cpu", "int8"), ("device cpu was asked for",)),
        ({"engine": "onnx"}, VNNI, True, ("onnx", "cuda", "fp32"), ("engine onnx was asked for", "a GPU was found")),
        ({"engine": "tensorrt"}, VNNI, True, ("tensorrt", "cuda", "fp16"), ("tensorrt was asked for",)),
        ({"engine": "torch"}, VNNI, False, ("torch", "cpu", "fp32"), ("engine torch was asked for",)),
    ],
)
def test_choice_and_its_reason(chosen, settings, flags, gpu, expected, reasons):
    what, log = chosen(flags, gpu, **settings)
    assert what == expected
    assert "engine: stand-in: " in log
    assert all(reason in log for reason in reasons), log


def test_openvino_runs_on_the_cpu(chosen):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    what, log = chosen(gpu=True, engine="openvino", device="cuda")
    assert what == ("openvino", "cpu", "int8")
    assert "cuda was asked for" in log


def test_weights_without_an_int8_graph_run_in_fp32(chosen, untrained):
    what, log = chosen(weights=untrained)
    assert what == ("onnx", "cpu", "fp32")
    assert "come without an int8 graph" in log


def test_without_onnx_runtime_torch_runs_and_says_so(chosen, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    what, log = chosen()
    assert what == ("torch", "cpu", "fp32")
    assert "WARNING" in log and "ONNX Runtime is not installed" in log


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"engine": "tpu"}, "engine: expected one of auto, onnx.* got 'tpu'"),
        ({"device": "tpu"}, "device: expected one of auto, cpu, cuda, got 'tpu'"),
        ({"precision": "int4"}, "precision: expected one of auto, fp32, int8, got 'int4'"),
        ({"threads": -1}, "threads: expected 0 .* got -1"),
        ({"engine": "torch", "device": "cpu", "precision": "int8"}, "precision int8: .* the engine is torch on cpu"),
        ({"engine": "tensorrt", "device": "cpu"}, "tensorrt: expected a GPU"),
    ],
)
def test_unusable_settings_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        make_engine(**settings)


def test_int8_needs_its_graph(untrained):
    with pytest.raises(ConfigError, match="cmdtrack export .* --precision int8"):
        make_engine(untrained, device="cpu", precision="int8")


@pytest.mark.parametrize("engine, library", [("openvino", "openvino"), ("onnx", "onnxruntime"), ("torch", "torch")])
def test_engine_that_is_not_installed_is_named(engine, library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigError, match=f"{library} is not installed"):
        make_engine(engine=engine)


def test_weights_with_another_hash_are_refused():
    with pytest.raises(WeightsError, match="expected sha256 00ff"):
        make_engine(sha256="00ff")


@without_gpu
def test_absent_gpu_falls_back_with_a_warning(caplog):
    assert "cpu" in make_engine(device="cuda", threads=1).name
    assert "no GPU" in caplog.text
