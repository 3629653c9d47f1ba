"""Events as packets of event_camera_msgs, encoded by the public description of EVT 3.0 and EVT 2.0."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np


def encode_evt3(events: np.ndarray) -> np.ndarray:
    """(n, 4) us, x, y, on -> words uint16; twelve neighbours of one moment, row and polarity become a vector."""
    words: list[int] = []
    high = low = row = None
    i = 0
    while i < len(events):
        time, x, y, on = (int(value) for value in events[i])
        if high != (time >> 12) & 0xFFF:
            high = (time >> 12) & 0xFFF
            words.append(0x8000 | high)
        if low != time & 0xFFF:
            low = time & 0xFFF
            words.append(0x6000 | low)
        if row != y:
            row = y
            words.append(y)
        run = events[i : i + 12]
        if len(run) == 12 and (run[:, [0, 2, 3]] == run[0, [0, 2, 3]]).all() and (np.diff(run[:, 1]) == 1).all():
            words += [0x3000 | on << 11 | x, 0x4FFF]
            i += 12
            continue
        words.append(0x2000 | on << 11 | x)
        i += 1
    return np.array(words, np.uint16)


def encode_evt2(events: np.ndarray) -> np.ndarray:
    """(n, 4) us, x, y, on -> words uint32."""
    words: list[int] = []
    high = None
    for time, x, y, on in events.tolist():
        if high != time >> 6:
            high = time >> 6
            words.append(0x80000000 | high & 0xFFFFFFF)
        words.append(int(on) << 28 | (time & 0x3F) << 22 | x << 11 | y)
    return np.array(words, np.uint32)


def packet(stamp: int, events: np.ndarray, encoding: str, width: int, height: int, seq: int = 0) -> Any:
    """The fields of an EventPacket; events (n, 4), or words as they are."""
    words = events if events.ndim == 1 else (encode_evt3 if encoding == "evt3" else encode_evt2)(events)
    time = SimpleNamespace(sec=stamp // 10**9, nanosec=stamp % 10**9)
    return SimpleNamespace(
        header=SimpleNamespace(stamp=time, frame_id="event_camera"),
        height=height,
        width=width,
        seq=seq,
        time_base=0,
        encoding=encoding,
        is_bigendian=False,
        events=words.astype(words.dtype.newbyteorder("<")).view(np.uint8),
    )
