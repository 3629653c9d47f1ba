"""Event packets: decoded as the format says and as another decoder does, cut to moments, and survived when damaged."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from events import encode_evt2, encode_evt3, packet

import cmdtrack_ros.streams.events as events_module
from cmdtrack_ros.data.events import simulate_events
from cmdtrack_ros.errors import ImageError
from cmdtrack_ros.modalities import event_picture
from cmdtrack_ros.streams.events import DECODERS, EventFrame, EventSlicer, Evt3Decoder
from cmdtrack_ros.streams.pairing import PairOptions

MS = 1_000_000
START = 1_700_000_000 * 10**9
HEIGHT, WIDTH = 48, 64


def random_events(count: int, start_us: int = 0, seed: int = 0) -> np.ndarray:
    """(n, 4): us, x, y, on; in time, with runs of neighbours that EVT 3.0 packs into vectors."""
    rng = np.random.default_rng(seed)
    time = start_us + np.sort(rng.integers(0, 3 * count, count))
    x, y, on = rng.integers(0, WIDTH - 12, count), rng.integers(0, HEIGHT, count), rng.integers(0, 2, count)
    for i in range(0, count - 12, 40):
        time[i : i + 12], y[i : i + 12], on[i : i + 12], x[i : i + 12] = time[i], y[i], on[i], x[i] + np.arange(12)
    return np.stack([time, x, y, on], 1)


def decoded(encoding: str, words: np.ndarray, cuts: list[int]) -> np.ndarray:
    decoder, out = DECODERS[encoding](), []
    for part in np.split(words, cuts):
        events = decoder.decode(part)
        rows = np.stack([events.time, events.x, events.y, events.on], 1)
        out.append(rows[np.lexsort((events.x, events.word))])
    return np.concatenate(out)


@pytest.mark.parametrize("encoding, encode", [("evt3", encode_evt3), ("evt2", encode_evt2)])
@pytest.mark.parametrize("cuts", [[], [1, 2, 3, 700, 701, 1500]], ids=["whole", "cut anywhere"])
def test_decodes_what_was_encoded(encoding: str, encode, cuts: list[int]) -> None:
    events = random_events(3000, start_us=4000)
    assert (decoded(encoding, encode(events), cuts) == events).all()


def test_decodes_as_another_decoder_does() -> None:
    evt3 = pytest.importorskip("evt3", reason="the oracle is not installed: run `make setup`")
    rng = np.random.default_rng(1)
    kinds = rng.choice([0, 2, 3, 4, 5, 6, 7, 8, 10], 20_000).astype(np.uint16)
    words = (kinds << 12) | rng.integers(0, 1 << 12, kinds.size).astype(np.uint16)
    words[kinds == 3] &= 0x3BFF  # so far left that no vector ends beyond the last column
    words[:4] = 0x8001, 0x6001, 0x0001, 0x3001
    other = evt3.decode_bytes(words.astype("<u2").tobytes(), sensor_width=2048, sensor_height=2048)
    ours = decoded("evt3", words, [5000, 5001, 13_000])
    expected = np.stack([other.timestamp.astype(np.int64) % (1 << 24), other.x, other.y, other.polarity], 1)
    assert len(expected) > 20_000 and (ours == expected).all()


def test_what_is_not_known_yet_is_left_out() -> None:
    words = np.array([0x2005, 0x6001, 0x8001, 0x2005, 0x4FFF, 0x0003, 0x4FFF, 0x2006], np.uint16)
    events = Evt3Decoder().decode(words)
    assert (events.x.tolist(), events.y.tolist(), events.word.tolist()) == ([6], [3], [7])


def play(slicer: EventSlicer, packets: list, rgb: list[int]) -> list[EventFrame]:
    arrivals = sorted(
        [(p.header.stamp.sec * 10**9 + p.header.stamp.nanosec, 1, p) for p in packets], key=lambda a: a[0]
    )
    arrivals = sorted([*arrivals, *((stamp, 0, None) for stamp in rgb)], key=lambda a: a[:2])
    return [f for stamp, kind, p in arrivals for f in (slicer.add_packet(p) if kind else slicer.add_rgb(stamp))]


@pytest.mark.parametrize("encoding", DECODERS)
def test_a_frame_is_the_picture_that_the_network_learned_from(encoding: str) -> None:
    rng = np.random.default_rng(0)
    before, after = rng.integers(0, 256, (2, HEIGHT, WIDTH, 3), np.uint8)
    picture = simulate_events(before, after)
    y, x = np.nonzero((picture != 255).any(-1))
    events = np.stack([(1 << 24) - 5_000 + np.linspace(0, 9_000, len(x)).astype(int), x, y, picture[y, x, 0] == 255], 1)
    frames = play(
        EventSlicer(),
        [
            packet(START, events, encoding, WIDTH, HEIGHT),
            packet(START + 40 * MS, events[:1], encoding, WIDTH, HEIGHT, 1),
        ],
        [START - 23 * MS, START + 10 * MS],
    )
    assert [frame.stamp for frame in frames][-1:] == [START + 10 * MS]
    assert np.abs(event_picture(frames[-1].pixels).astype(int) - picture).max() <= 2
    assert (frames[-1].pixels == 0).any() and (frames[-1].pixels == 255).any()


def moving(count: int, step_ms: int = 2, **changes: object) -> list[SimpleNamespace]:
    """Packets of one event each: packet i in column i, at its start; the sensor's clock wraps within."""
    wrap = (1 << 24) - 5_000
    return [
        packet(
            START + i * step_ms * MS,
            np.array([[wrap + i * step_ms * 1000, i % WIDTH, 5, 1]]),
            "evt3",
            WIDTH,
            HEIGHT,
            i,
            **changes,
        )
        for i in range(count)
    ]


def columns(frame: EventFrame) -> list[int]:
    return np.flatnonzero((frame.pixels == 255).any(0)).tolist()


def test_frames_hold_the_events_before_their_rgb_image() -> None:
    rgb = [START + ms * MS for ms in (20, 30, 40, 50)]
    frames = [frame for frame in play(EventSlicer(), moving(40), rgb) if frame.stamp in rgb]
    assert [frame.stamp for frame in frames] == rgb
    assert [columns(frame) for frame in frames[1:]] == [
        [11, 12, 13, 14, 15],
        [16, 17, 18, 19, 20],
        [21, 22, 23, 24, 25],
    ]
    slicer = EventSlicer()
    slicer.configure(window=0.004)
    assert [columns(frame) for frame in play(slicer, moving(40), rgb) if frame.stamp in rgb] == [
        [9, 10],
        [14, 15],
        [19, 20],
        [24, 25],
    ]
    slicer = EventSlicer()
    slicer.configure(window=0.004, options=PairOptions(aux_offset=0.01))
    frames = [frame for frame in play(slicer, moving(40), rgb) if frame.stamp + 10 * MS in rgb]
    assert [columns(frame) for frame in frames] == [[4, 5], [9, 10], [14, 15], [19, 20]]


def test_latest_frames_are_there_before_the_packet_after() -> None:
    slicer = EventSlicer()
    slicer.configure(window=0.004, options=PairOptions(pairing="latest"))
    for one in moving(10):
        slicer.add_packet(one)
    (frame,) = slicer.add_rgb(START + 20 * MS)
    assert columns(frame) == [9]


def test_without_rgb_frames_go_on() -> None:
    rgb = [START + ms * MS for ms in range(0, 100, 20)]
    frames = play(EventSlicer(), moving(60, step_ms=20), rgb)
    alone = [frame.stamp for frame in frames if frame.stamp > rgb[-1]]
    assert len(alone) > 20 and set(np.diff(alone)) == {20 * MS}


def test_a_lost_packet_leaves_no_event_in_a_wrong_row() -> None:
    words = encode_evt3(np.array([[10, 3, 7, 1]]))
    row, event = np.array([*words[:-2], 9], np.uint16), words[-1:]  # the row that the event would be put into is 9
    slicer, reports = EventSlicer(report=lambda text: reports.append(text)), []
    for number, (seq, part) in enumerate([(0, row), (2, event), (3, words), (4, event)]):
        slicer.add_packet(packet(START + number * MS, part, "evt3", WIDTH, HEIGHT, seq))
    (frame,) = [*slicer.add_rgb(START + 2 * MS)]
    assert np.argwhere(frame.pixels == 255).tolist() == [[7, 3]]
    assert (frame.pixels == 255).sum() == 1


BAD = {
    "encoding": ({"encoding": "libcaer_cmp"}, "'libcaer_cmp', 64x48.: expected encoding evt3 or evt2"),
    "no width": ({"width": 0}, "0x48.: expected sides of 1 to 2048"),
    "too wide": ({"width": 1 << 31}, "expected sides of 1 to 2048"),
    "too many pixels": ({"width": 2048, "height": 2048}, "limit of 1,000,000"),
    "too long": ({"events": np.zeros((4 << 20) + 2, np.uint8)}, "expected at most 4,194,304"),
}


@pytest.mark.parametrize("name", BAD)
def test_unusable_packets_are_named_and_touch_no_other(name: str) -> None:
    changes, says = BAD[name]
    slicer, (good, bad, last) = EventSlicer(max_pixels=1_000_000), moving(3)
    slicer.add_packet(good)
    slicer.add_rgb(START + MS)
    with pytest.raises(ImageError, match=says):
        slicer.add_packet(SimpleNamespace(**{**vars(bad), **changes}))
    assert [columns(frame) for frame in slicer.add_packet(last)] == [[0]]


def test_garbage_is_reported_and_bounded() -> None:
    """Random bytes, cut words, stamps that leap: no exception, and good packets show again right after."""
    rng, reports = np.random.default_rng(0), []
    slicer = EventSlicer(report=reports.append)
    for number, one in enumerate(moving(300, step_ms=1)):
        if number % 3 == 1 and number < 250:
            one.events = rng.integers(0, 256, rng.integers(0, 40_000), np.uint8)
        if number % 50 == 2:
            one.header.stamp.sec = int(rng.integers(-(2**31), 2**31))
        if number % 30 == 0:
            slicer.add_rgb(START + number * MS)
        slicer.add_packet(one)
    assert any("end within a word" in text for text in reports)
    assert any("lie outside of the sensor" in text.replace('"', "") for text in reports)
    (frame,) = [frame for frame in slicer.add_rgb(START + 298 * MS) if frame.stamp == START + 298 * MS]
    assert columns(frame)


def test_a_packet_of_noise_shows_nowhere() -> None:
    noise = encode_evt3(np.array([[0, 40, 5, 1], [0, 1000, 5, 1], [1, 1100, 5, 1]]))  # two of three beside the sensor
    slicer, packets = EventSlicer(), moving(4)
    packets[1] = packet(START + 2 * MS, noise, "evt3", WIDTH, HEIGHT, 1)
    slicer.add_packet(packets[0])
    slicer.add_rgb(START + 5 * MS)
    (frame,) = [frame for one in packets[1:] for frame in slicer.add_packet(one)]
    assert columns(frame) == [0, 2] and (frame.pixels != 128).sum() == 2


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "_MAX_EVENTS", 1 << 20)
    monkeypatch.setattr(events_module, "_BLOCK", 1 << 14)
    monkeypatch.setattr(events_module, "_MAX_PENDING_BYTES", 1 << 20)
    full = np.concatenate([[0x8001, 0x6001, 0x0001], np.tile([0x3000, 0x4FFF], 1 << 16)]).astype(np.uint16)
    slicer, held = EventSlicer(), []
    slicer.add_rgb(START)
    for seq in range(12):
        slicer.add_packet(packet(START + seq * MS, full, "evt3", 2048, 4, seq))
        held.append(slicer.held_bytes)
        if seq % 3 == 2:
            slicer.add_rgb(START + seq * MS - 1)
    assert max(held) <= (1 << 20) * (1 + 8 + 4 + 1)
