"""`make setup`: pinned requirements, each step once, and a Python that needs nothing sourced."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_requirements_are_pinned_and_name_no_host() -> None:
    # robot.txt is for whatever apt has around it.
    for path in sorted(set((ROOT / "requirements").glob("*.txt")) - {ROOT / "requirements" / "robot.txt"}):
        for line in path.read_text().splitlines():
            if line and not line.startswith("#"):
                assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*( ; [a-z_]+ .*)?", line), (
                    f"{path.name}: {line}"
                )


def test_set_up_names_everything_that_is_missing(tmp_path: Path) -> None:
    script = tmp_path / "scripts" / "setup_env.py"
    script.parent.mkdir()
    shutil.copy(ROOT / "scripts" / "setup_env.py", script)
    environment = {name: value for name, value in os.environ.items() if name not in ("CC", "CXX")}
    result = subprocess.run(
        [sys.executable, str(script)], env={**environment, "PATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert result.returncode == 1
    for missing in ("CMake", "a C++ compiler", "a C compiler"):
        assert missing in result.stderr
    assert not (tmp_path / ".venv").exists()


def test_set_up_redoes_a_step_only_when_its_inputs_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import setup_env

    monkeypatch.setattr(setup_env, "STAMPS", tmp_path / "stamps")
    source, product, runs = tmp_path / "in.txt", tmp_path / "out", []

    def build() -> None:
        product.touch()
        runs.append(source.read_text())

    def step() -> None:
        setup_env.step("build", "building", build, "key", source, product=product)

    source.write_text("a")
    step(), step()
    os.utime(source)  # a checkout changes times, not contents
    step()
    assert runs == ["a"]
    source.write_text("b")
    step()
    product.unlink()
    step()
    assert runs == ["a", "b", "b"]


def test_mended_cmake_files_name_no_build_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import setup_env

    exported = tmp_path / "share" / "x" / "xExport.cmake"
    exported.parent.mkdir(parents=True)
    exported.write_text(
        '"${_PREFIX}/include;/opt/python/cp312-cp312/include/python3.12;'
        '/opt/python/cp312-cp312/lib/python3.12/site-packages/numpy/_core/include"'
    )
    setup_env.mend_cmake_paths(tmp_path)
    _, python, numpy = exported.read_text().strip('"').split(";")
    assert (Path(python) / "Python.h").exists()
    assert numpy == f"{tmp_path}/lib/python3.12/site-packages/numpy/_core/include"


@pytest.mark.skipif(Path(sys.prefix) != ROOT / ".venv", reason="about .venv, which `make setup` makes")
def test_plain_python_needs_nothing_sourced(tmp_path: Path) -> None:
    """With an empty environment and from another folder, as a shell without any set-up would start it."""
    code = "import rclpy, cmdtrack_ros.msg, cmdtrack_ros.errors as errors; print(errors.__file__)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()) == ROOT / "cmdtrack_ros" / "errors.py"


@pytest.mark.skipif(Path(sys.prefix) != ROOT / ".venv", reason="about .venv, which `make setup` makes")
def test_a_sourced_vision_msgs_counts_and_not_the_one_that_set_up_built(tmp_path: Path) -> None:
    """Whose Python module is found, its libraries must be found, too, in whatever order a loader looks."""
    (tmp_path / "share" / "vision_msgs").mkdir(parents=True)
    (tmp_path / "vision_msgs").mkdir()
    (tmp_path / "vision_msgs" / "__init__.py").touch()
    names = ("AMENT_PREFIX_PATH", "LD_LIBRARY_PATH")
    code = f"import os, vision_msgs; print(vision_msgs.__file__, *(os.environ[name] for name in {names}))"

    def found(**sourced: str) -> list[list[str]]:
        environment = {"PATH": os.environ["PATH"], **sourced}
        result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return [part.split(":") for part in result.stdout.split()]

    built = str(ROOT / "install" / "vision_msgs")
    assert found()[0][0].startswith(built)
    assert all(any(part.startswith(built) for part in path) for path in found(AMENT_PREFIX_PATH="/sourced")[1:])
    (module,), *paths = found(PYTHONPATH=str(tmp_path), AMENT_PREFIX_PATH=str(tmp_path), LD_LIBRARY_PATH="/sourced")
    assert Path(module).is_relative_to(tmp_path)
    assert not any(part.startswith(built) for path in paths for part in path)
    assert "/sourced" in paths[1]
