"""Networks side by side on the same recordings: means, and differences to the first with their 95 % interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cmdtrack_ros.errors import DataError
from cmdtrack_ros.training.fixed_pairs import Overlaps, by_cell

WORTH = 0.03
"""How much better than the student alone a teacher must be where it teaches."""
_RESAMPLES, _SEED = 4000, 11


@dataclass(frozen=True)
class Difference:
    """Of two means over units, with its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Entry:
    """One network on one modality and stream.

    Attributes:
        mean: IoU, over units.
        share: of overlaps above 0.5.
        count: of overlaps, of one seed.
        difference: to the first network; None for itself.
    """

    mean: float
    share: float
    count: int
    difference: Difference | None


Table = dict[tuple[str, str], dict[str, Entry]]
"""(modality or "all", stream) -> network -> entry; those that cannot take the stream are absent."""


def compare(networks: dict[str, list[Overlaps]]) -> Table:
    """``networks``: the overlaps of each one's seeds; all others are compared with the first.

    DataError where they were not measured on the same units.
    """
    cells = {name: [by_cell(seed) for seed in seeds] for name, seeds in networks.items()}
    first = next(iter(cells))
    return {
        cell: {
            name: _entry([seed[cell] for seed in seeds], None if name == first else [s[cell] for s in cells[first]])
            for name, seeds in cells.items()
            if cell in seeds[0]
        }
        for cell in cells[first][0]
    }


def _entry(seeds: Sequence[dict[str, list[float]]], base: Sequence[dict[str, list[float]]] | None) -> Entry:
    units = _means(seeds)
    values = np.concatenate([overlaps for seed in seeds for overlaps in seed.values()])
    apart = None if base is None else difference(units, _means(base))
    return Entry(float(np.mean(list(units.values()))), float((values > 0.5).mean()), len(values) // len(seeds), apart)


def _means(seeds: Sequence[dict[str, list[float]]]) -> dict[str, float]:
    return {name: float(np.mean([seed[name] for seed in seeds])) for name in seeds[0]}


def difference(ours: dict[str, float], base: dict[str, float]) -> Difference:
    """Mean of ``ours - base`` over units, with the 2.5 % and 97.5 % percentile of a bootstrap over them.

    DataError when they are not of the same units.
    """
    if ours.keys() != base.keys():
        raise DataError(f"compared on other recordings: {', '.join(sorted(ours.keys() ^ base.keys()))}")
    differences = np.array([ours[name] - base[name] for name in ours])
    drawn = np.random.default_rng(_SEED).integers(len(differences), size=(_RESAMPLES, len(differences)))
    low, high = np.percentile(differences[drawn].mean(1), [2.5, 97.5])
    return Difference(float(differences.mean()), float(low), float(high))


def markdown(table: Table) -> str:
    """The table for people."""
    names = list(dict.fromkeys(name for entries in table.values() for name in entries))
    lines = [
        f"Mean IoU (share above 0.5); difference to {names[0]}, with its 95 % interval by a bootstrap over recordings.",
        "",
        f"| aux | shown | overlaps | {' | '.join(names)} |",
        f"|---|---|---{'|---' * len(names)}|",
    ]
    for (modality, stream), entries in table.items():
        cells = [_cell(entries[name]) if name in entries else "–" for name in names]
        lines.append(f"| {modality} | {stream} | {entries[names[0]].count} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(entry: Entry) -> str:
    text = f"{entry.mean:.3f} ({entry.share:.2f})"
    apart = entry.difference
    return text if apart is None else f"{text}; {apart.mean:+.3f} ({apart.low:+.3f} to {apart.high:+.3f})"


def verdicts(table: Table) -> list[str]:
    """Of each network but the first, where it knows enough more to teach it, in a sentence."""
    first, *others = dict.fromkeys(name for entries in table.values() for name in entries)
    lines = []
    for name in others:
        apart = {cell: entries[name].difference for cell, entries in table.items() if name in entries}
        worth = [
            f"{modality} {stream} ({found.mean:+.3f})"
            for (modality, stream), found in apart.items()
            if found is not None and modality != "all" and found.mean >= WORTH
        ]
        where = f"worth distilling from on {', '.join(worth)}" if worth else "not worth distilling from"
        lines.append(f"{name}: {where} (at least {WORTH} above {first} is asked for).")
    return lines
