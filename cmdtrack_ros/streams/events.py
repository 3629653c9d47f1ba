"""Packets of an event camera -> event frames at the moments of RGB images. No rclpy.

Formats: EVT 3.0 (16-bit words) and EVT 2.0 (32-bit words), by Prophesee's public description of them
(docs.prophesee.ai, "Data Encoding Formats"). Their time is the sensor's own, in microseconds, and wraps; so only
differences within a packet are taken, and the header's stamp is the moment of a packet's first event.

An event frame is what the network was trained on (`data/events.py`): of the events of an interval each pixel shows the
polarity that more of its events had. HxW uint8: 0 negative, 128 none, 255 positive (`modalities.event_picture`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from cmdtrack_ros.errors import ImageError
from cmdtrack_ros.streams.filters import SimpleFilter
from cmdtrack_ros.streams.images import MAX_PIXELS
from cmdtrack_ros.streams.pairing import PairOptions, stamp_ns
from cmdtrack_ros.streams.stamps import RESTART_NS, StampGuard

EVENT_PACKET = "event_camera_msgs/msg/EventPacket"
EVENT_WINDOW_RANGE = (0.0, 0.5)
"""Lowest and highest seconds of the parameter event_window."""

_LARGEST_SIDE = 2048  # that 11 bits can name
_MAX_PACKET_BYTES = 4 << 20
_MAX_PENDING_BYTES = 8 << 20
_MAX_EVENTS = 1 << 24
_BLOCK = 1 << 18  # words decoded at a time: twelve events each, at most
_LONGEST_US = 1_000_000  # packets last some milliseconds
_KEPT_NS = 1_000_000_000  # of events, before the newest
_SILENT_NS = 500_000_000  # without RGB images, until frames are made for their own sake
_DEFAULT_WINDOW_NS = 33_333_333
_MOST_WANTED = 64
_INTERVALS = 9
_TOLERATED = 0.5  # of a packet's events may be wrong
_NEGATIVE, _NONE, _POSITIVE = 0, 128, 255


class Decoded(NamedTuple):
    """Events in no order. word: place of each in the words given; time: us of the sensor, wraps; on: brighter."""

    word: np.ndarray
    time: np.ndarray
    x: np.ndarray
    y: np.ndarray
    on: np.ndarray


def _last(places: np.ndarray, at: np.ndarray) -> np.ndarray:
    """For each of `at` the last of the sorted `places` up to it; -1 where there is none."""
    found = np.searchsorted(places, at, "right") - 1
    return np.where(found >= 0, places[found], -1) if len(places) else np.full(len(at), -1)


class Evt3Decoder:
    """EVT 3.0, word by word: what a word does not say holds from the words before, also of the last call."""

    word = np.dtype(np.uint16)
    wraps_us = 1 << 24

    def __init__(self) -> None:
        self._state: np.ndarray = np.zeros(0, np.uint16)  # the words that say what holds

    def decode(self, words: np.ndarray) -> Decoded:
        """Words (n,) uint16 -> events; those before the first time, row or base are left out."""
        before = len(self._state)
        words = np.concatenate([self._state, words])
        kind, value = words >> 12, (words & 0xFFF).astype(np.int64)
        rows, bases, lows, highs = (np.flatnonzero(kind == code) for code in (0x0, 0x3, 0x6, 0x8))
        width = np.where(kind == 0x4, 12, np.where(kind == 0x5, 8, 0))
        passed = np.cumsum(width) - width  # pixels that vectors before have gone on

        def base_of(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            base = _last(bases, at)
            return base, (value[base] & 0x7FF) + passed[at] - passed[base]

        single, vectors = np.flatnonzero(kind == 0x2), np.flatnonzero(width)
        bits = np.where(kind[vectors] == 0x5, value[vectors] & 0xFF, value[vectors])
        hit, bit = np.nonzero((bits[:, None] >> np.arange(12)) & 1)
        base, left = base_of(vectors)
        at = np.concatenate([single, vectors[hit]])
        x = np.concatenate([value[single] & 0x7FF, left[hit] + bit])
        on = np.concatenate([value[single] >> 11, value[base[hit]] >> 11]) > 0
        known = np.concatenate([np.ones(len(single), bool), base[hit] >= 0])
        row, low, high = (_last(places, at) for places in (rows, lows, highs))
        known &= (row >= 0) & (high >= 0)
        at, x, on, row, low, high = (array[known] for array in (at, x, on, row, low, high))
        self._keep(words, rows, lows, highs, base_of)
        # A new high part sets the low one to 0: its own comes right after.
        time = (value[high] << 12) | np.where(low > high, value[low], 0)
        return Decoded(at - before, time, x, value[row] & 0x7FF, on)

    def _keep(
        self,
        words: np.ndarray,
        rows: np.ndarray,
        lows: np.ndarray,
        highs: np.ndarray,
        base_of: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    ) -> None:
        if len(highs) and len(lows) and highs[-1] > lows[-1]:
            lows = lows[:0]
        state = [words[places[-1]] for places in (highs, lows, rows) if len(places)]
        if len(words):
            end = np.array([len(words) - 1])
            (base,), (left,) = base_of(end)
            if base >= 0:
                kind = words[-1] >> 12
                left += 12 if kind == 0x4 else 8 if kind == 0x5 else 0
                state.append(np.uint16((int(words[base]) & 0xF800) | min(int(left), _LARGEST_SIDE - 1)))
        self._state = np.array(state, np.uint16)


class Evt2Decoder:
    """EVT 2.0: each event has its place and the low six bits of its time; the high ones hold from a word before."""

    word = np.dtype(np.uint32)
    wraps_us = 1 << 34

    def __init__(self) -> None:
        self._state: np.ndarray = np.zeros(0, np.uint32)

    def decode(self, words: np.ndarray) -> Decoded:
        """Words (n,) uint32 -> events; those before the first high part of the time are left out."""
        before = len(self._state)
        words = np.concatenate([self._state, words]).astype(np.int64)
        kind = words >> 28
        highs = np.flatnonzero(kind == 0x8)
        self._state = words[highs[-1:]].astype(np.uint32)
        at = np.flatnonzero(kind <= 1)
        high = _last(highs, at)
        at, high = at[high >= 0], high[high >= 0]
        event = words[at]
        time = ((words[high] & 0xFFFFFFF) << 6) | ((event >> 22) & 0x3F)
        return Decoded(at - before, time, (event >> 11) & 0x7FF, event & 0x7FF, kind[at] == 1)


DECODERS: dict[str, type[Evt3Decoder] | type[Evt2Decoder]] = {"evt3": Evt3Decoder, "evt2": Evt2Decoder}


class _Events(NamedTuple):
    """time: ns of the stamps' clock, from `first` to `last`; pixel: row by row; on: brighter."""

    time: np.ndarray
    pixel: np.ndarray
    on: np.ndarray
    first: int
    last: int


class EventFrame(NamedTuple):
    """pixels: HxW uint8, as the module's text says; stamp: ns of its end, by the event camera's clock."""

    stamp: int
    pixels: np.ndarray


class _Packet(NamedTuple):
    stamp: int
    words: np.ndarray
    follows: bool  # the packet before was not lost


class EventSlicer:
    """Collects packets and cuts a frame out of them for the moment of each RGB image. Not thread-safe.

    Without RGB images it cuts frames all the same, one a window. Memory is bounded: events of the last second, fewer
    where they are very many.

    Args:
        report: told what is wrong with a packet.
    """

    def __init__(self, max_pixels: int = MAX_PIXELS, report: Callable[[str], None] = lambda text: None) -> None:
        self._max_pixels, self._report = max_pixels, report
        self._guard = StampGuard()
        self._seq: int | None = None
        self.configure()
        self._stream: tuple[str, int, int] | None = None  # encoding, height, width
        self._rgb: deque[int] = deque(maxlen=_INTERVALS)
        self._clear()

    def _clear(self) -> None:
        self._packets: deque[_Packet] = deque()
        self._pending_bytes = 0
        self._events: deque[_Events] = deque()
        self._wanted: deque[int] = deque(maxlen=_MOST_WANTED)
        self._newest: int | None = None
        self._decoder: Any = None
        self._rgb_heard: int | None = None  # by the packets' clock
        self._last_frame: int | None = None

    @property
    def held_bytes(self) -> int:
        """Of packets and events that are kept."""
        arrays = [array for events in self._events for array in (events.time, events.pixel, events.on)]
        return self._pending_bytes + sum(array.nbytes for array in arrays)

    def configure(self, window: float = 0.0, options: PairOptions = PairOptions()) -> None:
        """Other values from now on.

        Args:
            window: seconds before that moment whose events a frame shows; 0 = the interval of the RGB images.
            options: of the pairing. By `latest` a frame is of what has come, else it waits for what completes it.
        """
        self._window, self._offset = round(window * 1e9), round(options.aux_offset * 1e9)
        self._waits = options.pairing != "latest"

    def add_rgb(self, stamp: int) -> list[EventFrame]:
        """An RGB image of that stamp (ns) has come: a frame is wanted. Returns those that are complete."""
        self._rgb.append(stamp)
        self._rgb_heard = self._newest
        self._wanted.append(stamp - self._offset)
        return self._due()

    def add_packet(self, message: Any) -> list[EventFrame]:
        """Take one event_camera_msgs/EventPacket; returns the frames that it completes.

        Raises:
            ImageError: not a packet that can be read; the others are not touched.
        """
        words = self._checked(message)
        stream = (message.encoding, message.height, message.width)
        if stream != self._stream:
            self._clear()
            self._stream = stream
        follows = self._seq is not None and message.seq == self._seq + 1
        self._seq = message.seq
        stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        images = self._guard.take(stamp, (words, follows), None)
        return [frame for image in images for frame in self._take(_Packet(image.stamp, *image.item))]

    def _take(self, packet: _Packet) -> list[EventFrame]:
        """Go on with a packet whose stamp is believed."""
        if self._newest is not None and packet.stamp < self._newest - RESTART_NS:
            self._clear()
        self._newest = max(packet.stamp, self._newest or packet.stamp)
        self._packets.append(packet)
        self._pending_bytes += packet.words.nbytes
        while self._pending_bytes > _MAX_PENDING_BYTES:
            self._pending_bytes -= self._packets.popleft().words.nbytes
            if self._packets:
                self._packets[0] = self._packets[0]._replace(follows=False)
        frames = self._due()
        silent = self._rgb_heard is None or self._newest - self._rgb_heard > _SILENT_NS
        if silent and (self._last_frame is None or self._newest - self._last_frame >= self._span()):
            frames.append(self._cut(self._newest))
        return frames

    def _checked(self, message: Any) -> np.ndarray:
        encoding, data = message.encoding, np.frombuffer(message.events, np.uint8)
        what = f"event packet ({encoding!r}, {message.width}x{message.height})"
        if encoding not in DECODERS:
            raise ImageError(f"{what}: expected encoding {' or '.join(DECODERS)}")
        pixels = message.width * message.height
        if not (min(message.width, message.height) > 0 and max(message.width, message.height) <= _LARGEST_SIDE):
            raise ImageError(f"{what}: expected sides of 1 to {_LARGEST_SIDE} pixels")
        if pixels > self._max_pixels:
            raise ImageError(f"{what}: more pixels than the limit of {self._max_pixels:,} (max_pixels)")
        if data.size > _MAX_PACKET_BYTES:
            raise ImageError(f"{what}: {data.size:,} bytes, expected at most {_MAX_PACKET_BYTES:,}")
        word = DECODERS[encoding].word
        if rest := data.size % word.itemsize:
            self._report(f"{what}: {data.size} bytes end within a word of {word.itemsize}; the whole ones are used")
            data = data[: data.size - rest]
        return data.view(word.newbyteorder(">" if message.is_bigendian else "<"))

    def _span(self) -> int:
        """The window in ns."""
        if self._window:
            return self._window
        steps = np.diff(np.array(self._rgb, np.int64)) if len(self._rgb) > 1 else np.zeros(0, np.int64)
        steps = steps[(steps > 0) & (steps < _KEPT_NS)]
        return int(np.median(steps)) if len(steps) else _DEFAULT_WINDOW_NS

    def _due(self) -> list[EventFrame]:
        """Frames whose end the packets have passed; a moment whose events are long gone has none."""
        if self._newest is None:
            return []
        ready = [stamp for stamp in self._wanted if stamp < self._newest or not self._waits]
        for stamp in ready:
            self._wanted.remove(stamp)
        return [self._cut(stamp) for stamp in ready if abs(stamp - self._newest) <= _KEPT_NS]

    def _cut(self, stamp: int) -> EventFrame:
        self._decode()
        assert self._stream is not None
        _, height, width = self._stream
        start, counts = stamp - self._span(), np.zeros(height * width, np.int32)
        for events in self._events:
            if events.first <= stamp and events.last > start:
                inside = (events.time > start) & (events.time <= stamp)
                np.add.at(counts, events.pixel[inside], np.where(events.on[inside], 1, -1).astype(np.int32))
        frame = np.full(height * width, _NONE, np.uint8)
        frame[counts > 0], frame[counts < 0] = _POSITIVE, _NEGATIVE
        self._last_frame = stamp
        return EventFrame(stamp, frame.reshape(height, width))

    def _decode(self) -> None:
        """Decode what has come since the last frame, and forget what is old."""
        while self._packets:
            run = [self._packets.popleft()]
            while self._packets and self._packets[0].follows:
                run.append(self._packets.popleft())
            if self._decoder is None or not run[0].follows:
                assert self._stream is not None
                self._decoder = DECODERS[self._stream[0]]()
            self._decode_run(run)
        self._pending_bytes = 0

    def _decode_run(self, run: list[_Packet]) -> None:
        """Packets of which none is missing, together: a small one costs hardly more than its words."""
        words = np.concatenate([packet.words for packet in run])
        starts = np.cumsum([0, *(len(packet.words) for packet in run[:-1])])
        stamps = np.array([packet.stamp for packet in run], np.int64)
        first_time = np.full(len(run), -1, np.int64)
        for begin in range(0, len(words), _BLOCK):
            decoded = self._decoder.decode(words[begin : begin + _BLOCK])
            if not len(decoded.time):
                continue
            packet = np.searchsorted(starts, decoded.word + begin, "right") - 1
            first_word = np.full(len(run), _BLOCK)
            np.minimum.at(first_word, packet, decoded.word)
            firsts = (decoded.word == first_word[packet]) & (first_time[packet] < 0)
            first_time[packet[firsts]] = decoded.time[firsts]
            since = (decoded.time - first_time[packet]) % self._decoder.wraps_us
            self._store(decoded, packet, since, stamps)

    def _store(self, decoded: Decoded, packet: np.ndarray, since: np.ndarray, stamps: np.ndarray) -> None:
        """Keep the events of sound packets. since: us after the packet's first event."""
        assert self._stream is not None and self._newest is not None
        encoding, height, width = self._stream
        sound = (decoded.x < width) & (decoded.y < height) & (since < _LONGEST_US)
        counts = np.bincount(packet, minlength=len(stamps))
        wrong = np.bincount(packet[~sound], minlength=len(stamps)) > _TOLERATED * counts
        if wrong.any():
            self._report(
                f"event packet ({encoding!r}, {width}x{height}): more than {_TOLERATED:.0%} of its events lie outside "
                "of the sensor, or a second after the first; left out. Is its encoding right?"
            )
            sound &= ~wrong[packet]
        if not sound.any():
            return
        time = stamps[packet[sound]] + since[sound] * 1000
        pixel = (decoded.y * width + decoded.x)[sound].astype(np.int32)
        self._events.append(_Events(time, pixel, decoded.on[sound], int(time.min()), int(time.max())))
        while self._events and (
            self._events[0].last < self._newest - _KEPT_NS
            or sum(len(events.time) for events in self._events) > _MAX_EVENTS
        ):
            self._events.popleft()


class EventFrames(SimpleFilter):
    """A filter (message_filters' protocol) between the two inputs and the pairing.

    Packets come out as images, stamped so that each pairs with its RGB image; images that a camera rendered itself
    pass. To be made before the pairing listens to RGB: a frame of what has come must be there first.

    Args:
        rgb, aux: filters of the two inputs.
        window: of a frame, seconds; 0 = the interval of the RGB images.
        make: an image message of a frame and the frame_id of its camera.
        report: told what is wrong with a packet.
    """

    def __init__(
        self,
        rgb: Any,
        aux: Any,
        window: float,
        options: PairOptions,
        make: Callable[[EventFrame, str], Any],
        report: Callable[[str], None],
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        super().__init__()
        self._slicer = EventSlicer(max_pixels, report)
        self._make, self._report = make, report
        self._frame_id = ""
        self.configure(window, options)
        rgb.registerCallback(self._add_rgb)
        aux.registerCallback(self._add_aux)

    def configure(self, window: float, options: PairOptions) -> None:
        """Other values from now on."""
        self._slicer.configure(window, options)

    def _add_rgb(self, message: Any) -> None:
        self._signal(self._slicer.add_rgb(stamp_ns(message)))

    def _add_aux(self, message: Any) -> None:
        if not hasattr(message, "events"):
            self.signalMessage(message)
            return
        self._frame_id = message.header.frame_id
        try:
            self._signal(self._slicer.add_packet(message))
        except ImageError as error:
            self._report(str(error))

    def _signal(self, frames: list[EventFrame]) -> None:
        for frame in frames:
            if 0 <= frame.stamp < 2**31 * 10**9:  # else a stamp that no message can have
                self.signalMessage(self._make(frame, self._frame_id))
