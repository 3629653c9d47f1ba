"""Many training runs, some of which take the weights of others: one after the other, or several at the same time."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Thread

from cmdtrack_ros.errors import CmdtrackError, ConfigError
from cmdtrack_ros.training.config import Training
from cmdtrack_ros.training.loop import TASKS, Trainer, stop_requested
from cmdtrack_ros.training.parallel import processes
from cmdtrack_ros.training.pool import PoolPlace

log = logging.getLogger(__name__)

_SPAWN = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
_PATIENCE = 0.5
"""Seconds between two looks at whether to stop."""


class RunStoppedError(CmdtrackError):
    """A run was asked to stop before its last step."""


@dataclass(frozen=True)
class Run:
    """A training run and the folder that it is kept in; ``pools``: see :class:`Trainer`."""

    settings: Training
    output: Path
    pools: PoolPlace | None = None

    @property
    def weights(self) -> Path:
        """The file that it writes."""
        return self.output / TASKS[type(self.settings)].weights_file

    @property
    def needs(self) -> set[Path | None]:
        """Weights that it starts from or learns from, which other runs may have to write."""
        return {self.settings.init_backbone, getattr(self.settings, "teacher", None)}


def train_all(runs: Sequence[Run], data: Path, jobs: int = 1) -> None:
    """Train what is not trained yet, ``jobs`` runs at a time; with more than one, each in a process of its own.

    Args:
        runs: each after those whose weights it needs.

    Raises:
        RunStoppedError: SIGINT or SIGTERM came; whatever ran has ended its step and written its checkpoint.
        ConfigError: several jobs of several processes each.
        CmdtrackError, OSError: of the first run that failed; the others have been stopped in the same way.
    """
    if jobs == 1:
        for run in runs:
            _train(run, data)
    elif processes() > 1:
        raise ConfigError(f"jobs: expected 1 under torchrun, got {jobs}")
    else:
        _train_beside(runs, data, jobs)


def _train(run: Run, data: Path, bar: bool = True) -> None:
    """A run is resumed if it was begun before."""
    log.info("%s", run.output)
    # A run's decoded frames would stay in memory until the interpreter happens to collect them.
    gc.collect()
    trainer = Trainer(run.settings, data, run.output, run.pools)
    trainer.train(bar)
    if trainer.step < run.settings.steps:
        raise RunStoppedError(
            f"{run.output}: stopped at step {trainer.step} of {run.settings.steps}; start again to go on"
        )


def _train_beside(runs: Sequence[Run], data: Path, jobs: int) -> None:
    waiting, running = list(runs), list[_Job]()
    with stop_requested() as stop:
        try:
            while waiting or running:
                missing = {run.weights for run in (*waiting, *(job.run for job in running))}
                ready = [run for run in waiting if not run.needs & missing]
                running += [_Job(run, data) for run in ready[: jobs - len(running)]]
                begun = {job.run.weights for job in running}
                waiting = [run for run in waiting if run.weights not in begun]
                wait([job.process.sentinel for job in running], _PATIENCE)
                for job in [job for job in running if not job.process.is_alive()]:
                    running.remove(job)
                    job.check()
                    done = len(runs) - len(waiting) - len(running)
                    log.info("%s: done, %d of %d runs", job.run.output, done, len(runs))
                if stop[0]:
                    raise RunStoppedError(
                        f"stopped with {len(waiting) + len(running)} of {len(runs)} runs left; start again to go on"
                    )
        finally:
            for job in running:
                job.process.terminate()
            for job in running:
                job.process.join()


class _Job:
    """A run in a process of its own."""

    def __init__(self, run: Run, data: Path) -> None:
        self.run = run
        self._errors, childs = _SPAWN.Pipe(duplex=False)
        # No daemon: it has data processes of its own.
        self.process = _SPAWN.Process(target=_work, args=(run, data, childs), name=run.output.name)
        self.process.start()
        childs.close()

    def check(self) -> None:
        """Raise what the process ended by, if not by the end of its run."""
        self.process.join()
        try:
            raise self._errors.recv()
        except EOFError:
            pass
        if code := self.process.exitcode:
            how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
            raise CmdtrackError(f"{self.run.output}: expected its process to train to the end, it ended {how}")


def _work(run: Run, data: Path, errors: Connection) -> None:
    # Ctrl-C reaches the whole process group, before and after training, too; the parent then says SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()
    try:
        _train(run, data, bar=False)
    except (CmdtrackError, OSError, ImportError) as error:  # what is the user's to mend
        with suppress(BrokenPipeError):  # of a parent that was killed
            errors.send(error)


def _end_with_parent() -> None:
    """Of a parent that was killed, nobody would stop the runs, and the next one would begin them a second time."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
