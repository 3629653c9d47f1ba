"""What a run shows in TensorBoard."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from cmdtrack_ros.errors import writing


class Curves:
    """TensorBoard's writer, as a context manager; DataError, with the folder, where it cannot write.

    Its thread would print what the disk refuses, besides raising it here.

    Args:
        folder: of the event files.
        step: that the run goes on from; what was written beyond is hidden.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._folder, self._hook = folder, threading.excepthook
        threading.excepthook = self._unless_of_disk
        try:
            with writing(folder):
                self._writer = SummaryWriter(str(folder), purge_step=step)
        except BaseException:
            threading.excepthook = self._hook
            raise

    def __enter__(self) -> Curves:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with writing(self._folder):
                self._writer.close()
        finally:
            threading.excepthook = self._hook

    def _unless_of_disk(self, args: threading.ExceptHookArgs) -> None:
        if not isinstance(args.exc_value, OSError):
            self._hook(args)

    def add(self, group: str, values: Mapping[str, float], step: int) -> None:
        """One point of each curve GROUP/NAME."""
        with writing(self._folder):
            for name, value in values.items():
                self._writer.add_scalar(f"{group}/{name}", value, step)

    def show(self, picture: np.ndarray, step: int) -> None:
        """A picture, HxWx3 uint8 RGB."""
        with writing(self._folder):
            self._writer.add_image("pictures", picture, step, dataformats="HWC")
