"""The shipped student, loaded once."""

from __future__ import annotations

import pytest

from cmdtrack_ros.models.student import Student
from cmdtrack_ros.models.weights import load_student


@pytest.fixture(scope="session")
def student() -> Student:
    return load_student()[0]
