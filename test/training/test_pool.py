"""Samples that are made once: what a batch holds, who makes it, and what stops it."""

from __future__ import annotations

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import SMALL, stage, tiny

from cmdtrack_ros.errors import DataError
from cmdtrack_ros.models.config import CropConfig
from cmdtrack_ros.training import pool
from cmdtrack_ros.training.config import CmaeTraining, PairConfig
from cmdtrack_ros.training.loop import Trainer
from cmdtrack_ros.training.pairs import PairDataset, batches
from cmdtrack_ros.training.pool import PooledPairs, PoolPlace
from cmdtrack_ros.training.sources import StillSource, find_stills

COUNT = 6


def pairs(stills: Path) -> PairDataset:
    source = StillSource(find_stills(stills))
    return PairDataset([(source, 1.0)], PairConfig(), CropConfig(**SMALL), pool.SEED)


class Counted(PairDataset):
    """Counts what is made."""

    made: list[int]

    def __getitem__(self, index):
        self.made.append(index)
        return super().__getitem__(index)


def counted(stills: Path) -> Counted:
    data = pairs(stills)
    data.__class__, data.made = Counted, []
    return data


def test_first_round_holds_the_samples_themselves_and_later_ones_mirrored_ones(stills, tmp_path):
    data = pairs(stills)
    pooled = PooledPairs(tmp_path / "pool", data, COUNT, 3)
    orders = [np.random.default_rng((3, done)).permutation(COUNT) for done in range(3)]
    assert not np.array_equal(*orders[:2])
    mirrored = 0
    for done, order in enumerate(orders):
        batch = pooled.__getitems__(range(done * COUNT, (done + 1) * COUNT))
        assert batch["index"].tolist() == list(range(done * COUNT, (done + 1) * COUNT))
        for place, number in enumerate(order):
            sample = data[int(number)]
            if not torch.equal(sample["search"], batch["search"][place]):
                mirrored += 1
                sample = {
                    name: value.flip(-1) if name in ("template", "search") else value for name, value in sample.items()
                }
                for box in ("template_box", "box"):
                    sample[box][0] = 1 - sample[box][0] - sample[box][2]
            sample.pop("index")
            assert all(torch.allclose(batch[name][place], value, atol=1e-6) for name, value in sample.items())
        assert mirrored == 0 if done == 0 else mirrored > 0
    assert mirrored < 2 * COUNT


def test_each_sample_is_made_once_by_all_runs_and_processes(stills, tmp_path):
    data, again = counted(stills), counted(stills)
    first = PooledPairs(tmp_path / "pool", data, COUNT, 1)
    for batch in batches(first, 2, range(6), 0, 1, 0):
        assert batch["search"].shape == (2, 2, 3, 64, 64)
    assert sorted(data.made) == [0, *range(COUNT)]  # 0 also for the shapes
    other = PooledPairs(tmp_path / "pool", again, COUNT, 2)
    with_workers = [batch["search"] for batch in batches(other, 3, range(4), 0, 1, 2)]
    assert not again.made
    assert torch.equal(torch.cat(with_workers), other.__getitems__(range(12))["search"])


def test_what_a_killed_process_had_begun_is_made_again(stills, tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "_PATIENCE", 0.05)
    pooled = PooledPairs(tmp_path / "pool", pairs(stills), COUNT, 1)
    pooled._arrays["marks"][:] = pool._BEGUN
    batch = pooled.__getitems__(range(COUNT))
    assert (pooled._arrays["marks"] == pool._THERE).all()
    assert all(picture.any() for picture in batch["search"])


def test_too_little_room_and_half_a_pool_are_said(stills, tmp_path, monkeypatch):
    room = namedtuple("usage", "total used free")(0, 0, 1000)
    with monkeypatch.context() as changed:
        changed.setattr(shutil, "disk_usage", lambda _: room)
        with pytest.raises(DataError, match=r"6 samples \(pool\) need .* GiB, there are 0.0"):
            PooledPairs(tmp_path / "pool", pairs(stills), COUNT, 1)
    assert list(tmp_path.iterdir()) == []
    PooledPairs(tmp_path / "pool", pairs(stills), COUNT, 1)
    (tmp_path / "pool" / "box.npy").write_bytes(b"")
    with pytest.raises(DataError, match="no whole pool"):
        PooledPairs(tmp_path / "pool", pairs(stills), COUNT, 1).__getitems__([0])


def test_runs_share_a_pool_where_they_draw_the_same(tmp_path):
    place = PoolPlace(tmp_path / "samples", (Path("weights/fear"),))
    alike = {place.of(tiny(pool=COUNT, seed=seed, steps=steps)) for seed, steps in ((1, 4), (2, 8))}
    assert len(alike) == 1
    others = [
        tiny(pool=COUNT + 1),
        tiny(pool=COUNT, pairs={"negatives": 0.3}),
        tiny(pool=COUNT, network={"search_size": 96}),
    ]
    places = [PoolPlace(tmp_path / "samples"), replace(place, features=True)]
    folders = alike | {place.of(config) for config in others} | {other.of(tiny(pool=COUNT)) for other in places}
    assert len(folders) == 6


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_on_a_pool_goes_on_as_if_never_stopped(stills, tmp_path, workers):
    config = tiny(steps=6, pool=COUNT, workers=workers, checkpoint_every=1)
    whole = Trainer(config, stills.parent, tmp_path / "whole")
    whole.train()
    assert len(list((tmp_path / "whole" / "samples").iterdir())) == 1
    stopped = Trainer(config, stills.parent, tmp_path / "parts")
    for _, batch in zip(range(2), stopped._batches()):
        stopped._train_step(batch)
    stopped.save()
    rest = Trainer(config, stills.parent, tmp_path / "parts")
    assert rest.step == 2
    rest.train()
    one, other = (run.average.state_dict() for run in (whole, rest))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_cmae_keeps_its_samples_without_lessons(stills, tmp_path):
    place = PoolPlace(tmp_path / "samples", (tmp_path / "no-such-weights",))
    Trainer(stage(CmaeTraining, pool=COUNT, network=SMALL), stills.parent, tmp_path / "run", place).train()
    [folder] = (tmp_path / "samples").iterdir()
    assert not (folder / "taught_box.npy").exists()
