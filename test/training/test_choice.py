"""What is kept of a fine-tuned student: the best by what was held out, and the start where nothing is better."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from tiny_runs import stage

from cmdtrack_ros.data.bags import write_bag
from cmdtrack_ros.errors import ConfigError, DataError
from cmdtrack_ros.modalities import Modality
from cmdtrack_ros.models.header import SHIPPED
from cmdtrack_ros.models.student import Student
from cmdtrack_ros.models.weights import load_student
from cmdtrack_ros.training.choice import SHARES, HeldOut, choose, mixture
from cmdtrack_ros.training.config import StudentTraining
from cmdtrack_ros.training.loop import Trainer
from synthetic import Drawn, RandomSequence

SMALL_SEARCH = {"search_size": 128, "search_factor": 2.0}


@pytest.fixture(scope="module")
def shipped() -> Student:
    """With a small search region, which makes it fast."""
    whole = load_student(SHIPPED)[0]
    student = Student(replace(whole.config, **SMALL_SEARCH))
    student.load_state_dict(whole.state_dict())
    return student.eval()


@pytest.fixture(scope="module")
def spoilt(shipped) -> Student:
    """The shipped student, but to it every target is larger than it is."""
    student = copy.deepcopy(shipped)
    with torch.no_grad():
        student.head.geometry[-1].bias[2:] += 1
    return student


@pytest.fixture(scope="module")
def recordings() -> list[HeldOut]:
    return [HeldOut.open(Drawn(8), number) for number in range(2)]


def test_what_is_better_on_the_held_out_part_is_kept(shipped, spoilt, recordings):
    choice = choose(spoilt, shipped, recordings, pairs=12)
    assert choice.share < 1 and choice.share == max(SHARES, key=choice.tried.__getitem__)
    assert choice.gain.mean == pytest.approx(choice.tried[choice.share] - choice.tried[1.0])
    assert choice.gain.low > 0
    assert (choice.pairs, choice.recordings) == (16, 2)  # both recordings, though they have one name
    assert "(not trained on)" in str(choice)
    assert f"Mean IoU {choice.tried[1.0]:.3f} -> {choice.tried[choice.share]:.3f}" in str(choice)


def test_the_start_is_kept_when_training_spoilt_it(shipped, spoilt, recordings):
    choice = choose(shipped, spoilt, recordings, pairs=12)
    assert choice.share == 1
    assert str(choice).startswith("NO BETTER")


def test_a_gain_by_chance_is_none(shipped, recordings):
    """Weights beside the shipped ones, the first of some draws that are ahead by a little on these few pairs."""

    def beside(seed):
        torch.manual_seed(seed)
        student = copy.deepcopy(shipped)
        with torch.no_grad():
            for weight in student.parameters():
                weight += 0.003 * weight.std(correction=0) * torch.randn_like(weight)
        return choose(shipped, student, recordings, pairs=12)

    choice = next(choice for choice in map(beside, range(20)) if choice.gain.mean > 0)
    assert choice.gain.low <= 0
    assert choice.share == 1


def test_all_of_the_start_is_the_start(shipped, spoilt):
    kept = mixture(shipped, spoilt, 1.0).state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in shipped.state_dict().items())


def test_recordings_of_rgb_alone_are_not_judged_by_simulated_events():
    assert HeldOut.open(RandomSequence(Modality.RGB), 0).shown == "rgb"
    assert HeldOut.open(RandomSequence(Modality.DEPTH), 0).shown == "both"


def test_recordings_with_one_box_are_refused():
    sequence = RandomSequence(count=3)
    sequence.boxes[1:] = float("nan")
    with pytest.raises(DataError, match="at least two frames"):
        HeldOut.open(sequence, 0)


def fine_tuning(tmp_path, **changes) -> Trainer:
    write_bag(Drawn(8), tmp_path / "bags" / "one")
    source = {"kind": "bags", "path": "bags", "held_out_share": changes.pop("held_out_share", 0.5)}
    values = {"steps": 1, "batch": 1, "init": "shipped", "start_share": "held_out"} | changes
    values |= {"network": SMALL_SEARCH, "sources": [source]}
    return Trainer(stage(StudentTraining, **values), tmp_path, tmp_path / "out")


def test_a_run_that_spoils_the_network_saves_the_start_and_says_so(tmp_path, shipped, caplog):
    trainer = fine_tuning(tmp_path, learning_rate=0.1)
    trainer.train()
    saved, history = load_student(trainer.weights)
    assert all(torch.equal(value, shipped.state_dict()[name]) for name, value in saved.state_dict().items())
    assert not torch.equal(trainer.average.head.score[-1].weight, shipped.head.score[-1].weight)
    assert history.recipe["start_share"] == 1
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert any("NO BETTER THAN BEFORE" in line and "1 recording (the last part of" in line for line in warned)


def test_a_choice_needs_something_held_out(tmp_path):
    with pytest.raises(ConfigError, match=r"start_share: held_out: expected sources that hold out.*got none"):
        fine_tuning(tmp_path, held_out_share=0.0)


@pytest.mark.parametrize("share", [0.5, "held_out"])
def test_a_share_of_the_start_needs_one(share):
    with pytest.raises(ValueError, match="start_share"):
        stage(StudentTraining, start_share=share)
