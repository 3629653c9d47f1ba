"""The calibration beside the weights: read, refused, and absent."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import numpy as np
import pytest

from cmdtrack_ros.errors import WeightsError
from cmdtrack_ros.models.confidence import EVIDENCE, Confidence, confidence_file, find_confidence, to_json
from cmdtrack_ros.models.header import NANO, PERMISSIVE, SHIPPED, read_header

HEADER = read_header(SHIPPED)
FIT = Confidence(-0.5, tuple(0.1 * i for i in range(len(EVIDENCE))), {"frames": 3})


def test_probability_is_one_and_grows_with_what_speaks_for_it():
    low, high = FIT.probability(np.full(len(EVIDENCE), -1e9)), FIT.probability(np.full(len(EVIDENCE), 1e9))
    assert 0 < low < 1e-9 and 1 - 1e-9 < high <= 1
    assert FIT.probability(np.zeros(len(EVIDENCE))) == pytest.approx(1 / (1 + np.exp(0.5)))


def test_what_is_written_is_read(tmp_path):
    weights = tmp_path / "student.safetensors"
    confidence_file(tmp_path, HEADER).write_text(to_json(FIT, HEADER))
    found = find_confidence(weights, HEADER)
    assert found.bias == FIT.bias and found.about == FIT.about
    np.testing.assert_allclose(found.factors, FIT.factors)
    assert found.curvature is None
    curvature = np.diag(np.linspace(1.23456, 2e4, len(EVIDENCE) + 1))
    confidence_file(tmp_path, HEADER).write_text(to_json(replace(FIT, curvature=curvature), HEADER))
    np.testing.assert_allclose(find_confidence(weights, HEADER).curvature, curvature, rtol=1e-4)


@pytest.mark.parametrize(
    "prior", [[{"frames": 1}, {"frames": 2}], {"frames": 2, "prior": {"frames": 1}}], ids=["flat", "nested"]
)
def test_what_a_fit_goes_on_from_is_a_list_however_the_file_has_it(tmp_path, prior):
    fit = replace(FIT, about={"frames": 3, "prior": prior})
    confidence_file(tmp_path, HEADER).write_text(to_json(fit, HEADER))
    found = find_confidence(tmp_path / "student.safetensors", HEADER)
    assert found.about == {"frames": 3, "prior": [{"frames": 1}, {"frames": 2}]}
    assert to_json(found, HEADER).startswith(to_json(fit, HEADER).partition('"about"')[0]), "its numbers are the same"


def test_weights_without_calibration_are_named(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert find_confidence(tmp_path / "mine.safetensors", HEADER) is None
    assert "mine.safetensors: not calibrated" in caplog.text


@pytest.mark.parametrize(
    "change, says",
    [
        ({"bias": None}, "expected a bias"),
        ({"factors": {}}, "expected a bias and a factor"),
        ({"bias": float("nan")}, "finite"),
        ({"curvature": [[1.0]]}, "10 x 10 finite numbers as curvature"),
        ({"curvature": "flat"}, "expected a bias"),
        ({"about": {"prior": ["stage 3"]}}, "expected a bias"),
        ({"weights_sha256": "ab" * 32}, "it was fitted for abababababab"),
        (None, "expected a bias"),
    ],
)
def test_unusable_file_is_refused(tmp_path, change, says):
    file = confidence_file(tmp_path, HEADER)
    file.write_text("{" if change is None else json.dumps(json.loads(to_json(FIT, HEADER)) | change))
    with pytest.raises(WeightsError, match=says) as refused:
        find_confidence(tmp_path / "student.safetensors", HEADER)
    assert str(file) in str(refused.value)


@pytest.mark.parametrize("weights", [SHIPPED, NANO, PERMISSIVE], ids=["student", "nano", "permissive"])
def test_shipped_weights_are_calibrated(weights):
    assert find_confidence(weights, read_header(weights)) is not None
