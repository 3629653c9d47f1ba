"""The fixed pairs: always the same, drawn from what the split validates on, and scored as they should be."""

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_runs import tiny

from cmdtrack_ros.data import load_sequence
from cmdtrack_ros.data.derived import OneStream
from cmdtrack_ros.errors import ConfigError, DataError
from cmdtrack_ros.modalities import Modality
from cmdtrack_ros.models.teacher import Teacher, TeacherConfig
from cmdtrack_ros.models.weights import load_student
from cmdtrack_ros.tracking.engines import torch as torch_engine
from cmdtrack_ros.tracking.engines.choose import make_engine
from cmdtrack_ros.training import fixed_pairs
from cmdtrack_ros.training.comparison import compare, difference, markdown, verdicts
from cmdtrack_ros.training.config import Split
from cmdtrack_ros.training.fixed_pairs import EnginePairs, FixedPair, Unit, measure, open_units, scores_of
from cmdtrack_ros.training.loop import Trainer
from cmdtrack_ros.training.measure import measure_pairs
from cmdtrack_ros.training.sources import SequenceSource
from cmdtrack_ros.training.validation import engine_of, find_device, overlaps
from synthetic import Drawn, draw_stills, make_block, make_rgb, run_cli


class Oracle:
    """Answers with the true box, moved by so many of its widths."""

    def __init__(self, error: float = 0.0):
        self.error = error

    def answer(self, pairs: Sequence[FixedPair]):
        return [{name: (self.moved(pair.search.box), 0.5) for name in pair.streams()} for pair in pairs]

    def moved(self, box):
        return box + [self.error * box[2], 0, 0, 0]


def drawn(name="drawn") -> Unit:
    return Unit(name, Modality.THERMAL, lambda: SequenceSource([Drawn(name=name)]))


def alone(stream: str) -> Unit:
    """Of a recording; one that has RGB alone gets events."""
    return Unit(stream, Modality.THERMAL, lambda: SequenceSource([OneStream(Drawn(), stream)]))


def without_aux(pair: FixedPair) -> FixedPair:
    return FixedPair(pair.template, replace(pair.search, aux=None), pair.near)


@pytest.fixture
def data(tmp_path):
    make_block(tmp_path / "seq" / "block", 4)
    make_rgb(tmp_path / "seq" / "rgb")
    draw_stills(tmp_path / "stills", 3)
    return tmp_path


SPLIT = Split(validation=["seq/*", "stills/set/visible/*"])


def test_pairs_are_the_same_each_time_and_differ_from_unit_to_unit():
    def near(unit, *arguments):
        return np.array([pair.near for pair in unit.pairs(*arguments)])

    np.testing.assert_array_equal(near(drawn(), 6), near(drawn(), 6))
    np.testing.assert_array_equal(near(drawn(), 3), near(drawn(), 6)[:3])
    assert not np.isclose(near(drawn(), 6), near(drawn("other"), 6)).any()
    assert not np.isclose(near(drawn(), 6), near(drawn(), 6, 12)).any()


def test_pairs_show_two_frames_and_a_target_in_reach():
    for pair in drawn().pairs(40):
        assert pair.template.box[0] != pair.search.box[0]
        center, near = (box[:2] + box[2:] / 2 for box in (pair.search.box, pair.near))
        assert (np.abs(center - near) <= np.sqrt(pair.search.box[2:].prod())).all()


def test_units_come_from_the_validation_of_the_split(data):
    units = {unit.name: unit for unit in open_units(SPLIT, data)}
    assert {name: unit.modality.value for name, unit in units.items()} == {
        "block": "thermal",
        "rgb": "event",
        "stills/set/visible/*": "thermal",
    }
    for unit in units.values():
        assert [list(pair.streams()) for pair in unit.pairs(2)] == [["both", "rgb", "aux"]] * 2


def test_a_stream_that_is_absent_is_not_measured():
    assert set(measure({"x": Oracle()}, [alone("aux")], 2)["x"]["aux"]) == {"modality", "aux"}


def test_overlap_is_that_of_the_answer_with_the_true_box():
    found = measure({"right": Oracle(), "beside": Oracle(0.5)}, [drawn()], 5)
    assert scores_of(found["right"])["pairs/all/both"] == 1
    assert scores_of(found["beside"])["pairs/thermal/aux"] == pytest.approx(1 / 3, abs=1e-3)
    assert found["right"]["drawn"]["rgb"]["score"] == [0.5] * 5


def test_shipped_student_finds_a_plain_target(data):
    """Crops and boxes go from image to crop and back: what is found lies where it is."""
    tracker = EnginePairs(make_engine(None, engine="onnx", device="cpu", precision="fp32", threads=1))
    [unit] = [unit for unit in open_units(SPLIT, data) if unit.name == "block"]
    overlap = measure({"": tracker}, [unit], 6)[""]["block"]
    assert all(min(overlap[stream]["iou"]) > 0.7 for stream in ("both", "rgb", "aux"))


@pytest.mark.parametrize("kind", ["student", "teacher"])
def test_pairs_are_answered_together_as_one_by_one(kind, data, monkeypatch):
    """As a GPU does: more than what is recorded, and of some pairs one stream alone."""
    monkeypatch.setitem(fixed_pairs._AT_ONCE, "cpu", 64)
    monkeypatch.setattr(torch_engine, "_RECORDED", 4)
    network, _ = load_student("nano")
    if kind == "teacher":
        taught = Teacher(TeacherConfig(heads=4, **network.config.to_dict()))
        taught.start_from(network)
        network = taught
    tracker = EnginePairs(engine_of(network))
    *_, stills = open_units(SPLIT, data)
    pairs = [*stills.pairs(3), *alone("aux").pairs(2), *map(without_aux, drawn().pairs(1)), *drawn().pairs(1)]
    together, one_by_one = tracker.answer(pairs), [answer for pair in pairs for answer in tracker.answer([pair])]
    assert [list(answers) for answers in together[2:6]] == [["both", "rgb", "aux"], ["aux"], ["aux"], ["rgb"]]
    for answers, expected in zip(together, one_by_one, strict=True):
        assert list(answers) == list(expected)
        for (box, score), (right, sure) in zip(answers.values(), expected.values(), strict=True):
            np.testing.assert_allclose(box, right, atol=0.01)
            assert score == pytest.approx(sure, abs=1e-4)


def test_device_that_is_unknown_or_absent_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto").type == "cpu"
    with pytest.raises(ConfigError, match="device cuda: expected a GPU that torch can use, got none"):
        find_device("cuda")
    with pytest.raises(ConfigError, match="device: expected one of auto, cpu, cuda, got 'gpu'"):
        find_device("gpu")


def test_difference_is_resampled_over_units():
    base = {f"u{i}": 0.5 for i in range(20)}
    same = difference(dict.fromkeys(base, 0.6), base)
    assert [same.mean, same.low, same.high] == pytest.approx([0.1] * 3)
    # One unit alone makes the difference: the interval must say that it may be chance.
    chance = difference({**base, "u3": 1.0}, base)
    assert chance.mean == pytest.approx(0.025)
    assert chance.low == 0 < chance.mean < chance.high
    with pytest.raises(DataError, match="other recordings: u3"):
        difference({name: 0.5 for name in base if name != "u3"}, base)


def test_table_compares_the_means_of_seeds_with_the_first():
    def seed(value):
        return {name: {"modality": "depth", "rgb": {"iou": [value, value], "score": [1, 1]}} for name in "ab"}

    table = compare({"student": [seed(0.4), seed(0.6)], "teacher": [seed(0.55)], "same": [seed(0.5)]})
    teacher = table["depth", "rgb"]["teacher"]
    assert (teacher.mean, teacher.share, teacher.count) == (pytest.approx(0.55), 1.0, 4)
    assert teacher.difference.mean == pytest.approx(0.05)
    text = markdown(table)
    assert "| depth | rgb | 4 | 0.500 (0.50) | 0.550 (1.00); +0.050 (+0.050 to +0.050) |" in text
    worth, not_worth = verdicts(table)
    assert worth.startswith("teacher: worth distilling from on depth rgb (+0.050)")
    assert not_worth.startswith("same: not worth distilling from")


def test_validation_of_a_run_sees_the_pairs(data):
    config = tiny(steps=1, validate_every=1, split=SPLIT, fixed_pairs=2, sources=[{"kind": "stills", "path": "free"}])
    draw_stills(data / "free", 3)
    trainer = Trainer(config, data, data / "run")
    trainer.train()
    assert {"pairs/all/both", "pairs/event/rgb", "pairs/thermal/aux"} <= set(trainer.scores)
    with pytest.raises(ValueError, match="fixed_pairs: they are drawn from the validation of a split"):
        tiny(fixed_pairs=2)


def test_command_compares_keeps_and_names_what_is_no_network(data):
    (data / "split.yaml").write_text(json.dumps(SPLIT.model_dump()))
    call = ["train", "measure", "shipped", "nano", "--data", data, "--split", data / "split.yaml", "--pairs", 2]
    call += ["--output", data / "out", "--sequences"]
    first = run_cli(*call)
    assert first.returncode == 0, first.stderr
    assert "| shipped | nano |" in first.stdout
    assert "Whole sequences." in first.stdout
    stamps = {file.name: file.stat().st_mtime_ns for file in (data / "out").iterdir()}
    assert len(stamps) == 4
    assert run_cli(*call).stdout == first.stdout
    assert stamps == {file.name: file.stat().st_mtime_ns for file in (data / "out").iterdir()}
    (data / "none").mkdir()
    refused = run_cli(*call[:3], data / "none", *call[4:])
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith(f"cmdtrack: {data / 'none'}: expected one *backbone*.onnx")


def test_network_is_not_measured_on_what_it_was_trained_on(data):
    """As far as its file says: by what its sources and its split were."""
    for name in ("blind", "seeing"):
        sources = [{"kind": "sequences", "path": "seq"}]
        split = Split(validation=["seq/block"] if name == "blind" else ["seq/rgb"])
        Trainer(tiny(steps=1, split=split, sources=sources), data, data / name).train()
    measured = Split(validation=["seq/block"])
    arguments = measured, data, data / "out", 1
    assert set(measure_pairs([str(data / "blind" / "student.safetensors")], *arguments)) == {"blind/student"}
    with pytest.raises(ConfigError, match="seeing/student: was trained on 1 of the recordings .* such as seq/block"):
        measure_pairs([str(data / "seeing" / "student.safetensors")], *arguments)


def test_foreign_trackers_follow_a_person_in_thermal(shared_data):
    from cmdtrack_ros.training.foreign import ForeignPairs, ForeignTracker, find_foreign

    sequence = OneStream(load_sequence(shared_data / "test" / "rgbt" / "1230_1202_woman"), "aux")
    unit = Unit("woman", Modality.THERMAL, lambda: SequenceSource([sequence]))
    for folder in ("nanotrack-v3", "fear-xs"):
        weights = shared_data.parent / "weights" / folder
        if not weights.is_dir():
            pytest.skip(f"no weights of foreign trackers at {weights}")
        network = find_foreign(weights)
        assert overlaps(ForeignTracker(network, sequence.modality), sequence).mean() > 0.7, folder
        assert scores_of(measure({"": ForeignPairs(network)}, [unit], 10)[""])["pairs/all/aux"] > 0.7, folder
