"""Makes .venv with ROS 2 Jazzy in it, from package wheels alone, and builds our messages into install/.

`make setup` runs this with the Python that .venv shall have. Each step leaves a stamp with a digest of what
it was made from, so that a second run does nothing and a changed file redoes only what depends on it.

Afterwards plain `.venv/bin/python` is all it takes: a .pth file puts this source tree and the built messages
on sys.path, and sets AMENT_PREFIX_PATH and LD_LIBRARY_PATH. Nothing needs to be sourced.
Standard library only.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMPS = VENV / "cmdtrack-stamps"
BUILD = ROOT / "build"
INSTALL = ROOT / "install"
VISION_MSGS = INSTALL / "vision_msgs"
PACKAGE_FILES = ("package.xml", "CMakeLists.txt", "msg", "srv", "launch", "config", "scripts", "cmdtrack_ros")
REQUIREMENTS = ROOT / "requirements"
CONSTRAINTS = REQUIREMENTS / "constraints.txt"
PYTHON = VENV / "bin" / "python"
PYTHON_NAME = f"python{sys.version_info.major}.{sys.version_info.minor}"
SITE = VENV / "lib" / PYTHON_NAME / "site-packages"

# Runs at every start of .venv's Python. The ROS wheels' own .pth, later in the alphabet, then re-executes
# Python once with LD_LIBRARY_PATH in force; a loader reads it only at process start.
ENV_MODULE = """\
\"\"\"Written by scripts/setup_env.py: what sourcing install/setup.bash would set, for this .venv.\"\"\"
import os


def _set(name, first, last):
    old = [p for p in os.environ.get(name, "").split(os.pathsep) if p and p not in (*first, last)]
    # The stand-in for vision_msgs counts only where no real one is sourced; being the last is not enough, as the
    # wheels' .pth puts the folders of libraries in any order.
    os.environ[name] = os.pathsep.join([*first, *old] + [last] * (not _sourced))


_prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p != {vision_msgs!r}]
_sourced = any(os.path.isdir(os.path.join(p, "share", "vision_msgs")) for p in _prefixes if p)
_set("AMENT_PREFIX_PATH", [{install!r}, {venv!r}], {vision_msgs!r})
_set("LD_LIBRARY_PATH", [{install!r} + "/lib"], {vision_msgs!r} + "/lib")
"""


class SetupError(Exception):
    """Set-up cannot go on; the message says what is missing and what to do."""


def main() -> int:
    try:
        check_tools()
        lock = os.open(ROOT, os.O_RDONLY)  # two set-ups at once would break each other's .venv
        fcntl.flock(lock, fcntl.LOCK_EX)
        set_up()
    except SetupError as error:
        print(f"[setup] FAILED: {error}", file=sys.stderr)
        return 1
    return 0


def check_tools() -> None:
    """Name everything that is missing at once, before any minute is spent."""
    missing = []
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        missing.append(
            f"Python 3.10 to 3.13 (this is {sys.version.split()[0]}, {sys.executable}; "
            "choose another with: make PYTHON=python3.12 …)"
        )
    for module in ("venv", "ensurepip"):
        try:
            __import__(module)
        except ImportError:
            missing.append(f"Python's {module} module (Debian and Ubuntu: apt install python3-venv)")
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        missing.append("Python's C headers (Debian and Ubuntu: apt install python3-dev)")
    if not shutil.which("cmake"):
        missing.append("CMake (apt install cmake)")
    if not shutil.which(os.environ.get("CXX", "c++")):
        missing.append("a C++ compiler (apt install g++)")
    if not shutil.which(os.environ.get("CC", "cc")):
        missing.append("a C compiler (apt install gcc)")
    if missing:
        raise SetupError("missing on this machine:\n  - " + "\n  - ".join(missing))


def set_up() -> None:
    python_key = f"{PYTHON_NAME} {VENV}"
    step("environment", f"creating .venv with {PYTHON_NAME}", make_venv, python_key)
    for group, what, options in (
        ("ros", "ROS 2 Jazzy", ()),
        ("runtime", "torch and the rest of the run time", ()),
        ("dev", "what checks and tests", ()),
        ("train", "training tools", ()),
        ("no-deps", "data files and test oracles", ("--no-deps",)),
    ):
        file = REQUIREMENTS / f"{group}.txt"
        install = partial(pip_install, *options, "-r", str(file))
        step(group, f"installing {what}", install, python_key, file, CONSTRAINTS)
    wheels = (python_key, STAMPS / "ros")
    step("cmake-paths", "mending the wheels' CMake paths", partial(mend_cmake_paths, VENV), *wheels)
    step("variables", "linking .venv to this source tree", link_environment, python_key, Path(__file__))
    step("editable", "installing the command line", install_editable, python_key, ROOT / "setup.py")
    interfaces = sorted([*(ROOT / "msg").glob("*.msg"), *(ROOT / "srv").glob("*.srv")])
    manifest = (ROOT / "package.xml", ROOT / "CMakeLists.txt", *interfaces)
    product = INSTALL / "share" / "cmdtrack_ros" / "package.xml"
    step("messages", "building the messages", build_messages, *wheels, *manifest, *linked_files(), product=product)
    fields = sorted(path for path in (REQUIREMENTS / VISION_MSGS.name).rglob("*") if path.is_file())
    product = VISION_MSGS / "share" / VISION_MSGS.name / "package.xml"
    step("vision_msgs", "building vision_msgs' fields", build_vision_msgs, *wheels, *fields, product=product)


def linked_files() -> list[str]:
    """Names only: installed as links, a changed file needs no new build, but an added one does."""
    paths = (path for folder in ("launch", "config", "scripts") for path in (ROOT / folder).rglob("*"))
    return sorted(str(path) for path in paths if "__pycache__" not in path.parts)


def step(name: str, doing: str, action: Callable[[], None], *made_from: str | Path, product: Path = PYTHON) -> None:
    """Run `action` unless its stamp says it was done with the same inputs and its product is still there."""
    digest = hashlib.sha256()
    for source in made_from:
        digest.update(str(source).encode() + b"\0")
        if isinstance(source, Path):
            digest.update(source.read_bytes())
    stamp = STAMPS / name
    if product.exists() and stamp.exists() and stamp.read_text() == digest.hexdigest():
        return
    print(f"[setup] {doing} …", flush=True)
    start = time.monotonic()
    action()
    STAMPS.mkdir(parents=True, exist_ok=True)
    stamp.write_text(digest.hexdigest())
    print(f"[setup]   done in {time.monotonic() - start:.0f} s", flush=True)


def make_venv() -> None:
    for folder in (BUILD, INSTALL):  # they hold the paths of the Python they were built with
        shutil.rmtree(folder, ignore_errors=True)
    run(sys.executable, "-m", "venv", "--clear", str(VENV), hint="is python3-venv installed?")


def pip_install(*arguments: str) -> None:
    quiet = [] if sys.stdout.isatty() else ["--quiet"]
    run(
        str(PYTHON),
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        *quiet,
        "-c",
        str(CONSTRAINTS),
        *arguments,
        hint="is the package index reachable, and the disk not full?",
    )


def mend_cmake_paths(venv: Path) -> None:
    """The exported CMake files name the Python of the machine that built the wheels; name ours instead."""
    prefix = re.compile(r"/opt/python/cp\d+-cp\d+")
    include = re.compile(prefix.pattern + r"/include/python3\.\d+")
    for path in (venv / "share").rglob("*.cmake"):
        text = path.read_text()
        mended = prefix.sub(str(venv), include.sub(sysconfig.get_path("include"), text))
        if mended != text:
            path.write_text(mended)


def link_environment() -> None:
    values = {"install": str(INSTALL), "venv": str(VENV), "vision_msgs": str(VISION_MSGS)}
    (SITE / "_cmdtrack_ros_environment.py").write_text(ENV_MODULE.format(**values))
    # The source tree first, so that edits count; cmdtrack_ros/__init__.py finds the messages in the second.
    messages = "\n".join(str(prefix / "lib" / PYTHON_NAME / "site-packages") for prefix in (INSTALL, VISION_MSGS))
    (SITE / "cmdtrack_ros.pth").write_text(f"{ROOT}\n{messages}\nimport _cmdtrack_ros_environment\n")


def install_editable() -> None:
    pip_install("--no-deps", "--no-build-isolation", "--editable", str(ROOT))


def build_messages() -> None:
    staged = BUILD / "source"
    stage(staged)
    colcon_build(VENV, staged, BUILD, INSTALL, "--symlink-install")


def build_vision_msgs() -> None:
    """No wheel has it: the fields that we use, under its names, for doors that speak its messages."""
    colcon_build(VENV, REQUIREMENTS / VISION_MSGS.name, BUILD / VISION_MSGS.name, VISION_MSGS)


def stage(folder: Path) -> None:
    """A folder of links to what colcon builds: CMake refuses to export include folders below the source folder,
    and NumPy's lie in .venv."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in PACKAGE_FILES:
        (folder / name).symlink_to(ROOT / name)


def colcon_build(venv: Path, source: Path, build: Path, install: Path, *options: str) -> None:
    """Build the packages below `source` into `install`, with the colcon and the ROS 2 of a virtual environment."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "PYTHONHOME", "COLCON_PREFIX_PATH", "_ROS_WHEELS_BOOTSTRAP_COMPLETE")
    }
    environment |= {
        "PATH": f"{venv / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "AMENT_PREFIX_PATH": str(venv),
        "CMAKE_PREFIX_PATH": str(venv),
        "ROS_DISTRO": "jazzy",
        "ROS_VERSION": "2",
        "ROS_PYTHON_VERSION": "3",
    }
    run(
        str(venv / "bin" / "colcon"),
        "--log-level",
        "error",
        "--log-base",
        str(build / "log"),
        "build",
        "--base-paths",
        str(source),
        "--build-base",
        str(build),
        "--install-base",
        str(install),
        "--merge-install",
        *options,
        "--event-handlers",
        "console_cohesion-",
        "console_direct-",
        "summary-",
        "--cmake-args",
        f"-DPython3_EXECUTABLE={venv / 'bin' / 'python'}",
        "-DBUILD_TESTING=OFF",
        environment=environment,
        hint=f"the compiler's output is below {build}/log/latest_build",
    )


def run(*command: str, hint: str, environment: dict[str, str] | None = None) -> None:
    result = subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL)
    if result.returncode:
        raise SetupError(f"`{' '.join(command)}` ended with exit status {result.returncode}; {hint}")


if __name__ == "__main__":
    sys.exit(main())
