"""CMAE: pre-training of a backbone on pairs of pictures whose modalities fill in for each other.

Our choice; the paper's is not public. The encoder is a convolutional backbone, hence masked patches are
painted over in the picture (with its mean colour) rather than dropped, as a transformer could. Which patch
is masked in which modality stands in :func:`complementary_mask`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cmdtrack_ros.data import ImageSequence
from cmdtrack_ros.models.backbone import PIXEL_MEAN, PIXEL_SCALE, EfficientNetLite, scaled
from cmdtrack_ros.models.cmae import Cmae
from cmdtrack_ros.training.config import CmaeTraining
from cmdtrack_ros.training.pairs import PairDataset
from cmdtrack_ros.training.parallel import mean_over_processes
from cmdtrack_ros.training.sources import SequenceSource
from cmdtrack_ros.training.tasks.pictures import first_rows
from cmdtrack_ros.training.tasks.task import STREAMS, Batch, Task

_VALIDATION_SAMPLES = 16


class CmaeTask(Task):
    """The mean squared error of the masked patches of a sample's search pictures.

    With x the picture and y the restored one, both scaled, and M the masked pixels of both modalities of
    samples that have both: loss = sum over M of |x - y|^2 / (3 |M|).
    """

    weights_file = "cmae.safetensors"
    network_type = Cmae
    network: Cmae
    config: CmaeTraining

    def backbones(self) -> list[EfficientNetLite]:
        return list(self.network.backbones)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        pictures, mask, painted = masked(batch, self.config)
        losses = restoration_losses(self._restore(painted), pictures, mask)
        return {**losses, "restored": _restored(losses["loss"].detach(), painted, pictures, mask)}

    def _restore(self, painted: Tensor) -> Tensor:
        """The network's answer, with the early stages frozen or not: (B, 2, 3, S, S), scaled."""
        features = [self.network.encoder(i).late(self.to_stride8(i, painted[:, i])) for i in range(STREAMS)]
        return self.network.decode(features, painted).float()

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
        pictures, mask, painted = masked(first_rows(batch), self.config)
        pixels = per_pixel(mask, pictures.shape[-1]).unsqueeze(2)
        filled = torch.where(pixels > 0, self._restore(painted) * PIXEL_SCALE + PIXEL_MEAN, pictures)
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
    noise = torch.stack([_noise(config.seed, index, size) for index in batch["index"].tolist()]).to(pictures.device)
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


def structure(pictures: Tensor, patch: int) -> Tensor:
    """How much there is to see in each patch of each modality.

    The mean absolute difference of neighbouring grey values in the patch, over its mean in the picture: 1 =
    as much as the average patch of the same picture, which makes modalities of different contrast comparable.

    ``pictures`` (B, 2, 3, H, W) 0..255 -> (B, 2, H/patch, W/patch).
    """
    grey = pictures.mean(2)
    across, down = torch.zeros_like(grey), torch.zeros_like(grey)
    across[..., :, 1:] = grey.diff(dim=-1).abs()
    down[..., 1:, :] = grey.diff(dim=-2).abs()
    energy = functional.avg_pool2d(across + down, patch)
    return energy / energy.mean((2, 3), keepdim=True).clamp(min=1e-3)


def complementary_mask(pictures: Tensor, patch: int, ratio: float, noise: Tensor, sharpness: float = 2.0) -> Tensor:
    """Which modality loses which patch: 1 = masked, (B, 2, H/patch, W/patch); never both at one place.

    With s = :func:`structure` of the patch, a place's complementarity is k = log s_rgb - log s_aux: where RGB
    shows more (k > 0) it can fill in for aux, so aux is masked there with probability sigmoid(sharpness * k),
    else RGB. Of all places the ``ratio`` with the largest max(s_rgb, s_aux) + Gumbel noise are masked: an
    empty patch teaches nothing, and cannot help.

    Args:
        pictures: (B, 2, 3, H, W) float 0..255.
        noise: (B, 2, H/patch, W/patch) uniform in (0, 1); all the randomness there is.
    """
    level = structure(pictures, patch)
    k = level[:, 0].clamp(min=1e-3).log() - level[:, 1].clamp(min=1e-3).log()
    aux_loses = (noise[:, 0] < (sharpness * k).sigmoid()).to(pictures.dtype)
    worth = level.amax(1) - (-noise[:, 1].clamp(1e-6, 1 - 1e-6).log()).log()
    flat = worth.flatten(1)
    chosen = flat.topk(max(round(ratio * flat.shape[1]), 1), 1).indices
    place = torch.zeros_like(flat).scatter_(1, chosen, 1.0).view_as(worth)
    return torch.stack([place * (1 - aux_loses), place * aux_loses], 1)


def paint_over(pictures: Tensor, mask: Tensor) -> Tensor:
    """Pictures (B, 2, 3, H, W) with the masked patches in the picture's mean colour."""
    pixels = per_pixel(mask, pictures.shape[-1]).unsqueeze(2)
    return torch.where(pixels > 0, pictures.mean((3, 4), keepdim=True), pictures)


def per_pixel(mask: Tensor, size: int) -> Tensor:
    """Mask per patch (B, 2, h, w) -> per pixel (B, 2, size, size)."""
    return functional.interpolate(mask, size=(size, size), mode="nearest")
