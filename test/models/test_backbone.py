"""The backbone."""

import pytest
import torch

from cmdtrack_ros.models.backbone import EfficientNetLite, fold_batch_norm


@pytest.mark.parametrize("variant", ["lite0", "lite2"])
def test_backbone_strides(variant):
    backbone = EfficientNetLite(variant).eval()
    maps = backbone(torch.zeros(1, 3, 64, 96))
    assert maps.stride8.shape == (1, backbone.channels8, 8, 12)
    assert maps.stride16.shape == (1, backbone.channels16, 4, 6)


def test_folded_batch_norm_gives_the_same_answer(student):
    x = torch.rand(1, 3, 64, 64) * 255
    with torch.no_grad():
        expected, folded = student.features(x), fold_batch_norm(student).features(x)
    torch.testing.assert_close(folded, expected, atol=1e-3, rtol=1e-3)
