"""The shipped student, loaded once, and an engine that keeps count."""

from __future__ import annotations

import pytest

from cmdtrack_ros.tracking.engines.contract import Engine, Query, Response, Template, TemplateCrop
from cmdtrack_ros.tracking.tracker import Tracker, load_tracker


class Counting:
    """An engine that notes how much it was asked at once."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.config, self.name = engine, engine.config, engine.name
        self.confidence = engine.confidence
        self.encoded: list[int] = []
        self.searched: list[int] = []

    def encode(self, crops: list[TemplateCrop]) -> list[Template]:
        self.encoded.append(len(crops))
        return self.engine.encode(crops)

    def search(self, queries: list[Query]) -> list[Response]:
        self.searched.append(len(queries))
        return self.engine.search(queries)


@pytest.fixture
def counting(tracker: Tracker) -> Counting:
    return Counting(tracker.engine)


@pytest.fixture(scope="session")
def tracker() -> Tracker:
    return load_tracker(modality="thermal", device="cpu", threads=1)
