"""Evaluation of recordings: offline and through DDS, with the node's own parts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from cmdtrack_ros.data import load_sequence
from cmdtrack_ros.data.bags import Bag, BagOptions, WriterOptions, write_bag
from cmdtrack_ros.errors import ConfigError, DataError
from cmdtrack_ros.evaluation.replay import Replay, ReplayOptions, evaluate_bags, replay_offline
from cmdtrack_ros.evaluation.runner import read_settings, reload
from cmdtrack_ros.models.header import SHIPPED, sha256_of
from cmdtrack_ros.streams.pairing import PairOptions
from cmdtrack_ros.streams.registration import Registration
from synthetic import make_folder, run_cli

FRAMES = 30


def paired_by(**options: float) -> ReplayOptions:
    return ReplayOptions(BagOptions(pairing=PairOptions(**options)))


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    """RGB and depth of a moving square, depth 9 ms late with jitter, one in ten depth images missing."""
    folder = tmp_path_factory.mktemp("recording")
    sequence = load_sequence(make_folder(folder / "square", frames=FRAMES))
    options = WriterOptions(aux_offset=0.009, aux_jitter=0.002, aux_drop=0.1, seed=3)
    write_bag(sequence, folder / "bag", options)
    return folder / "bag"


@pytest.fixture(scope="module")
def offline(recording) -> Replay:
    return replay_offline(recording)


def test_offline_answers_every_rgb_image(recording, offline):
    run = offline.as_run()
    assert np.isfinite(run.boxes).all() and len(run) == FRAMES
    np.testing.assert_allclose(run.boxes[0], offline.sequence.boxes[0], atol=1e-6)
    with Bag(recording) as bag:
        depth = bag.counts["/aux/image"]
    assert depth < FRAMES
    assert offline.counters["rgb"] == FRAMES and offline.counters["aux"] == depth
    statistics = offline.statistics()
    assert statistics["drops"] == 0 and statistics["answered"] == FRAMES
    assert 4 < statistics["gap_ms"]["p50"] < 14
    assert statistics["latency_ms"] == {}
    gaps = np.array([track.gap for track in offline.tracks])
    assert np.isnan(gaps).sum() == offline.counters["unpaired"]


def test_answers_meet_their_frames_by_stamp(offline):
    """Played at another rate stamps are a little off; an answer to no frame meets none."""
    first, *others = offline.tracks
    moved = [replace(track, stamp_ns=track.stamp_ns + 40) for track in others]
    strange = replace(first, stamp_ns=first.stamp_ns - 10**9)
    run = replace(offline, tracks=[strange, *moved]).as_run()
    assert np.isnan(run.boxes[0]).all()
    np.testing.assert_array_equal(run.boxes[1:], offline.as_run().boxes[1:])


def test_slop_and_offset_decide_what_is_paired(recording):
    shifted = replay_offline(recording, paired_by(slop=0.006, aux_offset=-0.009))
    assert shifted.counters["paired"] >= 0.8 * FRAMES
    assert abs(np.nanmean([track.gap for track in shifted.tracks])) < 0.003, "gaps are after the offset"
    unshifted = replay_offline(recording, paired_by(slop=0.002))
    assert unshifted.counters["unpaired"] > FRAMES / 2


@pytest.mark.ros
def test_dds_gives_the_boxes_of_offline_for_the_same_pairs(recording, offline, tmp_path):
    from cmdtrack_ros.ros.replay.session import replay_through_node

    played = replay_through_node(recording, ReplayOptions(), tmp_path / "node.log")
    ours, theirs = ({track.stamp_ns: track for track in replay.tracks} for replay in (offline, played))
    assert set(theirs) == set(ours), "every RGB image is answered in both"
    for stamp, track in ours.items():
        other = theirs[stamp]
        assert other.gap == pytest.approx(track.gap, abs=1e-6, nan_ok=True)
        np.testing.assert_array_equal(other.box, track.box)
        assert other.score == pytest.approx(track.score, abs=1e-6)
    latency = played.statistics()["latency_ms"]
    assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"]


def test_a_start_box_is_needed(tmp_path):
    folder = make_folder(tmp_path / "late", frames=6, absent=(0,))
    write_bag(load_sequence(folder), tmp_path / "bag")
    with pytest.raises(ConfigError, match="--init-box"):
        replay_offline(tmp_path / "bag")
    replay = replay_offline(tmp_path / "bag", ReplayOptions(initial_box=np.array([20.0, 30, 30, 30])))
    assert len(replay.tracks) == 6


def test_a_start_that_fails_leaves_no_answers(recording, caplog):
    replay = replay_offline(recording, ReplayOptions(initial_box=np.array([500.0, 500, 20, 20])))
    assert replay.tracks == [] and replay.statistics()["drops"] == FRAMES
    assert replay.faults["target refused"] == 1 and "500.0" in caplog.text


def test_missing_topics_are_named_with_those_there_are(recording):
    with pytest.raises(DataError, match="/rgb/image") as error:
        replay_offline(recording, ReplayOptions(BagOptions(rgb_topic="/front/color")))
    assert "/front/color" in str(error.value) and "/aux/image" in str(error.value)


def test_command_line_keeps_the_good_bags(recording, tmp_path):
    (tmp_path / "truncated").mkdir()
    for file in recording.iterdir():
        data = file.read_bytes()
        (tmp_path / "truncated" / file.name).write_bytes(data[: len(data) // 2] if file.suffix == ".mcap" else data)
    output = tmp_path / "out"
    done = run_cli("evaluate-bag", tmp_path / "truncated", recording, "--output", output)
    assert done.returncode == 1 and "FAILED ours on truncated" in done.stderr
    assert "truncated" in done.stderr and "Traceback" not in done.stderr
    summary = json.loads((output / "summary.json").read_text())
    assert set(summary["sequences"]) == {"bag"} and set(summary["failures"]) == {"truncated"}
    assert summary["sequences"]["bag"]["frames"] == FRAMES and 0 <= summary["mean"]["mean_iou"] <= 1
    assert summary["bags"]["bag"]["pairing"]["rgb"] == FRAMES
    assert "gap_ms" in done.stdout
    assert f"student.safetensors ({sha256_of(SHIPPED)[:8]})" in (output / "report.html").read_text()
    refused = run_cli("evaluate-bag", recording, "--output", output, "--init-box", "1,2,3")
    assert refused.returncode == 1 and "--init-box" in refused.stderr


def aux_of(sequence):
    return [pair.aux for pair in sequence.pairs]


def test_evaluations_of_bags_are_compared_on_one_page(recording, untrained, tmp_path, monkeypatch):
    """Read again as each was read: with its truth, its pairing and its registration."""
    monkeypatch.chdir(tmp_path)
    Path("truth.txt").write_text("".join(f"{30 + i},40,30,30\n" for i in range(FRAMES)))
    other = BagOptions(truth_file=Path("truth.txt"), pairing=PairOptions(slop=0), registration=Registration("resize"))
    ways = {"near": ReplayOptions(), "far": ReplayOptions(other, weights=untrained)}
    before = {}
    for name, way in ways.items():
        scores, sequences, _ = evaluate_bags([recording], Path(name), partial(replay_offline, options=way), way)
        before[name] = (scores.mean["mean_iou"], aux_of(sequences["bag"]))
    monkeypatch.chdir(recording)
    compared = run_cli("report", *(tmp_path / name for name in ways), "--output", tmp_path / "both.html")
    assert compared.returncode == 0, compared.stderr
    page = (tmp_path / "both.html").read_text()
    assert "near/ours" in page and f"untrained.safetensors ({sha256_of(untrained)[:8]})" in page
    for name, (mean, pairs) in before.items():
        (score,), sequences = reload([tmp_path / name])
        assert score.mean["mean_iou"] == pytest.approx(mean, abs=1e-4)
        assert aux_of(sequences["bag"]) == pairs
    assert before["near"][0] != before["far"][0] and before["near"][1] != before["far"][1]
    assert read_settings(tmp_path / "far")["bag"] == replace(other, truth_file=tmp_path / "truth.txt")
    settings = tmp_path / "far" / "run.json"
    settings.write_text(settings.read_text().replace('"slop": 0.0', '"slop": "wide"'))
    with pytest.raises(DataError, match="(?s)far/run.json: expected the settings .*slop"):
        reload([tmp_path / "far"])


def test_a_comparison_without_its_bag_names_it(recording, tmp_path):
    shutil.copytree(recording, tmp_path / "bag")
    evaluate_bags([tmp_path / "bag"], tmp_path / "out", replay_offline)
    shutil.rmtree(tmp_path / "bag")
    done = run_cli("report", tmp_path / "out", "--output", tmp_path / "page.html")
    assert done.returncode == 1 and f"{tmp_path}/bag: expected a bag" in done.stderr


def test_a_bag_that_fails_now_has_no_answers_from_before(recording, tmp_path):
    def fails(_):
        raise DataError("broken")

    evaluate_bags([recording], tmp_path, replay_offline)
    evaluate_bags([recording], tmp_path, fails)
    assert not (tmp_path / "results" / "ours" / "bag.txt").exists()


def test_offline_evaluation_needs_no_ros(recording):
    code = "import sys; sys.modules.update(dict.fromkeys(['rclpy', 'sensor_msgs', 'std_msgs']))"
    code += "; from pathlib import Path; from cmdtrack_ros.evaluation.replay import replay_offline as run"
    code += f"; print(len(run(Path({str(recording)!r})).tracks))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 and done.stdout.split()[-1] == str(FRAMES), done.stderr
