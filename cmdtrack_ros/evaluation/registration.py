"""`cmdtrack register`: reads a recording, and writes what `streams/alignment.py` found as parameters and a picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cmdtrack_ros.data import ImageSequence
from cmdtrack_ros.data.sequences import write_rgb
from cmdtrack_ros.drawing import edges_over, side_by_side
from cmdtrack_ros.errors import DataError, writing
from cmdtrack_ros.modalities import AuxEncoder
from cmdtrack_ros.streams.alignment import Alignment, NoAgreementError, align
from cmdtrack_ros.streams.registration import Registrar, Registration


def register_recording(sequence: ImageSequence, output: Path, picture: Path, frames: int) -> Iterator[str]:
    """Find the homography of a recording; yields what is to be said.

    Args:
        output: YAML file of node parameters.
        picture: file for the aux image's edges over the RGB image, as `resize` would have it and as found.
        frames: that are compared, at most.

    Raises:
        DataError: no frame has both images, images change their size, or nothing agrees: nothing is written then.
    """
    pairs = spread_pairs(sequence, frames)
    try:
        found = align(pairs, sequence.modality)
    except NoAgreementError as error:
        raise DataError(f"{sequence.name}: not registered: {error}") from error
    yield (
        f"{sequence.name}: {len(pairs)} frames. Residual {found.residual:.1f} px (median of {found.blocks} of 48 parts "
        f"of the RGB image); two halves of the recording differ by {found.halves:.1f} px at its corners"
    )
    with writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(_as_yaml(found, sequence.name, pairs))
    yield f"parameters: {output} (params_file:={output})"
    rgb, aux = pairs[len(pairs) // 2]
    encoder, size = AuxEncoder(sequence.modality), (rgb.shape[0], rgb.shape[1])
    wanted = Registration("resize"), as_registration(found.homography)
    shown = [encoder(Registrar(way)(aux, size, sequence.modality)) for way in wanted]
    write_rgb(picture, side_by_side([edges_over(rgb, image) for image in shown], ["before (resize)", "after"]))
    yield f"picture: {picture}: the edges of the aux image, in red, should lie on what they belong to"


def as_registration(homography: np.ndarray) -> Registration:
    return Registration("homography", tuple(float(f"{n:.9g}") for n in homography.ravel()))


def spread_pairs(sequence: ImageSequence, frames: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Up to so many frames that have both images, evenly spread; DataError without any, or of several sizes."""
    pairs = []
    for index in np.unique(np.linspace(0, len(sequence) - 1, frames).round().astype(int)):
        frame = sequence.frame(int(index))
        if frame.rgb is not None and frame.aux is not None:
            pairs.append((frame.rgb, frame.aux))
    if not pairs:
        raise DataError(f"{sequence.name}: expected frames with both an RGB and an aux image, got none")
    if len({(rgb.shape[:2], aux.shape[:2]) for rgb, aux in pairs}) > 1:
        raise DataError(f"{sequence.name}: images change their size; cut the recording there")
    return pairs


def _as_yaml(found: Alignment, name: str, pairs: list[tuple[np.ndarray, np.ndarray]]) -> str:
    (rgb_height, rgb_width), (height, width) = (image.shape[:2] for image in pairs[0])
    rows = (", ".join(repr(float(f"{n:.9g}")) for n in row) for row in found.homography)
    numbers = ",\n      ".join(rows)
    return (
        f"# From `cmdtrack register`: {name}, {len(pairs)} frames, "
        f"aux {width}x{height} on RGB {rgb_width}x{rgb_height}.\n"
        f"# Residual {found.residual:.2f} px; two halves of the recording differ by {found.halves:.2f} px.\n"
        "/**:\n  ros__parameters:\n    registration: homography\n"
        f"    registration_homography: [\n      {numbers}]\n"
    )
