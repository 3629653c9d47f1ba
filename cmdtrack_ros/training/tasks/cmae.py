"""CMAE: pre-training of a backbone on pairs of pictures whose modalities fill in for each other.

Our choice; the paper's is not public. Which patch is masked in which modality is told in
``complementary_mask``.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cmdtrack_ros.data import ImageSequence
from cmdtrack_ros.models.backbone import PIXEL_MEAN, PIXEL_SCALE, EfficientNetLite
from cmdtrack_ros.models.cmae import Cmae, complementary_mask, paint_over, per_pixel, scaled
from cmdtrack_ros.training.config import CmaeTraining
from cmdtrack_ros.training.pairs import PairDataset, SequenceSource
from cmdtrack_ros.training.parallel import mean_over_processes
from cmdtrack_ros.training.pictures import first_rows
from cmdtrack_ros.training.tasks.task import STREAMS, Batch, Task, load_start

_VALIDATION_SAMPLES = 16


class CmaeTask(Task):
    """The mean squared error of the masked patches of a sample's search pictures.

    With x the picture and y the restored one, both scaled, and M the masked pixels of both modalities of
    samples that have both: loss = sum over M of |x - y|^2 / (3 |M|).
    """

    weights_file = "cmae.safetensors"
    network: Cmae

    def __init__(self, config: CmaeTraining) -> None:
        super().__init__(config)
        self.network = Cmae(config.network)
        load_start(self.network, self.backbones(), config)
        self.freeze_early()

    def backbones(self) -> list[EfficientNetLite]:
        return list(self.network.backbones)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        pictures, mask, painted = self._masked(batch)
        features = [self._stride16(i, painted[:, i]) for i in range(STREAMS)]
        losses = restoration_losses(self.network.decode(features, painted).float(), pictures, mask)
        return {**losses, "restored": _restored(losses["loss"].detach(), painted, pictures, mask)}

    def _stride16(self, stream: int, pictures: Tensor) -> Tensor:
        return self.network.encoder(stream).late(self.to_stride8(stream, pictures))

    def _masked(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        return masked(batch, self.config)

    def validate(self, network: Cmae, sequences: list[ImageSequence]) -> dict[str, float]:
        """``restored``, see :func:`_restored`, of fixed samples of the held-out sequences."""
        if not sequences:
            return {}
        config = self.config
        dataset = PairDataset([(SequenceSource(sequences), 1.0)], config.pairs, config.network, config.seed)
        device = next(network.parameters()).device
        samples = [dataset[i] for i in range(_VALIDATION_SAMPLES)]
        batch = {name: torch.stack([sample[name] for sample in samples]).to(device) for name in samples[0]}
        network.eval()
        pictures, mask, painted = masked(batch, config)
        with torch.no_grad():
            error = restoration_losses(network(painted), pictures, mask)["loss"]
        return {"restored": float(_restored(error, painted, pictures, mask))}

    @torch.no_grad()
    def pictures(self, batch: Batch) -> np.ndarray:
        """Rows of samples; columns RGB masked, restored, true, and the same of the other modality."""
        batch = first_rows(batch)
        pictures, mask, painted = self._masked(batch)
        restored = self.network.decode(
            [self._stride16(i, painted[:, i]) for i in range(STREAMS)], painted
        ).float()
        pixels = per_pixel(mask, pictures.shape[-1]).unsqueeze(2)
        filled = torch.where(pixels > 0, restored * PIXEL_SCALE + PIXEL_MEAN, pictures)
        columns = torch.stack([painted, filled, pictures], 2)  # (B, 2, 3 versions, 3, S, S)
        rows = columns.clamp(0, 255).byte().flatten(1, 2).permute(0, 3, 1, 4, 2)  # (B, S, 6, S, 3)
        return rows.flatten(2, 3).flatten(0, 1).cpu().numpy()


def masked(batch: Batch, config: CmaeTraining) -> tuple[Tensor, Tensor, Tensor]:
    """True pictures (B, 2, 3, S, S) float 0..255, mask (B, 2, S/patch, S/patch) and painted pictures of a
    batch.

    The mask depends on seed and sample alone; samples that lack a modality have an empty one.
    """
    pictures = batch["search"].float()
    patch = config.network.patch
    size = pictures.shape[-1] // patch
    noise = torch.stack([_noise(config.seed, int(index), size) for index in batch["index"]]).to(
        pictures.device
    )
    mask = complementary_mask(pictures, patch, config.mask_ratio, noise)
    mask = mask * batch["present"].prod(1).view(-1, 1, 1, 1)
    return pictures, mask, paint_over(pictures, mask)


def _restored(error: Tensor, painted: Tensor, pictures: Tensor, mask: Tensor) -> Tensor:
    """1 - error / error of the mean colour: 1 = all is restored, 0 = no more than by painting over."""
    nothing = restoration_losses(scaled(painted), pictures, mask)["loss"]
    return 1 - error / nothing.clamp(min=1e-6)


def _noise(seed: int, index: int, size: int) -> Tensor:
    rng = np.random.default_rng((seed, index, 1))
    return torch.from_numpy(rng.random((STREAMS, size, size), np.float32))


def restoration_losses(restored: Tensor, pictures: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """``loss`` as in :class:`CmaeTask`, and its parts ``rgb`` and ``aux``; ``restored`` is scaled,
    ``pictures`` are not.
    """
    pixels = per_pixel(mask, pictures.shape[-1])
    error = ((restored - scaled(pictures)).square().mean(2) * pixels).sum((0, 2, 3))
    count = mean_over_processes(pixels.sum((0, 2, 3)))
    parts = error / count.clamp(min=1)
    return {"loss": error.sum() / count.sum().clamp(min=1), "rgb": parts[0], "aux": parts[1]}
