"""Sequences made of others carry all that is known of their source."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import numpy as np
import pytest

from cmdtrack_ros.data import EventSequence, ImageSequence
from cmdtrack_ros.data.derived import Blackout, DerivedSequence
from cmdtrack_ros.modalities import Modality

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
