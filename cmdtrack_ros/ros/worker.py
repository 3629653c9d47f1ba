"""The one thread that owns the network, and what is said when it does not come back."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Generic, TypeVar

from cmdtrack_ros.ros.health import Health
from cmdtrack_ros.streams.mailbox import Mailbox

T = TypeVar("T")

_THREAD = "tracking"
_HANGS_SECONDS = 5.0  # on one pair
_PATIENCE = 3.0  # s to wait for the thread at its end; `ros2 launch` waits 5 s before it takes harder measures


class Worker(Generic[T]):
    """Takes items out of a mailbox and tracks them until it is stopped.

    Args:
        track: called with each item, in the worker's thread; what it raises is an "internal error".
        alive: whether results can still be published.
    """

    def __init__(
        self, mailbox: Mailbox[T], track: Callable[[T], None], health: Health, alive: Callable[[], bool]
    ) -> None:
        self._mailbox = mailbox
        self._track = track
        self._health = health
        self._alive = alive
        self._since: float | None = None  # the present pair was taken
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=_THREAD, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; one that the network does not give back is left behind, and said to be."""
        self._stopped = True
        self._mailbox.close()
        self._thread.join(_PATIENCE)
        self.check()

    @property
    def left_behind(self) -> bool:
        """It was stopped, but the network has its thread still."""
        return self._stopped and self._thread.is_alive()

    def runs_here(self) -> bool:
        """Whether the calling thread is this worker's, and was not stopped: else its result comes too late."""
        return threading.current_thread() is self._thread and not self._stopped

    def check(self) -> None:
        """Say whether the network hangs; to be called about once a second."""
        since, text = self._since, None
        seconds = 0.0 if since is None else time.monotonic() - since
        if seconds > _HANGS_SECONDS or (self.left_behind and since is not None):
            text = (
                f"no answer for {seconds:.1f} s. If it does not come back, clean up and configure the node anew, or "
                "restart it; try another 'engine' or 'device'"
            )
        self._health.condition("network hangs", text)

    def _run(self) -> None:
        while (item := self._mailbox.take()) is not None:
            self._since = time.monotonic()
            try:
                self._track(item)
            except Exception:
                if self._stopped or not self._alive():  # nothing can be published any more
                    return
                self._health.event("internal error", traceback.format_exc())
            finally:
                self._since = None


def end_process_left_behind() -> None:
    """End the process now, with status 0, where the network has a thread of any worker still; call it last.

    Python's own end would unload the libraries that the thread is in, which then abort the process.
    """
    if any(thread.name == _THREAD for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
