"""The node's health as diagnostic_msgs; diagnostic_updater is a C++ and apt matter, the message is not."""

from __future__ import annotations

import math
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from cmdtrack_ros.streams.pairing import Pair
from cmdtrack_ros.track import PERCENTILES, Track, percentiles_ms

_MAX_FAULTS_KEPT = 50


class Latencies:
    """Times of the last results: their rate, and percentiles of latency, processing and each step.

    One thread fills it, another reads.
    """

    def __init__(self, kept: int = 300) -> None:
        self._entries: deque[tuple[float, Track]] = deque(maxlen=kept)

    def add(self, track: Track) -> None:
        self._entries.append((time.monotonic(), track))

    def values(self) -> dict[str, str]:
        entries = list(self._entries)
        if not entries:
            return {}
        recent = [moment for moment, _ in entries if moment > time.monotonic() - 5.0]
        rate = (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 1 else 0.0
        values = {"output rate (Hz)": f"{rate:.1f}"}
        for name, seconds in _seconds_by_step([track for _, track in entries]).items():
            percentiles = percentiles_ms(seconds)
            values |= {f"{name} p{p} (ms)": f"{percentiles[f'p{p}']:.1f}" for p in PERCENTILES if percentiles}
        return values


def _seconds_by_step(tracks: list[Track]) -> dict[str, list[float]]:
    times = {"latency": [track.latency for track in tracks], "processing": [track.seconds for track in tracks]}
    for track in tracks:
        for name, milliseconds in track.times_ms.items():
            if name != "total":  # that is "processing"
                times.setdefault(name, []).append(milliseconds / 1e3)
    return times


def steps_ms(pair: Pair, began: int, ready: int, latency: float) -> dict[str, float]:
    """Milliseconds that a pair spent on its way to the worker; nothing where pairing goes by the stamps.

    Args:
        began, ready: when the worker took the pair and had its result, ns of the pairing's clock.
        latency: from the stamp to `ready`, seconds of the node's clock.
    """
    if pair.left is None:
        return {}
    return {
        "arrival": latency * 1e3 - (ready - pair.arrived) * 1e-6,
        "pairing": (pair.left - pair.arrived) * 1e-6,
        "waiting": (began - pair.left) * 1e-6,
    }


class FaultLog:
    """Logs each fault once, and again only after some seconds.

    Faults are the same when their texts differ in numbers only.

    Args:
        log: takes the message.
        repeat_after: seconds until the same fault is logged again.
        count_repeats: say how often it was withheld in between.
    """

    def __init__(self, log: Callable[[str], Any], repeat_after: float = 5.0, *, count_repeats: bool = True) -> None:
        self._log = log
        self._repeat_after = repeat_after
        self._count_repeats = count_repeats
        self._logged: dict[tuple[str, str], tuple[float, int]] = {}  # fault: when last, withheld since
        self._lock = threading.Lock()  # callbacks and worker both report

    def __call__(self, kind: str, text: str) -> None:
        with self._lock:
            withheld = self._withheld_before((kind, re.sub(r"[\d.]+", "#", text)))
        if withheld is not None:
            more = f" ({withheld} more since the last message)" if withheld and self._count_repeats else ""
            self._log(f"{kind}: {text}{more}")

    def _withheld_before(self, fault: tuple[str, str]) -> int | None:
        """How often a fault was withheld before now; None where it is withheld now as well."""
        at, withheld = self._logged.pop(fault, (-math.inf, 0))
        now = time.monotonic()
        if now - at < self._repeat_after:
            self._logged[fault] = (at, withheld + 1)
            return None
        while len(self._logged) >= _MAX_FAULTS_KEPT:
            self._logged.pop(next(iter(self._logged)))
        self._logged[fault] = (now, 0)
        return withheld

    def recent_kinds(self) -> list[str]:
        """Kinds of fault logged within the last `repeat_after` seconds."""
        now = time.monotonic()
        with self._lock:
            return sorted({kind for (kind, _), (at, _) in self._logged.items() if now - at < self._repeat_after})


def gpu_memory() -> dict[str, str]:
    """Memory that the network holds on a GPU; nothing where none is in use."""
    torch = sys.modules.get("torch")  # not imported for this: a CPU engine may run without it
    if torch is None or not torch.cuda.is_available() or not torch.cuda.memory_allocated():
        return {}
    return {"GPU memory (MiB)": f"{torch.cuda.memory_allocated() / 2**20:.0f}"}


def diagnostic_array(
    stamp: Any, name: str, hardware: str, problems: list[str], summary: str, values: Mapping[str, Any]
) -> DiagnosticArray:
    """One status: OK with `summary`, or a warning that lists the problems."""
    status = DiagnosticStatus(
        name=name,
        hardware_id=hardware,
        level=DiagnosticStatus.WARN if problems else DiagnosticStatus.OK,
        message="; ".join(problems) if problems else summary,
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )
    array = DiagnosticArray(status=[status])
    array.header.stamp = stamp
    return array
