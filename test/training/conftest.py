"""What training tests share: drawn stills to train on, and a teacher trained on them."""

from __future__ import annotations

from pathlib import Path

import pytest

from synthetic import draw_stills


@pytest.fixture(scope="session")
def stills(tmp_path_factory) -> Path:
    return draw_stills(tmp_path_factory.mktemp("data") / "stills")


@pytest.fixture(scope="session")
def teacher_file(tmp_path_factory, stills) -> Path:
    """Weights of a teacher run of two steps."""
    from tiny_runs import stage

    from cmdtrack_ros.training.config import TeacherTraining
    from cmdtrack_ros.training.loop import Trainer

    trainer = Trainer(stage(TeacherTraining), stills.parent, tmp_path_factory.mktemp("teacher"))
    trainer.train()
    return trainer.weights
