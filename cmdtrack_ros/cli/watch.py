"""`cmdtrack watch`: running trackers in the terminal, for a robot without a screen."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cmdtrack_ros.cli import options as o
from cmdtrack_ros.drawing import STATE_COLOURS
from cmdtrack_ros.errors import CmdtrackError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cmdtrack_ros.ros.watch import Seen
    from cmdtrack_ros.track import Track

_PERIOD = 0.25  # s between two pictures in a terminal
_LINES_PERIOD = 1.0  # s, where the lines go into a file or another program
_BAR = 24  # characters
_NOBODY = (
    "no tracker is heard. Is one running (`ros2 node list`), with the same ROS_DOMAIN_ID as this terminal, and for "
    "another machine with ROS_AUTOMATIC_DISCOVERY_RANGE=SUBNET?"
)


def watch(
    tracker: Annotated[
        list[str] | None, typer.Argument(help="Names of tracker nodes, such as /front/tracker; default: all.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Print what is now, and end.")] = False,
    wait: Annotated[
        float, typer.Option(min=0.1, max=3600, help="With --once: seconds to wait for the trackers, at most.")
    ] = 10.0,
) -> None:
    """Show running trackers: state, score, rates, latency, and what is wrong, with the remedy."""
    o.need_rclpy("watch")
    from cmdtrack_ros.ros.watch import watch as run
    from cmdtrack_ros.ros.watch import watching

    if once:
        with watching(tracker or ()) as watcher:
            watcher.wait(wait)
            found = watcher.trackers()
        typer.echo("\n".join(text_lines(found))) if found else None
        missing = [name for name in tracker or () if f"/{name.strip('/')}" not in {seen.name for seen in found}]
        if missing or not found:
            raise CmdtrackError(f"{', '.join(missing)}: {_NOBODY}" if missing else _NOBODY)
    elif sys.stdout.isatty():
        from rich.live import Live

        with Live(screen=True, auto_refresh=False) as live:
            run(tracker or (), _PERIOD, lambda found: live.update(picture(found), refresh=True))
    else:
        run(tracker or (), _LINES_PERIOD, lambda found: print("\n".join(text_lines(found)) or _NOBODY, flush=True))


def text_lines(found: list[Seen]) -> list[str]:
    """One line a tracker, and below it one for each target and each cause."""
    lines = []
    for seen in found:
        lines.append(f"{seen.name}  {_word(seen)}  " + "  ".join(f"{key} {value}" for key, value in _figures(seen)))
        for track in seen.newest():
            figures = "  ".join(f"{key} {value}" for key, value in _target_figures(track))
            lines.append(f"  target {track.target_id!r}  {track.state.name}  {figures}")
        lines += [f"  {level} {cause}: {text}" for level, cause, text in seen.causes]
    return lines


def picture(found: list[Seen]) -> RenderableType:
    """A panel a tracker."""
    from rich.console import Group
    from rich.text import Text

    return Group(*(_panel(seen) for seen in found)) if found else Text(_NOBODY)


def _panel(seen: Seen) -> RenderableType:
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for track in seen.newest():
        red, green, blue = STATE_COLOURS[track.state]
        table.add_row(track.target_id or "target", Text(track.state.name, f"bold rgb({red},{green},{blue})"))
        table.add_row("", Text(f"score {_bar(track.score)} {track.score:.2f}"))
        table.add_row("", Text(f"RGB   {_bar(track.weight_rgb)} {track.weight_rgb:.2f}"))
        table.add_row("", Text("  ".join(f"{key} {value}" for key, value in _target_figures(track)[1:])))
    for key, value in _figures(seen):
        table.add_row(key, Text(value))
    for level, cause, text in seen.causes:
        table.add_row(Text(level, "bold red" if level == "ERROR" else "bold yellow"), Text(f"{cause}: {text}"))
    return Panel(table, title=f"{seen.name}  {_word(seen)}", title_align="left")


def _word(seen: Seen) -> str:
    """What is to be said of a tracker in a word: its state, as its diagnostics give it, or that it is gone."""
    return "SILENT" if seen.gone() else seen.values.get("state", seen.summary)


def _figures(seen: Seen) -> list[tuple[str, str]]:
    """Names and values of a tracker; what is not known is left out."""
    values = seen.values
    rates = [f"RGB {values['RGB rate (Hz)']}"] if "RGB rate (Hz)" in values else []
    rates += [f"aux {values['auxiliary rate (Hz)']}"] if "auxiliary rate (Hz)" in values else []
    figures = [("Hz", ", ".join([*rates, f"results {seen.rate():.1f}"]))]
    if "latency p50 (ms)" in values:
        figures.append(("latency", f"p50 {values['latency p50 (ms)']}, p95 {values['latency p95 (ms)']} ms"))
    if "engine" in values:
        figures.append(("engine", values["engine"]))
    return figures


def _target_figures(track: Track) -> list[tuple[str, str]]:
    return [
        ("score", f"{track.score:.2f}"),
        ("box", " ".join(f"{value:.0f}" for value in track.box)),
        ("gap", f"{track.gap * 1e3:+.1f} ms" if math.isfinite(track.gap) else "no partner"),
    ]


def _bar(share: float) -> str:
    filled = round(_BAR * min(max(share, 0.0), 1.0))
    return "█" * filled + "·" * (_BAR - filled)
