"""Protocols, runner, result files and command line, with real trackers and processes that are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from synthetic import FRAMES, make_folder, run_cli

from cmdtrack_ros.data import load_sequence
from cmdtrack_ros.errors import ConfigError, DataError, WeightsError
from cmdtrack_ros.evaluation import protocols, results, runner, scoring
from cmdtrack_ros.evaluation.baselines import TrackerSpec, inside, make_tracker, parse_spec
from cmdtrack_ros.evaluation.blackout import COLUMNS, Blackout, middle
from cmdtrack_ros.evaluation.protocols import Protocol, Run


@pytest.fixture
def dataset(tmp_path) -> Path:
    for seed in range(3):
        make_folder(tmp_path / "data" / f"square{seed}", seed)
    return tmp_path / "data"


def boxes_of(output: Path) -> dict[str, bytes]:
    """The files of boxes and confidences; times are never twice the same."""
    # A kill in the middle of a write leaves a hidden part of a file behind.
    files = {str(f.relative_to(output)): f for f in output.glob("results/**/*.txt") if f.name[0] != "."}
    return {name: f.read_bytes() for name, f in files.items() if "/time/" not in name}


# ---- protocols ----


def test_one_pass_starts_at_the_first_visible_frame(tmp_path):
    sequence = load_sequence(make_folder(tmp_path / "late", absent=(0, 1, 2, 10)))
    run = protocols.one_pass(make_tracker(TrackerSpec("csrt", "rgb"), sequence.modality), sequence)
    assert np.isnan(run.boxes[:3]).all() and np.isnan(run.seconds[:3]).all()
    assert run.boxes[3].tolist() == sequence.boxes[3].tolist()
    score = scoring.score_sequence(sequence, Protocol.LONGTERM, {0: run})
    assert score.metrics["mean_iou"] > 0.7
    assert np.isnan(score.overlaps[[0, 1, 2, 10]]).all()
    # The frame that was given counts nothing in the long-term protocol.
    assert score.longterm[0][3] == 0 and score.longterm[2].sum() == FRAMES - 4


def test_multi_start_runs_both_ways(tmp_path):
    folder = make_folder(tmp_path / "vot")
    (folder / "sequence").write_text("channels.color=color/%08d.jpg\nchannels.depth=depth/%08d.png\n")
    turns = np.zeros(FRAMES)
    turns[4], turns[15] = 1, -1
    np.savetxt(folder / "anchor.value", turns)
    sequence = load_sequence(folder)
    assert protocols.choose(sequence, Protocol.AUTO) is Protocol.MULTISTART
    runs = dict(protocols.multi_start(make_tracker(TrackerSpec("csrt", "rgb"), sequence.modality), sequence))
    assert {anchor: len(run) for anchor, run in runs.items()} == {4: FRAMES - 4, 15: 16}
    assert runs[15].boxes[0].tolist() == sequence.boxes[15].tolist()
    assert abs(runs[15].boxes[-1] - sequence.boxes[0]).max() < 6
    score = scoring.score_sequence(sequence, Protocol.MULTISTART, runs)
    assert score.metrics["robustness"] == 1.0 and score.metrics["accuracy"] > 0.6
    turns[[4, 15]] = 0
    np.savetxt(folder / "anchor.value", turns)
    with pytest.raises(DataError, match="needs an anchor"):
        protocols.anchors(load_sequence(folder))


def test_multi_start_without_anchors_is_refused(tmp_path):
    sequence = load_sequence(make_folder(tmp_path / "plain"))
    with pytest.raises(DataError, match="anchor.value"):
        protocols.choose(sequence, Protocol.MULTISTART)


# ---- result files ----


@pytest.mark.parametrize("protocol", [Protocol.OPE, Protocol.LONGTERM])
def test_results_are_read_as_they_were_written(tmp_path, protocol):
    sequence = load_sequence(make_folder(tmp_path / "square", absent=(0, 1)))
    boxes = np.round(np.random.default_rng(0).uniform(1, 90, (FRAMES, 4)), 4)
    boxes[:2], boxes[2] = np.nan, sequence.boxes[2]
    boxes[7] = np.nan
    run = Run(boxes, np.linspace(0, 1, FRAMES).round(6), np.full(FRAMES, 0.01))
    results.write_run(tmp_path / "out", "square", protocol, run)
    again = results.read_run(tmp_path / "out", sequence, protocol)
    np.testing.assert_array_equal(again.boxes, boxes)
    kept = np.arange(FRAMES) != 2 if protocol is Protocol.LONGTERM else slice(None)
    np.testing.assert_array_equal(again.scores[kept], run.scores[kept])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3,4\n" * 5, "expected 24 rows"),
        ("1,2,3\n" * 24, "row 1: expected x,y,w,h"),
        ("a b c d\n" * 24, "row 1"),
    ],
)
def test_damaged_results_are_named(tmp_path, text, message):
    sequence = load_sequence(make_folder(tmp_path / "square"))
    (tmp_path / "square.txt").write_text(text)
    with pytest.raises(DataError, match=message) as error:
        results.read_run(tmp_path, sequence, Protocol.OPE)
    assert "square.txt" in str(error.value)


def test_other_separators_and_surplus_rows_are_read(tmp_path):
    sequence = load_sequence(make_folder(tmp_path / "square"))
    rows = ["\t".join(f"{v:g}" for v in box) for box in sequence.boxes]
    (tmp_path / "square.txt").write_text("\n".join([*rows, "9 9 9 9"]) + "\n")
    run = results.read_run(tmp_path, sequence, Protocol.OPE)
    np.testing.assert_array_equal(run.boxes, sequence.boxes)
    assert np.isnan(run.scores).all() and np.isnan(run.fps)


# ---- runner ----


def test_summary_has_what_it_promises(dataset, tmp_path):
    specs = [parse_spec("csrt"), parse_spec("kcf@aux")]
    scores, _ = runner.evaluate([dataset], specs, tmp_path / "out", jobs=2, progress=False)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["tracker"] == "csrt" and set(summary["trackers"]) == {"csrt", "kcf@aux"}
    assert set(summary["sequences"]) == {"square0", "square1", "square2"}
    for one in summary["sequences"].values():
        assert one["frames"] == FRAMES and one["fps"] > 0 and 0.7 < one["mean_iou"] <= 1
    assert {"mean_iou", "sr", "pr", "npr", "f"} <= set(summary["mean"])
    assert scores[0].mean["mean_iou"] == pytest.approx(
        np.mean([one["mean_iou"] for one in summary["sequences"].values()]), abs=1e-6
    )


def test_finished_sequences_are_not_run_again(dataset, tmp_path):
    output = tmp_path / "out"
    runner.evaluate([dataset], [parse_spec("kcf")], output, progress=False)
    before = {f: f.stat().st_mtime_ns for f in (output / "results").rglob("*.txt")}
    lost = results.run_files(output / "results" / "kcf", "square1", Protocol.LONGTERM)[0]
    content = lost.read_bytes()
    lost.unlink()
    runner.evaluate([dataset], [parse_spec("kcf")], output, progress=False)
    after = {f: f.stat().st_mtime_ns for f in (output / "results").rglob("*.txt")}
    assert lost.read_bytes() == content
    assert {f for f in before if after[f] != before[f]} == {lost}


def test_broken_sequences_are_named_and_the_others_kept(dataset, tmp_path):
    def damage(name: str):
        return make_folder(dataset / name, 9)

    (damage("undecodable") / "color" / "00000010.jpg").write_bytes(b"not an image")
    (damage("gap") / "depth" / "00000010.png").unlink()
    truth = damage("short_truth") / "groundtruth.txt"
    truth.write_text("\n".join(truth.read_text().splitlines()[:-3]) + "\n")
    for image in (damage("empty") / "color").iterdir():
        image.unlink()
    make_folder(dataset / "never_visible", absent=tuple(range(FRAMES)))
    (score,), _ = runner.evaluate([dataset], [parse_spec("kcf")], tmp_path / "out", progress=False)
    assert set(score.sequences) == {"square0", "square1", "square2"}
    causes = {
        "undecodable": "00000010.jpg",
        "gap": "depth",
        "short_truth": "groundtruth.txt",
        "empty": "color",
        "never_visible": "no frame has a ground-truth box",
    }
    assert set(score.failures) == set(causes)
    for name, cause in causes.items():
        assert cause in score.failures[name] and name in score.failures[name]
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["failures"] == score.failures


def test_output_of_other_settings_is_refused(dataset, tmp_path):
    output = tmp_path / "out"
    runner.evaluate([dataset], [parse_spec("mosse")], output, progress=False)
    with pytest.raises(ConfigError, match="another run"):
        runner.evaluate([dataset / "square0"], [parse_spec("mosse")], output, progress=False)
    with pytest.raises(ConfigError, match="protocol"):
        runner.evaluate([dataset], [parse_spec("mosse")], output, protocol=Protocol.OPE, progress=False)
    both, _ = runner.evaluate([dataset], [parse_spec("kcf"), parse_spec("mosse")], output, progress=False)
    assert [score.tracker for score in both] == ["kcf", "mosse"]


def test_sequences_of_one_name_are_refused(tmp_path):
    make_folder(tmp_path / "a" / "square")
    make_folder(tmp_path / "b" / "square")
    with pytest.raises(ConfigError, match="same name"):
        runner.open_dataset([tmp_path / "a", tmp_path / "b"])


def test_a_killed_run_resumes_to_the_same_bytes(tmp_path):
    for seed in range(4):
        make_folder(tmp_path / "data" / f"square{seed}", seed, frames=40)
    tracker = ("--tracker", "csrt", "--tracker", "kcf")
    whole = run_cli(
        "evaluate", tmp_path / "data", *tracker, "--output", tmp_path / "whole", "--protocol", "ope"
    )
    assert whole.returncode == 0, whole.stderr
    command = [sys.executable, "-m", "cmdtrack_ros.cli", "evaluate", str(tmp_path / "data"), *tracker]
    command += ["--output", str(tmp_path / "killed"), "--protocol", "ope"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "killed").glob("results/*/*.txt"))) < 2:
        assert time.monotonic() < deadline and process.poll() is None, (
            "the run ended before it could be killed"
        )
        time.sleep(0.02)
    # The parent alone, as the kernel does when memory runs out; its workers must follow it.
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {f: f.stat().st_mtime_ns for f in (tmp_path / "killed").glob("results/*/*.txt")}
    while _members(process.pid):
        assert time.monotonic() < deadline, "workers outlive their killed parent"
        time.sleep(0.05)
    done |= {f: f.stat().st_mtime_ns for f in (tmp_path / "killed").glob("results/*/*.txt")}
    assert 2 <= len(done) < 8
    assert subprocess.run(command, capture_output=True, timeout=300).returncode == 0
    assert boxes_of(tmp_path / "killed") == boxes_of(tmp_path / "whole")
    assert {f: f.stat().st_mtime_ns for f in done} == done


def _members(session: int) -> list[int]:
    """Processes that are alive in the session; zombies do not count."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


# ---- baselines ----


@pytest.mark.parametrize(("name", "at_least"), [("csrt", 0.8), ("kcf", 0.7), ("mil", 0.6), ("mosse", 0.1)])
def test_opencv_trackers_follow_a_square(tmp_path, name, at_least):
    sequence = load_sequence(make_folder(tmp_path / "square"))
    for stream in ("rgb", "aux"):
        tracker = make_tracker(TrackerSpec(name, stream), sequence.modality)
        score = scoring.score_sequence(sequence, Protocol.OPE, {0: protocols.one_pass(tracker, sequence)})
        # A plain square in depth has no texture for correlation filters: only that it runs is asked there.
        assert score.metrics["mean_iou"] > (at_least if stream == "rgb" else 0.0)


def test_a_tracker_can_be_started_again(tmp_path):
    sequence = load_sequence(make_folder(tmp_path / "square"))
    tracker = make_tracker(TrackerSpec("csrt", "aux"), sequence.modality)
    first, second = (protocols.one_pass(tracker, sequence) for _ in range(2))
    np.testing.assert_array_equal(first.boxes, second.boxes)


def test_specs():
    assert [parse_spec(text).label for text in ("ours", "ours@aux", "kcf", "kcf@rgb", "mil@aux")] == [
        "ours", "ours@aux", "kcf", "kcf", "mil@aux"
    ]  # fmt: skip
    for text, cause in (
        ("sift", "expected one of"),
        ("kcf@depth", "stream"),
        ("kcf@both", "stream"),
        ("nano", "--nano"),
    ):
        with pytest.raises(ConfigError, match=cause):
            parse_spec(text)
    with pytest.raises(WeightsError, match="backbone"):
        parse_spec("nano", nano=Path("/nonexistent"))
    with pytest.raises(WeightsError, match="nonexistent"):
        parse_spec("vit", vit=Path("/nonexistent"))


def test_second_stream_is_needed_for_aux_trackers():
    with pytest.raises(DataError, match="second stream"):
        make_tracker(TrackerSpec("kcf", "aux"), "rgb")


@pytest.mark.parametrize("box", [[-20, -20, 30, 30], [150, 110, 60, 60], [200, 200, 5, 5], [5, 5, 0.3, 0.3]])
def test_start_boxes_are_cut_to_the_image(box):
    x, y, w, h = inside(np.array(box, float), 160, 120)
    assert 0 <= x and 0 <= y and w >= 2 and h >= 2 and x + w <= 160 and y + h <= 120


def test_nano_reproduces_its_figures_on_real_recordings(shared_data, tmp_path):
    weights = shared_data.parent / "weights" / "nanotrack"
    if not weights.is_dir():
        pytest.skip(f"no NanoTrack weights at {weights}")
    sequence = load_sequence(shared_data / "test" / "rgbt" / "1230_1202_woman")
    for name, expected in (("nano", 0.74), ("nano@aux", 0.82)):
        tracker = make_tracker(parse_spec(name, nano=weights), sequence.modality)
        score = scoring.score_sequence(sequence, Protocol.OPE, {0: protocols.one_pass(tracker, sequence)})
        assert score.metrics["mean_iou"] == pytest.approx(expected, abs=0.01)


# ---- command line ----


def test_evaluate_score_and_report_from_the_command_line(dataset, tmp_path):
    output = tmp_path / "out"
    done = run_cli("evaluate", dataset, "--tracker", "kcf", "--output", output)
    assert done.returncode == 0, done.stderr
    assert "mean_iou" in done.stdout and (output / "report.html").is_file()
    scored = run_cli("score", output, dataset, "--output", tmp_path / "scored")
    assert scored.returncode == 0, scored.stderr
    first, second = (json.loads((f / "summary.json").read_text()) for f in (output, tmp_path / "scored"))
    assert first["sequences"] == second["sequences"]
    compared = run_cli("report", output, tmp_path / "out", "--output", tmp_path / "both.html")
    assert compared.returncode == 0 and "out/kcf" in (tmp_path / "both.html").read_text()


def test_blackout_compares_with_what_the_other_stream_reaches_alone(dataset, tmp_path):
    pytest.importorskip("torch")
    file = tmp_path / "blackout.json"
    done = run_cli("blackout", dataset / "square0", "--output", file)
    assert done.returncode == 0, done.stderr
    runs = json.loads(file.read_text())
    assert set(runs) == {"square0", "mean"} and set(runs["mean"]) == set(COLUMNS)
    assert "RGB black" in done.stdout and f"{runs['mean']['both']:.3f}" in done.stdout
    whole = load_sequence(dataset / "square0")
    dark = Blackout(whole, "aux", middle(whole))
    assert dark.aux(FRAMES // 2 - 1).any() and not dark.aux(FRAMES // 2).any()
    assert dark.aux(0).dtype == np.uint16 and dark.rgb(FRAMES - 1).any()


def test_blackout_needs_two_streams(tmp_path):
    (tmp_path / "rgb" / "img").mkdir(parents=True)
    for i in range(4):
        cv2.imwrite(str(tmp_path / "rgb" / "img" / f"{i + 1:04d}.jpg"), np.zeros((40, 40, 3), np.uint8))
    (tmp_path / "rgb" / "groundtruth_rect.txt").write_text("1,1,20,20\n" * 4)
    failed = run_cli("blackout", tmp_path / "rgb", "--output", tmp_path / "b.json")
    assert failed.returncode == 1 and "two streams" in failed.stderr and "Traceback" not in failed.stderr


def test_command_line_names_what_is_wrong(dataset, tmp_path):
    make_folder(dataset / "bad", 5)
    (dataset / "bad" / "color" / "00000003.jpg").write_bytes(b"")
    done = run_cli("evaluate", dataset, "--tracker", "mosse", "--output", tmp_path / "out")
    assert done.returncode == 1
    assert "FAILED mosse on bad" in done.stderr and "00000003.jpg" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(json.loads((tmp_path / "out" / "summary.json").read_text())["sequences"]) == 3
    for arguments, cause in (
        (("evaluate", tmp_path / "nowhere", "--output", tmp_path / "o"), "nowhere"),
        (("score", tmp_path, dataset), "no result file"),
        (("report", dataset, "--output", tmp_path / "r.html"), "run.json"),
    ):
        failed = run_cli(*arguments)
        assert failed.returncode == 1 and cause in failed.stderr and "Traceback" not in failed.stderr


def test_our_tracker_is_evaluated_on_each_stream(dataset, tmp_path):
    pytest.importorskip("torch")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    trackers = [part for name in ("ours", "ours@aux") for part in ("--tracker", name)]
    done = run_cli("evaluate", dataset / "square0", *trackers, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    answered = {name: len(one["sequences"]) for name, one in summary["trackers"].items()}
    assert answered == {"ours": 1, "ours@aux": 1}
    settings = json.loads((tmp_path / "out" / "run.json").read_text())
    assert all(settings["trackers"].values()), "the weights' hash is part of the settings"
