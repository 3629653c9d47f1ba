"""The student."""

from dataclasses import replace

import torch
from torch.nn import functional

from cmdtrack_ros.models.student import Student


def test_student_is_compact(student):
    assert sum(p.numel() for p in student.parameters()) <= 6_500_000


def test_absent_modality_does_not_touch_the_answer(student):
    """With `present` 0 for aux, nothing in the aux picture changes the answer, and RGB has all the weight."""
    template = student.encode_template(
        torch.rand(2, 3, 128, 128) * 255, torch.tensor([[0.25, 0.3, 0.5, 0.4]]).expand(2, 4)
    )
    rgb = torch.rand(1, 3, 256, 256) * 255
    present = torch.tensor([[1.0, 0.0]])
    with torch.no_grad():
        answers = [student(torch.cat([rgb, torch.full_like(rgb, fill)]), template, present) for fill in (0.0, 200.0)]
    torch.testing.assert_close(answers[0][0].score, answers[1][0].score)
    torch.testing.assert_close(answers[0][1][:, 0], torch.ones(1, 16, 16))


def test_same_weights_serve_a_narrower_search_region(student):
    """At the same scale, the middle of a search region gives the same box in pixels as the whole of it."""
    narrow = Student(replace(student.config, search_size=192, search_factor=3.0)).eval()
    narrow.load_state_dict(student.state_dict())
    noise = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 255
    picture = functional.interpolate(noise, size=(256, 256), mode="bicubic").clamp(0, 255)
    template = student.encode_template(picture[..., 64:192, 64:192], torch.tensor([[0.25, 0.3, 0.5, 0.4]]))
    with torch.no_grad():
        whole = student(picture, template, torch.ones(1, 1))[0]
        middle = narrow(picture[..., 32:224, 32:224], template, torch.ones(1, 1))[0]
    expected = whole.box[0, :, 8, 8] * 256 - torch.tensor([32.0, 32.0, 0.0, 0.0])
    torch.testing.assert_close(middle.box[0, :, 6, 6] * 192, expected, atol=2.0, rtol=0.0)
