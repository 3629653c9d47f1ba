"""What the stages of a training will take on GPUs, before any is at hand: an estimate of hours and memory.

Each stage makes one step of two samples in bfloat16 on tensors without content (torch's FakeTensorMode), and is counted
while it does: operations, bytes that go through memory, bytes kept for the way back. Nothing is timed but the making of
samples, where data is given. Our choice.
"""

from __future__ import annotations

import shlex
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from cmdtrack_ros.models.header import Provenance
from cmdtrack_ros.models.teacher import Teacher
from cmdtrack_ros.models.weights import save_weights
from cmdtrack_ros.training.config import RECIPES, DistillTraining, TeacherTraining, Training, load_config
from cmdtrack_ros.training.loop import TASKS
from cmdtrack_ros.training.pairs import PairDataset
from cmdtrack_ros.training.sources import open_sources
from cmdtrack_ros.training.tasks.task import Batch, Task

_COUNTED = 2  # samples of the step that is counted
_TIMED = 24  # samples that are made to see how long one takes
_RESERVED = 2 * 2**30  # bytes: CUDA's context, cuDNN's workspace, fragments
_OPERATIONS_SHARE = 0.3  # of what the maker names, that convolutions of such sizes reach: our assumption
_BANDWIDTH_SHARE = 0.5


@dataclass(frozen=True)
class Gpu:
    """Half-precision operations per second, bytes per second and bytes of memory, as its maker names them."""

    operations: float
    bandwidth: float
    memory: float


GPUS = {
    "a100": Gpu(312e12, 2039e9, 80 * 2**30),
    "h100": Gpu(989e12, 3350e9, 80 * 2**30),
    "v100": Gpu(125e12, 900e9, 32 * 2**30),
    "rtx4090": Gpu(165e12, 1008e9, 24 * 2**30),
}
STAGES = {
    "cmae_teacher": ("cmae", ""),
    "teacher": ("teacher", "--init-backbone runs/full-cmae_teacher/cmae.safetensors"),
    "cmae_student": ("cmae", ""),
    "distill": (
        "distill",
        "--init-backbone runs/full-cmae_student/cmae.safetensors --teacher runs/full-teacher/teacher.safetensors",
    ),
    "student": ("student", "--init-backbone runs/full-cmae_student/cmae.safetensors"),
}
"""Recipes of ``config/train/full`` in their order: the verb, and what it needs of those before; the last is to compare
with."""


@dataclass(frozen=True)
class Cost:
    """Of one sample's forward and backward pass: ``operations``, ``traffic`` and ``kept`` in bytes; of the stage:
    ``states`` in bytes, whatever the batch (weights, gradients, the optimiser's moments, averaged weights);
    ``parameters`` of the network that is kept.
    """

    operations: float
    traffic: float
    kept: float
    states: int
    parameters: int

    def seconds(self, gpu: Gpu) -> float:
        """Of a sample on a GPU, by whichever of arithmetic and memory is slower there."""
        return max(
            self.operations / (_OPERATIONS_SHARE * gpu.operations), self.traffic / (_BANDWIDTH_SHARE * gpu.bandwidth)
        )

    def memory(self, batch: int) -> float:
        """Bytes on each GPU."""
        return _RESERVED + self.states + batch * self.kept


@dataclass(frozen=True)
class StagePlan:
    """``sample_seconds``: to make one sample on one core, None where there was no data to see."""

    name: str
    config: Training
    cost: Cost
    command: str
    sample_seconds: float | None

    def network_hours(self, gpu: Gpu) -> float:
        """Hours of the GPUs, which all work at the same time on a batch of their own."""
        return self.config.steps * self.config.batch * self.cost.seconds(gpu) / 3600

    def data_hours(self) -> float | None:
        """Hours of the data processes beside each GPU, when each has a core to itself."""
        if self.sample_seconds is None:
            return None
        samples = self.config.steps * self.config.batch
        return samples * self.sample_seconds / max(self.config.workers, 1) / 3600

    def hours(self, gpu: Gpu) -> float:
        """Of the stage: data is made while the network works."""
        return max(self.network_hours(gpu), self.data_hours() or 0.0)


def plan(recipes: Path, data: Path | None, gpus: int) -> Iterator[StagePlan]:
    """Every stage of the recipes in a folder, counted, in their order.

    Raises:
        ConfigError: a recipe that is missing or wrong.
        DataError: a source of the recipes that is not below ``data``.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, (verb, needs) in STAGES.items():
            file = recipes / f"{name}.yaml"
            config = load_config(file, RECIPES[verb])
            counted = config
            if isinstance(config, DistillTraining):
                teacher = _unlearned_teacher(load_config(recipes / "teacher.yaml", TeacherTraining), Path(folder))
                counted = config.model_copy(update={"teacher": teacher})
            seconds = None if data is None else _seconds_per_sample(config, data)
            yield StagePlan(name, config, count(counted), _command(file, verb, config.name, needs, data, gpus), seconds)


def count(config: Training) -> Cost:
    """What a step of this configuration costs, by one step of two samples."""
    task = TASKS[type(config)](config)
    task.train()
    counter, kept, batch = _Counter(), _Kept(task), _noise(config)
    with FakeTensorMode(allow_non_fake_inputs=True), counter, torch.autocast("cpu", torch.bfloat16):
        with torch.autograd.graph.saved_tensors_hooks(kept.keep, lambda tensor: tensor):
            loss = task(batch)["loss"]
        loss.backward()
    learnt = sum(p.numel() for p in task.parameters() if p.requires_grad)
    network = sum(p.numel() for p in task.network.parameters())
    weights = sum(p.numel() for p in task.parameters())
    # 4 bytes each: all weights; of what learns, gradients, their buckets for the exchange and two moments; the average.
    states = 4 * (weights + 4 * learnt + network)
    return Cost(counter.operations / _COUNTED, counter.bytes / _COUNTED, kept.bytes / _COUNTED, states, network)


def table(plans: list[StagePlan], gpu: str, gpus: int) -> str:
    """Markdown: a row per stage, what of it is an assumption, and the commands to start."""
    card = GPUS[gpu]
    heads = ("stage", "steps", "samples", "parameters (M)", "memory per GPU (GiB)", "network (h)", "data (h)", "hours")
    rows = [heads, ("---",) * len(heads)]
    for stage in plans:
        data, memory = stage.data_hours(), stage.cost.memory(stage.config.batch)
        rows.append(
            (
                stage.name,
                str(stage.config.steps),
                f"{stage.config.steps * stage.config.batch * gpus / 1e6:.1f} M",
                f"{stage.cost.parameters / 1e6:.2f}",
                f"{memory / 2**30:.1f}" + (f" (has {card.memory / 2**30:.0f})" if memory > card.memory else ""),
                f"{stage.network_hours(card):.1f}",
                "not seen" if data is None else f"{data:.1f}",
                f"{stage.hours(card):.1f}",
            )
        )
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines += [
        "",
        (
            f"{gpus} x {gpu}, {sum(stage.hours(card) for stage in plans):.0f} h in all. An estimate, no measurement: "
            f"{_OPERATIONS_SHARE:.0%} of the card's arithmetic and {_BANDWIDTH_SHARE:.0%} of its memory's speed are "
            "assumed, validation is left out."
        ),
    ]
    if any(stage.sample_seconds is None for stage in plans):
        lines.append("Without --data the making of samples was not timed; it often takes longer than the network.")
    return "\n".join([*lines, "", *(stage.command for stage in plans)])


def _command(file: Path, verb: str, name: str, needs: str, data: Path | None, gpus: int) -> str:
    start = f"torchrun --nproc-per-node {gpus} -m cmdtrack_ros.cli train {verb} --config {shlex.quote(str(file))}"
    where = f"--data {shlex.quote(str(data or 'DATA'))} --output runs/{name}"
    return " ".join(filter(None, (start, where, needs)))


def _unlearned_teacher(config: TeacherTraining, folder: Path) -> Path:
    """A teacher of the recipe's shape: what it would have learnt costs nothing more."""
    file = folder / "teacher.safetensors"
    save_weights(Teacher(config.network), file, Provenance({}, {}, {}))
    return file


def _seconds_per_sample(config: Training, data: Path) -> float:
    """Median process time over some samples, which makes one core of another machine's neighbours matter less."""
    sources, _ = open_sources(config.sources, data, config.split)
    dataset, seconds = PairDataset(sources, config.pairs, config.network, config.seed), []
    for index in range(_TIMED):
        began = time.process_time()
        dataset[index]
        seconds.append(time.process_time() - began)
    return float(np.median(seconds))


def _noise(config: Training) -> Batch:
    rng, network = torch.Generator().manual_seed(config.seed), config.network

    def pictures(size: int) -> Tensor:
        return torch.randint(0, 256, (_COUNTED, 2, 3, size, size), generator=rng, dtype=torch.uint8)

    return {
        "index": torch.arange(_COUNTED),
        "template": pictures(network.template_size),
        "search": pictures(network.search_size),
        "template_box": torch.tensor([[0.25, 0.25, 0.5, 0.5]]).expand(_COUNTED, 4),
        "box": torch.tensor([[0.4, 0.4, 0.2, 0.2]]).expand(_COUNTED, 4),
        "present": torch.ones(_COUNTED, 2),
        "informative": torch.ones(_COUNTED, 2),
        "positive": torch.ones(_COUNTED),
    }


class _Kept:
    """Bytes that autograd keeps for the way back, each once, without weights."""

    def __init__(self, task: Task) -> None:
        weights = [*task.parameters(), *task.buffers()]
        self._seen = {tensor.untyped_storage()._cdata for tensor in weights}
        self._alive: list[Any] = []  # told apart only as long as they are in use
        self.bytes = 0

    def keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self._alive.append(storage)
            self.bytes += storage.nbytes()
        return tensor


class _Counter(TorchDispatchMode):
    """``operations`` (a multiplication and an addition are two) of convolutions and matrix products, and the ``bytes``
    that all operations read and write, as if none were fused and no cache helped.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.bytes = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.namespace == "aten" and not func.is_view:
            self.bytes += sum(t.numel() * t.element_size() for t in _tensors((args, kwargs, result)))
            self.operations += self._operations(func.overloadpacket, args, kwargs or {}, result)
        return result

    def _operations(self, operation: Any, args: tuple, kwargs: dict, result: Any) -> int:
        # torch's own formula for a convolution's way back takes one with groups for a dense one.
        if operation is torch.ops.aten.convolution:
            return 2 * result.numel() * args[1][0].numel()
        if operation is torch.ops.aten.convolution_backward:
            gradient, _, weight = args[:3]
            return 2 * gradient.numel() * weight[0].numel() * sum(args[-1][:2])
        formula = flop_registry.get(operation)
        return formula(*args, **kwargs, out_val=result) if formula else 0


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _tensors(entry)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
