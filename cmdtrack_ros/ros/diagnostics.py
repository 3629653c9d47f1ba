"""The node's health as diagnostic_msgs, and the latencies that it reports."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from cmdtrack_ros.ros.health import STATUSES
from cmdtrack_ros.streams.pairing import Pair
from cmdtrack_ros.track import PERCENTILES, Track, percentiles_ms

try:
    from diagnostic_updater import Updater
except ImportError:
    Updater = None

_QUEUE_DEPTH = 10
_LEAST_LATENCY, _MOST_LATENCY = -0.1, 60.0  # s


class Latencies:
    """Times of the last results: their rate, and percentiles of latency, processing and each step.

    Results whose stamp cannot be right, by the latency it would mean, are counted, and not among the latencies.
    One thread fills it, another reads.
    """

    def __init__(self, kept: int = 300) -> None:
        self._entries: deque[tuple[float, Track]] = deque(maxlen=kept)
        self._impossible = 0

    def add(self, track: Track) -> None:
        if not _LEAST_LATENCY <= track.latency <= _MOST_LATENCY:
            self._impossible += 1
            times = {name: value for name, value in track.times_ms.items() if name != "arrival"}
            track = replace(track, latency=math.nan, times_ms=times)
        self._entries.append((time.monotonic(), track))

    def processing_text(self) -> str:
        """How long tracking takes, in words."""
        percentiles = percentiles_ms(track.seconds for _, track in list(self._entries))
        return f"tracking one takes {percentiles['p50']:.0f} ms" if percentiles else "none was tracked yet"

    def values(self) -> dict[str, str]:
        entries = list(self._entries)
        if not entries:
            return {}
        recent = [moment for moment, _ in entries if moment > time.monotonic() - 5.0]
        rate = (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 1 else 0.0
        values = {"output rate (Hz)": f"{rate:.1f}", "impossible stamps": str(self._impossible)}
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


def gpu_memory() -> dict[str, str]:
    """Memory that the network holds on a GPU; nothing where none is in use."""
    torch = sys.modules.get("torch")  # not imported for this: a CPU engine may run without it
    if torch is None or not torch.cuda.is_available() or not torch.cuda.memory_allocated():
        return {}
    return {"GPU memory (MiB)": f"{torch.cuda.memory_allocated() / 2**20:.0f}"}


class DiagnosticsPublisher:
    """Publishes statuses on /diagnostics: through diagnostic_updater where that is installed, else by itself.

    A plain publisher, not the lifecycle's: an operator asks most while the node is not active.

    Args:
        concerns: the node's, one status each.
    """

    def __init__(self, node: Any, concerns: Sequence[str] = STATUSES) -> None:
        self._node = node
        self._name = node.get_fully_qualified_name()[1:]
        self._statuses: dict[str, DiagnosticStatus] = {}
        self._updater = Updater(node) if Updater else None
        if self._updater is None:
            self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", _QUEUE_DEPTH)
            return
        self._updater.timer.cancel()  # it would go by simulated time, and stop with it
        self._updater.node_name = self._name
        for name in concerns:
            self._updater.add(name, partial(self._fill, name))

    def publish(self, hardware: str, statuses: Mapping[str, tuple[bytes, str, Mapping[str, Any]]]) -> None:
        """Publish level, message and values of each of the node's concerns.

        Args:
            hardware: the device in use.
        """
        self._statuses = {
            name: DiagnosticStatus(
                name=f"{self._name}: {name}",
                hardware_id=hardware,
                level=level,
                message=message,
                values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
            )
            for name, (level, message, values) in statuses.items()
        }
        if self._updater:
            self._updater.setHardwareID(hardware)
            self._updater.force_update()
            return
        array = DiagnosticArray(status=list(self._statuses.values()))
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(array)

    def _fill(self, name: str, status: Any) -> Any:
        """diagnostic_updater's task: what is to be published goes into its status, all but the name."""
        if name in self._statuses:
            ours = self._statuses[name]
            status.level, status.message, status.values = ours.level, ours.message, ours.values
        return status
