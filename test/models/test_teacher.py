"""The teacher: what its streams hear of each other."""

import numpy as np
import pytest
import torch

from cmdtrack_ros.models.teacher import PATHS, Teacher, TeacherConfig

CONFIG = TeacherConfig(backbone="lite0", channels=48, heads=4, template_size=32, search_size=64)
BOX = torch.tensor([[0.25, 0.3, 0.5, 0.4]])


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    return Teacher(CONFIG).eval()


def pictures(size=64, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 255, (2, 2, 3, size, size))).float()


def templates(teacher):
    crops = pictures(32, seed=1)
    return [teacher.encode_template(i, crops[:, i], BOX.expand(2, 4)) for i in range(2)]


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
                torch.stack([teacher.features(i, x[:, i]) for i in range(2)], 1), templates(teacher), torch.ones(2, 2)
            ).maps
            for x in (pictures(), changed)
        ]
    assert not torch.allclose(maps[0][:, PATHS.index("neck_rgb")], maps[1][:, PATHS.index("neck_rgb")])


def test_new_teacher_is_two_independent_trackers():
    fresh = Teacher(CONFIG).eval()
    search = torch.rand(1, 2, 48, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(fresh.at_neck(search, torch.ones(1, 2)), search)


def test_paths_say_which_are_valid(teacher):
    with torch.no_grad():
        paths = teacher.paths(torch.rand(2, 2, 48, 4, 4), templates(teacher), torch.tensor([[1.0, 1.0], [0.0, 1.0]]))
    assert paths.maps.shape == (2, len(PATHS), 48, 4, 4)
    assert paths.valid[0].tolist() == [1] * 7
    assert [name for name, valid in zip(PATHS, paths.valid[1], strict=True) if valid] == [
        "neck_aux",
        "relation_aux",
        "head_aux",
        "final",
    ]
