"""One student of several."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_runs import STUDENT

from cmdtrack_ros.cli.train import train_app
from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.models.config import StudentConfig
from cmdtrack_ros.models.header import Provenance, read_header, sha256_of
from cmdtrack_ros.models.student import Student
from cmdtrack_ros.models.weights import load_student, save_weights
from cmdtrack_ros.training.seen import saw


def write(path: Path, seed: int, data: dict | None = None, test: tuple[str, ...] = ("seq",), **changes) -> Path:
    torch.manual_seed(seed)
    recipe = {"name": path.stem, "split": {"test": list(test)} if test else None}
    history = Provenance(recipe, data or {path.stem: {"terms": "MIT"}}, {})
    save_weights(Student(StudentConfig(**{**STUDENT, **changes})), path, history)
    return path


def run(*files: Path, output: Path) -> None:
    train_app(["average", *map(str, files), "--output", str(output)], standalone_mode=False)


def test_every_weight_is_the_mean_of_three(tmp_path):
    files = [write(tmp_path / f"{name}.safetensors", seed) for seed, name in enumerate(("a", "b", "c"))]
    run(*files, output=tmp_path / "out" / "mean.safetensors")
    mean, history = load_student(tmp_path / "out" / "mean.safetensors")
    parts = [load_student(file)[0].state_dict() for file in files]
    for name, value in mean.state_dict().items():
        if value.dtype.is_floating_point:
            torch.testing.assert_close(value, sum(part[name] for part in parts) / 3)
    assert [part["name"] for part in history.recipe["of"]] == ["a", "b", "c"]
    assert history.recipe["of"][1]["sha256"] == sha256_of(files[1])
    assert set(history.data) == {"a", "b", "c"}
    assert read_header(tmp_path / "out" / "mean.safetensors").provenance.recipe["split"] == {"test": ["seq"]}


def test_mean_saw_what_any_of_its_parts_saw(tmp_path):
    """Also where they were trained on other recordings of one folder, and by files that know no ``only``."""
    limits = [{"only": ["a_*"]}, {"only": ["b_*"], "held_out": ["b_2"]}, {"held_out": ["b_2", "c_1"]}]
    files = [
        write(tmp_path / f"{i}.safetensors", i, {"seq": {"terms": terms, **one}})
        for i, (one, terms) in enumerate(zip(limits, ("MIT", "CC BY", "MIT"), strict=True))
    ]
    recordings = ["seq/a_1", "seq/b_1", "seq/c_1", "seq/c_2"]
    for count, expected in ((2, ["seq/a_1", "seq/b_1"]), (3, recordings)):
        run(*files[:count], output=tmp_path / "mean.safetensors")
        history = read_header(tmp_path / "mean.safetensors").provenance
        assert [recording for recording in recordings if saw(history, recording)] == expected
    assert history.data["seq"]["terms"] == "MIT; CC BY"


@pytest.mark.parametrize("other", [("seq/b", "seq/c"), ()])
def test_mean_was_kept_from_what_all_of_its_parts_were_kept_from(tmp_path, other):
    data = {"seq": {"terms": "MIT"}}
    files = [write(tmp_path / f"{i}.safetensors", i, data, test) for i, test in enumerate([("seq/a", "seq/b"), other])]
    run(*files, output=tmp_path / "mean.safetensors")
    history = read_header(tmp_path / "mean.safetensors").provenance
    unseen = [name for name in ("seq/a", "seq/b", "seq/c") if not saw(history, name)]
    assert unseen == [name for name in ("seq/b",) if name in other]


def test_what_cannot_be_averaged_is_named(tmp_path):
    one, other = write(tmp_path / "one.safetensors", 0), write(tmp_path / "other.safetensors", 1, channels=48)
    with pytest.raises(ConfigError, match="expected two files or more, got 1"):
        run(one, output=tmp_path / "mean.safetensors")
    with pytest.raises(ConfigError, match=r"other.safetensors: its network is .*channels=48.* expected .*channels=32"):
        run(one, other, output=tmp_path / "mean.safetensors")
    assert not (tmp_path / "mean.safetensors").exists()
