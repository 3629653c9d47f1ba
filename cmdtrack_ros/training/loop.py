"""The one training loop of all stages, on Lightning Fabric: devices, processes and precision are Fabric's,
the rest is here.

A run is a folder: ``last.ckpt`` (everything needed to go on), the averaged weights, ``tensorboard/`` and
``pictures/``.
"""

from __future__ import annotations

import copy
import logging
import math
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import cv2
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from lightning_fabric.strategies import DDPStrategy
from torch import nn
from tqdm import tqdm

from cmdtrack_ros.data.sequences import write_rgb
from cmdtrack_ros.errors import CmdtrackError, ConfigError, DataError, writing
from cmdtrack_ros.models.header import Provenance
from cmdtrack_ros.models.weights import save_weights
from cmdtrack_ros.training import pool
from cmdtrack_ros.training.average import blend
from cmdtrack_ros.training.choice import Choice, HeldOut, choose, mixture
from cmdtrack_ros.training.comparison import compare, verdicts
from cmdtrack_ros.training.config import (
    CmaeTraining,
    DistillTraining,
    Source,
    StudentTraining,
    TeacherTraining,
    Training,
)
from cmdtrack_ros.training.curves import Curves
from cmdtrack_ros.training.fixed_pairs import EnginePairs, measure, open_units, scores_of
from cmdtrack_ros.training.measure import measure_pairs
from cmdtrack_ros.training.memory import keep_freed_memory
from cmdtrack_ros.training.pairs import PairDataset, batches
from cmdtrack_ros.training.parallel import processes, processes_here, share_batch_norm
from cmdtrack_ros.training.pool import PooledPairs, PoolPlace
from cmdtrack_ros.training.seen import told
from cmdtrack_ros.training.sources import SequenceSource, open_sources
from cmdtrack_ros.training.tasks.cmae import CmaeTask
from cmdtrack_ros.training.tasks.distill import DistillTask
from cmdtrack_ros.training.tasks.student import StudentTask
from cmdtrack_ros.training.tasks.task import Batch, Task
from cmdtrack_ros.training.tasks.teacher import TeacherTask
from cmdtrack_ros.training.teaching import ForeignTeachers
from cmdtrack_ros.training.validation import engine_of

log = logging.getLogger(__name__)

CHECKPOINT = "last.ckpt"
TASKS: dict[type[Training], type[Task]] = {
    CmaeTraining: CmaeTask,
    TeacherTraining: TeacherTask,
    StudentTraining: StudentTask,
    DistillTraining: DistillTask,
}
_CHANGEABLE_FIELDS = {
    "threads",
    "workers",
    "log_every",
    "checkpoint_every",
    "validate_every",
    "pictures_every",
    "fixed_pairs",
    "start_share",
}
"""May change between a checkpoint and its resumption: they have no influence on the weights that are trained."""
_VALIDATION_TIMEOUT = timedelta(hours=2)
"""How long processes wait for the first one to validate."""


class Trainer:
    """One training run: task, optimiser, averaged network and step reached; one checkpoint holds it all.

    ``pools``: where a recipe with a ``pool`` keeps it, None = in a folder of the run.
    """

    def __init__(self, config: Training, data: Path, output: Path, pools: PoolPlace | None = None) -> None:
        self.config, self.output, self.step = config, output, 0
        self.fabric = _fabric(config)
        self.fabric.launch()
        output.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(config.seed)
        set_up_cpu(config.threads)
        keep_freed_memory()
        self.task = TASKS[type(config)](config)
        if self.fabric.world_size > 1:
            share_batch_norm(self.task)
        self.task.to(memory_format=torch.channels_last)
        # Only a copy of what is trained is kept: the rest of a task serves the training alone.
        self.average = copy.deepcopy(self.task.network).requires_grad_(False).eval().to(self.fabric.device)
        self.start = copy.deepcopy(self.average)
        optimiser = torch.optim.AdamW(self.task.parameter_groups(), weight_decay=config.weight_decay)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, self._rate)
        self.wrapped, self.optimiser = self.fabric.setup(self.task, optimiser)
        self.sources, self.held_out = open_sources(config.sources, data, config.split)
        self.to_choose_by = self._to_choose_by()
        self.choice: Choice | None = None
        self.data, self.foreign = data, getattr(config, "foreign", [])
        self.pools = pools or PoolPlace(output / "samples", tuple(self.foreign), config.wants_foreign_features)
        self.units = open_units(config.split, data) if config.split and config.fixed_pairs else []
        self.scores: dict[str, float] = {}
        self.start_scores: dict[str, float] = {}
        self._scored_at = -1
        self._curves: Curves | None = None
        self._resume()

    def _to_choose_by(self) -> list[HeldOut]:
        """Opened before the first step: what cannot be measured must not be known only after the last one."""
        if self._start_share() != "held_out":
            return []
        if not self.held_out:
            raise ConfigError(
                "start_share: held_out: expected sources that hold out recordings or parts of them (held_out, "
                "held_out_part, held_out_share), with two boxes or more, got none"
            )
        return [HeldOut.open(sequence, number) for number, sequence in enumerate(self.held_out)]

    def _start_share(self) -> float | str:
        return getattr(self.config, "start_share", 0.0)

    def _rate(self, step: int) -> float:
        if step < self.config.warmup:
            return (step + 1) / self.config.warmup
        done = (step - self.config.warmup) / max(self.config.steps - self.config.warmup, 1)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))

    def _resume(self) -> None:
        """Go on from the last checkpoint, if there is one; ConfigError: other settings, DataError: damaged."""
        file = self.output / CHECKPOINT
        if not file.is_file():
            return
        try:
            stored = self.fabric.load(file, weights_only=True)
            settings = stored["settings"]
        except Exception as error:  # torch raises whatever its parsers meet
            raise DataError(
                f"{file}: no whole checkpoint ({type(error).__name__}: {error}); remove it to start anew, or take "
                "another output folder"
            ) from error
        if differing := differences(settings, self._settings()):
            raise ConfigError(
                f"{file} was trained with other settings; take another output folder, or restore {'; '.join(differing)}"
            )
        self.task.load_state_dict(stored["task"])
        self.average.load_state_dict(stored["average"])
        self.optimiser.load_state_dict(stored["optimiser"])
        self.schedule.load_state_dict(stored["schedule"])
        self.step, self.scores, self.start_scores = stored["step"], stored["scores"], stored["before"]
        log.info("resumed at step %d from %s", self.step, file)

    def _settings(self) -> dict[str, Any]:
        """What a checkpoint must have in common with the run that resumes from it."""
        return self.config.model_dump(mode="json", exclude=_CHANGEABLE_FIELDS) | {"processes": self.fabric.world_size}

    def save(self) -> None:
        """Write checkpoint and averaged weights, each whole or not at all. All processes must call it."""
        state = {
            "task": self.wrapped,
            "average": self.average,
            "optimiser": self.optimiser,
            "step": self.step,
            "schedule": self.schedule.state_dict(),
            "settings": self._settings(),
            "scores": self.scores,
            "before": self.start_scores,
        }
        file = self.output / CHECKPOINT
        partial = file.with_name(file.name + ".partial")
        with writing(file):
            self.fabric.save(partial, state)
            if self.fabric.is_global_zero:
                partial.replace(file)
        if self.fabric.is_global_zero:
            save_weights(self._result(), self.weights, self.provenance())
        self.fabric.barrier()

    @property
    def weights(self) -> Path:
        """The file of the averaged weights."""
        return self.output / self.task.weights_file

    def provenance(self) -> Provenance:
        """What the weights file says of this run."""
        recipe = self.config.model_dump(mode="json", exclude={"sources"}) | {"step": self.step}
        if self.choice:
            recipe["start_share"] = self.choice.share
        data = told((str(source.path), self._about(source)) for source in self.config.sources)
        scores = self.scores if self._scored_at == self.step else {}
        return Provenance(recipe, data, scores | ({"before": self.start_scores} if self.start_scores else {}))

    def _about(self, source: Source) -> dict:
        """The settings of a source; ``held_out`` also names what a share holds out of its folder as it is now."""
        about = source.model_dump(mode="json", exclude={"path"})
        if source.held_out_share:
            opened = [one for one, _ in self.sources if isinstance(one, SequenceSource)]
            trained = {sequence.name for one in opened for sequence in one.sequences}
            about["held_out"] = sorted({sequence.name for sequence in self.held_out} - trained)
        return about

    def train(self, bar: bool = True) -> None:
        """Run to the last step; a checkpoint every so many steps, after SIGINT or SIGTERM, and at the end.

        ``bar``: with a progress bar.
        """
        if self.step == self.config.steps:
            log.info("%s: all %d steps are done", self.output, self.step)
            return
        main = self.fabric.is_global_zero
        hidden = not (main and bar)
        progress = tqdm(self._batches(), initial=self.step, total=self.config.steps, unit="step", disable=hidden)
        with ExitStack() as stack:
            stack.enter_context(progress)  # closed in any case: an error begins a line of its own
            if main:
                self._curves = stack.enter_context(Curves(self.output / "tensorboard", self.step))
            stop = stack.enter_context(stop_requested())
            self._steps(progress, stop)
        if self.choice:
            log.log(logging.WARNING if self.choice.share == 1 else logging.INFO, "fine-tuning: %s", self.choice)

    def _batches(self) -> Iterable[Batch]:
        """The batches of the steps that are left."""
        config, fabric = self.config, self.fabric
        steps = range(self.step, config.steps)
        loader = batches(self._samples(), config.batch, steps, fabric.global_rank, fabric.world_size, config.workers)
        return fabric.setup_dataloaders(loader, use_distributed_sampler=False)

    def _samples(self) -> PairDataset | PooledPairs:
        config = self.config
        if not config.pool:
            teachers = _teachers(self.foreign, config.wants_foreign_features)
            return PairDataset(self.sources, config.pairs, config.network, config.seed, teachers)
        # Nothing is taught while a backbone learns to restore pictures.
        pools = replace(self.pools, foreign=(), features=False) if isinstance(self.task, CmaeTask) else self.pools
        teachers = _teachers(pools.foreign, pools.features)
        dataset = PairDataset(self.sources, config.pairs, config.network, pool.SEED, teachers)
        return PooledPairs(pools.of(config), dataset, config.pool, config.seed)

    def _steps(self, progress: tqdm, stop: list[bool]) -> None:
        config = self.config
        for batch in progress:
            if self.step == 0:
                self._score_start()
            losses = self._train_step(batch)
            last, stopped = self.step == config.steps, self._agree(stop[0])
            checkpoint = last or stopped or self._every(config.checkpoint_every)
            if checkpoint or self._every(config.log_every):
                self._log(losses, progress, warn=checkpoint)
            if self._every(config.pictures_every):
                self._draw(batch)
            if last:
                self._choose()
            if config.validate_every and (last or self._every(config.validate_every)):
                self._validate()
            if checkpoint:
                self.save()
            if stopped:
                log.warning("stopped at step %d of %d; the same command goes on from there", self.step, config.steps)
                return

    def _every(self, steps: int) -> bool:
        """Whether so many steps have passed again; never for 0."""
        return steps > 0 and self.step % steps == 0

    def _score_start(self) -> None:
        """What given weights are worth before they change.

        So of foreign teachers. Called with the first batch at hand: the data processes run by then, and must not share
        open files with this one.
        """
        start = getattr(self.config, "init", None)
        if start is not None and self.config.validate_every:
            self._validate()
            self.start_scores = self.scores
        if self.foreign and self.fabric.is_global_zero:
            for line in self._worth(str(start or "shipped")):
                log.info("%s", line)

    def _worth(self, student: str) -> list[str]:
        """Of each foreign teacher, whether it knows enough more than what the student starts from."""
        config = self.config
        if config.split is None or not config.fixed_pairs:
            return ["foreign teachers: not measured, for that the recipe needs a split and fixed_pairs"]
        names = [student, *map(str, self.foreign)]
        found = measure_pairs(names, config.split, self.data, self.output / "measure", config.fixed_pairs)
        return verdicts(compare({name: [overlaps] for name, overlaps in found.items()}))

    def _agree(self, stop: bool) -> bool:
        """Whether any process was asked to stop: if some went on alone, they would wait for the others."""
        if self.fabric.world_size == 1:
            return stop
        if self.step % self.config.log_every:
            return False
        return bool(self.fabric.all_reduce(torch.tensor(float(stop)), reduce_op="sum") > 0)

    def _train_step(self, batch: Batch) -> dict[str, torch.Tensor]:
        self.wrapped.train()
        losses = self.wrapped(batch)
        self.optimiser.zero_grad(set_to_none=True)
        self.fabric.backward(losses["loss"])
        self.fabric.clip_gradients(
            self.wrapped, self.optimiser, max_norm=self.config.clip_norm, error_if_nonfinite=False
        )
        self.optimiser.step()
        self.schedule.step()
        self.step += 1
        self._average_weights()
        return losses

    def _average_weights(self) -> None:
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        blend(self.average, self.task.network, 1 - decay)

    def _choose(self) -> None:
        """At the end, how much of the start is kept; by the first process, the others wait."""
        if self.to_choose_by and self.fabric.is_global_zero:
            self.choice = choose(self.start, self.average, self.to_choose_by)
        self.fabric.barrier()

    def _result(self) -> nn.Module:
        """What is saved and scored: the averaged network, with ``start_share`` of what the run started from."""
        asked = self._start_share()
        share = (self.choice.share if self.choice else 0.0) if isinstance(asked, str) else asked
        return mixture(self.start, self.average, share) if share else self.average

    def _log(self, losses: dict[str, torch.Tensor], progress: tqdm, warn: bool) -> None:
        """Show and write the losses, a mean over all processes; CmdtrackError when they are no numbers."""
        values = self.fabric.all_reduce(torch.stack([value.detach().float() for value in losses.values()]))
        scalars = dict(zip(losses, values.tolist(), strict=True))
        if not math.isfinite(scalars["loss"]):
            raise CmdtrackError(
                f"{self.output}: the loss is {scalars['loss']} at step {self.step}, expected a number. "
                "Lower the learning rate; the last checkpoint is from before"
            )
        if self._curves is None:
            return
        self._curves.add("train", {**scalars, "learning_rate": self.schedule.get_last_lr()[0]}, self.step)
        shown = {name: value for name, value in scalars.items() if "/" not in name}
        if self.scores:
            shown["validation"] = next(iter(self.scores.values()))
        progress.set_postfix({name: f"{value:.3f}" for name, value in shown.items()}, refresh=False)
        for message in self.task.loss_warnings(scalars) if warn else []:
            log.warning("step %d: %s", self.step, message)

    def _draw(self, batch: Batch) -> None:
        if self._curves is None:
            return
        self.task.eval()
        picture = self.task.pictures(batch)
        if picture is None:
            return
        self._curves.show(picture, self.step)
        folder = self.output / "pictures"
        folder.mkdir(exist_ok=True)
        write_rgb(folder / f"{self.step:06d}.png", picture)

    def _validate(self) -> None:
        """Scores of the averaged network, by the first process; the others wait."""
        if self._curves is not None:
            self.scores, self._scored_at = self._validation_scores(), self.step
            self._curves.add("validation", self.scores, self.step)
            if self.scores:
                log.info(
                    "step %d, held-out%s: %s",
                    self.step,
                    " (before -> now)" if self.start_scores else "",
                    ", ".join(self._score_text(name) for name in self.scores),
                )
        self.fabric.barrier()

    def _validation_scores(self) -> dict[str, float]:
        network = self._result()
        scores = self.task.validate(network, self.held_out)
        if self.units and not isinstance(self.task, CmaeTask):
            tracker = EnginePairs(engine_of(network))
            scores |= scores_of(measure({"": tracker}, self.units, self.config.fixed_pairs)[""])
        return scores

    def _score_text(self, name: str) -> str:
        before = f"{self.start_scores[name]:.3f} -> " if name in self.start_scores else ""
        return f"{name} {before}{self.scores[name]:.3f}"


def _teachers(folders: Sequence[Path], show_features: bool) -> ForeignTeachers | None:
    return ForeignTeachers(folders, show_features) if folders else None


def set_up_cpu(threads: int) -> None:
    """How torch computes on the CPU, in training as in scoring: both then give the same wherever they run."""
    torch.set_num_threads(threads)
    # For the data processes, one core each. Set in one of them, it would wait for threads that no fork has.
    cv2.setNumThreads(1)
    # Denormals appear in the optimiser's moments and slow a CPU by an order of magnitude.
    torch.set_flush_denormal(True)


def differences(stored: Any, asked: Any, name: str = "") -> list[str]:
    """Where two nested settings differ, such as ``sources.0.share: 0.2 then, 0.3 now``."""
    if isinstance(stored, dict) and isinstance(asked, dict):
        keys = sorted({*stored, *asked})
        pairs = [(key, stored.get(key), asked.get(key)) for key in keys]
    elif isinstance(stored, list) and isinstance(asked, list) and len(stored) == len(asked):
        pairs = [(str(i), a, b) for i, (a, b) in enumerate(zip(stored, asked, strict=True))]
    else:
        return [] if stored == asked else [f"{name}: {stored} then, {asked} now"]
    return [line for key, a, b in pairs for line in differences(a, b, f"{name}.{key}" if name else key)]


class _Autocast(MixedPrecision):
    """Mixed precision inside the networks only: Fabric would round the boxes of a batch, too."""

    def convert_input(self, data: Any) -> Any:
        return data


def _fabric(config: Training) -> Fabric:
    gpu = torch.cuda.is_available()
    precision = config.precision
    if precision == "auto":
        precision = "bf16-mixed" if gpu and torch.cuda.is_bf16_supported() else "32-true"
    mixed = [] if precision == "32-true" else [_Autocast(precision, "cuda" if gpu else "cpu")]
    strategy = DDPStrategy(timeout=_VALIDATION_TIMEOUT) if processes() > 1 else "auto"
    return Fabric(
        accelerator="cuda" if gpu else "cpu",
        devices=processes_here(),
        num_nodes=processes() // processes_here(),
        strategy=strategy,
        plugins=mixed,
    )


@contextmanager
def stop_requested() -> Iterator[list[bool]]:
    """A flag that the first SIGINT or SIGTERM raises, so that a step is never cut in half; the second one has
    its usual effect.
    """
    flag = [False]
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _frame: Any) -> None:
        flag[0] = True
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, ask)
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
