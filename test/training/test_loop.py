"""The training loop: tiny runs that are killed, resumed, shared and fine-tuned."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tiny_runs import STUDENT, curve, stage, tiny, tiny_values

from cmdtrack_ros.data.bags import write_bag
from cmdtrack_ros.errors import CmdtrackError, ConfigError, DataError
from cmdtrack_ros.models.config import StudentConfig
from cmdtrack_ros.models.header import Provenance
from cmdtrack_ros.models.student import Student
from cmdtrack_ros.models.weights import load_student, save_weights
from cmdtrack_ros.training.config import StudentTraining
from cmdtrack_ros.training.loop import CHECKPOINT, Trainer, differences
from synthetic import Drawn


def command(stills, output: Path, values: dict, *launcher: str) -> tuple[list[str], dict]:
    file = output.parent / f"{output.name}.yaml"
    file.write_text(yaml.safe_dump(values))
    start = [sys.executable, *launcher, "-m", "cmdtrack_ros.cli", "train", "student"]
    return [*start, "--config", str(file), "--data", str(stills.parent), "--output", str(output)], {
        **os.environ,
        "OMP_NUM_THREADS": "1",
    }


def checkpoint(output: Path) -> dict:
    return torch.load(output / CHECKPOINT, weights_only=True)


def test_run_killed_with_signal_9_resumes_to_the_same_weights(stills, tmp_path):
    values = tiny_values(steps=14, checkpoint_every=1)
    whole = Trainer(StudentTraining(**values), stills.parent, tmp_path / "whole")
    whole.train()
    arguments, environment = command(stills, tmp_path / "killed", values)
    process = subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed" / CHECKPOINT).is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    reached = checkpoint(tmp_path / "killed")["step"]
    assert 0 < reached < 14
    second = Trainer(StudentTraining(**values), stills.parent, tmp_path / "killed")
    assert second.step == reached
    second.train()
    for kind in ("task", "average"):
        one, other = checkpoint(tmp_path / "whole")[kind], checkpoint(tmp_path / "killed")[kind]
        assert all(torch.equal(value, other[name]) for name, value in one.items())
    _, history = load_student(tmp_path / "killed" / "student.safetensors")
    assert history.recipe["step"] == 14


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_ends_a_run_after_a_whole_step(stills, tmp_path, number):
    """The signal reaches the data process, too; the checkpoint is whole, the exit code says there is more."""
    values = tiny_values(steps=500, checkpoint_every=500, workers=1)
    arguments, environment = command(stills, tmp_path / "run", values)
    process = subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while "1/500" not in process.stderr.read(1000):
        assert process.poll() is None
    os.killpg(process.pid, number)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on from there" in rest
    assert 0 < checkpoint(tmp_path / "run")["step"] < 500


def test_two_processes_train_as_one_with_twice_the_batch(stills, tmp_path):
    """Same losses within 0.1 % over six steps, and the same batch statistics."""
    warmup = 6  # at full rate so small a network magnifies the rounding of another order of summation
    one = Trainer(tiny(steps=6, batch=4, warmup=warmup), stills.parent, tmp_path / "one")
    one.train()
    values = tiny_values(steps=6, batch=2, warmup=warmup)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    arguments, environment = command(stills, tmp_path / "two", values, *launcher)
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    for name in ("loss", "fused", "single", "giou"):
        curves = [list(curve(tmp_path / folder, f"train/{name}").values()) for folder in ("one", "two")]
        assert len(curves[0]) == 6
        np.testing.assert_allclose(curves[1], curves[0], rtol=1e-3, err_msg=name)
    weights = [checkpoint(tmp_path / folder)["average"]["neck.coarse.1.running_var"] for folder in ("one", "two")]
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-5)


def test_mixed_precision_learns_the_same(stills, tmp_path):
    losses = {}
    for precision in ("32-true", "bf16-mixed"):
        trainer = Trainer(tiny(steps=1, precision=precision), stills.parent, tmp_path / precision)
        trainer.train()
        losses[precision] = curve(tmp_path / precision, "train/loss")[1]
        assert all(value.dtype != torch.bfloat16 for value in trainer.task.state_dict().values())
    assert losses["bf16-mixed"] == pytest.approx(losses["32-true"], rel=0.05)
    assert losses["bf16-mixed"] != losses["32-true"]


def test_only_the_late_backbone_learns(stills, tmp_path):
    trainer = Trainer(tiny(steps=1), stills.parent, tmp_path)
    before = {name: value.clone() for name, value in trainer.task.network.backbone.state_dict().items()}
    trainer.train()
    changed = {
        name
        for name, value in trainer.task.network.backbone.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert changed
    assert all(name.startswith("late.") for name in changed)
    assert not any("running" in name for name in changed)


def test_early_backbone_learns_when_asked(stills, tmp_path):
    trainer = Trainer(tiny(steps=1, train_early=True), stills.parent, tmp_path)
    before = trainer.task.network.backbone.stem[0].weight.clone()
    trainer.train()
    assert not torch.equal(trainer.task.network.backbone.stem[0].weight, before)


def test_other_settings_are_not_resumed(stills, tmp_path):
    Trainer(tiny(steps=1), stills.parent, tmp_path).train()
    with pytest.raises(ConfigError, match=r"learning_rate: 0\.001 then, 0\.002 now") as error:
        Trainer(tiny(steps=1, learning_rate=0.002, checkpoint_every=7), stills.parent, tmp_path)
    assert "checkpoint_every" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\x80\x02."], ids=["empty", "cut", "pickle"])
def test_damaged_checkpoints_are_named(stills, tmp_path, content):
    (tmp_path / CHECKPOINT).write_bytes(content)
    with pytest.raises(DataError, match=f"{CHECKPOINT}: no whole checkpoint"):
        Trainer(tiny(steps=1), stills.parent, tmp_path)


def test_truncated_checkpoint_is_named(stills, tmp_path):
    Trainer(tiny(steps=1), stills.parent, tmp_path).train()
    file = tmp_path / CHECKPOINT
    file.write_bytes(file.read_bytes()[:-5000])
    with pytest.raises(DataError, match=f"{CHECKPOINT}: no whole checkpoint"):
        Trainer(tiny(steps=1), stills.parent, tmp_path)


def test_differences_name_nested_fields():
    then = {"sources": [{"share": 0.2, "path": "a"}], "seed": 1}
    assert differences(then, {"sources": [{"share": 0.3, "path": "a"}], "seed": 1}) == [
        "sources.0.share: 0.2 then, 0.3 now"
    ]
    assert differences(then, then) == []


def test_infinite_loss_stops_the_run(stills, tmp_path):
    trainer = Trainer(tiny(), stills.parent, tmp_path)
    torch.nn.init.constant_(trainer.task.network.head.score[-1].bias, torch.nan)
    with pytest.raises(CmdtrackError, match="the loss is nan at step 1"):
        trainer.train()
    assert not (tmp_path / CHECKPOINT).is_file()


def test_fine_tuning_starts_from_given_weights_and_scores_before_and_after(tmp_path, caplog):
    caplog.set_level("INFO")
    write_bag(Drawn(8), tmp_path / "bags" / "one")
    start = Student(StudentConfig(**STUDENT))
    save_weights(start, tmp_path / "start.safetensors", Provenance({}, {}, {}))
    config = stage(
        StudentTraining,
        steps=1,
        batch=1,
        init=tmp_path / "start.safetensors",
        validate_every=1,
        sources=[{"kind": "bags", "path": "bags", "held_out_part": 0.4}],
    )
    trainer = Trainer(config, tmp_path, tmp_path / "out")
    assert torch.equal(trainer.task.network.head.score[-1].weight, start.head.score[-1].weight)
    trainer.train()
    assert list(curve(tmp_path / "out", "validation/mean")) == [0, 1]
    scores = load_student(trainer.weights)[1].scores
    assert set(scores) == {"mean", "drawn", "before"}
    assert set(scores["before"]) == {"mean", "drawn"}
    assert f"mean {scores['before']['mean']:.3f} -> {scores['mean']:.3f}" in caplog.text
    with pytest.raises(ConfigError, match=r"init .*: its network is"):
        Trainer(stage(StudentTraining, init="shipped"), tmp_path, tmp_path / "other")


def test_fine_tuning_may_narrow_the_search_region(stills, tmp_path):
    start = Student(StudentConfig(**STUDENT))
    save_weights(start, tmp_path / "start.safetensors", Provenance({}, {}, {}))
    network = {**STUDENT, "search_size": 48, "search_factor": 3.0}
    config = stage(StudentTraining, network=network, init=tmp_path / "start.safetensors")
    trainer = Trainer(config, stills.parent, tmp_path / "out")
    trainer.train()
    assert load_student(trainer.weights)[0].config.search_size == 48


def test_saved_weights_hold_a_share_of_the_start(stills, tmp_path):
    start = Student(StudentConfig(**STUDENT))
    save_weights(start, tmp_path / "start.safetensors", Provenance({}, {}, {}))
    config = stage(StudentTraining, steps=2, init=tmp_path / "start.safetensors", start_share=0.75)
    trainer = Trainer(config, stills.parent, tmp_path / "out")
    trainer.train()
    learned, kept = trainer.average.head.trunk[0][0].weight, start.head.trunk[0][0].weight
    assert not torch.allclose(learned, kept)
    saved = load_student(trainer.weights)[0].head.trunk[0][0].weight
    torch.testing.assert_close(saved, 0.25 * learned + 0.75 * kept)
