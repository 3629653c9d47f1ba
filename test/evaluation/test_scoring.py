"""Each benchmark's layout gets its own metrics: the truth echoed scores the ceiling, from files on disk."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from cmdtrack_ros.data import load_sequence
from cmdtrack_ros.data.derived import DerivedSequence
from cmdtrack_ros.evaluation.protocols import Protocol, Run, choose, multi_start, one_pass
from cmdtrack_ros.evaluation.results import write_run
from cmdtrack_ros.evaluation.scoring import Scores, aggregate, score_folder, score_sequence
from cmdtrack_ros.track import Track
from synthetic import FRAMES, make_folder, make_vot

N = 20
BOXES = np.stack([10 + 2.0 * np.arange(N), np.full(N, 12.0), np.full(N, 20.0), np.full(N, 16.0)], 1)


def images(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True)
    for name in names:
        cv2.imwrite(str(folder / name), np.zeros((60, 90, 3), np.uint8))


def rows(file: Path, boxes: np.ndarray, separator: str = ",") -> None:
    np.savetxt(file, boxes, fmt="%g", delimiter=separator)


def lasher(root: Path) -> Path:
    images(root / "visible", [f"v{i:03d}.jpg" for i in range(N)])
    images(root / "infrared", [f"i{i:03d}.jpg" for i in range(N)])
    for name in ("init.txt", "visible.txt", "infrared.txt"):
        rows(root / name, BOXES)
    return root


def rgbt234(root: Path) -> Path:
    images(root / "visible", [f"{i:05d}v.jpg" for i in range(N)])
    images(root / "infrared", [f"{i:05d}i.jpg" for i in range(N)])
    rows(root / "visible.txt", BOXES + [40, 0, 0, 0])
    rows(root / "infrared.txt", BOXES)
    return root


def gtot(root: Path) -> Path:
    images(root / "v", [f"{i:05d}.png" for i in range(N)])
    images(root / "i", [f"{i:05d}.png" for i in range(N)])
    corners = np.concatenate([BOXES[:, :2], BOXES[:, :2] + BOXES[:, 2:]], 1)
    rows(root / "groundTruth_v.txt", corners, " ")
    rows(root / "groundTruth_i.txt", corners + 30, " ")
    return root


def visevent(root: Path) -> Path:
    images(root / "vis_imgs", [f"{i:05d}.bmp" for i in range(N)])
    images(root / "event_imgs", [f"{i:05d}.bmp" for i in range(N)])
    rows(root / "groundtruth.txt", BOXES)
    np.savetxt(root / "absent_label.txt", np.arange(N) < 15, fmt="%d")
    return root


def vtuav(root: Path) -> Path:
    images(root / "rgb", [f"{i:06d}.jpg" for i in range(N)])
    images(root / "ir", [f"{i:06d}.jpg" for i in range(N)])
    for name in ("rgb.txt", "ir.txt"):
        rows(root / name, BOXES[::10], " ")
    return root


@pytest.mark.parametrize(
    "make, expected",
    [
        (lasher, {"sr": 20 / 21, "pr": 1.0, "npr": 1.0}),
        (rgbt234, {"msr": 20 / 21, "mpr": 1.0}),
        (gtot, {"msr": 0.99, "mpr": 1.0}),
        (visevent, {"sr": 0.75 * 20 / 21, "pr": 0.75, "npr": 0.75}),
        (vtuav, {"msr": 20 / 21, "mpr": 1.0}),
    ],
)
def test_echoed_truth_scores_the_ceiling(tmp_path, make, expected):
    sequence = load_sequence(make(tmp_path / "sequence"))
    assert choose(sequence, Protocol.AUTO) is Protocol.OPE
    # RGBT234's and GTOT's second annotation is off: the better of the two counts, whichever was followed.
    run = Run(BOXES.copy(), np.ones(N), np.full(N, 0.02))
    score = score_sequence(sequence, Protocol.OPE, {0: run})
    mean = aggregate("tracker", {"sequence": score}, {}).mean
    for name, value in expected.items():
        assert score.metrics[name] == pytest.approx(value, abs=1e-9), name
        assert mean[name] == pytest.approx(value, abs=1e-9), name
    assert score.metrics["fps"] == pytest.approx(50)
    assert set(score.metrics) == {"mean_iou", "fps", *expected}


def test_gtot_pools_the_frames_of_all_sequences(tmp_path):
    sequence = load_sequence(gtot(tmp_path / "sequence"))
    good = Run(BOXES.copy(), np.ones(N), np.ones(N))
    short = DerivedSequence(load_sequence(gtot(tmp_path / "other")), stop=5)
    lost = Run(BOXES[:5] + 50, np.ones(5), np.ones(5))
    scores = {s.name: score_sequence(s, Protocol.OPE, {0: run}) for s, run in ((sequence, good), (short, lost))}
    mean = aggregate("tracker", scores, {}).mean
    assert mean["mpr"] == pytest.approx(20 / 25), "not the mean of 1 and 0"
    assert mean["msr"] == pytest.approx(0.99 * 20 / 25)


class Still:
    """Answers with the box that it was started on."""

    def init(self, rgb: np.ndarray, aux: np.ndarray, box: np.ndarray) -> Track:
        self.box = box
        return Track(box, 1.0)

    def update(self, rgb: np.ndarray, aux: np.ndarray) -> Track:
        return Track(self.box, 0.5)


def evaluated(sequence) -> tuple[Protocol, Scores]:
    protocol = choose(sequence, Protocol.AUTO)
    multiple = protocol is Protocol.MULTISTART
    runs = dict(multi_start(Still(), sequence)) if multiple else {0: one_pass(Still(), sequence)}
    for run in runs.values():
        run.seconds[:] = 0.01
    return protocol, aggregate("still", {sequence.name: score_sequence(sequence, protocol, runs)}, {})


@pytest.mark.parametrize(
    "make, protocol, telling",
    [
        (rgbt234, Protocol.OPE, "msr"),
        (visevent, Protocol.OPE, "npr"),
        (make_folder, Protocol.LONGTERM, "f"),
        (lambda folder: make_vot(folder, {4: 1, 15: -1}), Protocol.MULTISTART, "eao"),
    ],
    ids=["rgbt234", "visevent", "depthtrack", "vot"],
)
def test_a_derived_sequence_is_evaluated_as_its_source(tmp_path, make, protocol, telling):
    source = load_sequence(make(tmp_path / "sequence"))
    whole, derived = evaluated(source), evaluated(DerivedSequence(source))
    assert whole[0] is derived[0] is protocol
    assert telling in whole[1].mean and whole[1].summary() == derived[1].summary()


def test_longterm_metrics_come_with_the_data_set_and_leave_the_parts_alone(tmp_path):
    sequence = load_sequence(make_folder(tmp_path / "square"))
    confident = np.where(np.arange(FRAMES) < 12, 0.9, 0.1)
    good = Run(sequence.boxes.copy(), confident, np.ones(FRAMES))
    score = score_sequence(sequence, Protocol.LONGTERM, {0: good})
    before = dict(score.metrics)
    scores = aggregate("tracker", {"square": score}, {"other": "broken"})
    assert score.metrics == before and "f" not in before
    assert scores.sequences["square"].metrics["f"] == scores.mean["f"] > 0.9
    assert scores.failures == {"other": "broken"} and set(scores.curves) >= {"success", "f_recall"}


def test_trackers_are_found_wherever_their_folder_is_named_from(tmp_path):
    """The folders of confidences and times beside a tracker's files are no trackers."""
    sequence = load_sequence(make_folder(tmp_path / "square"))
    run = Run(sequence.boxes, np.ones(FRAMES), np.full(FRAMES, 0.01))
    for tracker in ("one", "two"):
        write_run(tmp_path / "out" / "results" / tracker, "square", Protocol.OPE, run)
    for folder, expected in (("out", ["one", "two"]), ("out/results", ["one", "two"]), ("out/results/one", ["one"])):
        scores = score_folder(tmp_path / folder, [(sequence, Protocol.OPE)], {})
        assert [score.tracker for score in scores] == expected and not any(score.failures for score in scores)
