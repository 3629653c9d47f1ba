#!/usr/bin/env python3
"""How well `cmdtrack register` finds a known misregistration: corner error in px of RGB images, scaled to 640 px.

    scripts/measure_registration.py FOLDER ... [--views 3] [--frames 16] [--track 0]

Each registered sequence (any known layout) is seen by two virtual cameras (`data.derived.Misregistered`).
--track N: also the mean IoU of the tracker on the first N frames of each view, its aux images registered by the
truth, stretched (`resize`), and registered by what was found.
"""

from __future__ import annotations

import argparse

import numpy as np

from cmdtrack_ros.data import load_dataset
from cmdtrack_ros.data.derived import DerivedSequence, Misregistered
from cmdtrack_ros.data.sequences import ImageSequence
from cmdtrack_ros.evaluation.baselines import TrackerSpec, make_tracker
from cmdtrack_ros.evaluation.metrics import mean_overlap
from cmdtrack_ros.evaluation.protocols import one_pass
from cmdtrack_ros.evaluation.registration import as_registration, spread_pairs
from cmdtrack_ros.streams.alignment import NoAgreementError, align, corner_error
from cmdtrack_ros.streams.registration import Registrar, Registration

_WRONG = 10  # px


class Registered(DerivedSequence):
    """The first frames of a sequence, its aux images laid on RGB."""

    def __init__(self, source: ImageSequence, frames: int, registration: Registration) -> None:
        super().__init__(source, 0, frames)
        self._registrar = Registrar(registration)

    def aux(self, index: int) -> np.ndarray | None:
        aux, rgb = super().aux(index), self.rgb(index)
        assert aux is not None and rgb is not None
        return self._registrar(aux, (rgb.shape[0], rgb.shape[1]), self.modality)


def overlaps(view: Misregistered, frames: int, ways: dict[str, Registration]) -> str:
    """Mean IoU of one pass with each registration, and with the true one and RGB alone, as a line."""
    ways = {"truth": as_registration(view.homography), **ways}
    sequences = {name: Registered(view, frames, way) for name, way in ways.items()}
    runs = {name: ("both", sequence) for name, sequence in sequences.items()}
    runs["RGB alone"] = ("rgb", sequences["truth"])
    parts = []
    for name, (stream, sequence) in runs.items():
        tracked = one_pass(make_tracker(TrackerSpec("ours", stream), view.modality), sequence)
        parts.append(f"{name} {mean_overlap(tracked.boxes, sequence.boxes):.3f}")
    return "    mean IoU: " + ", ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="+")
    parser.add_argument("--views", type=int, default=3)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--track", type=int, default=0, metavar="N")
    options = parser.parse_args()
    errors, refused = [], 0
    for folder in options.folder:
        for sequence in load_dataset(folder):
            for seed in range(options.views):
                view = Misregistered(sequence, seed)
                pairs = spread_pairs(view, options.frames)
                try:
                    found = align(pairs, view.modality)
                except NoAgreementError as error:
                    refused += 1
                    print(f"{sequence.name} {seed}: refused: {error}", flush=True)
                    if options.track:
                        print(overlaps(view, options.track, {"resize": Registration("resize")}), flush=True)
                    continue
                shape = pairs[0][0].shape
                errors.append(corner_error(found.homography, view.homography, shape) * 640 / shape[1])
                print(
                    f"{sequence.name} {seed}: {errors[-1]:.1f} px (residual {found.residual:.1f}, halves "
                    f"{found.halves:.1f}, blocks {found.blocks}, clear {found.clearness:.0f})",
                    flush=True,
                )
                if options.track:
                    ways = {"resize": Registration("resize"), "found": as_registration(found.homography)}
                    print(overlaps(view, options.track, ways), flush=True)
    print(f"{len(errors)} of {len(errors) + refused} found")
    if errors:
        wrong = np.mean(np.array(errors) > _WRONG)
        print(f"median {np.median(errors):.1f} px, worst {max(errors):.1f} px; {wrong:.0%} beyond {_WRONG} px")


if __name__ == "__main__":
    main()
