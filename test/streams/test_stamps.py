"""Stamps that lie: single ones, and streams of them. Nothing else is lost, and pairs go forward in time."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from cmdtrack_ros.streams.pairing import NearestPairer, Pair, PairOptions

MS = 1_000_000
STEP = 33 * MS
START = 1_700_000_000_000_000_000
GARBAGE = {
    "zero": 0,
    "minus one second": -1_000_000_000,
    "end of int32": (2**31 - 1) * 10**9,
    "an hour ahead": START + 3_600 * 10**9,
    "an hour behind": START - 3_600 * 10**9,
}


def arrivals(rgb: list[int], aux: list[int], step: int = STEP) -> list[tuple[int, str, int, int]]:
    """(clock, stream, stamp, number) of two streams that come side by side, aux 5 ms after RGB."""
    images = [(i * step, "rgb", stamp, i) for i, stamp in enumerate(rgb)]
    return sorted(images + [(i * step + 5 * MS, "aux", stamp, i) for i, stamp in enumerate(aux)])


def play(pairer: NearestPairer, images: list[tuple[int, str, int, int]], clock: bool = True) -> list[Pair]:
    """Items are numbers. The clock differs from the stamps, as a monotonic one does."""
    pairs: list[Pair] = []
    for now, stream, stamp, number in images:
        if clock:
            pairs += pairer.flush(now)
        add = pairer.add_rgb if stream == "rgb" else pairer.add_aux
        pairs += add(stamp, number, now if clock else None)
    return pairs + pairer.flush()


def numbers(pairs: list[Pair]) -> list[tuple[int | None, int | None]]:
    return [(pair.rgb, pair.aux) for pair in pairs]


def assert_goes_forward(pairs: list[Pair]) -> None:
    for before, after in pairwise(pairs):
        assert after.restarted or after.stamp > before.stamp


@pytest.mark.parametrize("clock", [True, False], ids=["by a clock", "by stamps"])
@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
@pytest.mark.parametrize("stream", ["rgb", "aux"])
def test_one_garbage_stamp_costs_one_image(stream: str, garbage: int, clock: bool) -> None:
    good = [START + i * STEP for i in range(40)]
    bad = [*good[:20], garbage, *good[21:]]
    pairer = NearestPairer()
    pairs = play(pairer, arrivals(*((bad, good) if stream == "rgb" else (good, bad))), clock)
    expected: list[tuple[int, int | None]] = [(i, i) for i in range(40)]
    if stream == "rgb":
        del expected[20]
    else:
        expected[20] = (20, None)
    assert numbers(pairs) == expected
    assert not any(pair.restarted for pair in pairs)
    assert (pairer.counters.outliers, pairer.counters.restarts) == (1, 0)


@pytest.mark.parametrize("clock", [True, False], ids=["by a clock", "by stamps"])
def test_a_garbage_stamp_at_either_end(clock: bool) -> None:
    good = [START + i * STEP for i in range(20)]
    pairer = NearestPairer()
    assert numbers(play(pairer, arrivals([*good[:-1], 0], good), clock)) == [(i, i) for i in range(19)]
    assert pairer.counters.outliers == (0 if clock else 1), "with a clock, its like may still come"
    pairs = play(NearestPairer(), arrivals([0, *good[1:]], good), clock)
    assert numbers(pairs)[1:] == [(i, i) for i in range(1, 20)], "a driver whose first stamp is not set"


@pytest.mark.parametrize("clock", [True, False], ids=["by a clock", "by stamps"])
@pytest.mark.parametrize("to", [START - 3_600 * 10**9, START + 3_600 * 10**9], ids=["back", "ahead"])
def test_a_stream_that_goes_on_elsewhere_loses_nothing(to: int, clock: bool) -> None:
    """At 5 Hz an image held back waits longer than `aux_timeout` for the next."""
    stamps = [START + i * 200 * MS for i in range(20)] + [to + i * 200 * MS for i in range(20)]
    pairer = NearestPairer()
    pairs = play(pairer, arrivals(stamps, stamps, 200 * MS), clock)
    assert numbers(pairs) == [(i, i) for i in range(40)]
    assert [i for i, pair in enumerate(pairs) if pair.restarted] == ([20] if to < START else [])
    assert pairer.counters.outliers == 0


def test_a_clock_that_jumps_while_an_image_is_held_back_loses_nothing() -> None:
    """A looping bag with /clock: stamps jump first, then the node resets the pairing."""
    pairer, stamps = NearestPairer(), [START + i * STEP for i in range(20)]
    for now, stream, stamp, number in arrivals(stamps, stamps):
        (pairer.add_rgb if stream == "rgb" else pairer.add_aux)(stamp, number, now)
    assert pairer.add_rgb(START, 100, 700 * MS) == []
    pairer.reset()
    pairs = play(
        pairer, [(700 * MS + now, name, stamp, 100 + i) for now, name, stamp, i in arrivals(stamps, stamps)[1:]]
    )
    assert numbers(pairs) == [(100 + i, 100 + i) for i in range(20)]


@pytest.mark.parametrize("to", [START - 3_600 * 10**9, START + 3_600 * 10**9], ids=["back", "ahead"])
def test_a_slow_stream_played_fast_loses_nothing(to: int) -> None:
    """1 Hz at ten times its pace: each stamp is further on than the clock."""
    stamps = [START + i * 10**9 for i in range(20)] + [to + i * 10**9 for i in range(20)]
    pairs = play(NearestPairer(), arrivals(stamps, stamps, 100 * MS))
    assert [pair.rgb for pair in pairs] == list(range(40))


def test_pictures_of_every_minute_lose_nothing() -> None:
    stamps = [START + i * 60 * 10**9 for i in range(20)]
    assert numbers(play(NearestPairer(), arrivals(stamps, stamps), clock=False)) == [(i, i) for i in range(20)]


def test_silence_does_not_end_the_wait_for_a_second_image() -> None:
    """The node flushes everything when both streams have been silent for long."""
    pairer, stamps = NearestPairer(), [START + i * STEP for i in range(20)]
    for leap in (-3_600 * 10**9, 3_600 * 10**9):
        play(pairer, arrivals(stamps, stamps))
        assert pairer.add_rgb(START + leap, "held", 10**9) == pairer.flush() == []
        pairs = pairer.add_rgb(START + leap + STEP, "next", 10**10) + pairer.flush()
        assert [pair.rgb for pair in pairs] == ["held", "next"]
        pairer.reset()


STANDING = {
    "zero": lambda i: 0,
    "constant": lambda i: START,
    "backwards": lambda i: START - i * STEP,
    "at random": lambda i: random.Random(i).randrange(2**31) * 10**9,
}


@pytest.mark.parametrize("lying", STANDING.values(), ids=STANDING.keys())
def test_rgb_stamps_that_do_not_advance_are_replaced_by_arrival(lying) -> None:
    good, bad = [START + i * STEP for i in range(120)], [lying(i) for i in range(120)]
    pairer = NearestPairer()
    pairs = play(pairer, arrivals(bad, good))
    tracked = [pair for pair in pairs if pair.rgb is not None]
    assert [pair.rgb for pair in tracked][-80:] == list(range(40, 120)), "all but the first second"
    assert all(pair.aux == pair.rgb and abs(pair.gap - 0.005) < 1e-6 for pair in tracked[-80:-1])
    assert_goes_forward(pairs)
    assert pairer.counters.by_arrival > 0


@pytest.mark.parametrize("lying", STANDING.values(), ids=STANDING.keys())
def test_aux_stamps_that_do_not_advance_are_replaced_by_arrival(lying) -> None:
    good, bad = [START + i * STEP for i in range(120)], [lying(i) for i in range(120)]
    pairs = play(NearestPairer(), arrivals(good, bad))
    assert [pair.stamp for pair in pairs] == good, "RGB images keep their stamps"
    assert [pair.aux for pair in pairs][45:] == list(range(45, 120))


def test_a_driver_that_comes_to_its_senses_is_trusted_again() -> None:
    stamps = [0] * 60 + [START + i * STEP for i in range(60, 150)]
    good = [START + i * STEP for i in range(150)]
    pairer = NearestPairer()
    pairs = play(pairer, arrivals(stamps, good))
    assert [pair[:3] for pair in pairs[-80:]] == [(i, i, stamps[i]) for i in range(70, 150)]
    assert [pair.rgb for pair in pairs if pair.rgb is not None][-100:] == list(range(50, 150)), "none lost on the way"
    assert_goes_forward(pairs)


def test_rgb_without_stamps_returns_after_aux_went_on_alone() -> None:
    aux = [(i * STEP, "aux", START + i * STEP, i) for i in range(160)]
    rgb = [(i * STEP + MS, "rgb", 0, i) for i in (0, *range(80, 160))]
    pairs = play(NearestPairer(), sorted(aux + rgb))
    assert sum(pair.rgb is None for pair in pairs) > 30
    assert [pair.rgb for pair in pairs][-40:] == list(range(120, 160))
    assert_goes_forward(pairs)


def test_repeated_images_are_no_stamps_that_stand_still() -> None:
    """A video of 10 Hz, each of its images sent three times."""
    stamps = [START + i // 3 * 3 * STEP for i in range(150)]
    pairer = NearestPairer()
    assert [pair.stamp for pair in play(pairer, arrivals(stamps, stamps))] == stamps[::3]
    assert pairer.counters.by_arrival == 0


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("clock", [True, False], ids=["by a clock", "by stamps"])
def test_scattered_garbage_leaves_the_other_pairs_as_they_were(seed: int, clock: bool) -> None:
    rng = random.Random(seed)
    streams = {name: [START + i * STEP + rng.randrange(8 * MS) for i in range(200)] for name in ("rgb", "aux")}
    clean = dict(numbers(play(NearestPairer(), arrivals(*streams.values()), clock)))
    bad = {name: set(range(rng.randrange(3, 9), 199, rng.randrange(4, 30))) for name in streams}
    for name, places in bad.items():
        for place in places:
            streams[name][place] = rng.choice(list(GARBAGE.values()))
    pairs = play(NearestPairer(), arrivals(*streams.values()), clock)
    assert [pair.rgb for pair in pairs] == [i for i in range(200) if i not in bad["rgb"]]
    for pair in pairs:
        if clean[pair.rgb] not in bad["aux"]:
            assert pair.aux == clean[pair.rgb]
    assert not any(pair.restarted for pair in pairs)


def wild_stream(rng: random.Random, count: int) -> list[int]:
    """Stamps that go on, and here and there repeat, go back, loop, leap, or stand still for a while."""
    stamps, now, left = [], START, 0
    mode = "on"
    for _ in range(count):
        if left == 0:
            mode = rng.choice(["on", "on", "on", "repeat", "back", "loop", "garbage", "still", "leap", "shuffle"])
            left = rng.randrange(1, 50)
            now = {"loop": START, "leap": now + rng.randrange(10**12)}.get(mode, now)
        left -= 1
        now += {"repeat": rng.choice([0, STEP]), "back": -STEP, "still": 0}.get(mode, STEP)
        shown = now + rng.randrange(-300 * MS, 300 * MS) if mode == "shuffle" else now
        stamps.append(rng.randrange(-(2**31), 2**31) * 10**9 if mode == "garbage" else shown)
    return stamps


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("clock", [True, False], ids=["by a clock", "by stamps"])
def test_whatever_comes_pairs_go_forward_and_memory_is_bounded(seed: int, clock: bool) -> None:
    rng = random.Random(seed)
    pairer = NearestPairer(PairOptions(queue_size=rng.choice([1, 5, 10]), slop=rng.choice([0.0, 0.03, 10.0])))
    pairs: list[Pair] = []
    images = arrivals(wild_stream(rng, 800), wild_stream(rng, 800))
    for now, stream, stamp, number in images:
        add = pairer.add_rgb if stream == "rgb" else pairer.add_aux
        pairs += add(stamp, number, now if clock else None)
        assert pairer.waiting <= pairer._queue_size and len(pairer._aux) <= pairer._queue_size
    pairs += pairer.flush()
    assert_goes_forward(pairs)
    shown = [pair.rgb for pair in pairs if pair.rgb is not None]
    assert len(shown) == len(set(shown)) == pairer.counters.paired + pairer.counters.unpaired
    counters = pairer.counters
    assert counters.rgb - len(shown) <= counters.late + counters.outliers
