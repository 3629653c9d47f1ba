"""Every tracker that can be evaluated: names, streams, weights, and what it reaches."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from cmdtrack_ros.data import load_sequence
from cmdtrack_ros.errors import ConfigError, DataError, WeightsError
from cmdtrack_ros.evaluation import protocols, runner, scoring
from cmdtrack_ros.evaluation.baselines import TrackerSpec, inside, make_tracker, parse_spec
from cmdtrack_ros.evaluation.protocols import Protocol
from synthetic import make_folder


@pytest.mark.parametrize("name, at_least", [("csrt", 0.8), ("kcf", 0.7), ("mil", 0.6), ("mosse", 0.1)])
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
        ("nanotrack", "--nanotrack-weights"),
        ("nano@aux", "--tracker ours --weights nano .* --tracker nanotrack is OpenCV's"),
    ):
        with pytest.raises(ConfigError, match=cause):
            parse_spec(text)
    with pytest.raises(WeightsError, match="backbone"):
        parse_spec("nanotrack", nanotrack=Path("/nonexistent"))
    with pytest.raises(WeightsError, match="nonexistent"):
        parse_spec("vit", vit=Path("/nonexistent"))


def test_an_aux_stream_is_needed_for_aux_trackers():
    with pytest.raises(DataError, match="needs an aux stream"):
        make_tracker(TrackerSpec("kcf", "aux"), "rgb")


@pytest.mark.parametrize("box", [[-20, -20, 30, 30], [150, 110, 60, 60], [200, 200, 5, 5], [5, 5, 0.3, 0.3]])
def test_start_boxes_are_cut_to_the_image(box):
    x, y, w, h = inside(np.array(box, float), 160, 120)
    assert x >= 0 and y >= 0 and w >= 2 and h >= 2 and x + w <= 160 and y + h <= 120


def test_nanotrack_reproduces_its_figures_on_real_recordings(shared_data):
    weights = shared_data.parent / "weights" / "nanotrack"
    if not weights.is_dir():
        pytest.skip(f"no NanoTrack weights at {weights}")
    sequence = load_sequence(shared_data / "test" / "rgbt" / "1230_1202_woman")
    for name, expected in (("nanotrack", 0.74), ("nanotrack@aux", 0.82)):
        tracker = make_tracker(parse_spec(name, nanotrack=weights), sequence.modality)
        score = scoring.score_sequence(sequence, Protocol.OPE, {0: protocols.one_pass(tracker, sequence)})
        assert score.metrics["mean_iou"] == pytest.approx(expected, abs=0.01)


def nanotrack_stand_in(folder: Path, name: str, channels: int, cells: int) -> None:
    """An untrained backbone and head with the shapes of a NanoTrack: 48 channels and 16 cells are v2's."""
    torch = pytest.importorskip("torch")
    from torch import nn

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.score, self.box = (nn.Conv2d(channels, n, 17 - cells) for n in (2, 4))

        def forward(self, template: torch.Tensor, search: torch.Tensor) -> tuple[torch.Tensor, ...]:
            joined = search + template.mean((2, 3), keepdim=True)
            return self.score(joined), self.box(joined).abs()

    def export(network: nn.Module, example: tuple, part: str, inputs: list[str], outputs: list[str]) -> None:
        file = str(folder / f"{name}_{part}.onnx")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(network, example, file, dynamo=False, input_names=inputs, output_names=outputs)

    folder.mkdir(exist_ok=True)
    backbone = nn.Conv2d(3, channels, 16, stride=16, padding=8)
    export(backbone, (torch.zeros(1, 3, 255, 255),), "backbone", ["input"], ["output"])
    features = torch.zeros(1, channels, 8, 8), torch.zeros(1, channels, 16, 16)
    export(Head(), features, "head", ["input1", "input2"], ["output1", "output2"])


def test_nanotrack_takes_the_version_that_opencv_runs_and_says_so(tmp_path, caplog):
    nanotrack_stand_in(tmp_path / "both", "v3", 96, 15)
    with pytest.raises(WeightsError, match="for NanoTrack v2, does not run its files: v3_backbone.onnx and v3_head"):
        parse_spec("nanotrack", nanotrack=tmp_path / "both")
    nanotrack_stand_in(tmp_path / "both", "v2", 48, 16)
    spec = parse_spec("nanotrack", nanotrack=tmp_path / "both")
    assert [file.name for file in spec.weights] == ["v2_backbone.onnx", "v2_head.onnx"]
    assert "takes v2_backbone.onnx and v2_head.onnx, not v3_backbone.onnx" in caplog.text
    nanotrack_stand_in(tmp_path / "both", "v1", 48, 16)
    with pytest.raises(ConfigError, match="one version.*v1_backbone.onnx.*v2_backbone.onnx"):
        parse_spec("nanotrack", nanotrack=tmp_path / "both")
    (tmp_path / "damaged").mkdir()
    for part in ("backbone", "head"):
        (tmp_path / "damaged" / f"{part}.onnx").write_bytes(b"not a network")
    with pytest.raises(WeightsError, match="does not run"):
        parse_spec("nanotrack", nanotrack=tmp_path / "damaged")
    (tmp_path / "damaged" / "head.onnx").unlink()
    with pytest.raises(WeightsError, match="expected .*backbone"):
        parse_spec("nanotrack", nanotrack=tmp_path / "damaged")


def test_run_and_page_name_the_files_of_nanotrack(dataset, tmp_path):
    nanotrack_stand_in(tmp_path / "files", "v2", 48, 16)
    spec = parse_spec("nanotrack@rgb", nanotrack=tmp_path / "files")
    (score,), _ = runner.evaluate([dataset / "square0"], [spec], tmp_path / "out", progress=False)
    assert set(score.weights) == {"v2_backbone.onnx", "v2_head.onnx"} and score.failures == {}
    (again,), _ = runner.reload([tmp_path / "out"])
    assert again.weights == score.weights == runner.read_settings(tmp_path / "out")["trackers"]["nanotrack"]


def test_real_nanotrack_files_of_v3_are_refused(shared_data):
    folders = [shared_data.parent / "weights" / name for name in ("nanotrack", "nanotrack-v3")]
    if not all(folder.is_dir() for folder in folders):
        pytest.skip(f"no NanoTrack weights of both versions below {folders[0].parent}")
    spec = parse_spec("nanotrack", nanotrack=folders[0])
    assert [file.name for file in spec.weights] == ["v2_backbone.onnx", "v2_head.onnx"]
    with pytest.raises(WeightsError, match="v3_backbone.onnx and v3_head.onnx"):
        parse_spec("nanotrack", nanotrack=folders[1])
