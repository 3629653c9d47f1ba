"""Whether the target is followed: a state with hysteresis over the network's score."""

from __future__ import annotations

from dataclasses import dataclass

from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.track import TargetState

RANGES = {
    "score_confident": (0.0, 1.0),
    "score_doubtful": (0.0, 1.0),
    "score_found": (0.0, 1.0),
    "lost_after": (1, 1000),
    "found_after": (1, 1000),
}
"""Lowest and highest value of each of :class:`StateConfig`."""


@dataclass(frozen=True)
class StateConfig:
    """Thresholds on the score: the probability, as calibrated, that the box is right (IoU above 0.5).

    Attributes:
        score_confident: at or above, the target is TRACKING.
        score_doubtful: below, a frame counts towards a loss.
        score_found: needed to leave LOST, at the last place; elsewhere it is half of what is left to 1 more.
        lost_after: consecutive doubtful frames until LOST.
        found_after: consecutive frames with ``score_found`` until TRACKING again.
    """

    score_confident: float = 0.4
    score_doubtful: float = 0.1
    score_found: float = 0.4
    lost_after: int = 8
    found_after: int = 2

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"'{name}': expected {low:g} to {high:g}, got {getattr(self, name)}")
        if not self.score_doubtful <= self.score_confident <= self.score_found:
            raise ConfigError(
                "'score_doubtful', 'score_confident', 'score_found': expected none above the next, got "
                f"{self.score_doubtful:g}, {self.score_confident:g}, {self.score_found:g}"
            )


class StateMachine:
    """Turns one score per frame into a :class:`TargetState`."""

    def __init__(self, config: StateConfig = StateConfig()) -> None:
        self.config = config
        self.reset()

    def reset(self) -> None:
        """Back to IDLE."""
        self.state = TargetState.IDLE
        self._doubtful = self._found = 0

    def start(self) -> None:
        """A target was given."""
        self.reset()
        self.state = TargetState.TRACKING

    def lose(self) -> None:
        """The target may have gone while nobody looked."""
        self.state, self._found = TargetState.LOST, 0

    def update(self, score: float, needed: float | None = None) -> TargetState:
        """The state after a frame with this score; ``needed`` to leave LOST, None = ``score_found``."""
        config = self.config
        if self.state == TargetState.LOST:
            self._found = self._found + 1 if score >= (config.score_found if needed is None else needed) else 0
            if self._found >= config.found_after:
                self.start()
            return self.state
        self._doubtful = self._doubtful + 1 if score < config.score_doubtful else 0
        if self._doubtful >= config.lost_after:
            self.lose()
        else:
            self.state = TargetState.TRACKING if score >= config.score_confident else TargetState.UNCERTAIN
        return self.state
