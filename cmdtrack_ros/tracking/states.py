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
PROPOSAL_FRAMES = 10
"""Frames in a row with ``score_found`` until a box that nobody drew is believed: a third of a second to look at it."""


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
        self._doubtful = self._found = self._unconfirmed = 0

    def start(self, proposed: bool = False) -> None:
        """A target was given; a proposed one is UNCERTAIN for `PROPOSAL_FRAMES`."""
        self.reset()
        self.state = TargetState.UNCERTAIN if proposed else TargetState.TRACKING
        self._unconfirmed = PROPOSAL_FRAMES if proposed else 0

    def wait(self) -> None:
        """Nothing of the target has shown yet: UNCERTAIN, until a score tells more."""
        self.state = TargetState.UNCERTAIN

    @property
    def proposed(self) -> bool:
        """The target is a proposal that was not confirmed yet."""
        return self._unconfirmed > 0

    def lose(self) -> None:
        """The target may have gone while nobody looked."""
        self.state, self._found, self._unconfirmed = TargetState.LOST, 0, 0

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
            return self.state
        if self.proposed:
            self._unconfirmed = self._unconfirmed - 1 if score >= config.score_found else PROPOSAL_FRAMES
        sure = score >= config.score_confident and not self.proposed
        self.state = TargetState.TRACKING if sure else TargetState.UNCERTAIN
        return self.state
