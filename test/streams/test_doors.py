"""One pairing rule behind every door: the same stamps, the same pairs, offline, in training, on the robot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from cmdtrack_ros.data.bags import BagOptions, load_bag
from cmdtrack_ros.data.bags.writer import write_bag
from cmdtrack_ros.data.sequences import load_sequence
from cmdtrack_ros.evaluation.registration import as_registration
from cmdtrack_ros.evaluation.replay import Replay, ReplayOptions, replay_offline
from cmdtrack_ros.streams.pairing import NearestPairer, NearestPairFilter, PairOptions
from cmdtrack_ros.streams.registration import Registrar
from cmdtrack_ros.training.config import Source
from cmdtrack_ros.training.sources import load_sequences
from synthetic import make_block, write_free_running_bag

START = 1_600_000_000 * 10**9
RGB = [START + round(i * 1e9 / 30) for i in range(90)]
AUX = [START + round(i * 1e9 / 9) for i in range(27)]  # a thermal camera below the export limit
ARRIVALS = sorted([(stamp, "rgb") for stamp in RGB] + [(stamp, "aux") for stamp in AUX], key=lambda entry: entry[0])


def nearest_within_slop(rgb: int) -> int | None:
    aux = min(AUX, key=lambda stamp: abs(stamp - rgb))
    return aux if abs(aux - rgb) <= 60_000_000 else None


def of_equal_stamp(rgb: int) -> int | None:
    return rgb if rgb in AUX else None


def latest_before(rgb: int) -> int | None:
    """Of two that come at once, RGB is first here, as in the bag."""
    aux = max((stamp for stamp in AUX if stamp < rgb), default=-RGB[-1])
    return aux if rgb - aux <= 90_000_000 else None


RULES = {  # options, and RGB stamp: aux stamp
    "nearest": (PairOptions(slop=0.06), {rgb: nearest_within_slop(rgb) for rgb in RGB}),
    "exact": (PairOptions(pairing="exact", slop=0.06), {rgb: of_equal_stamp(rgb) for rgb in RGB}),
    "latest": (PairOptions(pairing="latest", slop=0.0, latest_gap=0.09), {rgb: latest_before(rgb) for rgb in RGB}),
}
OPTIONS = RULES["nearest"][0]
rules = pytest.mark.parametrize("options, expected", RULES.values(), ids=RULES)


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_free_running_bag(tmp_path_factory.mktemp("doors") / "bag", RGB, AUX)


def by_stamp(replay: Replay) -> dict[int, int | None]:
    """The pairs of a replay, from the stamp and the gap of each track."""
    pairs = {}
    for track in replay.tracks:
        assert track.has_rgb and track.has_aux is not np.isnan(track.gap)
        pairs[track.stamp_ns] = None if np.isnan(track.gap) else track.stamp_ns + round(track.gap * 1e9)
    return pairs


def test_partners_differ_by_the_kind_of_pairing() -> None:
    counts = {name: sum(aux is not None for aux in expected.values()) for name, (_, expected) in RULES.items()}
    assert counts == {"nearest": 89, "exact": 9, "latest": 72}


@rules
def test_pairer(options: PairOptions, expected: dict) -> None:
    pairer = NearestPairer(options)
    pairs = [
        pair
        for stamp, stream in ARRIVALS
        for pair in (pairer.add_rgb if stream == "rgb" else pairer.add_aux)(stamp, stamp)
    ]
    assert {pair.rgb: pair.aux for pair in pairs + pairer.flush()} == expected


@rules
@pytest.mark.parametrize("clock", [None, lambda: 0], ids=["by stamps", "by a clock"])
def test_filter(clock: Callable[[], int] | None, options: PairOptions, expected: dict) -> None:
    def message(stamp: int) -> SimpleNamespace:
        time = SimpleNamespace(sec=stamp // 10**9, nanosec=stamp % 10**9)
        return SimpleNamespace(header=SimpleNamespace(stamp=time), number=stamp)

    pairing, pairs = NearestPairFilter(options=options, clock=clock), []
    pairing.registerCallback(pairs.append)
    for stamp, stream in ARRIVALS:
        (pairing.add_rgb if stream == "rgb" else pairing.add_aux)(message(stamp))
    pairing.flush(everything=True)
    assert {pair.rgb.number: pair.aux and pair.aux.number for pair in pairs} == expected


@rules
@pytest.mark.parametrize("door", ["load_bag", "training"])
def test_sequences_of_a_bag(bag: Path, door: str, options: PairOptions, expected: dict) -> None:
    if door == "load_bag":
        sequence = load_bag(bag, BagOptions(pairing=options))
    else:
        pairing = {name: getattr(options, name) for name in ("pairing", "slop", "latest_gap")}
        (sequence,) = load_sequences(Source(kind="bags", path=bag, **pairing), bag, bag.parent)
    pairs = {RGB[pair.rgb]: None if pair.aux is None else AUX[pair.aux] for pair in sequence.pairs}
    assert pairs == expected
    for index in range(len(sequence)):  # and the images are those of the pairs
        frame, stamp = sequence.frame(index), expected[RGB[index]]
        assert (frame.rgb == index).all()
        assert frame.aux is None if stamp is None else (frame.aux == AUX.index(stamp)).all()


@rules
def test_offline_evaluation(bag: Path, options: PairOptions, expected: dict) -> None:
    replay = replay_offline(bag, ReplayOptions(BagOptions(pairing=options)))
    assert by_stamp(replay) == expected


HALVED = as_registration(np.array([[0.5, 0, 8], [0, 0.5, 6], [0, 0, 1]]))  # aux pixel -> RGB pixel


def test_registration_is_the_same_in_a_sequence_and_in_training(bag: Path, tmp_path: Path) -> None:
    file = tmp_path / "registration.yaml"
    file.write_text(yaml.safe_dump({"/**": {"ros__parameters": HALVED.as_parameters()}}))
    loaded = load_bag(bag, BagOptions(pairing=OPTIONS, registration=HALVED))
    source = Source(kind="bags", path=bag, slop=OPTIONS.slop, registration=str(file))
    (trained,) = load_sequences(source, bag, bag.parent)
    sensor = np.tile(np.arange(64, dtype=np.uint8) * 3, (48, 1))
    for sequence in (loaded, trained):
        sequence._aux = [sensor] * len(AUX)  # the bag's own images are plain: moved or not, they look alike
        assert np.array_equal(sequence.aux(3), Registrar(HALVED)(sensor, (48, 64), "thermal"))
        assert not np.array_equal(sequence.aux(3), sensor)


@pytest.mark.ros
def test_registration_is_the_same_offline_and_in_the_node(tmp_path: Path) -> None:
    pytest.importorskip("rclpy", reason="rclpy is not importable: run `make test`, or source ROS 2")
    from cmdtrack_ros.ros.replay.session import replay_through_node

    make_block(tmp_path / "block")
    bag = tmp_path / "bag"
    write_bag(load_sequence(tmp_path / "block"), bag)
    options = ReplayOptions(BagOptions(pairing=OPTIONS, registration=HALVED))
    offline, node = replay_offline(bag, options), replay_through_node(bag, options, tmp_path / "node.log")
    plain = replay_offline(bag, ReplayOptions(BagOptions(pairing=OPTIONS)))
    boxes, through, unmoved = (np.array([t.box for t in replay.tracks]) for replay in (offline, node, plain))
    assert np.allclose(boxes, through, atol=0.1) and not np.allclose(boxes, unmoved, atol=0.1)


@pytest.mark.ros
@pytest.mark.parametrize("name", RULES)
def test_node(bag: Path, tmp_path: Path, name: str) -> None:
    pytest.importorskip("rclpy", reason="rclpy is not importable: run `make test`, or source ROS 2")
    from cmdtrack_ros.ros.replay.session import replay_through_node

    options, expected = RULES[name]
    pairs = by_stamp(replay_through_node(bag, ReplayOptions(BagOptions(pairing=options)), tmp_path / "node.log"))
    if name != "latest":
        assert pairs == expected
        return
    # What has come when an RGB image does is the machine's to say; a pair is of the bag's images and within reach.
    assert pairs.keys() == expected.keys() and sum(aux is not None for aux in pairs.values()) > 45
    assert all(aux is None or (aux in AUX and abs(aux - rgb) <= 90_000_000) for rgb, aux in pairs.items())
