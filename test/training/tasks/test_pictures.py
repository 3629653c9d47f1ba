"""Pictures of what trackers are trained on."""

import numpy as np
import pytest
import torch
from tiny_runs import batch, stage

from cmdtrack_ros.training.config import StudentTraining, TeacherTraining
from cmdtrack_ros.training.loop import TASKS


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", [StudentTraining, TeacherTraining])
def test_trackers_draw_pairs_and_answers(kind, seed):
    """Whatever the answer: templates, search regions and a score map per sample, the true box in green."""
    torch.manual_seed(seed)
    task = TASKS[kind](stage(kind)).eval()
    picture = task.pictures(batch())
    assert picture.shape == (3 * 64, 5 * 64, 3)
    assert picture.dtype == np.uint8
    green = (abs(picture.astype(int) - (0, 255, 0)) < 60).all(-1)  # lines are smoothed
    x, y = round(0.4 * 64), round(0.3 * 64)
    assert all(green[64 * row + y, 64 * column + x] for row in range(3) for column in (2, 3))
    assert not green[:, 4 * 64 :].any()
