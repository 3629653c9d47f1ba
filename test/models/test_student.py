"""The student."""

import torch


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
