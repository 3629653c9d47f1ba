"""Every fault: what is done to the node, and what is asked of it meanwhile and afterwards."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from dataclasses import dataclass

from faults import acts
from faults.judge import Episode
from faults.stage import Shot, Stage
from malformed import malformed_compressed, malformed_images

DROPS_TO_SAY = 5
LOSS_TO_SAY = 0.1  # of the images
ANSWERS = 0.5  # share of the images that a fault must leave answered

SETTINGS: dict[str, dict[str, object]] = {
    "robot": {},
    "initial": {"initial": True},
    "compressed": {"compressed": True},
    "two": {"parameters": {"max_targets": 2}},
    "memory": {"parameters": {"process_every_pair": "true", "weights": "nano"}},
}
"""Options of the stages that the faults share."""


@dataclass(frozen=True)
class Fault:
    """One row.

    Attributes:
        act: does it, and undoes it; an AssertionError in it says in what the node fell short.
        causes: of the node's table, one of which it is to say; none where it need not say anything.
        said_within: s from the beginning.
        answers: results while it lasts, as a share of the images sent.
        resume_within: s until the first good result after it.
        quiet: the diagnostics must stay silent, but for a machine that is too slow.
    sayable: whether there was anything to say, where that depends on the machine.
        stage: one of `SETTINGS`.
        scenes: that it is played with; one is enough for what does not depend on what the images show.
        quick: part of the test suite.
    """

    name: str
    act: acts.Act
    causes: tuple[str, ...] = ()
    said_within: float = 2.0
    answers: float = 0.0
    resume_within: float = 2.0
    quiet: bool = False
    sayable: Callable[[Stage, Episode], bool] | None = None
    stage: str = "robot"
    scenes: tuple[str, ...] = ("face",)
    quick: bool = False


def dropped(stage: Stage, episode: Episode) -> bool:
    """Whether pairs were dropped since the fault began, more than a few."""
    return stage.ears.grown("dropped", episode.began) > DROPS_TO_SAY


def long_silence(_: Stage, episode: Episode) -> bool:
    """Whether there was time to notice that nothing came."""
    return episode.ended - episode.began > 2.0


def lost_on_the_way(stage: Stage, episode: Episode) -> bool:
    """Whether the node missed a share of the images worth a word."""
    arrived = stage.ears.grown("rgb", episode.began) + stage.ears.grown("aux", episode.began)
    return arrived < (1 - LOSS_TO_SAY) * 2 * episode.shots


def one_hour(shot: Shot) -> int:
    return shot.stamp + 3600 * acts.SECOND


def last_second(_: Shot) -> int:
    """The last that a stamp can say."""
    return (2**31 - 1) * acts.SECOND


INPUTS = ("bad RGB image", "bad auxiliary image")
CLOCKS = ("nothing pairs", "few pairs", "clocks apart")
GARBAGE = ("stamp outlier", "stamps missing")
SIZES = ("image size outlier", "bad RGB image", "bad auxiliary image", "registration")
EVERY = ("face", "thermal", "depth")
RANGED = ("face", "thermal")


def faults(pairs: int) -> tuple[Fault, ...]:
    """All of them; pairs: sent for the one of memory."""
    return (*_FAULTS, Fault(f"memory over {pairs:,} pairs", acts.flooded(pairs), stage="memory"))


_FAULTS = (
    Fault("nothing", acts.lasting(Shot.good, 5.0), answers=ANSWERS, quiet=True, scenes=EVERY, quick=True),
    Fault("all transitions, from active down and up again", acts.transitions, quick=True),
    Fault("aux clock +1 s", acts.aux_clock(1.0), CLOCKS, answers=ANSWERS, quick=True),
    Fault("target in the future", acts.requests(acts.true_box, 5.0), ("target refused",), answers=ANSWERS, quick=True),
    Fault("aux clock -1 s", acts.aux_clock(-1.0), CLOCKS, answers=ANSWERS),
    Fault("RGB silent 3 s", acts.lasting(lambda shot: [shot.aux()]), ("no RGB images",), scenes=RANGED),
    Fault("target on a frame long gone", acts.requests(acts.true_box, -60.0), ("target refused",), answers=ANSWERS),
    Fault("aux clock +10 h", acts.aux_clock(36_000.0), CLOCKS, answers=ANSWERS),
    Fault(
        "auxiliary images silent 3 s",
        acts.lasting(lambda shot: [shot.rgb()]),
        ("no auxiliary images",),
        answers=ANSWERS,
        scenes=RANGED,
    ),
    Fault(
        "target outside of the image",
        acts.requests(lambda stage: (4000, 10, 40, 40)),
        ("target refused",),
        answers=ANSWERS,
    ),
    Fault("aux clock +0.2 s", acts.aux_clock(0.2), CLOCKS, answers=ANSWERS),
    Fault("both silent 3 s", acts.lasting(lambda shot: []), ("no RGB images", "no auxiliary images")),
    Fault("target of NaN", acts.requests(lambda stage: (math.nan, 10, 40, 40)), ("target refused",), answers=ANSWERS),
    Fault("stamps constant", acts.fixed_stamps(), ("stamps constant",), answers=ANSWERS),
    Fault("loss of 30 % of each stream", acts.lossy(0.3), answers=ANSWERS, scenes=EVERY),
    Fault("target of 1 px", acts.requests(lambda stage: (10, 10, 1, 1)), ("target refused",), answers=ANSWERS),
    Fault("stamps zero", acts.both_stamps(lambda shot: 0), ("stamps missing", "stamps constant"), answers=ANSWERS),
    Fault("arrivals up to 50 ms late", acts.late_arrivals(0.05), answers=ANSWERS),
    Fault("each image twice", acts.lasting(lambda shot: 2 * shot.good()), answers=ANSWERS),
    Fault(
        "stamps 5 s ahead of the clock",
        acts.both_stamps(lambda shot: shot.stamp + 5 * acts.SECOND),
        ("stamps ahead",),
        answers=ANSWERS,
    ),
    Fault("aux stamps unsteady by 50 ms", acts.unsteady_stamps(0.1), answers=ANSWERS),
    Fault("groups of three last first", acts.reversed_order(3)),
    Fault(
        "stamps 100 s old",
        acts.both_stamps(lambda shot: shot.stamp - 100 * acts.SECOND),
        ("stamps old",),
        answers=ANSWERS,
    ),
    Fault(
        "publishers restart",
        acts.publishers_restart(reliable=True),
        ("no RGB images", "no auxiliary images"),
        sayable=long_silence,
        quick=True,
    ),
    Fault("publishers restart as best effort", acts.publishers_restart(reliable=False)),
    Fault("RGB image of 1x1", acts.rgb_size(1, 1), SIZES, scenes=EVERY, quick=True),
    Fault("auxiliary image of 1e30", acts.aux_value(1e30), ("aux range outlier", "bad auxiliary image"), scenes=RANGED),
    Fault("lens caps on until the target is lost", acts.lens_caps, ("LOST",)),
    Fault("both images of 5000x1", acts.both_sizes(1, 5000), SIZES, scenes=RANGED),
    Fault(
        "auxiliary image of -1e30", acts.aux_value(-1e30), ("aux range outlier", "bad auxiliary image"), scenes=RANGED
    ),
    Fault("auxiliary image of NaN", acts.aux_value(math.nan), scenes=RANGED),
    Fault("auxiliary image of infinity", acts.aux_value(math.inf), scenes=RANGED),
    Fault("depth image without a reading", acts.aux_value(0), scenes=("depth",)),
    Fault("depth image of 65535", acts.aux_value(65535), scenes=("depth",)),
    Fault("auxiliary image of 1x1", acts.single(lambda shot: [shot.rgb(), shot.aux(shot.scene.aux[0][:1, :1])]), SIZES),
    Fault("5 % bad pixels", acts.lasting(acts.with_bad_pixels, 5.0), answers=ANSWERS, scenes=EVERY),
    Fault("auxiliary images of int32", acts.lasting(acts.impossible_aux), ("bad auxiliary image",), answers=ANSWERS),
    Fault(
        "RGB alone to half size", acts.rescaled(0.5, 1.0, acts.LASTS), ("image size changed", *SIZES), answers=ANSWERS
    ),
    Fault("new target while aux cannot be read", acts.new_target_while_aux_is_impossible, ("bad auxiliary image",)),
    Fault("both cameras to half size", acts.rescaled(0.5, 0.5), ("image size changed",), scenes=EVERY),
    Fault("1,000 malformed images", acts.malformed(malformed_images), INPUTS),
    Fault("both cameras back to full size", acts.rescaled(1.0, 1.0), ("image size changed",), scenes=EVERY),
    Fault("malformed CDR", acts.malformed_cdr),
    Fault("deactivated for 3 s", acts.paused, ("old target",), said_within=acts.LASTS + 2.0),
    Fault("both images of 1x1", acts.both_sizes(1, 1), SIZES, scenes=RANGED),
    Fault("target named on background", acts.background, ("wrong target suspected", "LOST"), said_within=6.0),
    Fault(
        "other processes take the CPU", acts.starved, ("too slow",), said_within=4.0, sayable=dropped, resume_within=3.0
    ),
    Fault("stopped for 3 s (SIGSTOP)", acts.stopped, quick=True),
    Fault("SIGINT", acts.ended_by(signal.SIGINT)),
    Fault("SIGTERM", acts.ended_by(signal.SIGTERM)),
    Fault("each state to its shutdown", acts.shutdowns),
    # Counted from the node's activation: it has to find its cameras first, whose stamps are what is wrong.
    Fault("use_sim_time without /clock", acts.without_clock, ("stamps ahead",), said_within=4.0),
    Fault(
        "auxiliary camera knocked",
        acts.lasting(acts.knocked, 8.0),
        ("registration off",),
        said_within=8.0,
        answers=ANSWERS,
        quick=True,
    ),
    Fault("RGB CameraInfo missing", acts.without_rgb_info, ("RGB camera info",), said_within=4.0, scenes=("depth",)),
    Fault("auxiliary CameraInfo missing", acts.without_aux_info, ("registration",), said_within=4.0, scenes=EVERY),
    Fault("no depth where the target is", acts.without_depth, ("no target pose",), said_within=4.0, scenes=("depth",)),
    Fault(
        "two targets on one object",
        acts.one_object,
        ("targets on one object",),
        said_within=6.0,  # after 15 images that both were on it
        stage="two",
    ),
    Fault("no detector publishes", acts.without_detections, ("no detections",), said_within=4.0),
    Fault("recorder's folder cannot be written", acts.unwritable, ("cannot record",), quick=True),
    Fault("weights file missing", acts.unconfigurable, ("configure failed",)),
    Fault("RGB stamp of 0", acts.rgb_stamp(lambda shot: 0), GARBAGE, stage="initial", scenes=RANGED),
    Fault("aux stamp of 0", acts.aux_stamp(lambda shot: 0), GARBAGE, stage="initial"),
    Fault("RGB stamp of -1 s", acts.rgb_stamp(lambda shot: -acts.SECOND), GARBAGE, stage="initial", scenes=RANGED),
    Fault(
        "RGB stamp of 2^31 - 1 s",
        acts.rgb_stamp(lambda shot: (2**31 - 1) * acts.SECOND),
        GARBAGE,
        stage="initial",
        scenes=RANGED,
    ),
    Fault("aux stamp of 2^31 - 1 s", acts.aux_stamp(last_second), GARBAGE, stage="initial"),
    Fault("RGB stamp +1 h", acts.rgb_stamp(one_hour), GARBAGE, stage="initial", scenes=RANGED),
    Fault("aux stamp +1 h", acts.aux_stamp(one_hour), GARBAGE, stage="initial"),
    Fault("a recording loops", acts.loop, answers=ANSWERS, stage="initial"),
    Fault("SIGKILL and respawn", acts.respawned, stage="initial"),
    Fault("JPEG cut in half", acts.single(acts.truncated), ("bad RGB image",), stage="compressed"),
    Fault("PNG of 30,000 x 30,000", acts.bombs, INPUTS, stage="compressed"),
    Fault("1,000 malformed compressed images", acts.malformed(malformed_compressed), INPUTS, stage="compressed"),
    Fault(
        "best-effort images beyond Fast DDS's memory",
        acts.best_effort,
        ("RGB images lost", "auxiliary images lost"),
        said_within=4.0,
        sayable=lost_on_the_way,
        scenes=("thermal",),
    ),
)
