"""Samples that are made once and seen again, by all runs that want the same: on a GPU, making them takes longest.

A pool is a folder of arrays, one per field of a sample, and of marks which samples are there. Whoever needs a sample
that is not, makes it for all; several processes may do so at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap

from cmdtrack_ros.errors import DataError, writing
from cmdtrack_ros.models.config import CropConfig
from cmdtrack_ros.training.config import Training
from cmdtrack_ros.training.pairs import PairDataset

SEED = 0
"""Of the pool's samples: the same for all runs."""
_MARKS = "marks"
_ABSENT, _BEGUN, _THERE = 0, 1, 2
_PATIENCE = 60.0
"""Seconds after which a sample that another process began is made again: that process was killed."""
_PICTURES = ("template", "search", "taught_features")
_BOXES = ("template_box", "box", "taught_box")


@dataclass(frozen=True)
class PoolPlace:
    """Where runs keep the samples that they share, and the foreign trackers that any of them asks of each sample.

    ``features``: any of them asks for their features, too.
    """

    folder: Path
    foreign: tuple[Path, ...] = ()
    features: bool = False

    def of(self, config: Training) -> Path:
        """The pool of these settings: runs that draw other samples have another one."""
        drawn = config.model_dump(mode="json", include={"sources", "pairs", "split", "pool"})
        crops = {field.name: getattr(config.network, field.name) for field in fields(CropConfig)}
        key = json.dumps([drawn, crops, [str(path) for path in self.foreign], self.features], sort_keys=True)
        return self.folder / hashlib.sha256(key.encode()).hexdigest()[:12]


class PooledPairs:
    """The samples of ``dataset`` (see :class:`PairDataset`), ``count`` of them, again and again.

    Index i is sample p(i mod count) of round i // count; the order p is of ``seed`` and round. From the second round
    on, half of the samples are mirrored once more.
    """

    def __init__(self, folder: Path, dataset: PairDataset, count: int, seed: int) -> None:
        self.folder, self.dataset, self.count, self.seed = folder, dataset, count, seed
        self._orders: dict[int, np.ndarray] = {}
        if not folder.is_dir():
            self._create()

    def _create(self) -> None:
        """Make the empty arrays, whole or not at all; of several processes, the first one's stay."""
        example = self.dataset[0]
        with writing(self.folder):
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self._check_room(sum(value.nbytes for value in example.values()) * self.count)
            partial = Path(tempfile.mkdtemp(dir=self.folder.parent, prefix="partial-"))
            for name, value in example.items():
                array = value.numpy()
                open_memmap(partial / f"{name}.npy", "w+", array.dtype, (self.count, *array.shape))
            open_memmap(partial / f"{_MARKS}.npy", "w+", np.uint8, (self.count,))
            try:
                os.rename(partial, self.folder)
            except OSError:
                shutil.rmtree(partial)
                if not self.folder.is_dir():
                    raise

    def _check_room(self, needed: int) -> None:
        """Now, as the arrays take their room sample by sample, and a process that writes into none is killed."""
        if (free := shutil.disk_usage(self.folder.parent).free) < needed:
            raise DataError(
                f"{self.folder}: {self.count} samples (pool) need {needed / 2**30:.1f} GiB, "
                f"there are {free / 2**30:.1f}"
            )

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        """Opened in the process that reads them."""
        try:
            return {file.stem: open_memmap(file, "r+") for file in sorted(self.folder.glob("*.npy"))}
        except ValueError as error:
            raise DataError(f"{self.folder}: no whole pool of samples ({error}); remove it to make it anew") from error

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """A batch, as PyTorch's loader asks for it."""
        numbers = np.array([self._number(index) for index in indices])
        self._make(numbers)
        batch = {name: torch.from_numpy(array[numbers]) for name, array in self._arrays.items() if name != _MARKS}
        mirrored = torch.tensor([self._mirrored(index) for index in indices])
        for name in batch.keys() & set(_PICTURES):
            batch[name][mirrored] = batch[name][mirrored].flip(-1)
        for name in batch.keys() & set(_BOXES):
            _mirror(batch[name], mirrored)
        return batch | {"index": torch.tensor(list(indices))}

    @staticmethod
    def collate(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Nothing: ``__getitems__`` answers whole batches."""
        return batch

    def _number(self, index: int) -> int:
        done, place = divmod(index, self.count)
        if done not in self._orders:
            self._orders = {done: np.random.default_rng((self.seed, done)).permutation(self.count)}
        return int(self._orders[done][place])

    def _mirrored(self, index: int) -> bool:
        return index >= self.count and bool(np.random.default_rng((self.seed, index)).random() < 0.5)

    def _make(self, numbers: np.ndarray) -> None:
        """See that these samples are there; what others have begun is waited for last."""
        marks = self._arrays[_MARKS]
        for number in numbers:
            if marks[number] == _ABSENT:
                marks[number] = _BEGUN
                self._write(number)
        end = time.monotonic() + _PATIENCE
        for number in numbers:
            while marks[number] != _THERE and time.monotonic() < end:
                time.sleep(0.005)
            if marks[number] != _THERE:
                self._write(number)

    def _write(self, number: int) -> None:
        for name, value in self.dataset[int(number)].items():
            self._arrays[name][number] = value.numpy()
        self._arrays[_MARKS][number] = _THERE


def _mirror(boxes: torch.Tensor, chosen: torch.Tensor) -> None:
    """Mirror the chosen of the boxes (B, 4) xywh, in fractions of the picture, in place."""
    boxes[chosen, 0] = 1 - boxes[chosen, 0] - boxes[chosen, 2]
