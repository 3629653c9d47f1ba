"""`make faults`: every fault, over DDS, to the node as a process of its own."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cmdtrack_ros.ros.replay.session import isolate
from faults.judge import Row
from faults.run import full_disk, play_all
from faults.table import faults

console = Console(highlight=False, width=150)  # of a log, too


def main(
    output: Annotated[Path, typer.Option(help="JSON file of the rows.")] = Path("out/faults.json"),
    only: Annotated[str, typer.Option(help="Faults whose name has this pattern (a regular expression).")] = "",
    pairs: Annotated[int, typer.Option(min=3000, help="Pairs of the run that watches the memory.")] = 20_000,
) -> None:
    """Play every fault; exit code 1 where the node falls short in one."""
    isolate()
    output.parent.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="faults_") as scratch:
        folder = Path(scratch)
        disk = full_disk(folder) if re.search(only, "full disk") else ()
        try:
            for source in (disk, play_all(faults(pairs), folder, only)):
                for row in source:
                    rows.append(row)
                    console.print(
                        f"{len(rows):3} {row.fault}: {'; '.join(row.short) or 'passed'}", markup=False, soft_wrap=True
                    )
                    output.write_text(json.dumps([row.as_json() for row in rows], indent=1) + "\n")
        except KeyboardInterrupt:
            console.print("interrupted")
    console.print(_table(rows))
    short = [row for row in rows if row.short]
    console.print(f"{len(rows) - len(short)} of {len(rows)} passed; {output}")
    raise typer.Exit(1 if short or not rows else 0)


def _table(rows: list[Row]) -> Table:
    table = Table("fault", "survived", "resumed", "said", "level", "after", "over", "mean IoU", "clean")
    for row in rows:
        values = row.as_json()
        texts = [_text(values[key]) for key in ("resumed_s", "said", "level", "said_s", "over_s")]
        overlaps = [_text(values[key]) for key in ("mean_iou", "mean_iou_clean")]
        colour = "red" if row.short else "green"
        lived = "yes" if row.survived else "no"
        table.add_row(row.fault, lived, *texts, *overlaps, style=colour)
    return table


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    return "" if value is None else str(value)[:50]


typer.run(main)
