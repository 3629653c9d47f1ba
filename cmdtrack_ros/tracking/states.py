"""Whether the target is followed: a state with hysteresis over the network's score."""

from __future__ import annotations

from dataclasses import dataclass

from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.track import TargetState


@dataclass(frozen=True)
class StateConfig:
    """Thresholds on the score in [0, 1].

    Attributes:
        confident: at or above, the target is TRACKING.
        doubtful: below, the score counts towards a loss, and the box does not move.
        patience: consecutive doubtful frames until LOST.
        found: score needed to leave LOST.
        found_frames: consecutive frames with it.
    """

    confident: float = 0.4
    doubtful: float = 0.2
    patience: int = 8
    found: float = 0.4
    found_frames: int = 2

    def __post_init__(self) -> None:
        if not 0 <= self.doubtful <= self.confident <= self.found <= 1:
            raise ConfigError(
                f"score thresholds: expected 0 <= doubtful <= confident <= found <= 1, got "
                f"{self.doubtful}, {self.confident}, {self.found}"
            )
        if self.patience < 1 or self.found_frames < 1:
            raise ConfigError(f"patience ({self.patience}) and found_frames ({self.found_frames}) must be at least 1")


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

    def update(self, score: float) -> TargetState:
        """The state after a frame with this score."""
        config = self.config
        if self.state == TargetState.LOST:
            self._found = self._found + 1 if score >= config.found else 0
            if self._found >= config.found_frames:
                self.start()
            return self.state
        self._doubtful = self._doubtful + 1 if score < config.doubtful else 0
        if self._doubtful >= config.patience:
            self.lose()
        else:
            self.state = TargetState.TRACKING if score >= config.confident else TargetState.UNCERTAIN
        return self.state
