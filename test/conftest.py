"""What several tests share: the real recordings, and a DDS domain of this run's own."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Runs side by side must hear neither each other nor the network; child processes inherit this.
os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"


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


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of this source tree."""
    return ROOT
