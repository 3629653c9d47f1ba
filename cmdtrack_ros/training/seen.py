"""What a network was trained on, as far as its weights file says: what the file says, and how that is read."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from cmdtrack_ros.models.header import Provenance


def told(sources: Iterable[tuple[str, dict]]) -> dict[str, dict]:
    """``Provenance.data`` of sources, each a path and its settings.

    Where several have one path, such as those of one folder with other ``only`` each, it says what they show together.
    """
    found: dict[str, dict] = {}
    for path, about in sources:
        found[path] = _together(found[path], about) if path in found else about
    return found


def _together(one: dict, other: dict) -> dict:
    """Never less than the two show."""
    held_out = [name for name in one.get("held_out", ()) if name in other.get("held_out", ())]
    only = list(dict.fromkeys([*one["only"], *other["only"]])) if one.get("only") and other.get("only") else []
    terms, others = one.get("terms", ""), other.get("terms", "")
    if others not in terms:
        terms = f"{terms}; {others}" if terms else others
    return {**one, **other, "held_out": held_out, "only": only, "terms": terms}


def saw(provenance: Provenance, recording: str) -> bool:
    """Whether a network was trained on a sequence folder or a still (path below the data folder), or a part of it."""
    split = provenance.recipe.get("split") or {}
    if any(fnmatchcase(recording, pattern) for part in ("validation", "test") for pattern in split.get(part, ())):
        return False
    return any(_shows(source, about, PurePosixPath(recording)) for source, about in provenance.data.items())


def _shows(source: str, about: dict, recording: PurePosixPath) -> bool:
    # held_out_part leaves a part of each recording to train on; what held_out_share holds out is named in held_out.
    if about.get("kind") == "bags" or not recording.is_relative_to(source):
        return False
    name = recording.relative_to(source).as_posix()
    taken = any(fnmatchcase(name, pattern) for pattern in about.get("only") or ["*"])
    return taken and recording.name not in about.get("held_out", ())
