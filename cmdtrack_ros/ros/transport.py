"""Fast DDS' transports for camera images: which processes load config/fastdds.xml, and where it is; free domains."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Mapping
from io import TextIOWrapper
from pathlib import Path

from cmdtrack_ros.errors import CmdtrackError

# Fast DDS 2 reads the first, Fast DDS 3 the second.
_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
_FILE = Path("config") / "fastdds.xml"
_DOMAINS = 100  # beyond, DDS' ports run into those that Linux gives to clients
_held: list[TextIOWrapper] = []  # locks of domains, for the life of this process


def profile_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """What to set so that a process to be started loads the profile.

    Empty where the user has chosen a profile, Fast DDS' built-in transports, or another middleware.
    """
    chosen = any(environment.get(name) for name in (*_VARIABLES, "FASTDDS_BUILTIN_TRANSPORTS"))
    middleware = environment.get("RMW_IMPLEMENTATION") or "rmw_fastrtps_cpp"
    if chosen or "fastrtps" not in middleware:
        return {}
    return dict.fromkeys(_VARIABLES, str(profile_file()))


def use_profile() -> None:
    """Load the profile in this process and in those that it starts. To be called before ``rclpy.init``."""
    os.environ.update(profile_variables(os.environ))


def profile_file() -> Path:
    """config/fastdds.xml of the source tree, or of the installed package."""
    source = Path(__file__).resolve().parents[2] / _FILE
    if source.is_file():
        return source
    from ament_index_python import get_package_share_directory

    return Path(get_package_share_directory("cmdtrack_ros")) / _FILE


def free_domain() -> int:
    """A ROS domain that no other process of this machine was given by this; its own until it ends."""
    for domain in range(1, _DOMAINS + 1):
        lock = (Path(tempfile.gettempdir()) / f"cmdtrack_domain_{os.getuid()}_{domain}.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            continue
        _held.append(lock)
        return domain
    raise CmdtrackError(f"all ROS domains from 1 to {_DOMAINS} are taken by runs on this machine: set ROS_DOMAIN_ID")
