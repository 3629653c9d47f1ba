"""Pictures of what a tracker is trained on, and of its answers."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from cmdtrack_ros.drawing import draw_box
from cmdtrack_ros.models.head import HeadOutput

DRAWN_SAMPLES = 4
_TRUTH, _ANSWER, _NOT_THERE = (0, 255, 0), (255, 0, 0), (255, 255, 0)


def first_rows(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The samples of a batch that are drawn."""
    return {name: value[:DRAWN_SAMPLES] for name, value in batch.items()}


def tracking_picture(batch: dict[str, Tensor], output: HeadOutput) -> np.ndarray:
    """A row per sample: both templates, both search regions, and the score map; HxWx3 uint8.

    Green: the true box, yellow where the target is not in the search region; red: the best cell's box.

    Args:
        batch: n samples, see ``PairDataset``.
        output: of the head, for the same n samples or more.
    """
    return np.concatenate([_row(batch, output, i) for i in range(len(batch["box"]))])


def _row(batch: dict[str, Tensor], output: HeadOutput, index: int) -> np.ndarray:
    score = output.score[index, 0].sigmoid()
    row, column = divmod(int(score.argmax()), score.shape[-1])
    x, y, w, h = output.box[index, :, row, column].tolist()
    there = bool(batch["positive"][index])
    truth = batch["box"][index].tolist(), _TRUTH if there else _NOT_THERE
    boxes = [([x - w / 2, y - h / 2, w, h], _ANSWER), truth]  # the truth on top
    size = batch["search"].shape[-1]
    templates = [_drawn(p, size, [(batch["template_box"][index].tolist(), _TRUTH)]) for p in batch["template"][index]]
    searches = [_drawn(picture, size, boxes) for picture in batch["search"][index]]
    level = (score * 255).to(torch.uint8).cpu().numpy()
    heat = cv2.cvtColor(cv2.resize(level, (size, size), interpolation=cv2.INTER_NEAREST), cv2.COLOR_GRAY2RGB)
    return np.concatenate([*templates, *searches, heat], 1)


def _drawn(picture: Tensor, size: int, boxes: list[tuple[list[float], tuple[int, int, int]]]) -> np.ndarray:
    """A picture (3, S, S) uint8 with boxes in fractions of S, at ``size`` px: size x size x 3."""
    image = cv2.resize(picture.permute(1, 2, 0).cpu().numpy(), (size, size))
    for box, colour in boxes:
        draw_box(image, np.array(box) * size, colour, 1, rim=0)
    return image
