"""A student's answer drawn to a teacher's."""

import pytest
import torch

from cmdtrack_ros.models.head import HeadOutput
from cmdtrack_ros.training.losses.response import VIEWS, imitation_loss, lesson_losses, response_losses
from cmdtrack_ros.training.losses.tracking import center_heatmap, tracking_loss

BOX, TAUGHT = torch.tensor([[0.4, 0.3, 0.25, 0.2]]), torch.tensor([[0.42, 0.3, 0.25, 0.2]])


def answer(*boxes: torch.Tensor) -> HeadOutput:
    """Sure of these boxes (1, 4), one a sample."""
    box = torch.cat(boxes)
    heat = center_heatmap(box, torch.ones(len(box)), 16).clamp(1e-4, 1 - 1e-4)
    centers = torch.cat([box[:, :2] + box[:, 2:] / 2, box[:, 2:]], 1)
    return HeadOutput(heat.logit()[:, None], centers[..., None, None].expand(-1, -1, 16, 16))


def lesson(**changes) -> dict[str, torch.Tensor]:
    return {
        "box": BOX,
        "informative": torch.ones(1, 2),
        "taught_box": TAUGHT,
        "taught_score": torch.ones(1),
        "taught_weight": torch.ones(1),
        "taught_true": torch.ones(1),
    } | changes


FAR = torch.tensor([[0.1, 0.6, 0.25, 0.2]])
BOTH = torch.ones(1)


def views(output, batch, both=BOTH) -> list[float]:
    losses = lesson_losses(output, batch, both)
    return [losses[name].item() for name in VIEWS]


def test_imitation_of_the_same_answer_costs_nothing():
    output = HeadOutput(torch.randn(2, 1, 4, 4), torch.rand(2, 4, 4, 4))
    target = output.score[:, 0].sigmoid()
    torch.testing.assert_close(imitation_loss(output, target, output.box), torch.zeros(2))
    assert (imitation_loss(HeadOutput(output.score + 1, output.box), target, output.box) > 0).all()


def responses(output: HeadOutput, teacher: HeadOutput, both=BOTH, **changes) -> list[float]:
    batch = {"box": BOX, "positive": torch.ones(1), "informative": torch.ones(1, 2)} | changes
    theirs = tracking_loss(teacher, batch["box"], batch["positive"])["total"]
    losses = response_losses(output, teacher, theirs, batch, both)
    return [losses[name].item() for name in VIEWS]


def test_what_a_teacher_sees_with_all_streams_is_taught_to_each_alone():
    fused, rgb, aux = responses(answer(TAUGHT, FAR, FAR), answer(TAUGHT))
    assert fused == 0 and min(rgb, aux) > 1
    whole = responses(answer(FAR, FAR, FAR), answer(TAUGHT))
    assert min(whole) > 1
    assert responses(answer(FAR, FAR, FAR), answer(TAUGHT), torch.zeros(1)) == [whole[0], 0, 0]
    assert responses(answer(FAR, FAR, FAR), answer(TAUGHT), informative=torch.tensor([[0.0, 1.0]])) == [
        whole[0],
        0,
        whole[2],
    ]


def test_a_teacher_that_is_no_better_is_not_listened_to():
    assert responses(answer(BOX, TAUGHT, FAR), answer(TAUGHT))[:2] == [0, 0]
    assert responses(answer(BOX, TAUGHT, FAR), answer(TAUGHT))[2] > 1


def test_each_view_is_drawn_to_the_taught_box():
    """The stream that is wrong has far to go; who already says the same has none."""
    fused, rgb, aux = views(answer(TAUGHT, TAUGHT, FAR), lesson(taught_true=torch.zeros(1)))
    assert max(fused, rgb) < 0.01
    assert aux > 1
    boxes = FAR.repeat(3, 1).requires_grad_()
    output = HeadOutput(answer(FAR, FAR, FAR).score, boxes[..., None, None].expand(-1, 4, 16, 16))
    sum(lesson_losses(output, lesson(), BOTH)[name] for name in VIEWS).backward()
    assert (boxes.grad.abs().sum(1) > 0).all()


def test_a_student_nearer_to_the_truth_is_left_alone():
    assert views(answer(BOX, BOX, FAR), lesson())[:2] == [0, 0]
    assert views(answer(BOX, BOX, FAR), lesson())[2] > 1
    assert min(views(answer(BOX, BOX, FAR), lesson(taught_true=torch.zeros(1)))) > 0
    assert lesson_losses(answer(BOX, BOX, FAR), lesson(), BOTH)["share"] == pytest.approx(1 / 3)


def test_what_is_not_right_or_not_there_teaches_nothing():
    far = answer(FAR, FAR, FAR)
    whole = views(far, lesson())
    assert min(whole) > 1
    assert views(far, lesson(taught_weight=torch.tensor([0.5]))) == pytest.approx([loss / 2 for loss in whole])
    assert views(far, lesson(taught_weight=torch.zeros(1))) == [0, 0, 0]
    assert views(far, lesson(informative=torch.tensor([[1.0, 0.0]]))) == [*whole[:2], 0]
    assert views(far, lesson(), torch.zeros(1)) == [whole[0], 0, 0]
    assert views(far, lesson(taught_score=torch.tensor([0.3])))[0] < whole[0]
