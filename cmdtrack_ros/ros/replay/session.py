"""A recording through real DDS into the real node, each in a process of its own, and what came back."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rclpy.node import Node

from cmdtrack_ros.data.bags import Bag, BagSequence
from cmdtrack_ros.errors import CmdtrackError
from cmdtrack_ros.evaluation.replay import Replay, ReplayOptions, open_for_replay
from cmdtrack_ros.ros.health import COUNT_SUFFIX
from cmdtrack_ros.ros.replay.player import PlayReport, check_rate, play
from cmdtrack_ros.ros.replay.recorder import Guest, TrackRecorder
from cmdtrack_ros.ros.transport import free_domain, use_profile
from cmdtrack_ros.streams.frames import turns_of
from cmdtrack_ros.streams.pairing import PairCounters
from cmdtrack_ros.track import TargetState, Track

_NODE_PROGRAM = "from cmdtrack_ros.ros.node import main; main()"
_NODE_START_TIMEOUT = 120.0  # s for the node to load torch and the weights on a slow machine
_PLAYER_DISCOVERY_TIMEOUT = 30.0  # s for the player to find the node
_DATA_TIMEOUT = 1.0  # s of the recording without images after which the node sends out what waits for a partner
_END_SILENCE = 2.0  # s beyond that without a result, after which the node has nothing more to say


@dataclass(frozen=True)
class Playback:
    """What came back from DDS, and how it was played.

    Attributes:
        tracks: the node's answers; stamps and gaps as recorded, whatever the rate of playing.
        diagnostics: the last values that the node reported.
        rate: of playing; 1 = as recorded.
        start_ns: stamp of the recording's first message.
        startup_seconds: from the start of the node's process until another process saw it active.
        cpu_seconds: of all cores, that the node's process used while the bag was played.
        peak_memory_mb: the most that it had in memory (resident, 2**20 bytes) until the end of the playing.
    """

    tracks: list[Track]
    diagnostics: dict[str, str]
    report: PlayReport
    rate: float
    start_ns: int = 0
    startup_seconds: float = math.nan
    cpu_seconds: float = math.nan
    peak_memory_mb: float = math.nan

    @property
    def seconds(self) -> float:
        """That the playing took."""
        return self.report.seconds

    def recorded_ns(self, stamp_ns: int) -> int:
        """The stamp in the recording that was played with this one."""
        return _recorded_ns(stamp_ns, self.start_ns, self.report, self.rate)


def isolate() -> None:
    """Keep topics on this machine and, unless the user chose one, in a DDS domain of their own."""
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    if "ROS_DOMAIN_ID" not in os.environ:
        os.environ["ROS_DOMAIN_ID"] = str(free_domain())


def play_into_node(
    bag: Path,
    parameters: Mapping[str, Any],
    topics: list[str],
    log: Path,
    rate: float = 1.0,
    invite: Callable[[Node], Guest] | None = None,
) -> Playback:
    """Play ``topics`` of a bag to a node of its own process and collect its answers.

    Messages are stamped with the moment they are due, so that latencies are those of a live camera.

    Args:
        parameters: of the node.
        log: file for what the node says.
        invite: makes, of the node that collects the answers, a guest for whom the playing waits.

    Raises:
        CmdtrackError: the node does not become active; its last words are quoted.
        ConfigError: a rate at which the bag cannot be played, see :func:`check_rate`.
    """
    with Bag(bag) as opened:
        check_rate(opened, topics, rate)
        start_ns = opened.start_ns
    isolate()
    use_profile()
    data_timeout = _DATA_TIMEOUT / min(rate, 1.0)
    began = time.monotonic()
    # A fresh interpreter each: rclpy does not survive a fork.
    with (
        _node({"data_timeout": data_timeout, **parameters}, log) as node,
        TrackRecorder(invite=invite) as recorder,
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool,
    ):
        if not recorder.wait_active(topics, _NODE_START_TIMEOUT, lambda: node.poll() is None):
            late = f"was not active after {_NODE_START_TIMEOUT:.0f} s"
            what = late if node.poll() is None else "ended while starting"
            raise CmdtrackError(f"the node {what}: {_last_line(log)} (all it said: {log})")
        startup = time.monotonic() - began
        before = _cpu_seconds(node)
        report = pool.submit(
            play, bag, rate=rate, topics=topics, restamp="now", wait=_PLAYER_DISCOVERY_TIMEOUT
        ).result()
        if node.poll() is not None:
            raise CmdtrackError(f"the node ended while the bag was played: {_last_line(log)} (all it said: {log})")
        cpu, memory = _cpu_seconds(node) - before, _peak_memory_mb(node)
        recorder.wait_quiet(data_timeout + _END_SILENCE, timeout=60.0 + data_timeout)
        tracks, diagnostics = list(recorder.tracks), dict(recorder.diagnostics)
    recorded = [
        replace(track, stamp_ns=_recorded_ns(track.stamp_ns, start_ns, report, rate), gap=track.gap * rate)
        for track in tracks
    ]
    return Playback(recorded, diagnostics, report, rate, start_ns, startup, cpu, memory)


def _recorded_ns(stamp_ns: int, start_ns: int, report: PlayReport, rate: float) -> int:
    return start_ns + round((stamp_ns - start_ns - report.stamp_offset_ns) * rate)


def replay_through_node(path: Path, options: ReplayOptions, log: Path, rate: float = 1.0) -> Replay:
    """Play a bag through DDS to a node that tracks every pair; collect its answers.

    Args:
        log: file for what the node says.
        rate: speed of playing; stamps and gaps are scaled with it, and scaled back in the answers. Where
            the machine does not keep up, pairs wait (up to 256 of them) and latency grows.

    Raises:
        CmdtrackError: the node did not start (its last words are quoted), or what `replay_offline` raises.
    """
    sequence, box = open_for_replay(path, options)
    pairing = options.bag.pairing
    parameters: dict[str, Any] = {
        "modality": sequence.modality.value,
        "initial_box": [float(v) for v in box],
        "pairing": pairing.pairing,
        "slop": pairing.slop / rate,
        "latest_gap": pairing.latest_gap / rate,
        "aux_timeout": pairing.aux_timeout / rate,
        "aux_offset": pairing.aux_offset / rate,
        "queue_size": pairing.queue_size,
        "event_window": options.bag.event_window / rate,
        "device": options.device,
        "threads": 1,
        "process_every_pair": "true",
    }
    parameters |= _registration(sequence)
    parameters |= dict(zip(("rgb_topic", "aux_topic"), sequence.topics.images))
    parameters |= dict(zip(("rgb_camera_info", "aux_camera_info"), sequence.camera_infos))
    if options.weights is not None:
        parameters["weights"] = str(options.weights.resolve())
    began = time.perf_counter()
    run = play_into_node(path, parameters, [*sequence.camera_infos, *sequence.topics.images], log, rate)
    counts = {key: int(run.diagnostics.get(key, 0)) for key in (*PairCounters().as_dict(), "dropped")}
    faults = {
        key.removesuffix(COUNT_SUFFIX): int(value)
        for key, value in run.diagnostics.items()
        if key.endswith(COUNT_SUFFIX)
    }
    tracks = [with_pair_stamp(track, pairing.aux_offset) for track in run.tracks if track.state is not TargetState.IDLE]
    return Replay(sequence, tracks, counts, time.perf_counter() - began, faults)


def _registration(sequence: BagSequence) -> dict[str, Any]:
    """The parameters by which the node registers as the recording is; how the cameras are mounted is among them."""
    registration, rig = sequence.registrar.registration, sequence.registrar.rig
    if rig is not None:
        turns = turns_of(rig.rotation)
        registration = replace(registration, aux_translation=tuple(rig.translation.tolist()), aux_rotation=turns)
    return registration.as_parameters()


def with_pair_stamp(track: Track, aux_offset: float) -> Track:
    """A published result with the stamp of its pair, which is after ``aux_offset`` (s).

    Its header is its image's own: for an aux image alone, that is before the offset.
    """
    alone = not track.has_rgb and math.isnan(track.gap)
    return replace(track, stamp_ns=track.stamp_ns + round(aux_offset * 1e9)) if alone else track


@contextmanager
def _node(parameters: Mapping[str, Any], log: Path) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-c", _NODE_PROGRAM, "--ros-args"]
    for name, value in parameters.items():
        command += ["-p", f"{name}:={value}"]
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(10.0)
            except subprocess.TimeoutExpired:
                process.kill()


def _cpu_seconds(process: subprocess.Popen) -> float:
    """Used so far, in the kernel too."""
    # After the name in brackets, which may hold anything, user and system time are the 12th and 13th.
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak_memory_mb(process: subprocess.Popen) -> float:
    """The most resident memory so far."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _last_line(path: Path) -> str:
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
