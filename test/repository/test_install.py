"""A robot's installation: docs/robot.md, Dockerfile and systemd unit say the same, and their lists are complete."""

from __future__ import annotations

import ast
import configparser
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements"
DOCKERFILE = ROOT / "docker" / "Dockerfile"
UNIT = ROOT / "systemd" / "cmdtrack@.service"
RELEASES = ("jammy", "noble")

# Names that differ: on the package index, and among rosdep's keys.
KEYS = {"opencv-contrib-python-headless": "python3-opencv", "pillow": "python3-pil", "pyyaml": "python3-yaml"}
# For a GPU, and for graphs of weights of one's own; docs/robot.md names them apart.
OPTIONAL = {"torch", "onnx"}
NOT_THE_RECIPE = "rm -rf"  # what keeps an image small


def recipe() -> list[str]:
    """The commands of the first code block below `## Install`, without comments, and without the checkout."""
    page = (ROOT / "docs" / "robot.md").read_text()
    block = re.search(r"^## Install\n.*?```sh\n(.*?)```", page, re.MULTILINE | re.DOTALL)[1]
    lines = [" ".join(shlex.split(line, comments=True)) for line in block.splitlines()]
    assert lines[0].startswith("mkdir")
    return [line.removeprefix("sudo ") for line in lines[1:]]


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions and their arguments."""
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, argument.strip()) for word, _, argument in (line.partition(" ") for line in lines)]


def test_dockerfile_is_the_recipe() -> None:
    runs = [argument for word, argument in instructions() if word == "RUN"]
    commands = [" ".join(command.split()) for run in runs for command in run.split("&&")]
    assert [command for command in commands if not command.startswith(NOT_THE_RECIPE)] == recipe()
    words = [word for word, _ in instructions()]
    assert dict(instructions())["FROM"] == "ros:jazzy"
    assert words.index("COPY") < words.index("RUN")


def test_dockerfile_passes_its_linter() -> None:
    linter = shutil.which("hadolint", path=Path(sys.executable).parent) or shutil.which("hadolint")
    if not linter:
        pytest.skip("hadolint comes with `make setup`")
    result = subprocess.run([linter, str(DOCKERFILE)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("path", [DOCKERFILE, UNIT], ids=lambda path: path.name)
def test_node_is_started_after_workspace_and_environment(path: Path) -> None:
    started = re.search(
        r"source install/setup.bash && source venv/bin/activate && exec ros2 launch (\S+) (\S+)", path.read_text()
    )
    assert started, "sets up the workspace, then activates the virtual environment, then starts"
    assert started[1] == "cmdtrack_ros" and (ROOT / "launch" / started[2]).is_file()


def test_unit_ends_the_node_in_order_and_starts_it_anew() -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str
    unit.read(UNIT)
    assert unit["Service"]["User"] == "%i" and unit["Service"]["Restart"] == "always"
    assert unit["Service"]["KillSignal"] == "SIGINT"  # what launch passes on
    assert unit["Install"]["WantedBy"] == "multi-user.target"


def test_systemd_knows_every_key_of_the_unit(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not here")
    instance = tmp_path / "cmdtrack@root.service"
    shutil.copy(UNIT, instance)
    result = subprocess.run(["systemd-analyze", "verify", str(instance)], capture_output=True, text=True)
    complaints = [line for line in result.stderr.splitlines() if str(instance) in line]
    assert not complaints and result.returncode == 0, result.stderr


def bounds(lines: list[str]) -> dict[str, str]:
    """Lower bound (or exact release) of each requirement, by its name in lower case."""
    found = (re.match(r"([\w-]+)[>=]=([\w.]+)", line) for line in lines)
    return {match[1].lower(): match[2] for match in found if match}


def of_setup() -> dict[str, str]:
    tree = ast.parse((ROOT / "setup.py").read_text())
    call = next(node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "setup")
    (required,) = [word.value for word in call.keywords if word.arg == "install_requires"]
    return bounds(ast.literal_eval(required))


def of_file(name: str) -> dict[str, str]:
    return bounds((REQUIREMENTS / f"{name}.txt").read_text().splitlines())


def numbers(release: str) -> tuple[int, ...]:
    return tuple(int(number) for number in release.split("."))


def by_apt() -> set[str]:
    manifest = (ROOT / "package.xml").read_text()
    keys = re.findall(r"<exec_depend>(.*?)</exec_depend>", manifest)
    return {name for name in of_setup() if KEYS.get(name, f"python3-{name}") in keys}


def test_every_library_comes_from_apt_or_from_the_list_for_pip() -> None:
    assert set(of_setup()) == by_apt() | set(of_file("robot")) | OPTIONAL


def test_list_for_pip_asks_for_what_setup_asks_for() -> None:
    robot, setup = of_file("robot"), of_setup()
    assert robot == {name: setup[name] for name in robot}


@pytest.mark.parametrize("release", RELEASES)
def test_what_apt_has_is_new_enough_unless_pip_replaces_it(release: str) -> None:
    apt, setup = of_file(f"apt-{release}"), of_setup()
    assert by_apt() <= set(apt)
    too_old = {name for name in apt if numbers(apt[name]) < numbers(setup[name])}
    assert too_old <= set(of_file("robot"))
    assert too_old == {"typer", "pydantic"}
