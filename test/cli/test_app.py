"""The command line as a whole: its verbs, and what their help does without."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.main import get_command

from cmdtrack_ros.cli.app import app

GROUPS = {"bag": ("write", "play", "info"), "train": ("cmae", "teacher", "student", "distill", "ablation")}
VERBS = (
    "track",
    "demo",
    "watch",
    "record",
    "evaluate",
    "score",
    "report",
    "evaluate-bag",
    "blackout",
    "benchmark",
    "export",
)


def help_without_ros_and_torch(*words: str) -> str:
    """What `cmdtrack WORDS --help` prints where neither rclpy nor torch can be imported."""
    code = (
        "import sys\nsys.modules.update(dict.fromkeys(('rclpy', 'torch')))\n"
        f"from cmdtrack_ros.cli.app import main\nmain({[*words, '--help']!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("group, verbs", [((), (*VERBS, *GROUPS)), *(((name,), v) for name, v in GROUPS.items())])
def test_help_lists_the_verbs(group: tuple[str, ...], verbs: tuple[str, ...]) -> None:
    text = help_without_ros_and_torch(*group)
    for verb in verbs:
        assert f" {verb} " in text


def test_every_verb_explains_itself_without_ros_and_torch() -> None:
    """One process for all: importing typer and OpenCV takes longer than any help."""
    calls = [[verb] for verb in VERBS] + [[group, verb] for group, verbs in GROUPS.items() for verb in verbs]
    code = (
        "import sys\nfrom cmdtrack_ros.cli.app import app\n"
        f"for words in {calls!r}:\n    app([*words, '--help'], standalone_mode=False)\n"
        "heavy = {'torch', 'rclpy', 'onnxruntime'} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage: ") == len(calls)


def test_help_is_shown_as_it_is_written() -> None:
    """Words in square brackets would be taken for markup and left out."""
    commands = [get_command(app)]
    for command in commands:
        commands += getattr(command, "commands", {}).values()
        for text in (command.help, *(getattr(one, "help", None) for one in command.params)):
            assert "[" not in (text or ""), f"{command.name}: {text}"
    assert len(commands) > len(VERBS) + len(GROUPS)


@pytest.mark.parametrize("missing, words", [("torch", ["train", "student", "--data", "."]), ("rclpy", ["demo"])])
def test_verb_that_needs_a_missing_library_names_it(missing: str, words: list[str]) -> None:
    code = f"import sys\nsys.modules[{missing!r}] = None\nfrom cmdtrack_ros.cli.app import main\nmain({words!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("cmdtrack: ") and missing in line
