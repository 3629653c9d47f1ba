"""What a run's weights say that it was trained on is what it was trained on."""

import pytest
from tiny_runs import tiny

from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.training.config import Split
from cmdtrack_ros.training.loop import Trainer
from cmdtrack_ros.training.measure import measure_pairs
from cmdtrack_ros.training.seen import saw
from synthetic import draw_stills, make_rgb

NAMES = ["a_1", "a_2", "b_1", "b_2"]


@pytest.fixture
def data(tmp_path):
    for name in NAMES:
        make_rgb(tmp_path / "seq" / name)
    return tmp_path


@pytest.mark.parametrize(
    "limits, expected",
    [
        ([{}], NAMES),
        ([{"only": ["a_*"]}], ["a_1", "a_2"]),
        ([{"held_out": ["a_1"]}], ["a_2", "b_1", "b_2"]),
        ([{"held_out_share": 0.25}], ["a_1", "a_2", "b_1"]),
        ([{"held_out_share": 0.25, "held_out": ["a_1"]}], ["a_2", "b_1"]),
        ([{"held_out_share": 0.5, "only": ["a_*"]}], ["a_1"]),
        ([{"held_out_share": 0.5, "only": ["a_1"]}], ["a_1"]),  # of one recording, a part
        ([{"held_out_part": 0.5}], NAMES),
        ([{"only": ["a_1"]}, {"only": ["b_1"]}], ["a_1", "b_1"]),
        ([{"only": ["a_1"]}, {}], NAMES),
        ([{"path": ".", "only": ["seq/b*"]}], ["b_1", "b_2"]),
        ([{"path": "seq/a_1"}], ["a_1"]),
    ],
)
def test_sequences(limits, expected, data):
    trained, said = trained_and_said(limits, data)
    assert trained == said == expected


def test_what_one_source_holds_out_and_another_shows_was_seen(data):
    """Where the file cannot say it exactly, it says more, never less."""
    trained, said = trained_and_said([{"held_out_share": 0.5}, {"only": ["b_1"]}], data)
    assert trained == ["a_1", "a_2", "b_1"]
    assert said == NAMES


def trained_and_said(limits, data):
    """The names of the sequences that a run with such sources trains on, and of those that its weights say."""
    sources = [{"kind": "sequences", "path": "seq", **limit} for limit in limits]
    trainer = Trainer(tiny(sources=sources), data, data / "run")
    trained = {sequence.name for source, _ in trainer.sources for sequence in source.sequences}
    return sorted(trained), [name for name in NAMES if saw(trainer.provenance(), f"seq/{name}")]


def test_stills_and_what_the_split_keeps(data):
    draw_stills(data / "stills", 3)
    sources = [
        {"kind": "stills", "path": "stills", "only": ["set/visible/[01]*"]},
        {"kind": "sequences", "path": "seq"},
    ]
    split = Split(validation=["seq/a_*"], test=["stills/set/visible/0*"])
    history = Trainer(tiny(sources=sources, split=split), data, data / "run").provenance()
    assert [saw(history, f"stills/set/visible/{i}.png") for i in range(3)] == [False, True, False]
    assert [saw(history, f"seq/{name}") for name in NAMES] == [False, False, True, True]


def test_network_is_measured_on_what_its_source_leaves_out(data):
    Trainer(tiny(steps=1, sources=[{"kind": "sequences", "path": "seq", "only": ["a_*"]}]), data, data / "run").train()
    weights = [str(data / "run" / "student.safetensors")]
    assert set(measure_pairs(weights, Split(validation=["seq/b_*"]), data, data / "out", 1)) == {"run/student"}
    with pytest.raises(ConfigError, match="run/student: was trained on 1 of the recordings .* such as seq/a_1"):
        measure_pairs(weights, Split(validation=["seq/a_1", "seq/b_*"]), data, data / "out", 1)
