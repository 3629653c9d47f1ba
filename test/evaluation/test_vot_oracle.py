"""VOT's multi-start and DepthTrack's long-term metrics, and our result files, against `vot-toolkit` on a
workspace.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from cmdtrack_ros.data import load_sequence
from cmdtrack_ros.evaluation import metrics as m
from cmdtrack_ros.evaluation import scoring
from cmdtrack_ros.evaluation.protocols import Protocol, Run, anchors
from cmdtrack_ros.evaluation.results import write_run
from cmdtrack_ros.evaluation.scoring import score_results

pytest.importorskip("vot", reason="vot-toolkit, a test-only oracle, is not installed")
WIDTH, HEIGHT = 120, 90
LENGTHS = {"short": 60, "middle": 150, "long": 800}


def make_sequence(folder: Path, length: int, seed: int) -> None:
    """A VOT RGBD sequence of black frames: a box that wanders, partly outside the image, and is absent at
    times.
    """
    rng = np.random.default_rng(seed)
    walk = np.cumsum(rng.normal(0, 2, (length, 2)), axis=0) + [40, 30]
    boxes = np.concatenate([np.clip(walk, -8, [110, 80]), rng.uniform(8, 30, (length, 2))], axis=1)
    boxes[30:38] = np.nan
    turns = np.zeros(length)
    turns[[0, 50]], turns[[length // 2 - 5, length - 1]] = 1, -1
    images = {
        "color": (np.zeros((HEIGHT, WIDTH, 3), np.uint8), "jpg"),
        "depth": (np.zeros((HEIGHT, WIDTH), np.uint16), "png"),
    }
    for name, (image, suffix) in images.items():
        (folder / name).mkdir(parents=True)
        data = cv2.imencode(f".{suffix}", image)[1].tobytes()
        for i in range(1, length + 1):
            (folder / name / f"{i:08d}.{suffix}").write_bytes(data)
    np.savetxt(folder / "groundtruth.txt", boxes, delimiter=",", fmt="%.3f")
    np.savetxt(folder / "anchor.value", turns, fmt="%d")
    (folder / "sequence").write_text(
        f"channels.color=color/%08d.jpg\nchannels.depth=depth/%08d.png\nfps=30\nformat=rgbd\nname={folder.name}\n"
    )


def answers(truth: np.ndarray, character: str, seed: int) -> Run:
    rng = np.random.default_rng(seed)
    # A box stays where the target was when it vanished.
    last = np.maximum.accumulate(np.where(np.isfinite(truth[:, 0]), np.arange(len(truth)), 0))
    boxes = truth[last].copy()
    if character == "noisy":
        boxes += rng.normal(0, 4, boxes.shape)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], 2)
    elif character == "lost_half_way":
        boxes[len(boxes) // 2 :] = [200, 200, 10, 10]
    elif character == "back_again":
        boxes[15:27] += 60
        boxes[boxes[:, 0] > 90] = [1, 1, 5, 5]
    scores = np.round(rng.random(len(boxes)), 6)
    return Run(np.round(boxes, 4), scores, np.full(len(boxes), 0.01))


@pytest.fixture(scope="module")
def sequences(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("vot") / "sequences"
    for seed, (name, length) in enumerate(LENGTHS.items()):
        make_sequence(folder / name, length, seed)
    (folder / "list.txt").write_text("\n".join(LENGTHS) + "\n")
    return folder


def open_workspace(root: Path, stack: str, sequences: Path) -> tuple:
    """The stack's only experiment, tracker ``mine`` (results below ``root``/results) and the sequences, in
    the toolkit.
    """
    from vot.tracker import Registry
    from vot.workspace import Workspace

    Workspace.initialize(str(root), {"stack": stack, "registry": ["."], "sequences": str(sequences)}, download=False)
    (root / "trackers.ini").write_text("[mine]\nlabel=mine\nprotocol=traxpython\ncommand=none\n")
    workspace = Workspace.load(str(root))
    (experiment,) = workspace.stack
    return experiment, Registry([str(root)], root=str(root))["mine"], list(workspace.dataset)


def analyse_multistart(root: Path, sequences: Path) -> tuple[float, float, float, list[float]]:
    """EAO, A, R and the EAO curve; the toolkit's analyses called one by one, without its parallel
    processor.
    """
    experiment, tracker, loaded = open_workspace(root, "vot2022/rgbd", sequences)
    score, curve, average = experiment.analyses
    parts = [curve.curves.subcompute(experiment, tracker, sequence, []) for sequence in loaded]
    (eao_curve,) = curve.aggregate(tracker, loaded, parts)
    parts = [average.analysis.subcompute(experiment, tracker, sequence, []) for sequence in loaded]
    accuracy, robustness, *_ = average.aggregate(tracker, loaded, parts)
    return float(np.mean(eao_curve[score.low : score.high + 1])), accuracy, robustness, eao_curve


def analyse_longterm(root: Path, sequences: Path) -> tuple[tuple[float, float, float], np.ndarray]:
    """(Pr, Re, F) and the curve (k, 2) of recall and precision."""
    experiment, tracker, loaded = open_workspace(root, "vot2021/rgbd", sequences)
    final = experiment.analyses[0]
    curves = final.prcurve.curves
    confidences = curves.thresholds.dependencies()[0]
    pooled = [confidences.subcompute(experiment, tracker, sequence, []) for sequence in loaded]
    thresholds = curves.thresholds.aggregate(tracker, loaded, pooled)
    parts = [curves.subcompute(experiment, tracker, sequence, {(0, 0): thresholds}) for sequence in loaded]
    average = [final.prcurve.aggregate(tracker, loaded, parts)]
    f_curve = final.fcurve.compute(experiment, [tracker], loaded, [average])
    return final.compute(experiment, [tracker], loaded, [average, f_curve])[0, 0], np.array(average[0][0])


@pytest.mark.parametrize("character", ["perfect", "noisy", "lost_half_way", "back_again"])
def test_multistart_agrees_with_vot_toolkit(tmp_path, sequences, character):
    entries = [(load_sequence(sequences / name), Protocol.MULTISTART) for name in LENGTHS]
    for sequence, protocol in entries:
        for anchor, order in anchors(sequence):
            write_run(
                tmp_path / "results" / "mine",
                sequence.name,
                protocol,
                answers(sequence.boxes[order], character, anchor),
                anchor,
            )
    ours = score_results(tmp_path / "results" / "mine", "mine", entries)
    *theirs, curve = analyse_multistart(tmp_path, sequences)
    assert not ours.failures
    figures = [ours.mean[name] for name in ("eao", "accuracy", "robustness")]
    print(character, "EAO A R", figures, "vot-toolkit", theirs)
    assert figures == pytest.approx(theirs, abs=1e-6)
    assert ours.curves["eao"] == pytest.approx(np.array(curve), abs=1e-6)
    if character == "perfect":
        assert ours.mean["robustness"] == 1.0


@pytest.mark.parametrize("character", ["perfect", "noisy", "lost_half_way", "back_again"])
@pytest.mark.parametrize("names", [["short"], ["short", "middle", "long"]])
def test_longterm_agrees_with_vot_toolkit(tmp_path, sequences, monkeypatch, character, names):
    # The toolkit's release compared with counts "no box" on an absent target as overlap 1.
    monkeypatch.setattr(scoring, "EMPTY_OVERLAP", 1.0)
    (tmp_path / "sequences").mkdir()
    for name in names:
        (tmp_path / "sequences" / name).symlink_to(sequences / name)
    (tmp_path / "sequences" / "list.txt").write_text("\n".join(names) + "\n")
    entries = [(load_sequence(sequences / name), Protocol.LONGTERM) for name in names]
    for seed, (sequence, protocol) in enumerate(entries):
        run = answers(sequence.boxes, character, seed)
        run.boxes[33:36] = np.nan
        write_run(tmp_path / "results" / "mine", sequence.name, protocol, run)
    ours = score_results(tmp_path / "results" / "mine", "mine", entries)
    theirs, curve = analyse_longterm(tmp_path, tmp_path / "sequences")
    assert not ours.failures
    figures = [ours.mean[name] for name in ("f_precision", "f_recall", "f")]
    print(character, names, "Pr Re F", figures, "vot-toolkit", theirs)
    assert figures == pytest.approx(list(theirs), abs=1e-6)
    assert np.stack([ours.curves["f_recall"], ours.curves["f_precision"]], 1) == pytest.approx(curve, abs=1e-6)


def test_pixel_overlap_agrees_with_vot_toolkit():
    from vot.region import Special, calculate_overlaps
    from vot.region.shapes import Rectangle

    rng = np.random.default_rng(5)
    boxes, truth = (
        np.concatenate([rng.uniform(-30, 130, (3000, 2)), rng.uniform(0.6, 40, (3000, 2))], 1) for _ in range(2)
    )
    truth[:1500] = boxes[:1500] + rng.normal(0, 3, (1500, 4))
    truth[:, 2:] = np.maximum(truth[:, 2:], 0.6)
    boxes[::17], truth[::29] = np.nan, np.nan
    regions = [[Special(0) if np.isnan(row[0]) else Rectangle(*row) for row in rows] for rows in (boxes, truth)]
    expected = np.array(calculate_overlaps(*regions, (WIDTH, HEIGHT)))
    assert m.pixel_overlap(boxes, truth, WIDTH, HEIGHT, empty=1.0) == pytest.approx(expected, abs=1e-9)
