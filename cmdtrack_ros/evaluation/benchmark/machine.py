"""The machine that is measured on, and who else used it meanwhile."""

from __future__ import annotations

import os
import platform
import re
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from cmdtrack_ros.tracking.engines.choose import processor_flags

CLEAN_LIMIT = 0.1
"""Cores that other processes may keep busy in a clean run: ten per cent of one, twice what an idle system takes."""
QUIET_LOAD = 0.5
"""Load average at the start above which a run is warned about."""
_SPEED_FLAGS = re.compile(r"sse4|avx|amx|fma|f16c|asimd|sve|i8mm|bf16")
_PACKAGES = (
    "numpy", "onnxruntime", "onnxruntime-gpu", "opencv-contrib-python-headless", "openvino", "torch", "ros-jazzy-rclpy"
)  # fmt: skip


@dataclass(frozen=True)
class Interference:
    """What others did during a run.

    Attributes:
        cores: how many of this process' cores other processes, or other guests of the host, kept busy on average.
        load: the load average when the run began.
    """

    cores: float
    load: float

    @property
    def clean(self) -> bool:
        return self.cores <= CLEAN_LIMIT


class Watch:
    """Keeps an eye on the cores that this process may use, from its making on."""

    def __init__(self) -> None:
        self._load = os.getloadavg()[0]
        self._began = _moment()

    def interference(self) -> Interference:
        """Of others since the beginning; child processes count as own once they have ended."""
        began, now = self._began, _moment()
        return Interference(foreign_cores(*(after - before for before, after in zip(began, now))), self._load)


def foreign_cores(seconds: float, busy: float, own: float) -> float:
    """Cores kept busy by others in ``seconds``, of CPU seconds that all and that this process spent."""
    return max(busy - own, 0.0) / seconds


def usable_cores() -> list[int]:
    """Numbers of the cores that this process may run on."""
    return sorted(os.sched_getaffinity(0))


def _moment() -> tuple[float, float, float]:
    """Seconds on the clock, CPU seconds of everybody on the usable cores, and of this process and its children."""
    cores = psutil.cpu_times(percpu=True)
    # Interrupts stay out: those of the node's own messages are in no process' time.
    busy = sum(sum((cores[i].user, cores[i].nice, cores[i].system, cores[i].steal)) for i in usable_cores())
    return time.monotonic(), busy, sum(psutil.Process().cpu_times()[:4])


def describe_machine() -> dict[str, Any]:
    """Processor, cores, and those of its instructions that matter here."""
    return {
        "processor": _processor(),
        "cores": len(usable_cores()),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": platform.platform(),
        "flags": sorted(flag for flag in processor_flags() if _SPEED_FLAGS.search(flag)),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.is_file() else []
    return names[0] if names else platform.machine()


def describe_versions() -> dict[str, str]:
    """Of Python and of the libraries that compute; those that are not installed are left out."""
    versions = {"python": platform.python_version(), "ros_distro": os.environ.get("ROS_DISTRO", "")}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
