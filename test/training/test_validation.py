"""Tracking quality while training goes on, and the teacher as an engine."""

import numpy as np
import pytest
import torch
from tiny_runs import BOX, TEACHER, pictures

from cmdtrack_ros.boxes import iou
from cmdtrack_ros.data import load_dataset
from cmdtrack_ros.models.teacher import Teacher, TeacherConfig
from cmdtrack_ros.models.weights import load_student
from cmdtrack_ros.tracking.drive import drive
from cmdtrack_ros.tracking.engines.contract import Query, TemplateCrop
from cmdtrack_ros.tracking.engines.torch import TorchEngine
from cmdtrack_ros.tracking.tracker import Tracker
from cmdtrack_ros.training.validation import TeacherEngine, engine_of, mean_overlap
from synthetic import Drawn, make_folder


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    torch.manual_seed(0)
    return Teacher(TeacherConfig(**TEACHER)).eval()


def test_teacher_engine_gives_the_networks_answer(teacher):
    engine = TeacherEngine(teacher)
    crops, search = pictures(1, 32, 1).byte(), pictures(1).byte()
    as_image = lambda picture: picture.permute(1, 2, 0).numpy()  # noqa: E731
    kept = engine.encode([TemplateCrop(as_image(crops[0, i]), BOX[0].numpy(), i) for i in range(2)])
    templates = [teacher.encode_template(i, crops[:, i].float(), BOX) for i in range(2)]
    for streams in ((0, 1), (1,)):
        [response] = engine.search([Query([as_image(search[0, i]) for i in streams], [kept[i] for i in streams])])
        present = torch.tensor([[float(i in streams) for i in range(2)]])
        with torch.no_grad():
            output, _ = teacher(search.float(), templates, present)
        np.testing.assert_allclose(response.score, output.score.sigmoid()[0, 0], atol=1e-5)
        assert response.weights.shape == (len(streams), 4, 4)
        np.testing.assert_allclose(response.weights.sum(0), 1, atol=1e-5)


def test_teacher_can_track(teacher):
    scores = mean_overlap(engine_of(teacher), [Drawn()])
    assert set(scores) == {"mean", "drawn"}
    assert 0 <= scores["mean"] <= 1


def test_teacher_from_the_shipped_student_tracks_as_it_does(tmp_path):
    """Same boxes on a recording: what the engine answers is the network's, not chance."""
    student, _ = load_student()
    teacher = Teacher(TeacherConfig(backbone="lite0", channels=student.config.channels, heads=4))
    teacher.start_from(student)
    [sequence] = load_dataset(make_folder(tmp_path / "one", frames=10).parent)
    engines = TorchEngine(student, torch.device("cpu")), TeacherEngine(teacher)
    expected, got = (
        np.array([track.box for track in drive(Tracker(engine, sequence.modality), sequence)]) for engine in engines
    )
    assert iou(expected, sequence.boxes).min() > 0.5  # the student tracks, so that there is something to equal
    np.testing.assert_allclose(got, expected, atol=0.05)
