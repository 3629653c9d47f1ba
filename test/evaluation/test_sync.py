"""Clocks of real recordings, set wrong by a known amount, are measured, and what is proposed pairs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cmdtrack_ros.data import load_sequence
from cmdtrack_ros.data.bags import BagOptions, WriterOptions, write_bag
from cmdtrack_ros.data.derived import DerivedSequence, Resized
from cmdtrack_ros.data.sequences import ImageSequence
from cmdtrack_ros.errors import DataError
from cmdtrack_ros.evaluation.sync import BagSync, examine_bag, plot, text_lines
from cmdtrack_ros.modalities import Modality
from cmdtrack_ros.streams.pairing import PairOptions
from synthetic import RandomSequence

FRAMES = 60
SEQUENCES = ("rgbt/0117_1605_greyman", "rgbd/mug_flower_437")


class Slower(DerivedSequence):
    """A sequence whose aux camera takes every third frame."""

    def aux(self, index: int) -> np.ndarray | None:
        return super().aux(index) if index % 3 == 1 else None


def recording(shared_data: Path, name: str, rate: float = 30.0) -> ImageSequence:
    return Resized(load_sequence(shared_data / "test" / name), (64, 48), rate, 0, FRAMES)


def examine(sequence: ImageSequence, folder: Path, options: WriterOptions) -> BagSync:
    return examine_bag(write_bag(sequence, folder / "bag", options), BagOptions())


@pytest.mark.parametrize("name", SEQUENCES)
@pytest.mark.parametrize("slower", [False, True], ids=["30 Hz", "10 Hz"])
@pytest.mark.parametrize("clock", [1.0, -1.0, 0.2, -0.2, 36_000.0, -36_000.0])
def test_clocks_apart(shared_data: Path, tmp_path: Path, name: str, slower: bool, clock: float) -> None:
    sequence = recording(shared_data, name)
    found = examine(
        Slower(sequence) if slower else sequence, tmp_path, WriterOptions(aux_clock=clock, aux_jitter=0.002)
    )
    assert found.report.offset == pytest.approx(clock, abs=0.02)
    assert found.proposed.options.aux_offset == pytest.approx(-clock, abs=0.02)
    assert found.proposed.share > 0.98 > found.present.share
    assert {"nothing pairs", "few pairs", "clocks apart"} & set(found.report.findings)
    lines = list(text_lines(found))
    assert f"    aux_offset: {found.proposed.options.aux_offset!r}" in lines
    assert sum("Hz" in line for line in lines) == 2


@pytest.mark.parametrize("name", SEQUENCES)
def test_clocks_that_agree(shared_data: Path, tmp_path: Path, name: str) -> None:
    found = examine(recording(shared_data, name), tmp_path, WriterOptions(aux_jitter=0.002))
    assert found.present.share == found.proposed.share == 1.0 and found.report.findings == {}
    assert found.proposed.options == found.present.options
    assert "no others are proposed" in list(text_lines(found))


@pytest.mark.parametrize("name", SEQUENCES)
@pytest.mark.parametrize("clock", [0.0, 1.0])
def test_jitter_of_50_ms(shared_data: Path, tmp_path: Path, name: str, clock: float) -> None:
    """At 10 Hz, where stamps stay in order."""
    sequence = recording(shared_data, name, rate=10.0)
    found = examine(sequence, tmp_path, WriterOptions(aux_jitter=0.05, aux_clock=clock))
    assert found.report.aux.jitter > 0.02
    assert found.proposed.share > 0.95 and found.present.share < 0.75
    assert found.proposed.options.slop < 0.1 and abs(found.proposed.options.aux_offset + clock) < 0.05


def test_figures_and_plot(tmp_path: Path) -> None:
    found = examine(RandomSequence(count=40), tmp_path, WriterOptions(aux_clock=0.5))
    assert found.topics == ("/rgb/image", "/aux/image")
    assert found.differences == pytest.approx(np.full(40, 0.5)) and found.times[-1] == pytest.approx(39 / 25)
    assert len(found.proposed.gaps) == 40 and np.abs(found.proposed.gaps).max() < 1e-6
    clocks, gaps, histogram = plot(found).axes
    assert [line.get_ydata()[0] for line in clocks.lines[1:]] == [0.0, pytest.approx(0.5)]
    shown = [line.get_ydata() for line in gaps.lines]
    assert [np.isfinite(y).sum() for y in shown] == [round(found.present.share * 40), 40]
    assert sum(patch.get_width() for patch in histogram.patches[len(histogram.patches) // 2 :]) == 40


def test_options_in_force_count(tmp_path: Path) -> None:
    write_bag(RandomSequence(count=40), tmp_path / "bag", WriterOptions(aux_clock=0.5))
    found = examine_bag(tmp_path / "bag", BagOptions(pairing=PairOptions(slop=0.01, aux_offset=-0.5)))
    assert found.present.share == 1.0 and found.report.findings.keys() == {"stamps ahead"}
    assert found.proposed.options == PairOptions(slop=0.01, aux_offset=-0.5)


def test_exact_pairs_that_never_meet_become_nearest_ones(tmp_path: Path) -> None:
    path = write_bag(RandomSequence(count=40), tmp_path / "bag", WriterOptions(aux_offset=0.01))
    found = examine_bag(path, BagOptions(pairing=PairOptions(pairing="exact", slop=0.001)))
    assert found.present.share == 0.0 and found.proposed.share == 1.0
    lines = list(text_lines(found))
    assert "0.0% of the RGB images get an aux image with pairing: exact, aux_offset: 0" in lines
    assert "    pairing: nearest" in lines and f"    slop: {found.report.slop!r}" in lines
    assert 0.01 < found.report.slop < 0.02


def test_exact_pairs_that_meet_stay_so(tmp_path: Path) -> None:
    path = write_bag(RandomSequence(count=40), tmp_path / "bag")
    found = examine_bag(path, BagOptions(pairing=PairOptions(pairing="exact")))
    assert found.present.share == 1.0 and "no others are proposed" in list(text_lines(found))


def test_latest_pairs_go_by_what_was_recorded_before(tmp_path: Path) -> None:
    path = write_bag(RandomSequence(count=40), tmp_path / "bag", WriterOptions(aux_offset=0.01))  # at 25 Hz
    near, far = (
        examine_bag(path, BagOptions(pairing=PairOptions(pairing="latest", latest_gap=gap))) for gap in (0.035, 0.005)
    )
    assert near.present.share == pytest.approx(39 / 40) and far.present.share == 0.0, "the one before is 30 ms older"
    lines = list(text_lines(near))
    assert "97.5% of the RGB images get an aux image with pairing: latest, latest_gap: 0.035, aux_offset: 0" in lines
    assert not any("slop" in line for line in lines) and far.proposed.options.pairing == "latest"


def test_a_bag_with_one_stream_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found no auxiliary topic.*/rgb/image"):
        examine(RandomSequence(Modality.RGB), tmp_path, WriterOptions())
