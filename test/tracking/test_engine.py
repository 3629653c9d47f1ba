"""Engines: the same student on ONNX Runtime and on torch."""

import numpy as np
import pytest
import torch

from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.models.weights import load_student
from cmdtrack_ros.tracking.engine import OnnxEngine, TorchEngine, make_engine

BOX = np.array([0.25, 0.3, 0.5, 0.4])


@pytest.fixture(scope="module")
def student():
    return load_student()[0]


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return {size: list(rng.integers(0, 255, (2, size, size, 3), np.uint8)) for size in (128, 256)}


@pytest.mark.parametrize("count", [1, 2])
def test_engines_agree(student, pictures, count):
    answers = []
    for engine in (OnnxEngine(student, threads=1), TorchEngine(student, torch.device("cpu"))):
        templates = [engine.encode_template(picture, BOX, i) for i, picture in enumerate(pictures[128][:count])]
        answers.append(engine.search(pictures[256][:count], templates))
    for name in ("score", "box", "weights"):
        np.testing.assert_allclose(getattr(answers[0], name), getattr(answers[1], name), atol=2e-4)
    assert answers[0].score.shape == (16, 16)
    assert answers[0].weights.shape == (count, 16, 16)
    np.testing.assert_allclose(answers[0].weights.sum(0), 1, atol=1e-5)


def test_engine_refuses_unknown_devices(student):
    with pytest.raises(ConfigError, match="tpu"):
        make_engine(student, "tpu")
    with pytest.raises(ConfigError, match="threads"):
        make_engine(student, "cpu", -1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="checks what happens without a GPU")
def test_absent_gpu_falls_back_with_a_warning(student, caplog):
    assert "cpu" in make_engine(student, "cuda").name
    assert "no GPU" in caplog.text
