"""The shipped student, loaded once."""

from __future__ import annotations

import pytest

from cmdtrack_ros.tracking.tracker import Tracker, load_tracker


@pytest.fixture(scope="session")
def tracker() -> Tracker:
    return load_tracker(modality="thermal", device="cpu", threads=1)
