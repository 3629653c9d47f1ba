"""What the sync doctor says of two streams, fault by fault, against what was put in."""

from __future__ import annotations

import math
import random
import re
import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from cmdtrack_ros.streams.pairing import NearestPairer, PairOptions
from cmdtrack_ros.streams.sync import SyncDoctor, SyncReport

S = 1_000_000_000
EPOCH = 1_700_000_000 * S
RGB_LATENCY, AUX_LATENCY = 0.02, 0.035
Stamp = Callable[[float], float]


def true(seconds: float) -> float:
    return seconds


def watch(
    *,
    rgb: Stamp = true,
    aux: Stamp = true,
    rgb_hz: float = 30.0,
    aux_hz: float = 30.0,
    seconds: float = 6.0,
    options: PairOptions = PairOptions(),
    clock: Stamp = true,
    stall: tuple[float, float] = (math.inf, math.inf),
) -> list[SyncReport]:
    """Reports once a second of two cameras whose stamps are a function of the true time (s), as a node makes them.

    clock: the node's. stall: from ... to when nothing is delivered, and then all at once.
    """
    rng, doctor, pairer = random.Random(0), SyncDoctor(options), NearestPairer(options)
    images = []
    streams = ((rgb_hz, rgb, RGB_LATENCY, "rgb"), (aux_hz, aux, AUX_LATENCY, "aux"))
    for rate, stamp, latency, name in streams:
        for i in range(int(seconds * rate)):
            taken = (i + (name == "aux") * 0.12) / rate
            arrived = taken + latency + abs(rng.gauss(0, 0.004))
            arrived = stall[1] + 1e-3 * rng.random() if stall[0] < arrived < stall[1] else arrived
            images.append((round(arrived * S), name, EPOCH + round(stamp(taken) * S) if stamp(taken) else 0))
    reports, tick = [], S
    for now, name, stamp_ns in sorted(images):
        while now >= tick:
            pairer.flush(tick)
            reports.append(doctor.report(tick, pairer.counters))
            tick += S
        pairer.flush(now)
        (pairer.add_rgb if name == "rgb" else pairer.add_aux)(stamp_ns, None, now)
        add = doctor.add_rgb if name == "rgb" else doctor.add_aux
        add(stamp_ns, now, EPOCH + round(clock(now / S) * S) if clock(now / S) else 0)
    return reports


@pytest.mark.parametrize(
    "aux_hz, options", [(30.0, PairOptions()), (60.0, PairOptions()), (9.0, PairOptions(slop=0.06))]
)
def test_sound_streams_are_described_and_nothing_is_said(aux_hz: float, options: PairOptions) -> None:
    for report in watch(aux_hz=aux_hz, options=options)[1:]:
        assert report.findings == {}
        assert report.rgb.rate == pytest.approx(30, rel=0.02) and report.aux.rate == pytest.approx(aux_hz, rel=0.05)
        assert report.aux.period == pytest.approx(1 / aux_hz) and report.aux.jitter < 1e-6
        assert report.offset == pytest.approx(RGB_LATENCY - AUX_LATENCY, abs=0.01) and report.uncertainty < 0.01
        assert report.rgb.delay == pytest.approx(RGB_LATENCY + 0.003, abs=0.003)
        assert (report.slop, report.aux_offset) == (options.slop if aux_hz > 10 else 0.062, 0.0)
        assert report.share > 0.97


@pytest.mark.parametrize("ahead", [1.0, -1.0, 0.2, -0.2, 36_000.0, -36_000.0, 1e6])
@pytest.mark.parametrize("aux_hz", [30.0, 9.0])
def test_a_clock_that_is_wrong_is_measured_within_two_seconds(ahead: float, aux_hz: float) -> None:
    for report in watch(aux=lambda t: t + ahead, aux_hz=aux_hz)[1:]:
        assert report.offset == pytest.approx(ahead, abs=0.03)
        assert report.aux_offset == pytest.approx(-ahead, abs=0.03)
        (cause,) = {"nothing pairs", "few pairs", "clocks apart"} & set(report.findings)
        (said,) = re.findall(r"stamps are ([\d.]+) s (?:ahead of|behind) those of RGB", report.findings[cause])
        assert float(said) == pytest.approx(abs(ahead), abs=0.03)
        assert ("aux_offset: " in report.findings[cause]) is (abs(ahead) < 86_400)
        assert ("stamps ahead" in report.findings) is (ahead > 0.0)
        assert ("stamps old" in report.findings) is (ahead < -60)


@pytest.mark.parametrize("ahead", [1.0, -1.0, 0.2, -0.2, 36_000.0])
def test_what_is_proposed_pairs(ahead: float) -> None:
    report = watch(aux=lambda t: t + ahead, aux_hz=9.0)[-1]
    options = PairOptions(slop=report.slop, aux_offset=report.aux_offset)
    mended = watch(aux=lambda t: t + ahead, aux_hz=9.0, options=options)[-1]
    assert mended.share > 0.97 and not {"nothing pairs", "few pairs", "clocks apart"} & set(mended.findings)
    assert (mended.slop, mended.aux_offset) == (options.slop, options.aux_offset), "and is no longer changed"


def test_cameras_in_step_are_brought_to_the_same_stamp() -> None:
    """Latencies differ by 15 ms; stamps that run in step tell the offset better than arrivals."""
    report = watch(aux=lambda t: t - 0.12 / 15 + 1.0, rgb_hz=15, aux_hz=15)[-1]
    assert report.aux_offset == pytest.approx(-1.0, abs=1e-3) and abs(report.phase) < 1e-3


def test_a_clock_that_goes_wrong_and_is_mended() -> None:
    """Said at the second report at the latest, over at the second again."""
    reports = watch(aux=lambda t: t + (1.0 if 4.1 < t < 9.1 else 0.0), seconds=14)
    said = ["nothing pairs" in r.findings or "clocks apart" in r.findings for r in reports]
    assert said == [False] * 4 + said[4:5] + [True] * 4 + said[9:10] + [False] * (len(said) - 10)


@pytest.mark.parametrize("garbage", [-1.7e9, -1.0, 2**31 - 1 - 1.7e9, 3_600.0])
@pytest.mark.parametrize("stream", ["rgb", "aux"])
def test_garbage_moves_no_estimate(stream: str, garbage: float) -> None:
    def sometimes(t: float) -> float:
        return garbage if round(t * 30) % 20 == 7 else t

    clean, spoilt = watch(), watch(**{stream: sometimes})
    for a, b in zip(clean[1:], spoilt[1:]):
        assert b.offset == pytest.approx(a.offset, abs=0.003)
        assert (b.slop, b.aux_offset) == (a.slop, a.aux_offset)
        assert b.rgb.period == pytest.approx(a.rgb.period) and b.aux.period == pytest.approx(a.aux.period)
        assert b.findings == {}


def test_a_stall_moves_no_estimate() -> None:
    for report in watch(stall=(2.5, 3.4))[1:]:
        assert abs(report.offset) < 0.05 and report.aux_offset == 0.0 and report.findings == {}


@pytest.mark.parametrize("aux_hz", [30.0, 3.0])
def test_a_recording_that_starts_over_moves_no_estimate(aux_hz: float) -> None:
    def loop(t: float) -> float:
        return t % 5 + 1

    options = PairOptions(slop=0.03 if aux_hz > 10 else 0.2)
    for report in watch(rgb=loop, aux=loop, clock=loop, aux_hz=aux_hz, seconds=19, options=options)[1:]:
        assert math.isnan(report.offset) or abs(report.offset) < 0.05
        assert report.aux_offset == 0.0
        assert not {"nothing pairs", "few pairs", "clocks apart", "stamps jumping"} & set(report.findings)


def test_pairs_that_become_few_are_noticed_however_long_all_was_well() -> None:
    rng = random.Random(3)
    noise = {i: rng.gauss(0, 0.08) if i > 200 else 0.0 for i in range(300)}
    reports = watch(aux=lambda t: t + noise[round(t * 10)], rgb_hz=10, aux_hz=10, seconds=28)
    assert "few pairs" not in {cause for report in reports[:20] for cause in report.findings}
    assert "few pairs" in {cause for report in reports[21:] for cause in report.findings}


def test_jitter_and_a_slow_stream_ask_for_more_slop() -> None:
    rng = random.Random(3)
    noise = {i: rng.gauss(0, 0.05) for i in range(200)}
    jittery = watch(aux=lambda t: t + noise[round(t * 10)], rgb_hz=10, aux_hz=10, seconds=12)
    assert jittery[-1].aux.jitter == pytest.approx(0.05, rel=0.5) and 0.05 < jittery[-1].slop < 0.2
    assert jittery[-1].aux_offset == 0.0
    slow = watch(aux_hz=5.0)[-1]
    assert slow.slop == pytest.approx(0.11, abs=0.005)
    assert "slop: 0.11" in slow.findings["few pairs"] and "aux_offset" not in slow.findings["few pairs"]


def test_a_slop_that_is_too_small_is_named_with_one_that_is_not() -> None:
    assert "slop: 0.005" in watch(options=PairOptions(slop=0.0))[-1].findings["nothing pairs"]


@pytest.mark.parametrize(
    "stamp, cause",
    [(lambda t: 0, "stamps missing"), (lambda t: 5.0, "stamps constant"), (lambda t: 99 - t, "stamps jumping")],
)
@pytest.mark.parametrize("stream, name", [("rgb", "RGB"), ("aux", "auxiliary")])
def test_stamps_that_say_nothing_are_named(stream: str, name: str, stamp: Stamp, cause: str) -> None:
    for report in watch(**{stream: stamp})[1:]:
        assert report.findings[cause].startswith(f"{name}: ") and math.isnan(report.offset)
        assert not {"clocks apart", "stamps ahead", "stamps old"} & set(report.findings)
    both = watch(rgb=stamp, aux=stamp)[-1].findings[cause]
    assert "RGB: " in both and "; auxiliary: " in both


def test_a_clock_of_the_node_that_is_wrong() -> None:
    ahead = watch(clock=lambda t: t - 5)[-1].findings
    assert set(ahead) == {"stamps ahead"} and "4.9" in ahead["stamps ahead"]
    assert "use_sim_time" in watch(clock=lambda t: 0)[-1].findings["stamps ahead"]
    assert set(watch(clock=lambda t: t + 3_600)[-1].findings) == {"stamps old"}


def test_one_stream_or_none_is_no_reason_to_speak() -> None:
    assert SyncDoctor().report(5 * S).findings == {}
    doctor = SyncDoctor()
    for i in range(100):
        doctor.add_rgb(EPOCH + i * S // 30, i * S // 30)
    report = doctor.report(100 * S // 30)
    assert report.findings == {} and math.isnan(report.offset) and report.rgb.rate == pytest.approx(30)
    assert math.isnan(doctor.report(100 * S).rgb.rate), "long ago"


def test_a_report_is_cheap_and_memory_bounded() -> None:
    doctor = SyncDoctor()
    for i in range(20_000):
        doctor.add_rgb(EPOCH + i * S // 60, i * S // 60, EPOCH + i * S // 60)
        doctor.add_aux(EPOCH + i * S // 60, i * S // 60, EPOCH + i * S // 60)
    assert len(doctor._rgb._images) < 1000
    seconds = []
    for _ in range(20):
        began = time.thread_time()
        doctor.report(20_000 * S // 60)
        seconds.append(time.thread_time() - began)
    assert min(seconds) < 0.02, "of a second"


def test_no_stamp_is_too_wild() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        doctor = SyncDoctor()
        moments = np.cumsum(rng.integers(1, S // 20, 200)).tolist()
        assert all(after > before for before, after in pairwise(moments))
        for now in moments:
            stamp = int(rng.integers(-(2**31), 2**31)) * S + int(rng.integers(0, 2**32))
            (doctor.add_rgb if rng.random() < 0.5 else doctor.add_aux)(stamp, now, EPOCH + now)
            doctor.report(now)


EXACT, LATEST = PairOptions(pairing="exact"), PairOptions(pairing="latest")


def test_exact_is_told_what_would_pair() -> None:
    findings = watch(options=EXACT)[-1].findings
    assert set(findings) == {"nothing pairs"}
    assert "of the same stamp (pairing: exact)" in findings["nothing pairs"]
    assert "set pairing: nearest and slop: 0.0" in findings["nothing pairs"]


def test_clocks_apart_are_no_fault_of_latest_pairs() -> None:
    patient = PairOptions(aux_timeout=1.0)
    assert set(watch(aux=lambda t: t - 0.2, options=patient)[-1].findings) == {"clocks apart"}
    report = watch(aux=lambda t: t - 0.2, options=LATEST)[-1]
    assert report.findings == {} and report.share > 0.98
    assert report.offset == pytest.approx(-0.2, abs=0.03), "it is measured all the same"


def test_latest_is_told_when_stamps_are_out_of_reach() -> None:
    findings = watch(aux=lambda t: t - 3.0, options=LATEST)[-1].findings
    assert set(findings) == {"nothing pairs"}
    assert re.search("within latest_gap 0.5 s; .*3.0.. s behind .*set aux_offset: 3.0..$", findings["nothing pairs"])
