"""What several tests share: the real recordings, and a DDS domain of this run's own."""

from __future__ import annotations

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from cmdtrack_ros.data.video import VideoWriter
from cmdtrack_ros.ros.transport import free_domain

ROOT = Path(__file__).resolve().parents[1]

# Runs side by side must hear neither each other nor the network; child processes inherit this.
os.environ["ROS_DOMAIN_ID"] = str(free_domain())
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
# Graphs are exported by this code, not found in the user's cache, and do not fill it up; removed at exit.
_CACHE = tempfile.TemporaryDirectory(prefix="cmdtrack_test_")
_USERS = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
os.environ.setdefault("MPLCONFIGDIR", str(_USERS / "matplotlib"))  # its list of fonts takes seconds
os.environ["XDG_CACHE_HOME"] = _CACHE.name
os.environ["ROS_HOME"] = _CACHE.name  # nodes that a test kills leave nothing that the next run would find


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if find_spec("rclpy") is not None:
        return
    skip = pytest.mark.skip(reason="rclpy is not importable: run `make test`, or source a ROS 2 installation")
    for item in items:
        if item.get_closest_marker("ros"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real recordings, which is no part of this repository; CMDTRACK_DATA names it."""
    folder = Path(os.environ.get("CMDTRACK_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "test").is_dir():
        pytest.skip(f"no recordings at {folder}: set CMDTRACK_DATA to a folder that has test/ and train/")
    return folder


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Three sequences of a moving square, in colour and in depth."""
    from synthetic import make_folder

    for seed in range(3):
        make_folder(tmp_path / "data" / f"square{seed}", seed)
    return tmp_path / "data"


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that load and run; what they track is nothing."""
    from cmdtrack_ros.models.config import StudentConfig
    from cmdtrack_ros.models.header import Provenance
    from cmdtrack_ros.models.student import Student
    from cmdtrack_ros.models.weights import save_weights

    path = tmp_path_factory.mktemp("weights") / "untrained.safetensors"
    save_weights(Student(StudentConfig()), path, Provenance({}, {}, {}))
    return path


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of this source tree."""
    return ROOT


@pytest.fixture
def video(tmp_path: Path) -> Path:
    with VideoWriter(tmp_path / "film.mp4", 20, quality=5) as writer:
        for i in range(10):
            writer.write(np.full((48, 65, 3), (20 * i, 128, 255 - 20 * i), np.uint8))  # an odd width
    return tmp_path / "film.mp4"
