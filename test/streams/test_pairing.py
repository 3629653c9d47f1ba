"""The pairing rule against a brute-force oracle, and the filter's protocol; no ROS needed."""

from __future__ import annotations

import math
import random
import threading
from types import SimpleNamespace

import pytest

from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.streams.pairing import SILENT_NS, NearestPairer, NearestPairFilter, Pair, PairOptions

MS = 1_000_000
START = 1_700_000_000_000_000_000


def stream(
    rng: random.Random, period_ms: float, count: int, *, phase_ms: float = 0, jitter_ms: float = 0, loss: float = 0
) -> list[int]:
    stamps = [START + int((phase_ms + i * period_ms + rng.uniform(-jitter_ms, jitter_ms)) * MS) for i in range(count)]
    return [s for s in stamps if rng.random() >= loss]


def merge(rng: random.Random, rgb: list[int], aux: list[int], delay_ms: tuple[float, float]) -> list[tuple]:
    """Arrival order: each message comes some time after its stamp, in order within its stream."""
    arrivals = []
    for name, stamps in (("rgb", rgb), ("aux", aux)):
        last = 0
        for stamp in stamps:
            last = max(last + 1, stamp + int(rng.uniform(*delay_ms) * MS))
            arrivals.append((last, name, stamp))
    return sorted(arrivals)


def play(pairer: NearestPairer, arrivals: list[tuple], clock: bool = True) -> list[Pair]:
    out = []
    for now, name, stamp in arrivals:
        add = pairer.add_rgb if name == "rgb" else pairer.add_aux
        out += add(stamp, stamp, now if clock else None)
    return out + pairer.flush()


def oracle(rgb: list[int], aux: list[int], slop_ns: int) -> dict[int, int | None]:
    """Every RGB stamp with the nearest aux stamp, by looking at all of them."""
    best = {}
    for stamp in rgb:
        near = sorted((abs(a - stamp), a) for a in aux if abs(a - stamp) <= slop_ns)
        best[stamp] = near[0][1] if near else None
    return best


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    "aux_period, jitter, loss",
    [(33.3, 0, 0), (33.3, 3, 0), (33.3, 3, 0.2), (16.7, 2, 0.1), (111.1, 5, 0.1), (40.0, 0, 0.5)],
)
def test_every_rgb_gets_its_nearest_aux(seed: int, aux_period: float, jitter: float, loss: float) -> None:
    rng = random.Random(seed)
    rgb = stream(rng, 33.3, 120, jitter_ms=jitter, loss=loss)
    aux = stream(
        rng, aux_period, int(120 * 33.3 / aux_period), phase_ms=rng.uniform(0, aux_period), jitter_ms=jitter, loss=loss
    )
    pairer = NearestPairer(PairOptions(queue_size=50, aux_timeout=0.5))
    pairs = play(pairer, merge(rng, rgb, aux, (5, 25)))
    assert {p.rgb: p.aux for p in pairs} == oracle(rgb, aux, 30 * MS)
    assert [p.stamp for p in pairs] == sorted(rgb)
    counters = pairer.counters
    assert counters.rgb == len(rgb) and counters.aux == len(aux)
    assert counters.paired + counters.unpaired == len(rgb) and counters.evicted == 0 and counters.late == 0


@pytest.mark.parametrize("seed", range(10))
def test_stamps_alone_give_the_same_pairs_for_any_delay(seed: int) -> None:
    rng = random.Random(seed)
    rgb = stream(rng, 33.3, 90, jitter_ms=4, loss=0.05)
    aux = stream(rng, 33.3, 90, phase_ms=11, jitter_ms=4, loss=0.1)
    results = [
        play(
            NearestPairer(PairOptions(queue_size=30, aux_timeout=0.5)),
            merge(random.Random(n), rgb, aux, (0, 40)),
            clock=False,
        )
        for n in range(5)
    ]
    assert all([p[:3] for p in result] == [p[:3] for p in results[0]] for result in results)


def test_offset_is_added_to_aux_stamps() -> None:
    rgb = [START + i * 100 * MS for i in range(20)]
    aux = [stamp + 40 * MS for stamp in rgb]  # the camera stamps 40 ms late
    late = play(NearestPairer(), merge(random.Random(0), rgb, aux, (1, 2)))
    right = play(NearestPairer(PairOptions(aux_offset=-0.04)), merge(random.Random(0), rgb, aux, (1, 2)))
    assert all(p.aux is None and math.isnan(p.gap) for p in late)
    assert all(p.aux == p.rgb + 40 * MS and p.gap == 0.0 for p in right)


def test_slop_is_inclusive_and_zero_means_equal_stamps() -> None:
    pairer = NearestPairer()
    pairer.add_aux(START + 30 * MS, "edge", 0)
    assert pairer.add_rgb(START, "rgb", 0)[0].aux == "edge"
    pairer = NearestPairer(PairOptions(slop=0.0))
    pairer.add_aux(START + 1, "aux", 0)
    assert pairer.add_rgb(START, "rgb", 0)[0].aux is None
    assert pairer.add_rgb(START + 1, "rgb", 0)[0].aux == "aux"


def test_a_slow_stream_serves_several_rgb_images() -> None:
    rgb = [START + i * 33 * MS for i in range(9)]
    aux = [START + 33 * MS, START + 132 * MS, START + 231 * MS]
    pairs = play(NearestPairer(PairOptions(slop=0.04)), merge(random.Random(0), rgb, aux, (0, 0)))
    assert [p.aux for p in pairs] == [aux[0]] * 3 + [aux[1]] * 3 + [aux[2]] * 3


def test_of_two_equally_near_the_earlier_wins() -> None:
    pairer = NearestPairer()
    pairer.add_aux(START - 10 * MS, "early", 0)
    assert pairer.add_rgb(START, "rgb", 0) == []
    assert pairer.add_aux(START + 10 * MS, "late", 0)[0].aux == "early"


def test_waits_no_longer_than_the_timeout() -> None:
    pairer = NearestPairer(PairOptions(aux_timeout=0.1))
    pairer.add_aux(START - 200 * MS, "old", 900 * MS)
    assert pairer.add_rgb(START, "rgb", 1000 * MS) == []
    assert pairer.flush(1000 * MS + 99 * MS) == []
    (pair,) = pairer.flush(1000 * MS + 100 * MS)
    assert pair[:3] == ("rgb", None, START) and math.isnan(pair.gap)


def test_a_silent_stream_costs_no_waiting_and_is_taken_up_again() -> None:
    pairer = NearestPairer(PairOptions(aux_timeout=0.1))
    pairer.add_aux(START, "aux", START)
    at = START + SILENT_NS
    for before in (66 * MS, 33 * MS):
        pairer.add_rgb(at - before, "rgb", at - before)
    assert [p.aux for p in pairer.add_rgb(at, "rgb", at)] == [None] * 3, "go out at once"
    pairer.add_aux(at + 40 * MS, "back", at + 41 * MS)
    assert pairer.add_rgb(at + 33 * MS, "rgb", at + 42 * MS)[0].aux == "back"


@pytest.mark.parametrize("clock", [True, False])
def test_while_rgb_is_silent_aux_goes_on_alone(clock: bool) -> None:
    frames = [START + i * 33 * MS for i in range(120)]
    order = [
        (s + 1, name, s) for i, s in enumerate(frames) for name in ("aux", "rgb") if name == "aux" or not 40 <= i < 100
    ]
    pairer = NearestPairer()
    pairs = play(pairer, order, clock)
    alone = [p.stamp for p in pairs if p.rgb is None]
    assert alone == frames[40 + 30 : 101], "a second of silence, then every image until RGB is back"
    assert [p.stamp for p in pairs] == frames[:40] + frames[70:], "each moment comes out once"
    assert pairer.counters.aux_alone == 31


@pytest.mark.parametrize("order", [("aux", "rgb"), ("rgb", "aux")])
@pytest.mark.parametrize("every, pause", [(20, 3000), (1, 2000)], ids=["after a pause", "below 1 Hz"])
def test_slowness_of_both_streams_is_not_silence_of_one(order: tuple, every: int, pause: int) -> None:
    stamps = [START + (i * 33 + (i // every) * pause) * MS for i in range(60)]
    pairs = play(NearestPairer(), [(s, name, s) for s in stamps for name in order])
    assert [(p.rgb, p.aux) for p in pairs] == [(s, s) for s in stamps]


def test_known_rhythm_spares_the_wait_for_the_next_aux() -> None:
    pairer = NearestPairer(PairOptions(aux_timeout=1.0))
    for i in range(12):
        pairer.add_aux(START + i * 33 * MS, i, i * 33 * MS)
    out = pairer.add_rgb(START + (11 * 33 + 5) * MS, "rgb", 370 * MS)
    assert [p.aux for p in out] == [11], "a partner 5 ms away cannot be beaten 33 ms after the last one"
    assert pairer.add_rgb(START + (11 * 33 + 25) * MS, "rgb", 390 * MS) == [], "here the next one may be nearer"


@pytest.mark.parametrize("seed", range(10))
def test_reversed_and_shuffled_arrival_stays_monotonic_and_within_slop(seed: int) -> None:
    rng = random.Random(seed)
    arrivals = merge(rng, stream(rng, 33, 60), stream(rng, 33, 60, phase_ms=5), (0, 120))
    if seed % 2:
        arrivals.sort(key=lambda a: a[2] + rng.uniform(0, 400 * MS))  # below the 0.5 s that mean a restart
    else:
        arrivals.sort(key=lambda a: (a[2] // (200 * MS), -a[2]))
    pairer = NearestPairer()
    pairs = play(pairer, [(START + i * 5 * MS, *a[1:]) for i, a in enumerate(arrivals)])
    assert [p.stamp for p in pairs] == sorted({p.stamp for p in pairs})
    for pair in pairs:
        assert pair.aux is None or abs(pair.aux - pair.rgb) <= 30 * MS
    counters = pairer.counters
    assert counters.restarts == 0 and counters.late > 0
    assert len(pairs) == counters.paired + counters.unpaired


@pytest.mark.parametrize("first", ["rgb", "aux"])
@pytest.mark.parametrize("clock", [True, False])
def test_a_recording_that_starts_over_pairs_again(first: str, clock: bool) -> None:
    stamps = [START + i * 33 * MS for i in range(60)]
    second = "aux" if first == "rgb" else "rgb"
    order = [(name, stamp) for stamp in stamps for name in (first, second)]
    arrivals = [(i * 16 * MS, *entry) for i, entry in enumerate(order * 3)]
    pairer = NearestPairer()
    pairs = play(pairer, arrivals, clock)
    assert [(p.rgb, p.aux) for p in pairs] == [(s, s) for s in stamps] * 3
    assert pairer.counters.restarts == 2
    assert [i for i, p in enumerate(pairs) if p.restarted] == [60, 120], "the first pair of each new pass"


@pytest.mark.parametrize("straggler", ["rgb", "aux"])
def test_a_straggler_of_the_last_pass_does_not_spoil_the_next(straggler: str) -> None:
    stamps = [START + i * 33 * MS for i in range(60)]
    last = {"rgb": ("aux", "rgb"), "aux": ("rgb", "aux")}[straggler]
    order = [(name, s) for s in stamps[:-1] for name in ("rgb", "aux")] + [
        (last[0], stamps[-1]),
        (last[0], stamps[0]),
        (last[1], stamps[-1]),
        (last[1], stamps[0]),
    ]
    order += [(name, s) for s in stamps[1:] for name in ("rgb", "aux")]
    pairs = play(NearestPairer(), [(i * 16 * MS, *entry) for i, entry in enumerate(order)])
    new_pass = pairs[-59:]
    assert [(p.rgb, p.aux) for p in new_pass] == [(s, s) for s in stamps[1:]]
    assert (stamps[0], stamps[0]) in [(p.rgb, p.aux) for p in pairs[len(stamps) - 1 :]]


def test_a_jump_forward_is_followed() -> None:
    stamps = [START + i * 33 * MS for i in range(20)] + [START + 3_600_000 * MS + i * 33 * MS for i in range(20)]
    order = [(i * MS * 16, name, s) for i, (name, s) in enumerate((n, s) for s in stamps for n in ("rgb", "aux"))]
    assert [(p.rgb, p.aux) for p in play(NearestPairer(), order)] == [(s, s) for s in stamps]


def test_full_queues_stay_bounded() -> None:
    pairer = NearestPairer(PairOptions(queue_size=5, aux_timeout=10))
    pairer.add_aux(START - 100 * MS, "old", 0)
    out = [p for i in range(8) for p in pairer.add_rgb(START + i * MS, i, 0)]
    assert [p.rgb for p in out] == [0, 1, 2] and pairer.waiting == 5
    for i in range(100):
        pairer.add_aux(START + (1000 + i) * MS, i, 0)
    assert pairer.counters.evicted == 95 and pairer.waiting == 0


def test_repeated_and_overtaken_images_are_late() -> None:
    pairer = NearestPairer()
    pairer.add_aux(START, "aux", 0)
    pairer.add_rgb(START, "rgb", 0)
    assert pairer.add_rgb(START, "again", 0) == [] and pairer.add_rgb(START - 5 * MS, "overtaken", 0) == []
    pairer.add_aux(START - 100 * MS, "overtaken", 0)
    assert pairer.counters.late == 3


@pytest.mark.parametrize("bad", [{"slop": -0.1}, {"slop": float("nan")}, {"queue_size": 0}, {"aux_timeout": 1e9}])
def test_impossible_settings_are_named(bad: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        PairOptions(**bad)


class Source:
    """The upstream end of message_filters' protocol."""

    def registerCallback(self, callback, *args):  # noqa: N802
        self.send = callback
        return 0


def message(stamp: int, name: str = "") -> SimpleNamespace:
    header = SimpleNamespace(stamp=SimpleNamespace(sec=stamp // 10**9, nanosec=stamp % 10**9))
    return SimpleNamespace(header=header, name=name)


def test_filter_follows_the_protocol_and_passes_arguments() -> None:
    rgb, aux, got = Source(), Source(), []
    pairing = NearestPairFilter([rgb, aux])
    assert pairing.registerCallback(lambda *args: got.append(args), "extra") == 0
    sent = message(START, "rgb")
    rgb.send(sent)
    aux.send(message(START + 5 * MS, "aux"))
    ((pair, extra),) = got
    assert (pair.rgb.name, pair.aux.name, extra) == ("rgb", "aux", "extra")
    assert (pair.stamp, pair.gap) == (START, pytest.approx(0.005)) and pair.header is sent.header


def test_filter_with_rgb_alone_waits_for_nothing() -> None:
    rgb, got = Source(), []
    pairing = NearestPairFilter([rgb], PairOptions().for_streams(1))
    pairing.registerCallback(got.append)
    rgb.send(message(START, "rgb"))
    assert got[0].rgb.name == "rgb" and got[0].aux is None


def test_pairs_tell_how_long_they_waited() -> None:
    now = START
    pairing, pairs = NearestPairFilter(clock=lambda: now), []
    pairing.registerCallback(pairs.append)
    for now, add, stamp in (  # noqa: B007 - the clock reads it
        (START + 10, pairing.add_rgb, 0),
        (START + 25, pairing.add_aux, 0),
        (START + 40, pairing.add_aux, 50),
        (START + 70, pairing.add_rgb, 50),
    ):
        add(message(stamp))
    now = START + 99
    pairing.add_rgb(message(1_000_000))
    pairing.flush(everything=True)
    assert [(pair.arrived - START, pair.left - START) for pair in pairs] == [(10, 25), (70, 70), (99, 99)]
    by_stamps = NearestPairFilter(clock=None)
    by_stamps.registerCallback(pairs.append)
    by_stamps.add_rgb(message(7))
    by_stamps.add_aux(message(7))
    assert pairs[-1].left is None


@pytest.mark.parametrize("lead", [-3, 0, 3])
def test_equal_stamps_go_out_with_the_second_image(lead: int) -> None:
    """At 60 Hz, with images that are some milliseconds apart in arriving."""
    pairer = NearestPairer()
    for i in range(60):
        stamp = START + i * 16_666_667
        adds = [(stamp, pairer.add_rgb), (stamp + lead * MS, pairer.add_aux)]
        (_, first), (_, second) = adds if lead >= 0 else adds[::-1]
        assert first(stamp, i, stamp + 2 * MS) == []
        (pair,) = second(stamp, i, stamp + (2 + abs(lead)) * MS)
        assert (pair.rgb, pair.aux) == (i, i)


def test_a_raising_callback_breaks_neither_the_filter_nor_the_others(caplog: pytest.LogCaptureFixture) -> None:
    pairing, got = NearestPairFilter(options=PairOptions(aux_timeout=0.0)), []
    pairing.registerCallback(lambda pair: 1 / 0)
    pairing.registerCallback(got.append)
    for i in range(3):
        pairing.add_rgb(message(START + i * MS))
    assert len(got) == 3 and "ZeroDivisionError" in caplog.text


def test_callbacks_run_without_a_lock_and_may_call_back() -> None:
    pairing, got = NearestPairFilter(options=PairOptions(aux_timeout=0.0)), []

    def callback(pair):
        got.append(pair.rgb.name)
        if len(got) < 3:
            pairing.add_rgb(message(START + len(got) * MS, str(len(got))))
        other = threading.Thread(target=pairing.reset)  # would hang for ever if the lock were held
        other.start()
        other.join(2)
        assert not other.is_alive()

    pairing.registerCallback(callback)
    pairing.add_rgb(message(START, "0"))
    assert got == ["0", "1", "2"]


def test_two_threads_get_pairs_in_order() -> None:
    pairing, got = NearestPairFilter(options=PairOptions(slop=0.0, aux_timeout=10.0, queue_size=1000)), []
    pairing.registerCallback(lambda pair: got.append((pair.rgb.name, pair.aux and pair.aux.name)))
    feeds = [
        threading.Thread(target=lambda add=add: [add(message(START + i * MS, str(i))) for i in range(500)])
        for add in (pairing.add_rgb, pairing.add_aux)
    ]
    for feed in feeds:
        feed.start()
    for feed in feeds:
        feed.join()
    pairing.flush(everything=True)
    assert [name for name, _ in got] == [str(i) for i in range(500)]


def test_reset_forgets_the_past() -> None:
    pairing, got = NearestPairFilter(), []
    pairing.registerCallback(lambda pair: got.append((pair.rgb.name, pair.aux and pair.aux.name)))
    pairing.add_aux(message(START, "before"))
    pairing.reset()
    pairing.add_rgb(message(START, "rgb"))
    assert got == [] and pairing.waiting == 1
    pairing.flush(everything=True)
    assert got == [("rgb", None)]


def test_slow_streams_do_not_fill_the_queue() -> None:
    """Below 2 Hz an auxiliary image is soon older than a restart's jump; it must go all the same."""
    pairer = NearestPairer(PairOptions(queue_size=5))
    pairs = []
    for index in range(40):
        pairs += pairer.add_rgb(index * 700_000_000, index)
        pairs += pairer.add_aux(index * 700_000_000, index)
    assert [(pair.rgb, pair.aux) for pair in pairs] == [(index, index) for index in range(40)]
    assert pairer.counters.evicted == 0


def test_exact_goes_alone_once_its_stamp_cannot_come() -> None:
    pairer = NearestPairer(PairOptions(pairing="exact", slop=1.0, aux_timeout=10.0))
    assert pairer.add_rgb(START, "rgb", 0) == []
    assert pairer.add_aux(START - 1, "before", 1) == []
    (pair,) = pairer.add_aux(START + 1, "after", 2)
    assert pair.aux is None and math.isnan(pair.gap)
    pairer.add_aux(START + 100 * MS, "same", 3)
    (pair,) = pairer.add_rgb(START + 100 * MS, "rgb", 4)
    assert (pair.aux, pair.gap) == ("same", 0.0)


def test_latest_waits_for_nothing_and_tells_the_gap() -> None:
    pairer = NearestPairer(PairOptions(pairing="latest", latest_gap=0.4, aux_timeout=10.0))
    (pair,) = pairer.add_rgb(START, 0, 0)
    assert pair.aux is None, "none has come"
    pairer.add_aux(START - 300 * MS, "old", 1)
    (pair,) = pairer.add_rgb(START + 33 * MS, 1, 2)
    assert (pair.aux, pair.gap) == ("old", pytest.approx(-0.333))
    (pair,) = pairer.add_rgb(START + 133 * MS, 2, 3)
    assert pair.aux is None, "beyond latest_gap"
    pairer.add_aux(START + 300 * MS, "ahead", 4)
    pairer.add_aux(START + 310 * MS, "newest", 5)
    pairs = [pair for i in range(2) for pair in pairer.add_rgb(START + (140 + i) * MS, i, 6 + i)]
    assert [pair.aux for pair in pairs] == ["newest"] * 2, "and serves again"
    assert pairer.waiting == 0 and pairer.counters.paired == 3


def test_kind_of_pairing_changes_while_images_wait() -> None:
    pairer = NearestPairer()
    pairer.add_aux(START - 200 * MS, "aux", 0)
    assert pairer.add_rgb(START, "rgb", 0) == []
    pairer.configure(PairOptions(pairing="latest"))
    (pair,) = pairer.flush(1)
    assert pair.aux == "aux"


def test_latest_leaves_a_garbage_stamp_out() -> None:
    pairer = NearestPairer(PairOptions(pairing="latest"))
    arrivals = [(i * 10 * MS, "rgb" if i % 2 else "aux", START + i * 10 * MS) for i in range(40)]
    arrivals[20] = (200 * MS, "aux", START + 3_600_000 * MS)
    arrivals[25] = (250 * MS, "rgb", 0)
    pairs = play(pairer, arrivals)
    assert pairer.counters.outliers == 2 and len(pairs) == 19
    assert all(pair.aux is not None and -31 * MS <= pair.aux - pair.rgb < 0 for pair in pairs)


def test_unknown_kind_of_pairing() -> None:
    with pytest.raises(ConfigError, match="pairing: expected one of nearest, exact, latest, got 'newest'"):
        PairOptions(pairing="newest")
