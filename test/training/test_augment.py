"""Changes of appearance."""

import cv2
import numpy as np

from cmdtrack_ros.training import augment


def test_veil_weakens_the_details_behind_it():
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    details = picture - cv2.blur(picture, (9, 9)).astype(float)
    left = []
    for seed in range(20):
        veiled = [np.float64(p) for p in augment.veil([picture, picture], np.random.default_rng(seed))]
        left += [((v - cv2.blur(v, (9, 9))) * details).sum() / (details**2).sum() for v in veiled]
    assert min(left) > 0
    assert max(left) < 0.75
    assert np.median(left) < 0.4
