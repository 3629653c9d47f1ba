"""How far the tracker's word goes: the situations, what is counted in them, and the fit of the score."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cmdtrack_ros.errors import ConfigError, DataError
from cmdtrack_ros.evaluation import confidence as c
from cmdtrack_ros.models.confidence import EVIDENCE, Confidence
from cmdtrack_ros.track import TargetState
from synthetic import Drawn, run_cli

T, U, L = TargetState.TRACKING, TargetState.UNCERTAIN, TargetState.LOST


def outcome(states, overlaps, present=None, scores=None, situation="as recorded", evidence=None):
    count = len(states)
    return c.Outcome(
        "made up",
        situation,
        np.array([int(state) for state in states]),
        np.array(overlaps, float),
        np.ones(count, bool) if present is None else np.array(present, bool),
        np.full(count, 0.5) if scores is None else np.array(scores, float),
        np.zeros((count, len(EVIDENCE))) if evidence is None else evidence,
    )


def test_every_situation_is_shown():
    shown = {name: (sequence, box) for name, sequence, box in c.situations(Drawn(30))}
    assert list(shown) == [name for name in c.SITUATIONS if name != "out of sight"], "no room for that one"
    assert all(len(sequence) >= c.SHORTEST for name, (sequence, _) in shown.items() if name in c.WRONG_STARTS)
    assert shown["RGB alone"][0].aux(0) is None and shown["aux alone"][0].rgb(0) is None
    sequence, box = shown["on background"]
    x, y, w, h = box.astype(int)
    assert all(sequence.aux(i)[y : y + h, x : x + w].max() == 40 for i in range(0, c.SHORTEST, 7)), "never the target"


def test_what_is_counted():
    states = [T, T, U, L, L, L, L, T, T, T]
    overlaps = [0.9, 0.05, 0, 0, 0, 0, 0.6, 0.2, 0.7, 0.8]
    present = [1, 1, 0, 0, 0, 1, 1, 1, 1, 1]
    got = c.summary([outcome(states, overlaps, present)])
    assert got["frames"] == 10 and got["false"] == 0.1
    assert got["lost_in_sight"] == pytest.approx(2 / 7) and got["lost_right"] == pytest.approx(1 / 7)
    assert got["doubted"] == pytest.approx(1 / 4)
    assert (got["left"], got["lost_after"], got["never_lost"]) == (1, 1, 0)
    assert (got["returned"], got["found_after"], got["never_found"]) == (1, 3, 0)


def test_target_that_never_was_is_falsely_tracked():
    got = c.summary([outcome([T, T, U, L], np.zeros(4), np.zeros(4))])
    assert got["false"] == 0.5 and got["mean_iou"] is None and got["lost_after"] == 3 and got["returned"] == 0
    assert c.summary([outcome([T, T], np.zeros(2), np.zeros(2))])["never_lost"] == 1
    text = "\n".join(c.lines({"on nothing": got}))
    assert "| 50.0% | – |" in text and "nan" not in text


def test_reliability_of_a_score_that_is_a_probability_and_of_one_that_is_not():
    rng = np.random.default_rng(0)
    scores = rng.random(20000)
    right = rng.random(20000) < scores
    assert c.reliability(scores, right).error < 0.02
    assert c.reliability(scores / 2, right).error > 0.2
    assert c.reliability(np.array([1.0, 1.0]), np.array([True, False])).right.tolist() == [0.5]


def test_fit_finds_what_the_frames_were_made_from():
    rng = np.random.default_rng(1)
    evidence = rng.normal(size=(20000, len(EVIDENCE)))
    truth = np.linspace(-1, 1, len(EVIDENCE))
    right = rng.random(20000) < 1 / (1 + np.exp(-(evidence @ truth - 0.7)))
    found = c.fit([outcome([T] * 20000, right * 1.0, evidence=evidence)])
    np.testing.assert_allclose(found.factors, truth, atol=0.1)
    assert found.bias == pytest.approx(-0.7, abs=0.1)
    assert found.about == {"sequences": ["made up"], "frames": 20000}
    with pytest.raises(DataError, match="right and with wrong"):
        c.fit([outcome([T], [1.0], evidence=evidence[:1])])


def test_a_fit_comes_to_an_end_however_far_away_it_begins():
    rng = np.random.default_rng(5)
    evidence = rng.normal(size=(9, len(EVIDENCE)))
    side = len(EVIDENCE) + 1
    sure = Confidence(-400.0, tuple(rng.normal(0, 300, len(EVIDENCE)).tolist()), {}, np.eye(side) * 1e-6)
    found = c.fit([outcome([T] * 9, [0.0, 1, 1] * 3, evidence=evidence)], sure)
    chances = np.array([found.probability(row) for row in evidence])
    assert np.isfinite(found.curvature).all()
    assert ((chances > 0.5) == [False, True, True] * 3).all()


def test_a_prior_needs_a_fit(tmp_path):
    done = run_cli("evaluate-confidence", tmp_path, "--output", tmp_path / "out", "--prior", "shipped")
    assert done.returncode == 2 and "give --fit, too" in done.stderr


def test_a_fit_goes_on_from_another_as_if_it_had_seen_its_frames():
    """Few new frames, in which the last number never changes, leave its factor as it was and move the others."""
    rng = np.random.default_rng(2)
    evidence = rng.normal(2, 1, size=(6000, len(EVIDENCE)))
    evidence[:2000, -1] = 0.8
    truth = np.linspace(-1, 1, len(EVIDENCE))
    right = (rng.random(6000) < 1 / (1 + np.exp(-((evidence - 2) @ truth - 0.7)))) * 1.0
    new, old = (
        outcome([T] * (part.stop - part.start), right[part], evidence=evidence[part])
        for part in (slice(0, 2000), slice(2000, 6000))
    )
    before, both = c.fit([old]), c.fit([new, old])
    found = c.fit([new], before)
    np.testing.assert_allclose(found.factors, both.factors, atol=0.03)
    assert found.bias == pytest.approx(both.bias, abs=0.1)
    assert found.about["prior"] == [before.about] and found.about["frames"] == 2000
    assert [one["frames"] for one in c.fit([old], found).about["prior"]] == [4000, 2000], "oldest first"
    np.testing.assert_allclose(found.curvature, both.curvature, rtol=0.1, atol=30)
    assert abs(c.fit([new]).factors[-1]) < 0.3 * found.factors[-1]


def test_names_in_a_file_choose_the_sequences(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("# remark\nb  # and another\n")
    sequences = [Drawn(name=name) for name in "abc"]
    assert [sequence.name for sequence in c.chosen(sequences, file)] == ["b"]
    assert c.chosen(sequences, None) == sequences
    file.write_text("d\n")
    with pytest.raises(DataError, match="none of the 3"):
        c.chosen(sequences, file)
    with pytest.raises(DataError, match="cannot be read"):
        c.chosen(sequences, tmp_path / "missing.txt")


def test_the_command_measures_and_calibrates(dataset, tmp_path, untrained):
    weights = tmp_path / "mine.safetensors"
    weights.write_bytes(untrained.read_bytes())
    names = tmp_path / "names.txt"
    names.write_text("square1\n")
    done = run_cli(
        "evaluate-confidence", dataset, "--only", names, "--output", tmp_path / "out", "--weights", weights, "--fit"
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "confidence.json").read_text())
    assert set(report["sequences"]) == {"square1"} and report["all"]["frames"] > 300
    assert "| covered |" in done.stdout and "expected calibration error" in done.stdout
    assert (tmp_path / "out" / "reliability.png").stat().st_size > 1000
    (fitted,) = tmp_path.glob("*.confidence.v*.json")
    assert set(json.loads(fitted.read_text())["factors"]) == set(EVIDENCE)
    assert "not calibrated" in done.stderr
    evidence = np.random.default_rng(3).normal(size=(9, len(EVIDENCE)))
    c.write_fit([outcome([T] * 9, [0.0, 1, 1] * 3, evidence=evidence)], weights, c.read_prior(weights))
    assert json.loads(fitted.read_text())["about"]["prior"][0]["sequences"] == ["square1"]
    content = json.loads(fitted.read_text())
    del content["curvature"]
    fitted.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="prior .*mine.safetensors: expected weights with a calibration that holds"):
        c.read_prior(weights)
