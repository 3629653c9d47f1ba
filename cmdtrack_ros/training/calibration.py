"""Pictures to calibrate an int8 network with: search regions and templates as in training, both streams there."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import numpy as np
from torch import Tensor

from cmdtrack_ros.tracking.engines.contract import Engine, Query, TemplateCrop
from cmdtrack_ros.tracking.engines.onnx import batch
from cmdtrack_ros.training.pairs import PairDataset

SAMPLES = 64


def calibration_inputs(engine: Engine, dataset: PairDataset, samples: int = SAMPLES) -> Iterator[dict[str, np.ndarray]]:
    """Inputs of the search graph from the first ``samples`` of the data set that have both streams.

    engine: makes the templates; in fp32.
    """
    left = samples
    for index in count():
        sample = dataset[index]
        if not sample["present"].all():
            continue
        box = sample["template_box"].numpy()
        crops = [TemplateCrop(picture, box, stream) for stream, picture in enumerate(_pictures(sample["template"]))]
        yield batch([Query(_pictures(sample["search"]), engine.encode(crops))])
        left -= 1
        if not left:
            return


def _pictures(streams: Tensor) -> list[np.ndarray]:
    """(2, 3, S, S) uint8 -> two pictures (S, S, 3)."""
    return list(np.ascontiguousarray(streams.permute(0, 2, 3, 1).numpy()))
