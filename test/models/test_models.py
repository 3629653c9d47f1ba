"""The student network, its weights file, and the two engines."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cmdtrack_ros.errors import ConfigError, WeightsError
from cmdtrack_ros.models.backbone import EfficientNetLite, fold_batch_norm
from cmdtrack_ros.models.student import Student, StudentConfig
from cmdtrack_ros.models.teacher import Teacher
from cmdtrack_ros.models.weights import (
    SHIPPED,
    SHIPPED_TEACHER,
    Provenance,
    load_student,
    load_weights,
    save_student,
    sha256_of,
)
from cmdtrack_ros.tracking.engine import OnnxEngine, TorchEngine, make_engine

BOX = np.array([0.25, 0.3, 0.5, 0.4])


@pytest.fixture(scope="module")
def student():
    return load_student()[0]


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return {size: list(rng.integers(0, 255, (2, size, size, 3), np.uint8)) for size in (128, 256)}


def test_student_is_compact(student):
    assert sum(p.numel() for p in student.parameters()) <= 6_500_000


@pytest.mark.parametrize("variant", ["lite0", "lite2"])
def test_backbone_strides(variant):
    backbone = EfficientNetLite(variant).eval()
    maps = backbone(torch.zeros(1, 3, 64, 96))
    assert maps.stride8.shape == (1, backbone.channels8, 8, 12)
    assert maps.stride16.shape == (1, backbone.channels16, 4, 6)


def test_folded_batch_norm_gives_the_same_answer(student):
    x = torch.rand(1, 3, 64, 64) * 255
    with torch.no_grad():
        expected, folded = student.features(x), fold_batch_norm(student).features(x)
    torch.testing.assert_close(folded, expected, atol=1e-3, rtol=1e-3)


def test_absent_modality_does_not_touch_the_answer(student):
    """With `present` 0 for aux, whatever lies in the aux picture changes nothing, and RGB has all the weight."""
    template = student.encode_template(
        torch.rand(2, 3, 128, 128) * 255, torch.tensor(BOX, dtype=torch.float32).expand(2, 4)
    )
    rgb = torch.rand(1, 3, 256, 256) * 255
    present = torch.tensor([[1.0, 0.0]])
    with torch.no_grad():
        answers = [
            student(torch.cat([rgb, torch.full_like(rgb, fill)]), template, present) for fill in (0.0, 200.0)
        ]
    torch.testing.assert_close(answers[0][0].score, answers[1][0].score)
    torch.testing.assert_close(answers[0][1][:, 0], torch.ones(1, 16, 16))


@pytest.mark.parametrize("count", [1, 2])
def test_engines_agree(student, pictures, count):
    answers = []
    for engine in (OnnxEngine(student, threads=1), TorchEngine(student, torch.device("cpu"))):
        templates = [engine.encode_template(picture, BOX) for picture in pictures[128][:count]]
        answers.append(engine.search(pictures[256][:count], templates))
    for name in ("score", "box", "weights"):
        np.testing.assert_allclose(getattr(answers[0], name), getattr(answers[1], name), atol=2e-4)
    assert answers[0].score.shape == (16, 16) and answers[0].weights.shape == (count, 16, 16)
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


def test_weights_round_trip(student, tmp_path):
    file = tmp_path / "w.safetensors"
    save_student(
        student, file, Provenance(recipe={"name": "r", "steps": 3}, data={"d": "MIT"}, scores={"iou": 0.5})
    )
    again, history = load_student(file, sha256_of(file))
    assert history == Provenance({"name": "r", "steps": 3}, {"d": "MIT"}, {"iou": 0.5})
    for name, value in student.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value)


@pytest.mark.parametrize("file,kind", [(SHIPPED, Student), (SHIPPED_TEACHER, Teacher)])
def test_shipped_weights_say_where_they_come_from(file, kind):
    network, history = load_weights(file, kind)
    assert history.recipe["name"] and history.data and history.scores
    assert sum(p.numel() for p in network.parameters()) < 6.5e6


def test_missing_weights(tmp_path):
    with pytest.raises(WeightsError, match="no such file"):
        load_student(tmp_path / "none.safetensors")


def test_truncated_weights(tmp_path):
    file = tmp_path / "cut.safetensors"
    file.write_bytes(SHIPPED.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        load_student(file)


def test_pickles_are_not_read(tmp_path):
    file = tmp_path / "pickle.safetensors"
    torch.save({"a": torch.zeros(2)}, file)
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        load_student(file)


def test_weights_of_another_model(tmp_path):
    file = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(2)}, file, {"model": "somebody_elses"})
    with pytest.raises(WeightsError, match="somebody_elses"):
        load_student(file)


def test_weights_of_another_shape(student, tmp_path):
    file = tmp_path / "shape.safetensors"
    config = json.dumps(StudentConfig(channels=64).to_dict())
    save_file(
        {k: v.contiguous() for k, v in student.state_dict().items()},
        file,
        {"model": "cmdtrack_student", "config": config},
    )
    with pytest.raises(WeightsError, match="do not fit"):
        load_student(file)


def test_weights_with_another_hash():
    with pytest.raises(WeightsError, match="expected sha256 00ff"):
        load_student(SHIPPED, "00ff")
