"""Weights files: what travels in them, and what is refused."""

import copy
import json
import re
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cmdtrack_ros.errors import WeightsError
from cmdtrack_ros.models.cmae import Cmae, CmaeConfig
from cmdtrack_ros.models.config import StudentConfig
from cmdtrack_ros.models.header import (
    NANO,
    PERMISSIVE,
    SHIPPED,
    SHIPPED_TEACHER,
    Provenance,
    read_header,
    sha256_of,
    student_config,
    weights_file,
)
from cmdtrack_ros.models.student import Student
from cmdtrack_ros.models.teacher import Teacher, TeacherConfig
from cmdtrack_ros.models.weights import load_student, load_weights, save_weights
from cmdtrack_ros.tracking.engines.choose import make_engine


def test_weights_of_every_network_travel(tmp_path):
    crops = {"template_size": 32, "search_size": 64}
    teacher = Teacher(TeacherConfig(backbone="lite0", channels=48, heads=4, **crops))
    for network in (teacher, Cmae(CmaeConfig(**crops))):
        file = tmp_path / "w.safetensors"
        save_weights(network, file, Provenance({"name": "r"}, {}, {}))
        again, history = load_weights(file, type(network))
        assert history.recipe == {"name": "r"}
        assert again.config == network.config
        assert all(torch.equal(value, again.state_dict()[name]) for name, value in network.state_dict().items())
    with pytest.raises(WeightsError, match="expected model cmdtrack_student, got cmdtrack_autoencoder"):
        load_student(file)


def test_weights_round_trip(student, tmp_path):
    file = tmp_path / "w.safetensors"
    save_weights(student, file, Provenance(recipe={"name": "r", "steps": 3}, data={"d": "MIT"}, scores={"iou": 0.5}))
    again, history = load_student(file, sha256_of(file))
    assert history == Provenance({"name": "r", "steps": 3}, {"d": "MIT"}, {"iou": 0.5})
    for name, value in student.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value)


@pytest.mark.parametrize(
    "file, kind", [(SHIPPED, Student), (NANO, Student), (PERMISSIVE, Student), (SHIPPED_TEACHER, Teacher)]
)
def test_shipped_weights_say_where_they_come_from(file, kind):
    network, history = load_weights(file, kind)
    assert history.recipe["name"]
    assert history.data
    assert history.scores
    assert sum(p.numel() for p in network.parameters()) < 6.5e6


def test_permissive_weights_saw_nothing_that_is_not():
    """Neither in their own data nor by the weights that they started from."""
    history = read_header(PERMISSIVE).provenance
    assert history.recipe["init"] is None and history.recipe["teacher"] is None
    terms = {about["terms"] for about in history.data.values()}
    assert terms == {"M3SVD, MIT", "HIT-UAV, CC BY 4.0", "SA-V, CC BY 4.0"}
    assert history.data["more/rgb"]["only"] == ["sav_*"] and history.data["train/pairs_rgbt"]["only"] == ["m3svd_*"]


@pytest.mark.parametrize(
    "given, file",
    [(None, SHIPPED), ("shipped", SHIPPED), ("nano", NANO), ("permissive", PERMISSIVE), ("nano/", Path("nano"))],
)
def test_weights_that_come_with_the_package_have_names(given, file):
    assert weights_file(given) == file


def test_home_folder_in_a_path_of_weights(monkeypatch):
    monkeypatch.setenv("HOME", "/home/robot")
    assert weights_file("~/own.safetensors") == Path("/home/robot/own.safetensors")


LONG = "/" + "a" * 5000


@pytest.mark.parametrize("use", [weights_file, load_student, make_engine, lambda path: load_weights(path, Teacher)])
@pytest.mark.parametrize(
    "path, reason", [(LONG, "a{99}[.]{3} .5,001 characters.: .*too long"), ("~nobody_here/w", "~nobody_here/w: ")]
)
def test_paths_that_the_system_refuses(use, path, reason):
    with pytest.raises(WeightsError, match=reason) as caught:
        use(path)
    assert len(str(caught.value)) < 300


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


@pytest.mark.parametrize(
    "config, says",
    [
        ("[1, 2]", "its metadata is not made of JSON objects"),
        ('{"search_size": "256"}', "search_size: expected int, got '256'"),
        ('{"backbone": "lite9"}', "backbone: expected one of lite0, lite2, got 'lite9'"),
        ('{"depth": 3}', "unexpected keyword argument 'depth'"),
    ],
)
def test_damaged_configuration_is_named(tmp_path, config, says):
    file = tmp_path / "damaged.safetensors"
    save_file({"a": torch.zeros(2)}, file, {"model": "cmdtrack_student", "config": config})
    with pytest.raises(WeightsError, match=f"damaged.*{re.escape(says)}"):
        student_config(file, read_header(file))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused_by_every_reader(student, tmp_path, value):
    file = tmp_path / "diverged.safetensors"
    broken = copy.deepcopy(student)
    name, values = next((n, v) for n, v in broken.state_dict().items() if v.dim() > 1)
    values.view(-1)[1:3] = value
    save_weights(broken, file, Provenance({}, {}, {}))
    said = f"diverged.*tensor {re.escape(name)} holds 2 values that are NaN or infinite"
    for read in (load_student, read_header, make_engine):
        with pytest.raises(WeightsError, match=said):
            read(file)


def test_weights_on_a_full_disk(student, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(WeightsError, match=r"new\.safetensors: cannot be written"):
            save_weights(student, tmp_path / "new.safetensors", Provenance({}, {}, {}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "new.safetensors").exists()
