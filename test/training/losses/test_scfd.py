"""SCFD: specific and common parts of features."""

import torch
from torch.nn import functional

from cmdtrack_ros.training.losses.scfd import FeatureDistillation, standardised


def test_standardised_features_are_centred_and_uncounted_where_absent():
    features, present = torch.randn(3, 5, 4, 4) * 3 + 2, torch.tensor([1.0, 1.0, 0.0])
    values, deviation = standardised(features, present)
    assert values.shape == (48, 5)
    assert values[32:].abs().max() == 0
    torch.testing.assert_close(values.sum(0), torch.zeros(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(values.square().sum(0), torch.ones(5), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        deviation, features[:2].transpose(0, 1).flatten(1).std(1, correction=0), atol=1e-3, rtol=0
    )


def test_separation_finds_what_both_modalities_share():
    """Teacher features are a shared and an own half, mixed: what is called common can tell the shared half,
    not the own one.
    """
    torch.manual_seed(0)
    mixing = torch.linalg.qr(torch.randn(16, 16)).Q

    def draw():
        shared, own = torch.randn(8, 1, 8, 8, 8).expand(-1, 2, -1, -1, -1), torch.randn(8, 2, 8, 8, 8)
        return shared, own, torch.einsum("dc,bmcij->bmdij", mixing, torch.cat([shared, own], 2))

    module, present = FeatureDistillation(4, 16, 8), torch.ones(8, 2)
    optimiser = torch.optim.Adam(module.parameters(), 0.02)
    for _ in range(150):
        losses = module(torch.zeros(8, 2, 4, 8, 8), draw()[2], present)
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()
    assert losses["agree"] < 0.1
    assert losses["apart"] < 0.02
    assert losses["spread"] < 0.1
    assert losses["restore"] < 0.2
    shared, own, features = draw()
    common, _ = module.separate(functional.layer_norm(features.transpose(2, 4), (16,)).transpose(2, 4))
    assert explained(common[:, 0], shared[:, 0]) > 0.8
    assert explained(common[:, 0], own[:, 0]) < 0.2


def explained(features, target) -> float:
    """Share of the target's variance that a linear map of the features tells; (B, D, S, S) both."""
    a, b = (x.detach().transpose(0, 1).flatten(1).t() for x in (features, target))
    a, b = a - a.mean(0), b - b.mean(0)
    return float(1 - (b - a @ torch.linalg.lstsq(a, b).solution).square().sum() / b.square().sum())


def test_absent_stream_counts_nowhere_in_scfd():
    torch.manual_seed(0)
    module, present = FeatureDistillation(4, 6, 5), torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    student, teacher = torch.randn(2, 2, 4, 4, 4), torch.randn(2, 2, 6, 4, 4)
    before = module(student, teacher, present)
    student[1, 1], teacher[1, 1] = 50, torch.randn(6, 4, 4) * 9
    after = module(student, teacher, present)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, msg=name)
