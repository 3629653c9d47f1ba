"""Sequences made of others carry all that is known of their source."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import numpy as np
import pytest

from cmdtrack_ros.data import EventSequence, ImageSequence
from cmdtrack_ros.data.derived import (
    Beside,
    Blackout,
    Bounced,
    Covered,
    DerivedSequence,
    DrawnAux,
    Leaving,
    Mirrored,
    OneStream,
)
from cmdtrack_ros.errors import DataError
from cmdtrack_ros.modalities import Modality
from synthetic import Drawn

COUNT = 8


class Numbered(ImageSequence):
    """Every field given, none at its default; images show their number."""

    def rgb(self, index: int) -> np.ndarray:
        return np.full((6, 8, 3), 10 + index, np.uint8)

    def aux(self, index: int) -> np.ndarray:
        return np.full((6, 8), 110 + index, np.uint8)


def field_values() -> dict[str, object]:
    """A value for every argument of ImageSequence; a new one is covered as soon as it is there."""
    values: dict[str, object] = {
        "name": "source",
        "modality": Modality.DEPTH,
        "stamps": np.arange(COUNT) / 10,
        "labelled": np.arange(COUNT) % 2 == 0,
        "anchors": np.arange(COUNT) - 3.0,
    }
    by_type = {"str": "a word", "np.ndarray": np.random.default_rng(0).uniform(1, 9, (COUNT, 4))}
    for name, parameter in inspect.signature(ImageSequence).parameters.items():
        if name not in values:
            values[name] = by_type[parameter.annotation.removesuffix(" | None")]
    return values


@pytest.mark.parametrize(
    "derive, part, modality",
    [
        (DerivedSequence, slice(None), Modality.DEPTH),
        (lambda source: DerivedSequence(source, 2, 6), slice(2, 6), Modality.DEPTH),
        (lambda source: DerivedSequence(DerivedSequence(source, 1), 1, 5), slice(2, 6), Modality.DEPTH),
        (lambda source: Blackout(source, "aux", 3), slice(None), Modality.DEPTH),
        (EventSequence, slice(None), Modality.EVENT),
    ],
    ids=["whole", "part", "part of a part", "blackout", "events"],
)
def test_every_field_survives(
    derive: Callable[[ImageSequence], ImageSequence], part: slice, modality: Modality
) -> None:
    source = Numbered(**field_values())
    derived = derive(source)
    for name, value in vars(source).items():
        expected = {"modality": modality}.get(name, value[part] if isinstance(value, np.ndarray) else value)
        np.testing.assert_array_equal(getattr(derived, name), expected, err_msg=name)
    numbers = range(COUNT)[part]
    assert [int(derived.rgb(i)[0, 0, 0]) for i in range(len(derived))] == [10 + n for n in numbers]
    if modality is Modality.DEPTH:
        black = isinstance(derived, Blackout)
        shown = [0 if black and n >= 3 else 110 + n for n in numbers]
        assert [int(derived.aux(i)[0, 0]) for i in range(len(derived))] == shown


@pytest.mark.parametrize("black, other", [("rgb", "aux"), ("aux", "rgb")])
def test_blackout_leaves_the_other_stream(black: str, other: str) -> None:
    source = Numbered(**field_values())
    dark = Blackout(source, black, 3)
    for index in range(COUNT):
        image = getattr(dark, black)(index)
        assert image.any() == (index < 3)
        assert image.shape == getattr(source, black)(index).shape
        np.testing.assert_array_equal(getattr(dark, other)(index), getattr(source, other)(index))


class Crossing(ImageSequence):
    """A bright block on a dim ramp, in both streams, 40 frames: it goes from left to right in the lower half."""

    def __init__(self, modality: Modality = Modality.THERMAL) -> None:
        boxes = np.array([[20.0 + i, 70, 16, 12] for i in range(40)])
        super().__init__("crossing", modality, boxes, np.arange(40) / 10)

    def aux(self, index: int) -> np.ndarray:
        image = np.tile(np.arange(160, dtype=np.uint8) // 4, (120, 1))
        x, y, w, h = self.boxes[index].astype(int)
        image[y : y + h, x : x + w] = 200
        return image

    def rgb(self, index: int) -> np.ndarray:
        return np.repeat(self.aux(index)[..., None], 3, 2)


def test_bounced_goes_to_and_fro() -> None:
    bounced = Bounced(Crossing(), 90)
    assert len(bounced) == 90 and len(Bounced(Crossing(), 10)) == 40
    places = bounced.boxes[:, 0] - 20
    assert places[38:42].tolist() == [38, 39, 38, 37] and places[77:80].tolist() == [1, 0, 1]
    for index in (0, 39, 45, 89):
        x, y = bounced.boxes[index, :2].astype(int)
        assert bounced.rgb(index)[y, x, 0] == 200 and bounced.aux(index)[y, x] == 200
    assert (np.diff(bounced.stamps) > 0).all()


def test_covered_target_is_nowhere_to_be_seen() -> None:
    covered = Covered(Crossing(), 10, 20)
    hidden = ~np.isfinite(covered.boxes).all(1)
    assert np.flatnonzero(hidden).tolist() == list(range(10, 20))
    for index in range(40):
        for image in (covered.rgb(index), covered.aux(index)):
            assert (image.max() < 200) == hidden[index], "a bright pixel is the target"


def test_leaving_target_is_out_of_the_window_and_returns() -> None:
    leaving = Leaving(Crossing(), 15, 25)
    seen = np.isfinite(leaving.boxes).all(1)
    assert seen[:7].all() and not seen[15:25].any() and seen[-7:].all()
    shapes = {leaving.rgb(index).shape for index in range(40)} | {(*leaving.aux(0).shape, 3)}
    assert len(shapes) == 1, "one size of image"
    for index in range(40):
        image = leaving.aux(index)
        if seen[index]:
            x, y, w, h = leaving.boxes[index]
            assert image[int(y + h / 2), int(x + w / 2)] == 200
        elif 15 <= index < 25:
            assert image.max() < 200


def test_leaving_needs_room() -> None:
    large = Crossing()
    large.boxes = np.tile([5.0, 5, 150, 110], (40, 1))
    with pytest.raises(DataError, match="no room"):
        Leaving(large, 15, 25)


def test_drawn_target_is_near_or_warm_where_the_true_box_is() -> None:
    depth, thermal = (DrawnAux(Drawn(), modality) for modality in (Modality.DEPTH, Modality.THERMAL))
    x, y, w, h = Drawn().places[3]
    for sequence, target, wall in ((depth, 900, 2600), (thermal, 30700, 29500)):
        image = sequence.aux(3)
        inside = image[y + h // 4 : y + 3 * h // 4, x + w // 4 : x + 3 * w // 4]
        assert sequence.modality in (Modality.DEPTH, Modality.THERMAL) and image.dtype == np.uint16
        assert abs(np.median(inside) - target) < 10 and abs(np.median(image) - wall) < 10
        assert (sequence.aux(3) == image).all() and (sequence.aux(2) != image).any()
    far = Drawn()
    far.boxes[3, 2:] /= 2  # half as large, twice as far
    x, y, w, h = far.boxes[3].astype(int)
    assert abs(float(np.median(DrawnAux(far, Modality.DEPTH).aux(3)[y + 2 : y + h - 2, x + 4 : x + w - 4])) - 1800) < 20
    with pytest.raises(DataError, match="event images cannot be drawn"):
        DrawnAux(Drawn(), Modality.EVENT)


def test_mirror_and_pictures_side_by_side_take_the_true_boxes_along() -> None:
    """The block is bright: where it is, boxes must be."""
    mirrored = Mirrored(Drawn())
    beside = Beside(OneStream(Drawn(7), "rgb"), mirrored)
    assert (len(beside), beside.modality, beside.aux(0)) == (6, Modality.RGB, None)

    def lit(image: np.ndarray) -> list[int]:
        rows, columns = np.nonzero(image[..., 0] > 100)
        return [columns.min(), rows.min(), columns.max() + 1 - columns.min(), rows.max() + 1 - rows.min()]

    assert lit(mirrored.rgb(4)) == mirrored.boxes[4].tolist() != Drawn().boxes[4].tolist()
    picture, width = beside.rgb(4), 128
    assert picture.shape == (96, 2 * width, 3)
    assert lit(picture[:, :width]) == beside.boxes[4].tolist()
    assert lit(picture[:, width:]) == (beside.right_boxes[4] - [width, 0, 0, 0]).tolist()
