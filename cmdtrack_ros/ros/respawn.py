"""Whether this process takes the place of one that died: neither launch's respawn nor a service manager tells it."""

from __future__ import annotations

import os
from pathlib import Path


class RespawnMark:
    """A small file that says: the initial target was taken, and the node has not ended in order since.

    It counts for a process with the same node name, domain and starter: the same service, the same parent process or
    the same container's main process, since the machine was booted. Whoever is started by hand, by a new launch or
    after a reboot is no replacement.

    Args:
        node: fully qualified name of the node.
    """

    def __init__(self, node: str) -> None:
        home = Path(os.environ.get("ROS_HOME") or Path.home() / ".ros")
        domain = os.environ.get("ROS_DOMAIN_ID") or "0"
        self.path = home / "cmdtrack_ros" / f"{domain}{node.replace('/', '.')}.target"

    def found(self) -> bool:
        """Whether a process whose place this one takes has left it."""
        return _read(self.path) == _starter()

    def leave(self) -> None:
        """Raises OSError where the file cannot be written."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(_starter())

    def remove(self) -> None:
        """Raises OSError where the file is there and cannot be removed."""
        self.path.unlink(missing_ok=True)


def _starter() -> str:
    """Who starts this process, in a form that no other starter has until the next boot."""
    boot = _read(Path("/proc/sys/kernel/random/boot_id"))
    service = next((line for line in _read(Path("/proc/self/cgroup")).splitlines() if line.endswith(".service")), "")
    parent = os.getppid()
    # The number of a process is used again some time, together with its start it is not. The first process of a
    # container starts anew with it.
    began = "" if parent == 1 else "".join(_read(Path(f"/proc/{parent}/stat")).rpartition(")")[2].split()[19:20])
    return f"{boot.strip()} {service or f'{parent} {began}'}"


def _read(path: Path) -> str:
    """The text of a file; empty where there is none, as of /proc outside of Linux."""
    try:
        return path.read_text()
    except OSError:
        return ""
