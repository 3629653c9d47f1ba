"""What speaks for a box, on responses made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from cmdtrack_ros.models.confidence import EVIDENCE
from cmdtrack_ros.tracking.engines.contract import Response
from cmdtrack_ros.tracking.evidence import Evidence


def response(*peaks, floor=0.001, size=0.25, cells=16):
    """Peaks (row, column, score), each with two weaker cells beside it; boxes of one size, at their own peak."""
    score = np.full((cells, cells), floor, np.float32)
    box = np.full((4, cells, cells), size, np.float32)
    middle = (np.arange(cells, dtype=np.float32) + 0.5) / cells
    box[0], box[1] = middle[None], middle[:, None]
    for row, column, height in peaks:
        for aside in (-1, 0, 1):
            score[row, column + aside] = height * (1 if aside == 0 else 0.6)
            box[0, row, column + aside] = middle[column]
    return Response(score, box, np.ones((1, cells, cells), np.float32))


def evidence_of(answer, row=8, column=8):
    return dict(zip(EVIDENCE, Evidence().of(answer, row, column)))


def test_a_single_sharp_peak_speaks_for_the_box():
    sharp, flat = evidence_of(response((8, 8, 0.6))), evidence_of(response((8, 8, 0.6), floor=0.1))
    assert sharp["mass"] > flat["mass"] and sharp["response"] == flat["response"] == pytest.approx(
        np.log(1.5), abs=1e-5
    )
    assert sharp["spread"] == pytest.approx(0, abs=1e-6) and sharp["cells"] == pytest.approx(np.log(3))


def test_a_rival_counts_beyond_the_box_alone():
    alone = evidence_of(response((8, 8, 0.6)))["rival"]
    assert evidence_of(response((8, 8, 0.6), (10, 8, 0.5)))["rival"] == pytest.approx(alone), "within the box"
    far = response((8, 8, 0.6), (2, 3, 0.5))
    assert evidence_of(far)["rival"] == pytest.approx(np.log(0.52 / 0.62), abs=1e-3)
    assert evidence_of(far, 2, 3)["rival"] > 0, "the chosen cell need not be the highest"


def test_boxes_that_disagree_are_spread():
    torn = response((8, 8, 0.6))
    torn.box[0, 8, 7] += 0.1
    torn.box[2, 8, 9] *= 2
    found = evidence_of(torn)
    assert found["spread"] > 0.05 and found["size_spread"] > 0.1


def test_recent_frames_are_averaged_and_agreement_is_kept():
    evidence = Evidence()
    evidence.of(response((8, 8, 0.6)), 8, 8)
    evidence.agreement = 0.3
    after = dict(zip(EVIDENCE, evidence.of(response((8, 8, 0.05)), 8, 8)))
    assert after["response"] < after["recent_response"] < np.log(1.5) and after["agreement"] == 0.3


@pytest.mark.parametrize("floor", [0.0, 1.0])
def test_empty_and_full_responses_give_finite_numbers(floor):
    assert np.isfinite(Evidence().of(response(floor=floor), 0, 15)).all()
