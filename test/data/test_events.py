"""The simulated event camera follows its formula and is the same every time."""

from __future__ import annotations

import tracemalloc
from unittest.mock import Mock

import numpy as np
import pytest

from cmdtrack_ros.data import events
from cmdtrack_ros.data.events import DARK, EventSequence, event_counts, simulate_events
from cmdtrack_ros.data.sequences import ImageSequence
from cmdtrack_ros.errors import DataError, ImageError
from cmdtrack_ros.modalities import AuxEncoder, Modality


class Moving(ImageSequence):
    """A bright square that moves one pixel a frame."""

    def __init__(self, count: int = 6) -> None:
        super().__init__("moving", Modality.RGB, np.full((count, 4), np.nan), np.arange(count) / 30)

    def rgb(self, index: int) -> np.ndarray:
        image = np.full((48, 64, 3), 40, np.uint8)
        image[10:30, 10 + index : 30 + index] = 200
        return image

    def aux(self, index: int) -> None:
        return None


def test_counts_follow_the_formula() -> None:
    before, after = np.full((4, 4), 60, np.uint8), np.full((4, 4), 120, np.uint8)

    def log_intensity(value: int) -> float:
        return np.log((value / 255) ** 2.2 + DARK)

    expected = int(abs(log_intensity(120) - log_intensity(60)) / 0.2)
    assert expected >= 2
    assert (event_counts(before, after, threshold=0.2) == expected).all()
    assert (event_counts(after, before, threshold=0.2) == -expected).all()
    assert (event_counts(before, before, threshold=0.2) == 0).all()


def test_edges_of_a_moving_square_have_opposite_polarity() -> None:
    scene = Moving()
    picture = simulate_events(scene.rgb(0), scene.rgb(1))
    assert picture.shape == (48, 64, 3) and picture.dtype == np.uint8
    assert (picture[10:30, 30] == (255, 0, 0)).all()  # the front gets brighter: red
    assert (picture[10:30, 10] == (0, 0, 255)).all()  # behind it gets darker: blue
    assert ((picture != 255).any(axis=2).sum()) == 40  # and nothing else happened


def test_deterministic_noise_and_threshold() -> None:
    still = Moving().rgb(0)
    noise = [event_counts(still, still, noise_rate=0.01, rng=np.random.default_rng(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(noise[0], noise[1])
    assert (noise[0] != noise[2]).any()
    rng = np.random.default_rng(0)
    share = np.mean([(event_counts(still, still, noise_rate=0.01, rng=rng) != 0).mean() for _ in range(20)])
    assert 0.007 < share < 0.013
    ramp = np.tile(np.arange(64, dtype=np.uint8) * 3, (48, 1))
    brighter = np.minimum(ramp.astype(int) + 15, 255).astype(np.uint8)
    counts = [np.count_nonzero(event_counts(ramp, brighter, threshold=t)) for t in (0.05, 0.15, 0.3)]
    assert counts[0] > counts[1] > counts[2] > 0
    spread = event_counts(ramp, brighter, threshold=0.15, threshold_spread=0.05, noise_rate=0, rng=rng)
    assert len(np.unique(spread[:, 20])) > 1  # equal pixels answer differently


def test_different_sizes_are_refused() -> None:
    with pytest.raises(ImageError, match=r"\(4, 4\).*\(4, 5\)"):
        simulate_events(np.zeros((4, 4), np.uint8), np.zeros((4, 5), np.uint8))


def test_sequence_with_simulated_events() -> None:
    sequence = EventSequence(Moving(), seed=3)
    assert sequence.modality is Modality.EVENT
    backwards = [sequence.aux(i) for i in reversed(range(len(sequence)))][::-1]
    for i, picture in enumerate(backwards):
        np.testing.assert_array_equal(sequence.frame(i).aux, picture)
        np.testing.assert_array_equal(sequence.frame(i).rgb, Moving().rgb(i))
        assert AuxEncoder("event")(picture).shape == (48, 64, 3)
    moving = [(p != 255).any(axis=2).sum() for p in backwards]
    assert moving[0] < 15 and min(moving[1:]) >= 35  # the first frame has none before it


def test_cheap_enough_for_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes it faster than the formula written out: one draw a pixel, logarithms by table, nothing in doubles."""
    rng = Mock(wraps=np.random.default_rng(0))
    frames = np.random.default_rng(0).integers(0, 255, (2, 240, 320, 3), np.uint8)
    simulate_events(*frames, rng=rng)
    assert [name for name, *_ in rng.method_calls] == ["integers"], "drawing is most of the time"

    tracemalloc.start()
    try:
        simulate_events(*frames, rng=rng)
        bytes_per_pixel = tracemalloc.get_traced_memory()[1] / (240 * 320)
    finally:
        tracemalloc.stop()
    assert bytes_per_pixel < 20, "17; with a table of doubles 25, written out in doubles 33"

    monkeypatch.setattr(events, "_LOG", np.zeros_like(events._LOG))
    assert not event_counts(*frames).any(), "of the table alone"


def test_events_need_rgb_images() -> None:
    colourless = Moving()
    colourless.rgb = lambda index: None
    with pytest.raises(DataError, match="moving: events are simulated from RGB images, frame 0 has none"):
        EventSequence(colourless)
