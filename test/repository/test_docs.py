"""The pages name what is there: links, files, verbs, options, parameters."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

ROOT = Path(__file__).resolve().parents[2]
NOT_OURS = {".venv", "build", "install", "log", "out", "runs"}
PAGES = [path for path in sorted(ROOT.rglob("*.md")) if not NOT_OURS & set(path.relative_to(ROOT).parts)]
FOLDERS = "cmdtrack_ros|config|docs|launch|msg|requirements|scripts|srv|test"

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def anchors_of(page: Path) -> set[str]:
    """The anchors that a Markdown viewer gives to a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pages
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


@pages
def test_files_that_are_named_exist(page: Path) -> None:
    named = re.findall(rf"`((?:{FOLDERS})/(?:[\w./-]+\.\w+|[\w./-]*/)?)`", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


def calls_in(page: Path) -> list[list[str]]:
    """The words after `cmdtrack` of each call of the command line, in code blocks and in running text."""
    text = page.read_text().replace("\\\n", " ")
    calls = re.findall(r"(?:^|`|\$ )cmdtrack ([a-z][^\n`]*)", text, re.MULTILINE)
    return [shlex.split(call, comments=True) for call in calls]


@pages
def test_verbs_and_options_that_are_named_exist(page: Path) -> None:
    from cmdtrack_ros.cli.app import app

    for call in calls_in(page):
        command, words = typer.main.get_command(app), call
        while words and hasattr(command, "commands"):
            assert words[0] in command.commands, call
            command, words = command.commands[words[0]], words[1:]
        options = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, call


@pages
def test_training_sources_that_are_shown_are_read(page: Path) -> None:
    pytest.importorskip("pydantic", reason="the training tools are not installed")
    from cmdtrack_ros.training.config import Source

    for block in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL):
        if "kind:" in block:
            held = yaml.safe_load(block)
            for row in held["sources"] if isinstance(held, dict) else held:
                Source(**row)


def test_readme_shows_the_command_line() -> None:
    assert {words[0] for words in calls_in(ROOT / "README.md")} >= {"track", "bag", "evaluate", "train"}


@pytest.mark.ros
def test_parameters_that_are_named_exist() -> None:
    from cmdtrack_ros.ros.parameters import SPECS

    cells = re.findall(r"^\| (`.*?`) \|", (ROOT / "docs" / "parameters.md").read_text(), re.MULTILINE)
    named = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    assert named and named <= {spec.name for spec in SPECS}


def test_every_cause_of_the_diagnostics_is_explained() -> None:
    pytest.importorskip("rclpy", reason="rclpy is not importable: run `make test`, or source ROS 2")
    from cmdtrack_ros.ros.health import CAUSES, STATUSES

    section = (ROOT / "docs" / "robot.md").read_text().split("## What the diagnostics say")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\w+) \| `([^`]+)` \| (WARN|ERROR) \| ([^|]+) \| ([^|]+) \|$", section, re.MULTILINE)
    levels = {"WARN": b"\x01", "ERROR": b"\x02"}
    assert {cause: (status, levels[level]) for status, cause, level, _, _ in rows} == CAUSES
    assert all(f"`{status}`" in section for status in STATUSES)
