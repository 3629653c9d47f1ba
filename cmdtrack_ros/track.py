"""What a tracker answers: one `Track` a target and frame, for the topic, the file and the picture. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from cmdtrack_ros.errors import Remark

PERCENTILES = (50, 95, 99)
ROBOT_STEPS = ("arrival", "pairing", "waiting", "publication")
"""What a result takes on a robot beside tracking: from its stamp to the node's callback; from there until its pair goes
out; until the tracker takes the pair; and the publishing itself, which ``latency`` does not count."""


class TargetState(IntEnum):
    """States of a target; the numbers are those of TrackState.msg."""

    IDLE = 0
    TRACKING = 1
    UNCERTAIN = 2
    LOST = 3

    @property
    def in_sight(self) -> bool:
        """Whether the box is where the target is now, as far as can be told."""
        return self in (TargetState.TRACKING, TargetState.UNCERTAIN)


@dataclass(frozen=True)
class Track:
    """The target after one frame.

    Attributes:
        box: (4,) float64 xywh, pixels of the RGB image; the last known one while LOST, zeros while IDLE.
        score: 0..1, how sure the tracker is: the probability that the box is right, where the weights are calibrated.
        state: see :class:`TargetState`.
        weight_rgb, weight_aux: share of each modality in the answer; 0 for an absent one.
        has_rgb, has_aux: whether the frame had a usable image of that stream.
        times_ms: milliseconds of named steps. Of the tracker: "encode", "crop", "network", ... and their "total";
            on a robot also those of :data:`ROBOT_STEPS`. Where several targets are followed, of all together.
        target_id: the name that came with the target.
        class_id: the kind of thing that was named with it; empty where nobody did.
        suspect: followed, but what is followed does not lead back to the first box: another target, it seems.
        started: a new target was taken on this frame, or caught up with it.
        stamp_ns: of the image that the answer belongs to, an aux image's after `aux_offset`; 0, as in ROS,
            where nobody gave one.
        gap: seconds, aux stamp minus RGB stamp after `aux_offset`; NaN for an image alone.
        latency: seconds from the stamp to the publication; NaN where nothing is published.
        remarks: what is to be told about this frame.
    """

    box: np.ndarray
    score: float
    state: TargetState = TargetState.TRACKING
    weight_rgb: float = 0.0
    weight_aux: float = 0.0
    has_rgb: bool = True
    has_aux: bool = True
    times_ms: dict[str, float] = field(default_factory=dict)
    target_id: str = ""
    suspect: bool = False
    started: bool = False
    stamp_ns: int = 0
    gap: float = math.nan
    latency: float = math.nan
    class_id: str = ""
    remarks: tuple[Remark, ...] = ()

    @property
    def seconds(self) -> float:
        """Time spent on the answer, NaN where nobody measured it."""
        return self.times_ms.get("total", math.nan) / 1e3


def per_frame(stamps_ns: Sequence[int] | np.ndarray, tracks: Iterable[Track]) -> list[Track | None]:
    """The answer to each frame, by the nearest stamp; None where there is none.

    Args:
        stamps_ns: (n,) stamps of the frames, increasing.
    """
    answers: list[Track | None] = [None] * len(stamps_ns)
    for track in tracks:
        if (index := frame_at(stamps_ns, track.stamp_ns)) is not None:
            answers[index] = track
    return answers


def frame_at(stamps_ns: Sequence[int] | np.ndarray, stamp_ns: int) -> int | None:
    """The frame whose stamp is nearest to one that came back from DDS; None where it is none of theirs.

    Playing at another rate rounds stamps: half of the shortest interval tells frames apart.

    Args:
        stamps_ns: (n,) stamps of the frames, increasing.
    """
    stamps = np.asarray(stamps_ns, np.int64)
    gaps = np.abs(stamps - stamp_ns)
    limit = np.diff(stamps).min() / 2 if len(stamps) > 1 else math.inf
    return int(gaps.argmin()) if gaps.min() < limit else None


def percentiles_ms(seconds: Iterable[float]) -> dict[str, float]:
    """``p50``, ``p95``, ``p99`` and ``max`` in milliseconds of the finite values; empty without any."""
    values = np.array(list(seconds), np.float64)
    values = values[np.isfinite(values)] * 1e3
    if not len(values):
        return {}
    names = [f"p{percent}" for percent in PERCENTILES]
    return {**dict(zip(names, np.percentile(values, PERCENTILES).tolist())), "max": float(values.max())}
