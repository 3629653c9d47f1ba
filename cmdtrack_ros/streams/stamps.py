"""Which stamps of a stream can be gone by: one that leaps is believed once a second image goes on from it."""

from __future__ import annotations

from typing import Any, NamedTuple

RESTART_NS = 500_000_000  # a stamp this far behind the newest is a restarted recording, not a late message
_AHEAD_NS = 10_000_000_000  # the same to the front, where no clock tells; with one, the longest step beyond its own
_STUCK_NS = 1_000_000_000
_STUCK_IMAGES = 5
_GOING_IMAGES = 5  # in a row, after which a stream that was stuck is trusted again


class Image(NamedTuple):
    """One image of a stream. now: the caller's clock at its arrival (ns); None where there is none."""

    stamp: int
    item: Any
    now: int | None


class StampGuard:
    """Holds back an image whose stamp leaps, until the next one tells an outlier from a stream that goes on elsewhere.

    A stamp leaps when it is `RESTART_NS` behind the newest, or about that much ahead of what the clock has moved on.

    Attributes:
        outliers: images left out since the start, because no other followed them.
        by_arrival: the stamps have not advanced for a second (constant, zero, backwards, at random), so that they
            say nothing. Over once some in a row do. Needs a clock.
    """

    def __init__(self) -> None:
        self.outliers = 0
        self._suspect: Image | None = None
        self.reset()

    def reset(self) -> None:
        """Forget the past, but not an image that is held back: it may be the first of what comes."""
        self.by_arrival = False
        self._newest: int | None = None
        self._advanced: int | None = None  # the clock when the newest came
        self._step = 0  # to the newest, from the one before
        self._standing = 0  # images since

    def take(self, stamp: int, item: Any, now: int | None) -> list[Image]:
        """The images that may go on, in their order: this one, also one held back before it, or none."""
        image = Image(stamp, item, now)
        if self.by_arrival:
            if not self._goes_again(image):
                return [image]
            self.reset()
        held, self._suspect = self._suspect, None
        leaps = self._leaps(image)
        if held is not None:
            if (leaps or self._newest is None) and self._follows(held, image):
                self._advance(held)
                self._advance(image)
                return [held, image]
            self.outliers += 1
        if self._newest is None or (image.stamp > self._newest and not leaps):
            self._advance(image)
        elif self._is_stuck(image):
            return [image]
        if leaps:
            self._suspect = image
            return []
        return [image]

    def release(self, stamp: int) -> list[Image]:
        """The image held back, if it is of about the time `stamp` at which the other stream was found to go on."""
        held = self._suspect
        if held is None or abs(held.stamp - stamp) > RESTART_NS:
            return []
        self._suspect = None
        self._advance(held)
        return [held]

    def finish(self) -> list[Image]:
        """At the end of the data: the image held back, where it is the latest. With a clock, more may come."""
        held = self._suspect
        if held is None:
            return []
        ahead = held.stamp - (held.stamp if self._newest is None else self._newest)
        if held.now is not None and not 0 <= ahead <= _AHEAD_NS:
            return []
        self._suspect = None
        if ahead >= 0:
            self._advance(held)
            return [held]
        self.outliers += 1
        return []

    def _advance(self, image: Image) -> None:
        step = 0 if self._newest is None else image.stamp - self._newest
        self._step = step if 0 < step <= _AHEAD_NS else 0
        self._newest, self._advanced, self._standing = image.stamp, image.now, 0

    def _leaps(self, image: Image) -> bool:
        if self._newest is None:
            return False
        ahead = _AHEAD_NS
        if image.now is not None and self._advanced is not None:
            # Twice the last step: a recording of a slow camera may be played faster than the clock runs.
            ahead = image.now - self._advanced + max(RESTART_NS, 2 * self._step)
        return not self._newest - RESTART_NS <= image.stamp <= self._newest + ahead

    def _follows(self, held: Image, image: Image) -> bool:
        """Whether an image goes on from the one held back, rather than from the newest."""
        step = image.stamp - held.stamp
        if step <= 0 or (image.now is not None and step > _AHEAD_NS + _passed(held, image)):
            return False
        return self._newest is None or held.stamp > self._newest or step < self._newest - image.stamp

    def _is_stuck(self, image: Image) -> bool:
        self._standing += 1
        if image.now is None or self._advanced is None:
            return False
        self.by_arrival = self._standing >= _STUCK_IMAGES and image.now - self._advanced >= _STUCK_NS
        self._going, self._last = 0, image
        return self.by_arrival

    def _goes_again(self, image: Image) -> bool:
        step = image.stamp - self._last.stamp
        self._going = self._going + 1 if 0 < step <= _AHEAD_NS + _passed(self._last, image) else 0
        self._last = image
        return self._going >= _GOING_IMAGES


def _passed(before: Image, after: Image) -> int:
    return 0 if before.now is None or after.now is None else after.now - before.now
