"""From a pair of views to a sample."""

import numpy as np
import pytest
import torch

from cmdtrack_ros.boxes import Crop
from cmdtrack_ros.models.config import StudentConfig
from cmdtrack_ros.training import augment
from cmdtrack_ros.training.config import PairConfig
from cmdtrack_ros.training.pairs import PairDataset, _end_image_beside_target, _Region, batches, make_sample
from cmdtrack_ros.training.sources import StillSource, View, ViewPair, find_stills

SMALL = StudentConfig(template_size=32, search_size=64)


def dataset(stills, seed=3, crops=SMALL, **changes) -> PairDataset:
    return PairDataset([(StillSource(find_stills(stills)), 1.0)], PairConfig(**changes), crops, seed)


def test_samples_depend_on_seed_and_index_alone(stills):
    first, again, other = dataset(stills), dataset(stills), dataset(stills, seed=4)
    again[3]
    assert all(torch.equal(first[5][name], again[5][name]) for name in first[5])
    assert not torch.equal(first[5]["search"], other[5]["search"])


def test_processes_share_what_one_would_see(stills):
    data = dataset(stills)
    whole = next(iter(batches(data, 4, range(2, 3), 0, 1, 0)))
    parts = [next(iter(batches(data, 2, range(2, 3), process, 2, 0))) for process in range(2)]
    assert whole["index"].tolist() == [8, 9, 10, 11]
    assert torch.equal(torch.cat([part["search"] for part in parts]), whole["search"])


def test_sample_shapes_and_boxes(stills):
    data = dataset(stills, seed=0, crops=StudentConfig(), negatives=0.0)
    for sample in (data[i] for i in range(30)):
        assert sample["template"].shape == (2, 3, 128, 128)
        assert sample["search"].shape == (2, 3, 256, 256)
        assert sample["template"].dtype == torch.uint8
        x, y, w, h = sample["template_box"].tolist()
        assert abs(x + w / 2 - 0.5) < 1e-5
        assert abs(y + h / 2 - 0.5) < 1e-5
        assert w * h == pytest.approx(0.25, rel=1e-3)
        assert sample["positive"] == 1


class Drawing:
    """A source that draws these targets, then the last one for ever."""

    def __init__(self, *targets: str) -> None:
        self.targets = list(targets)

    def sample(self, rng):
        target = self.targets.pop(0) if len(self.targets) > 1 else self.targets[0]
        # Each target has a colour of its own.
        picture = np.full((64, 64, 3), 40 * (1 + "abc".index(target)), np.uint8)
        view = View(picture, picture, np.array([20.0, 20, 24, 24]), target)
        return ViewPair(view, view)


CALM = {"shift": 0.0, "zoom": 0.0, "jitter": 0.0, "misalignment": 0.0, "degraded": 0.0, "occluded": 0.0}


@pytest.mark.parametrize("share", [{"negatives": 1.0}, {"negatives": 0.0, "hard_negatives": 1.0}])
def test_negatives_are_the_first_other_target_drawn(monkeypatch, share):
    """Never the target itself, which would teach that it is not there; where there is no other, it stays."""
    monkeypatch.setattr(augment, "photometric", lambda picture, *_, **__: picture)
    config = PairConfig(**CALM | share)
    for seed in range(60):
        for targets, shown in (("aabc", "b"), ("abc", "b"), ("aaaab", "b"), ("a", "a")):
            sample = PairDataset([(Drawing(*targets), 1.0)], config, SMALL, seed)[0]
            assert sample["search"].unique().tolist() == [40 * (1 + "abc".index(shown))], (seed, targets)
            assert sample["positive"] == (shown == "a")


def test_dropped_stream_is_black_and_marked(stills):
    sample = dataset(stills, negatives=0.0, dropped=1.0)[0]
    gone = int(sample["present"].argmin())
    assert sample["present"].sum() == 1
    assert sample["search"][gone].max() == 0
    assert sample["template"][gone].max() == 0


def test_distractor_lies_beside_the_target():
    """A red thing is searched for on grey, a green one is pasted: both are there, in both streams."""
    grey = np.full((200, 200, 3), 128, np.uint8)
    target, other = grey.copy(), grey.copy()
    target[80:120, 80:120] = (255, 0, 0)
    other[50:90, 50:90] = (0, 255, 0)
    view = View(target, target, np.array([80.0, 80, 40, 40]), "a")
    pair = ViewPair(view, view, distractor=View(other, other, np.array([50.0, 50, 40, 40]), "b"))
    for seed in range(5):
        sample = make_sample(pair, PairConfig(**CALM), StudentConfig(), np.random.default_rng(seed))
        assert sample["positive"] == 1
        red, green = (sample["search"][1].float()[channel] - sample["search"][1].float()[2] > 60 for channel in (0, 1))
        assert red.sum() > 3000, seed
        assert green.sum() > 1500, seed


def test_margins_change_both_boxes_alike(stills):
    def aspects(margin):
        """Logarithms of w / h of six samples' template and search box, (6, 2)."""
        samples = [dataset(stills, margin=margin, **CALM, negatives=0.0)[i] for i in range(6)]
        boxes = np.array([[sample["template_box"].numpy(), sample["box"].numpy()] for sample in samples])
        return np.log(boxes[..., 2] / boxes[..., 3])

    change = aspects(0.3) - aspects(0.0)
    assert change[:, 0].std() > 0.1
    np.testing.assert_allclose(change[:, 1], change[:, 0], atol=1e-5)


def test_misleading_stream_is_marked(stills):
    def sample(share, index):
        return dataset(stills, negatives=0.0, degraded=0.0, occluded=0.0, misleading=share)[index]

    for index in range(8):
        assert sample(0.0, index)["informative"].tolist() == [1, 1]
        assert sample(1.0, index)["informative"].sum() == 1


@pytest.mark.parametrize("seed", range(8))
def test_edge_stands_beside_the_target_in_the_template_and_farther_off_in_the_search_region(seed):
    rng = np.random.default_rng(seed)
    boxes = {"template": np.array([25.0, 30, 50, 40]), "search": np.array([40.0, 45, 20, 16])}
    regions = {
        name: _Region(Crop(50, 50, 100, 100), list(rng.integers(0, 255, (2, 100, 100, 3), np.uint8)), box)
        for name, box in boxes.items()
    }
    before = {name: [picture.copy() for picture in region.pictures] for name, region in regions.items()}
    _end_image_beside_target(regions["template"], regions["search"], rng)
    for name, (nearest, farthest) in {"template": (0.0, 0.15), "search": (0.1, 1.2)}.items():
        x, y, w, h = boxes[name].astype(int)
        for old, new in zip(before[name], regions[name].pictures, strict=True):
            np.testing.assert_array_equal(new[y : y + h, x : x + w], old[y : y + h, x : x + w])
            rows, columns = np.nonzero((new != old).any(-1))
            gaps = {x - 1 - columns.max(): w, columns.min() - x - w: w, y - 1 - rows.max(): h, rows.min() - y - h: h}
            gap, side = max(gaps.items())
            assert nearest * side - 1 <= gap <= farthest * side + 1
