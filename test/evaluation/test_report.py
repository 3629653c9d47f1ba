"""The report: what it shows, that it stands alone, and that it is the same for the same scores."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from cmdtrack_ros.data import load_sequence
from cmdtrack_ros.evaluation import report
from cmdtrack_ros.evaluation.protocols import Protocol, Run
from cmdtrack_ros.evaluation.report import Failure, failures, write_report
from cmdtrack_ros.evaluation.scoring import Scores, aggregate, score_sequence
from cmdtrack_ros.modalities import AuxEncoder
from cmdtrack_ros.track import percentiles_ms
from synthetic import FRAMES, SIZE, make_folder

VOID = {"meta", "img", "br", "link"}


class Checker(HTMLParser):
    """Finds tags that are not closed, and everything that a browser would have to fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.fetched += [v for k, v in attrs if k in ("src", "href", "xlink:href") and not v.startswith(("data:", "#"))]

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> does not close the tag before it"


def scores_of(sequences, tracker: str, shift: float, failed: dict[str, str]) -> Scores:
    scored = {}
    for sequence in sequences:
        boxes = sequence.boxes + [shift, 0, 0, 0]
        if sequence.name == "square1":
            boxes[8:] = [1, 1, 5, 5]
        run = Run(boxes, np.linspace(0.5, 1, FRAMES), np.full(FRAMES, 0.01))
        scored[sequence.name] = score_sequence(sequence, Protocol.LONGTERM, {0: run})
    return aggregate(tracker, scored, failed)


@pytest.fixture
def page(tmp_path):
    sequences = [load_sequence(make_folder(tmp_path / f"square{i}", i)) for i in range(6)]
    scores = [
        scores_of(sequences, "first", 2, {"broken": "00000010.jpg: <does not decode>"}),
        scores_of(sequences[:5], "second", 9, {}),
    ]

    def write(name: str = "report.html") -> str:
        write_report(tmp_path / name, scores, {s.name: s for s in sequences}, "A <title>")
        return (tmp_path / name).read_text()

    return write


def test_page_is_whole_and_stands_alone(page):
    checker = Checker()
    text = page()
    checker.feed(text)
    assert checker.open == [] and checker.fetched == []
    assert "url(" not in text.replace("url(#", "") and "@import" not in text


def test_page_shows_scores_frames_and_failures(page):
    text = page()
    assert "A &lt;title&gt;" in text and "&lt;does not decode&gt;" in text
    assert text.count("<svg") == 4 + 4, "three curves, the Pr-Re curve, one overlap curve for each shown sequence"
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
    assert len(pictures) == 4 * 8 * 2, "four sequences, eight frames, two streams"
    image = cv2.imdecode(np.frombuffer(base64.b64decode(pictures[0]), np.uint8), cv2.IMREAD_COLOR)
    assert image.shape[0] == 200
    assert "6 of 6" in text and "1 of 6" in text
    assert f"8 to {FRAMES - 1}" in text, "the stretch in which square1 was lost"
    for tracker in ("first", "second"):
        assert f"All metrics of {tracker}" in text


def test_same_scores_give_the_same_page(page):
    assert page("one.html") == page("two.html")


def test_failures_are_long_stretches_of_labelled_frames():
    overlaps = np.full(60, 0.7)
    overlaps[5:14] = 0.0
    assert failures(overlaps) == []
    overlaps[20:32] = 0.1
    overlaps[24:26] = np.nan
    assert failures(overlaps) == [Failure(20, 31, True)]
    overlaps[45:] = 0.0
    assert failures(overlaps)[1] == Failure(45, 59, False)


def test_strips_show_the_aux_image_as_the_tracker_saw_it(tmp_path, monkeypatch):
    """Depth that falls away: its range follows the stream, from the frame on which the tracker was started."""
    folder = make_folder(tmp_path / "square", absent=(0, 1, 2))
    for i in range(FRAMES):
        cv2.imwrite(str(folder / "depth" / f"{i + 1:08d}.png"), np.full(SIZE, 1000 + 200 * i, np.uint16))
    sequence = load_sequence(folder)
    scores = scores_of([sequence], "first", 2, {})
    encoder = AuxEncoder("depth")
    expected = {index: encoder(sequence.aux(index)) for index in range(3, FRAMES)}
    shown = []
    monkeypatch.setattr(report, "_jpeg", lambda picture, boxes: shown.append(picture) or "")
    write_report(tmp_path / "report.html", [scores], {"square": sequence}, "title")
    strip = np.linspace(3, FRAMES - 1, 8).round().astype(int)
    assert len(shown) == 2 * len(strip)
    for index, picture in zip(strip, shown[1::2]):
        np.testing.assert_array_equal(picture, expected[index])


def test_page_names_the_files_of_a_tracker(tmp_path):
    sequence = load_sequence(make_folder(tmp_path / "square"))
    scores = replace(scores_of([sequence], "nanotrack", 2, {}), weights={"v2_head.onnx": "0123456789abcdef"})
    write_report(tmp_path / "report.html", [scores], {"square": sequence}, "title")
    assert "Weights of nanotrack: v2_head.onnx (01234567)." in (tmp_path / "report.html").read_text()


def test_page_shows_pairing_and_times_of_recordings(tmp_path):
    sequence = load_sequence(make_folder(tmp_path / "square"))
    statistics = {
        "frames": FRAMES,
        "answered": 20,
        "pairing": {"paired": 18, "unpaired": 6},
        "gap_ms": percentiles_ms([0.009]),
        "processing_ms": percentiles_ms([0.0311, 0.0311]),
        "latency_ms": percentiles_ms([]),
        "times_real_time": 1.25,
    }
    write_report(
        tmp_path / "report.html",
        [scores_of([sequence], "first", 2, {})],
        {"square": sequence},
        "title",
        {"bag": statistics},
    )
    text = (tmp_path / "report.html").read_text()
    assert "9.0 / 9.0 / 9.0" in text and "31.1 / 31.1 / 31.1" in text and "1.25" in text
