"""Which recordings are trained on, which validate, and which test: one file says it for all recipes."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, TypeVar

from cmdtrack_ros.errors import DataError
from cmdtrack_ros.training.config import Split

Part = Literal["training", "validation", "test"]
Recording = TypeVar("Recording")


class SplitFolder:
    """A split of the recordings below a data folder; without a split, all are trained on."""

    def __init__(self, split: Split | None, data: Path) -> None:
        self._split, self._data = split or Split(), data.resolve()

    def part(self, path: Path) -> Part:
        """Of a sequence folder or a still. What lies elsewhere than below the data folder is nobody's."""
        try:
            name = path.resolve().relative_to(self._data).as_posix()
        except ValueError:
            return "training"
        if any(fnmatchcase(name, pattern) for pattern in self._split.test):
            return "test"
        return "validation" if any(fnmatchcase(name, pattern) for pattern in self._split.validation) else "training"

    def parted(
        self, recordings: Iterable[tuple[Path, Recording]], source: Path
    ) -> tuple[list[Recording], list[Recording]]:
        """Recordings to train on and those to validate on, in their order; those of the test are left out.

        DataError when nothing of ``source``, where they come from, is left to train on.
        """
        found: dict[Part, list[Recording]] = {"training": [], "validation": [], "test": []}
        for path, recording in recordings:
            found[self.part(path)].append(recording)
        if not found["training"]:
            raise DataError(
                f"{source}: nothing in it may be trained on; the recipe's split keeps {len(found['validation'])} "
                f"for validation and {len(found['test'])} for the test"
            )
        return found["training"], found["validation"]

    def validation(self) -> dict[str, list[Path]]:
        """What each pattern of the validation names, in order: sequence folders, or files of stills.

        DataError for a pattern without any: a measure on less is another measure.
        """
        found = {pattern: sorted(self._data.glob(pattern)) for pattern in self._split.validation}
        if absent := [pattern for pattern, paths in found.items() if not paths]:
            raise DataError(f"{self._data}: the split's validation names {', '.join(absent)}; there is no such path")
        return found
