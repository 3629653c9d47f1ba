"""Milliseconds of the steps that a frame goes through."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Milliseconds of named steps, from its making on."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self.times: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.times[name] = (time.perf_counter() - start) * 1e3

    def stop(self) -> dict[str, float]:
        """The steps, and their "total" with all that lies between them."""
        return {**self.times, "total": (time.perf_counter() - self._start) * 1e3}
