"""Runs trackers over data sets in parallel processes, one thread each; can be killed and started again."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Any

import cv2
from pydantic import TypeAdapter
from tqdm import tqdm

from cmdtrack_ros.data import ImageSequence, find_sequences, load_sequence
from cmdtrack_ros.data.bags import BagOptions, load_bag
from cmdtrack_ros.errors import CmdtrackError, ConfigError, DataError
from cmdtrack_ros.evaluation.baselines import AUX, TrackerSpec, make_tracker
from cmdtrack_ros.evaluation.protocols import Protocol, choose, multi_start, one_pass
from cmdtrack_ros.evaluation.results import finished, write_run, write_text
from cmdtrack_ros.evaluation.scoring import Scores, score_results
from cmdtrack_ros.modalities import Modality
from cmdtrack_ros.tracking.drive import BoxTracker, first_visible

RESULTS, SETTINGS, SUMMARY = "results", "run.json", "summary.json"
BAGS = "rosbag2"
"""The layout that the settings of a run over bags name."""
_BAG_OPTIONS = TypeAdapter(BagOptions)
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A sequence folder that could be opened, and the protocol it is evaluated by."""

    sequence: ImageSequence
    path: Path
    protocol: Protocol


@dataclass(frozen=True)
class Job:
    """One tracker on one sequence; small enough to be sent to another process."""

    spec: TrackerSpec
    path: Path
    layout: str
    protocol: Protocol
    folder: Path


def open_dataset(
    paths: Iterable[Path], layout: str = "auto", protocol: Protocol = Protocol.AUTO
) -> tuple[list[Entry], dict[str, str]]:
    """All sequences below ``paths``, and name -> reason for those that cannot be used.

    Raises:
        DataError: a path without sequences.
        ConfigError: two sequences of one name, whose result files would be one.
    """
    entries: list[Entry] = []
    broken: dict[str, str] = {}
    known: dict[str, Path] = {}
    for path in [found for root in paths for found in find_sequences(root, layout)]:
        name = path.resolve().name
        if name in known:
            raise ConfigError(f"{path} and {known[name]} have the same name; evaluate them into two folders")
        known[name] = path
        try:
            sequence = load_sequence(path, layout)
            first_visible(sequence)
            entries.append(Entry(sequence, path.resolve(), choose(sequence, protocol)))
        except DataError as error:
            broken[name] = str(error)
    return entries, broken


def evaluate(
    paths: list[Path],
    specs: list[TrackerSpec],
    output: Path,
    *,
    layout: str = "auto",
    protocol: Protocol = Protocol.AUTO,
    jobs: int = 1,
    progress: bool = True,
) -> tuple[list[Scores], dict[str, ImageSequence]]:
    """Run every tracker over every sequence, write result files and ``summary.json``, and score.

    A sequence whose result file is there is not run again. One that fails is reported and the rest goes on.

    Args:
        jobs: processes.

    Returns:
        The scores of each tracker, and the sequences that could be opened, by name.

    Raises:
        ConfigError: ``output`` holds results of other settings.
        DataError: no sequence below ``paths``.
    """
    if jobs < 1:
        raise ConfigError(f"jobs: expected at least 1 process, got {jobs}")
    entries, broken = open_dataset(paths, layout, protocol)
    weights = remember_settings(output, paths, layout, protocol, specs)["trackers"]
    failures = run_jobs(make_jobs(entries, specs, output, layout), jobs, progress)
    scores = [
        _score(output, spec.label, entries, broken | failures.get(spec.label, {}), weights[spec.label])
        for spec in specs
    ]
    write_summary(output / SUMMARY, scores)
    return scores, {entry.sequence.name: entry.sequence for entry in entries}


def reload(folders: list[Path]) -> tuple[list[Scores], dict[str, ImageSequence]]:
    """Score what a run over sequences or bags left in ``folders``; with several, trackers are ``FOLDER/TRACKER``.

    Raises:
        DataError: a folder that is not an evaluation's, or whose data is gone.
    """
    scores: list[Scores] = []
    sequences: dict[str, ImageSequence] = {}
    for folder in folders:
        settings = read_settings(folder)
        entries, broken = _reopened(settings)
        sequences |= {entry.sequence.name: entry.sequence for entry in entries}
        for label, weights in settings["trackers"].items():
            score = _score(folder, label, entries, broken, weights)
            name = label if len(folders) == 1 else f"{folder.resolve().name}/{label}"
            scores.append(replace(score, tracker=name))
    return scores, sequences


def _reopened(settings: dict[str, Any]) -> tuple[list[Entry], dict[str, str]]:
    """The recordings of a run, as :func:`open_dataset` returns them, read as that run read them."""
    paths = [Path(path) for path in settings["datasets"]]
    if settings["layout"] != BAGS:
        return open_dataset(paths, settings["layout"], Protocol(settings["protocol"]))
    entries, broken = [], {}
    for path in paths:
        try:
            sequence = load_bag(path, settings["bag"])
            sequence.name = path.name
            entries.append(Entry(sequence, path, Protocol.OPE))
        except DataError as error:
            broken[path.name] = str(error)
    if not entries:
        raise DataError("; ".join(broken.values()))
    return entries, broken


def _score(output: Path, label: str, entries: list[Entry], failures: dict[str, str], weights: dict[str, str]) -> Scores:
    usable = [(entry.sequence, entry.protocol) for entry in entries if applies(label, entry.sequence)]
    return replace(score_results(output / RESULTS / label, label, usable, failures), weights=weights)


def applies(label: str, sequence: ImageSequence) -> bool:
    """Whether the sequence has the stream that the tracker of this label looks at."""
    return not label.endswith(f"@{AUX}") or sequence.modality is not Modality.RGB


def make_jobs(entries: list[Entry], specs: list[TrackerSpec], output: Path, layout: str) -> list[tuple[Job, int]]:
    """What is still to run, with its number of frames; the longest first, so that processes end together."""
    jobs = [
        (Job(spec, entry.path, layout, entry.protocol, output / RESULTS / spec.label), len(entry.sequence))
        for spec in specs
        for entry in entries
        if applies(spec.label, entry.sequence)
        and not finished(output / RESULTS / spec.label, entry.sequence, entry.protocol)
    ]
    return sorted(jobs, key=lambda job: -job[1])


def run_jobs(jobs: list[tuple[Job, int]], processes: int, progress: bool = True) -> dict[str, dict[str, str]]:
    """Run the jobs (with their frames) and return tracker -> sequence -> reason for those that failed."""
    failures: dict[str, dict[str, str]] = {}
    if not jobs:
        return failures
    with (
        ProcessPoolExecutor(min(processes, len(jobs)), get_context("spawn"), initializer=_start_worker) as pool,
        tqdm(total=sum(frames for _, frames in jobs), unit="frame", disable=not progress) as bar,
    ):
        pending = {pool.submit(run_job, job): (job, frames) for job, frames in jobs}
        for future in as_completed(pending):
            job, frames = pending[future]
            bar.update(frames)
            reason = _reason(future)
            if reason:
                failures.setdefault(job.spec.label, {})[job.path.name] = reason
                tqdm.write(f"failed: {job.spec.label} on {job.path.name}", file=sys.stderr)
    return failures


def _reason(future: Future) -> str:
    try:
        return future.result() or ""
    except BrokenProcessPool:
        return "a worker process died (out of memory?); run the same command again, with fewer jobs"


def _start_worker() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    cv2.setNumThreads(1)
    # A killed parent must not leave workers behind that go on computing.
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    if (parent := parent_process()) is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def run_job(job: Job) -> str:
    """Run one job and write its result files; returns the reason when it failed, else an empty string."""
    try:
        sequence = load_sequence(job.path, job.layout)
        tracker = _cached_tracker(job.spec, sequence.modality)
        if job.protocol is not Protocol.MULTISTART:
            write_run(job.folder, sequence.name, job.protocol, one_pass(tracker, sequence))
            return ""
        for anchor, run in multi_start(tracker, sequence):
            write_run(job.folder, sequence.name, job.protocol, run, anchor)
        return ""
    except CmdtrackError as error:
        return str(error)
    except Exception as error:  # A third party's tracker may raise anything; the other sequences must go on.
        logger.exception("%s on %s", job.spec.label, job.path)
        return f"{type(error).__name__}: {error}"


@lru_cache(maxsize=4)
def _cached_tracker(spec: TrackerSpec, modality: Modality) -> BoxTracker:
    return make_tracker(spec, modality)


def remember_settings(
    output: Path, paths: list[Path], layout: str, protocol: Protocol, specs: list[TrackerSpec]
) -> dict[str, Any]:
    """Write ``run.json`` and return what it holds.

    Raises:
        ConfigError: the folder holds results of other data, protocol or weights.
    """
    settings: dict[str, Any] = {
        "datasets": [str(Path(path).resolve()) for path in paths],
        "layout": layout,
        "protocol": protocol.value,
        "trackers": {spec.label: spec.hashes() for spec in specs},
    }
    file = output / SETTINGS
    if file.is_file():
        before = read_settings(output)
        differing = [key for key in ("datasets", "layout", "protocol") if before[key] != settings[key]]
        differing += [
            label for label, mark in settings["trackers"].items() if before["trackers"].get(label, mark) != mark
        ]
        if differing:
            raise ConfigError(
                f"{output} holds results of another run ({', '.join(differing)} differ, see {file}); "
                "take another --output"
            )
        settings["trackers"] = before["trackers"] | settings["trackers"]
    write_text(file, json.dumps(settings, indent=2) + "\n")
    return settings


def remember_bags(output: Path, paths: list[Path], options: BagOptions, spec: TrackerSpec) -> None:
    """Write the ``run.json`` of a run over bags, from which :func:`reload` reads them as it did."""
    truth = options.truth_file and options.truth_file.resolve()
    settings: dict[str, Any] = {
        "datasets": [str(path.resolve()) for path in paths],
        "layout": BAGS,
        "protocol": Protocol.OPE.value,
        "trackers": {spec.label: spec.hashes()},
        "bag": _BAG_OPTIONS.dump_python(replace(options, truth_file=truth), mode="json"),
    }
    write_text(output / SETTINGS, json.dumps(settings, indent=2) + "\n")


def read_settings(output: Path) -> dict[str, Any]:
    """``run.json`` of a result folder, of bags with their ``bag``; DataError when it is missing or damaged."""
    try:
        settings = json.loads((output / SETTINGS).read_text())
        known = {key: settings[key] for key in ("datasets", "layout", "protocol", "trackers")}
        return known | ({"bag": _BAG_OPTIONS.validate_python(settings["bag"])} if known["layout"] == BAGS else {})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{output / SETTINGS}: expected the settings that `cmdtrack evaluate` or `evaluate-bag` leaves "
            f"({type(error).__name__}: {error})"
        ) from error


def write_summary(file: Path, scores: list[Scores], more: dict | None = None) -> None:
    """``summary.json``: ``mean`` and ``sequences`` of the first tracker; of each one below ``trackers``."""
    first = {"tracker": scores[0].tracker, **scores[0].summary()}
    trackers = {"trackers": {score.tracker: score.summary() for score in scores}}
    write_text(file, json.dumps(first | trackers | (more or {}), indent=2) + "\n")
