#!/usr/bin/env python3
"""How well `cmdtrack register` finds a known misregistration: corner error in px of RGB images, scaled to 640 px.

    scripts/measure_registration.py FOLDER ... [--views 3] [--frames 16]

Each registered sequence (any known layout) is seen by two virtual cameras (`data.derived.Misregistered`).
"""

from __future__ import annotations

import argparse

import numpy as np

from cmdtrack_ros.data import load_dataset
from cmdtrack_ros.data.derived import Misregistered
from cmdtrack_ros.evaluation.registration import spread_pairs
from cmdtrack_ros.streams.alignment import NoAgreementError, align, corner_error

_WRONG = 10  # px


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="+")
    parser.add_argument("--views", type=int, default=3)
    parser.add_argument("--frames", type=int, default=16)
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
                    continue
                shape = pairs[0][0].shape
                errors.append(corner_error(found.homography, view.homography, shape) * 640 / shape[1])
                print(
                    f"{sequence.name} {seed}: {errors[-1]:.1f} px (residual {found.residual:.1f}, halves "
                    f"{found.halves:.1f}, blocks {found.blocks}, clear {found.clearness:.0f})",
                    flush=True,
                )
    print(f"{len(errors)} of {len(errors) + refused} found")
    if errors:
        wrong = np.mean(np.array(errors) > _WRONG)
        print(f"median {np.median(errors):.1f} px, worst {max(errors):.1f} px; {wrong:.0%} beyond {_WRONG} px")


if __name__ == "__main__":
    main()
