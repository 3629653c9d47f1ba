"""What is wrong with the node now: causes, each logged without repetition and shown in /diagnostics while it lasts."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

from diagnostic_msgs.msg import DiagnosticStatus

STATUSES = ("inputs", "pairing", "tracking", "device")
"""The tracker's concerns in /diagnostics, one status each."""

RECORDING = "recording"
"""The one concern of `cmdtrack record`."""

COUNT_SUFFIX = " (count)"
"""After a cause: the key of the value that says how often it happened."""

SHOWN_SECONDS = 5.0  # an event stands in its status for this long, and its next line waits for as long
PERIOD_SECONDS = 1.5  # a report comes within this time
REPEAT_SECONDS = 30.0  # a condition that lasts is logged again

_OK, _WARN, _ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


class Cause(NamedTuple):
    """The status that a degraded mode belongs to, and how bad it is."""

    status: str
    level: bytes


CAUSES = {
    "no RGB images": Cause("inputs", _WARN),
    "no auxiliary images": Cause("inputs", _WARN),
    "RGB images lost": Cause("inputs", _WARN),
    "auxiliary images lost": Cause("inputs", _WARN),
    "stamps constant": Cause("inputs", _WARN),
    "stamps missing": Cause("inputs", _WARN),
    "stamps jumping": Cause("inputs", _WARN),
    "stamps ahead": Cause("inputs", _WARN),
    "stamps old": Cause("inputs", _WARN),
    "stamp outlier": Cause("inputs", _WARN),
    "bad RGB image": Cause("inputs", _WARN),
    "bad auxiliary image": Cause("inputs", _WARN),
    "image size changed": Cause("inputs", _WARN),
    "image size outlier": Cause("inputs", _WARN),
    "registration": Cause("inputs", _WARN),
    "registration off": Cause("inputs", _WARN),
    "RGB camera info": Cause("inputs", _WARN),
    "auxiliary stream useless": Cause("inputs", _WARN),
    "RGB stream useless": Cause("inputs", _WARN),
    "aux range outlier": Cause("inputs", _WARN),
    "nothing pairs": Cause("pairing", _WARN),
    "few pairs": Cause("pairing", _WARN),
    "clocks apart": Cause("pairing", _WARN),
    "LOST": Cause("tracking", _WARN),
    "target refused": Cause("tracking", _WARN),
    "target does not show": Cause("tracking", _WARN),
    "wrong target suspected": Cause("tracking", _WARN),
    "targets on one object": Cause("tracking", _WARN),
    "no target pose": Cause("tracking", _WARN),
    "old target": Cause("tracking", _WARN),
    "no detections": Cause("tracking", _WARN),
    "no respawn guard": Cause("tracking", _WARN),
    "internal error": Cause("tracking", _ERROR),
    "network hangs": Cause("device", _ERROR),
    "too slow": Cause("device", _WARN),
    "configure failed": Cause("device", _ERROR),
    "transition failed": Cause("device", _ERROR),
    "engine fallback": Cause("device", _WARN),
    "nothing to record": Cause(RECORDING, _WARN),
    "recording shortened": Cause(RECORDING, _WARN),
    "cannot record": Cause(RECORDING, _ERROR),
}
"""Every degraded mode: the short phrase that its status shows and its log lines start with."""


@dataclass
class _Mode:
    """What is known of one cause.

    Attributes:
        until: when it ceases to be shown, seconds of the monotonic clock; infinite for a condition.
        logged: when its last line was logged.
        withheld: events since then that were not logged.
        count: how often it happened.
        stage: of the condition.
        announced: the condition's beginning was logged, hence its end will be.
        shown: the condition was in a report.
    """

    text: str = ""
    until: float = -math.inf
    logged: float = -math.inf
    withheld: int = 0
    count: int = 0
    stage: int = 0
    announced: bool = False
    shown: bool = False


class Health:
    """Collects the causes of `CAUSES`; thread-safe.

    Args:
        logger: of the node; the level of a cause decides between its ``warning`` and ``error``.
    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._modes = {cause: _Mode() for cause in CAUSES}
        self._lock = threading.Lock()  # callbacks and worker both report

    def event(self, cause: str, text: str) -> None:
        """Something happened: `cause` is shown for `SHOWN_SECONDS` from now, and logged at most as often.

        Args:
            text: what exactly, and the remedy; names the topic or parameter.
        """
        with self._lock:
            mode, now = self._modes[cause], time.monotonic()
            mode.text, mode.count = text, mode.count + 1
            mode.until = max(mode.until, now + SHOWN_SECONDS)
            withheld, due = mode.withheld, now - mode.logged >= SHOWN_SECONDS
            mode.withheld = 0 if due else withheld + 1
            if due:
                mode.logged = now
        if due:
            more = f" ({withheld} more since the last message)" if withheld else ""
            self._log(cause, f"{text}{more}")

    def condition(self, cause: str, text: str | None, stage: int = 0) -> None:
        """A state that lasts until this is called with None.

        It is logged when it begins, again every `REPEAT_SECONDS`, when `stage` rises, and when it is over. One
        that comes and goes is logged at most every `SHOWN_SECONDS`; one that is over before a report is in the next.
        """
        with self._lock:
            mode = self._modes[cause]
            if text is None:
                over, mode.announced = mode.announced, False
                if mode.until == math.inf:
                    mode.until = -math.inf if mode.shown else time.monotonic() + PERIOD_SECONDS
            else:
                over = False
                mode.count += mode.until != math.inf
                mode.shown &= mode.until == math.inf
                mode.text, mode.until = text, math.inf
                if mode.announced and stage > mode.stage:
                    mode.logged = -math.inf
                mode.stage = stage
        if over:
            self._logger.info(f"{cause}: over")
        self._remind(cause)

    def _remind(self, cause: str) -> None:
        """Log a condition that lasts, where it is due."""
        with self._lock:
            mode, now = self._modes[cause], time.monotonic()
            wait = REPEAT_SECONDS if mode.announced else SHOWN_SECONDS
            if mode.until != math.inf or now - mode.logged < wait:
                return
            mode.logged, mode.announced, text = now, True, mode.text
        self._log(cause, text)

    def clear(self, *statuses: str) -> None:
        """The conditions of these statuses are over, as those of streams that are no longer open."""
        for cause, (status, _) in CAUSES.items():
            if status in statuses:
                self.condition(cause, None)

    def report(self, status: str, summary: str) -> tuple[bytes, str, dict[str, str]]:
        """Level, message and values of one of `STATUSES`: what is wrong now, else OK and `summary`.

        The values have the text of each cause that is shown, and how often each happened so far. To be called
        about once a second: it is also what logs a condition again.
        """
        for cause in CAUSES:
            if CAUSES[cause].status == status:
                self._remind(cause)
        now = time.monotonic()
        with self._lock:
            ours = {cause: mode for cause, mode in self._modes.items() if CAUSES[cause].status == status}
            shown = {cause: mode.text for cause, mode in ours.items() if mode.until > now}
            for cause in shown:
                ours[cause].shown = True
            counts = {f"{cause}{COUNT_SUFFIX}": str(mode.count) for cause, mode in ours.items() if mode.count}
        level = max((CAUSES[cause].level for cause in shown), default=_OK)
        return level, "; ".join(shown) or summary, shown | counts

    def _log(self, cause: str, text: str) -> None:
        # rclpy's logger raises when one line of code logs at two severities, hence a line each.
        if CAUSES[cause].level == _ERROR:
            self._logger.error(f"{cause}: {text}")
        else:
            self._logger.warning(f"{cause}: {text}")
