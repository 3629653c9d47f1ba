"""Segments of one picture that move before another one."""

import numpy as np
import pytest

from cmdtrack_ros.data.sequences import read_rgb
from cmdtrack_ros.training.cutouts import Cutout, cut_out, moments
from cmdtrack_ros.training.sources import find_stills


def patch_on_grey(level: int, aux: bool) -> tuple[list, Cutout]:
    """A scene of this grey level, and a red (in infrared: white) square of 20 px as a cutout."""
    scene = np.full((120, 160, 3), level, np.uint8)
    red = np.zeros((100, 100, 3), np.uint8)
    red[..., 0] = 255
    mask = np.zeros((100, 100), np.uint8)
    mask[40:60, 30:50] = 255
    other = [np.full_like(scene, 30), np.full_like(red, 255)] if aux else [None, None]
    return [scene, other[0]], Cutout([red, other[1]], mask, np.array([30.0, 40, 20, 20]))


@pytest.mark.parametrize("seed", range(6))
def test_cutout_lies_in_its_box_and_nowhere_else(seed):
    scene, cutout = patch_on_grey(90, aux=True)
    for rgb, aux, box in moments(scene, cutout, np.random.default_rng(seed)):
        x, y, w, h = box.astype(int)
        core = np.s_[y + h // 3 : y + h - h // 3, x + w // 3 : x + w - w // 3]
        assert (rgb[core][..., 0] > 200).all()
        assert (rgb[core][..., 1] < 60).all()
        assert (aux[core] > 200).all()
        outside = np.ones(rgb.shape[:2], bool)
        outside[max(y - 3, 0) : y + h + 3, max(x - 3, 0) : x + w + 3] = False
        assert (abs(rgb[outside] - 90.0) <= 1).all()
        assert (abs(aux[outside] - 30.0) <= 1).all()


@pytest.mark.parametrize("seed", range(6))
def test_events_of_a_cutout_are_where_it_moved(seed):
    """The scene has no texture, so that only the moving part makes events."""
    scene, cutout = patch_on_grey(20, aux=False)
    for rgb, events, box in moments(scene, cutout, np.random.default_rng(seed)):
        near = box + np.array([-8, -8, 16, 16])
        rows, columns = np.nonzero((events < 255).any(-1))
        assert len(rows)
        assert rgb.shape == events.shape
        assert (columns >= near[0]).all()
        assert (columns <= near[0] + near[2]).all()
        assert (rows >= near[1]).all()
        assert (rows <= near[1] + near[3]).all()


def test_cutout_is_a_part_of_its_picture(stills):
    for rgb_file, aux_file in find_stills(stills):
        pictures = [read_rgb(rgb_file), read_rgb(aux_file)]
        for seed in range(3):
            assert 0 < cut_out(pictures, np.random.default_rng(seed)).mask.mean() < 255 * 0.5
