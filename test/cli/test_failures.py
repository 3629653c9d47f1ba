"""What goes wrong with files and disks ends a verb in one line that names the file, and exit code 1."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from rosbags.rosbag2 import StoragePlugin, Writer
from safetensors.numpy import load_file, save_file

from cmdtrack_ros.data.bags import RGB_TOPIC
from cmdtrack_ros.data.bags.messages import IMAGE, message_types
from cmdtrack_ros.data.bags.writer import METADATA_VERSION
from cmdtrack_ros.models.header import read_header
from synthetic import draw_stills, make_block, run_cli, write_free_running_bag

START, STEP = 1_600_000_000_000_000_000, 100_000_000


def refused(*arguments: object, disk: int | None = None) -> str:
    """The one line that `cmdtrack ARGUMENTS` ends with; disk: bytes that fit into a file, as on a full disk."""
    done = run_cli(*arguments, file_size=disk)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("cmdtrack: ")]
    assert len(said) == 1 and done.stderr.splitlines()[-1] == said[0], done.stderr
    return said[0]


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return make_block(tmp_path / "block")


@pytest.fixture
def recipe(tmp_path: Path) -> dict:
    """Values of a tiny run, and the stills that it is trained on."""
    pytest.importorskip("lightning_fabric", reason="the training tools are not installed")
    draw_stills(tmp_path / "stills")
    return {
        "name": "tiny",
        "steps": 1,
        "batch": 2,
        "threads": 1,
        "network": {"channels": 32, "template_size": 32, "search_size": 64},
        "sources": [{"kind": "stills", "path": "stills"}],
    }


def train(tmp_path: Path, values: dict | bytes, disk: int | None = None) -> str:
    file = tmp_path / "recipe.yaml"
    file.write_bytes(values if isinstance(values, bytes) else yaml.safe_dump(values).encode())
    where = ("--config", file, "--data", tmp_path, "--output", tmp_path / "run")
    return refused("train", "student", *where, disk=disk)


@pytest.mark.parametrize(
    "disk, verb",
    [
        *((None, verb) for verb in ("track", "evaluate-bag", "bag write")),  # below what is no folder
        *((0, verb) for verb in ("track", "evaluate", "score", "report", "blackout", "evaluate-bag", "bag write")),
    ],
)
def test_output_that_cannot_be_written(
    disk: int | None, verb: str, recording: Path, untrained: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    if verb in ("score", "report"):
        assert run_cli("evaluate", recording, "--tracker", "mosse", "--output", results).returncode == 0
    bag = write_free_running_bag(tmp_path / "bag", [START + i * STEP for i in range(3)], [START])
    weights = ("--weights", untrained)
    inputs = {
        "track": ("track", recording, *weights),
        "evaluate": ("evaluate", recording, "--tracker", "mosse"),
        "score": ("score", results / "results" / "mosse", recording),
        "report": ("report", results),
        "blackout": ("blackout", recording, *weights),
        "evaluate-bag": ("evaluate-bag", bag, *weights),
        "bag write": ("bag", "write", recording),
    }
    (tmp_path / "file").write_text("")
    output = tmp_path / "new" if disk == 0 else tmp_path / "file" / "below"
    option = () if verb == "bag write" else ("--output",)
    assert str(output) in refused(*inputs[verb], *option, output, disk=disk)


@pytest.mark.parametrize("disk", [60, 10_000], ids=["no curve fits", "curves fit"])
def test_training_on_a_full_disk(disk: int, recipe: dict, tmp_path: Path) -> None:
    assert str(tmp_path / "run") in train(tmp_path, recipe, disk)


def test_recipe_that_is_no_text(tmp_path: Path) -> None:
    said = train(tmp_path, b"\x80\x81\xfe\xff")
    assert "recipe.yaml: expected YAML" in said and "byte 0x80" in said


def test_recipe_that_is_no_yaml(tmp_path: Path) -> None:
    assert "recipe.yaml: expected YAML" in train(tmp_path, b"steps: [1\nname: x\n")


def test_recipe_with_impossible_values(recipe: dict, tmp_path: Path) -> None:
    network = {"search_size": 1 << 20}
    said = train(tmp_path, recipe | {"batch": 1_000_000_000, "learning_rate": float("nan"), "network": network})
    for says in (
        f"{tmp_path / 'recipe.yaml'}: ",
        "batch: Input should be less than or equal to 1024, got 1000000000",
        "learning_rate: Input should be a finite number, got nan",
        "search_size: expected 16 to 1024, got 1048576",
    ):
        assert says in said


def test_damaged_checkpoint(recipe: dict, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.ckpt").write_bytes(b"PK\x03\x04 no archive")
    said = train(tmp_path, recipe)
    assert "run/last.ckpt: no whole checkpoint" in said and "remove it to start anew" in said


@pytest.mark.parametrize(
    "config, says",
    [
        ("{broken", "its metadata is not JSON"),
        ('{"search_size": 250}', "search_size: expected a multiple of 16, got 250"),
    ],
)
def test_weights_with_damaged_metadata(
    config: str, says: str, recording: Path, untrained: Path, tmp_path: Path
) -> None:
    weights = tmp_path / "damaged.safetensors"
    save_file(load_file(untrained), weights, {"model": read_header(untrained).model, "config": config})
    said = refused("track", recording, "--output", tmp_path / "out", "--weights", weights)
    assert "damaged.safetensors: " in said and says in said


def test_image_file_that_is_too_large(recording: Path, untrained: Path, tmp_path: Path) -> None:
    picture = recording / "visible" / "v005.png"
    cv2.imwrite(str(picture), np.zeros((6_400, 6_400), np.uint8))
    said = refused("track", recording, "--output", tmp_path / "out", "--weights", untrained)
    assert f"{picture}: 6400x6400 pixels are more than the limit of 40,000,000" in said


def test_bag_with_an_empty_message(tmp_path: Path) -> None:
    bag = tmp_path / "bag"
    with Writer(bag, version=METADATA_VERSION, storage_plugin=StoragePlugin.MCAP) as writer:
        topic = writer.add_connection(RGB_TOPIC, IMAGE, typestore=message_types())
        writer.write(topic, START, b"")
    said = refused("track", bag, "--init-box", "20,15,16,12", "--output", tmp_path / "out")
    assert f"{bag}, {RGB_TOPIC}, message 0: expected 12 bytes up to the stamp, got 0" in said


def test_bag_whose_stamps_jump_back(tmp_path: Path) -> None:
    times = [START + i * STEP for i in range(8)]
    again = {number: times[number] - 3_600 * 10**9 for number in range(4, 8)}
    bag = write_free_running_bag(tmp_path / "bag", times, times, wrong=again)
    said = refused("track", bag, "--output", tmp_path / "out")
    assert f"{bag}: stamps jump back from {times[3] / 1e9:.3f} s ({RGB_TOPIC}, message 3)" in said
    assert f"to {again[4] / 1e9:.3f} s ({RGB_TOPIC}, message 4)" in said and "cut the recording there" in said


def test_numbers_out_of_range(recording: Path, tmp_path: Path) -> None:
    assert "seed: expected 0 to 4294967295, got -1" in refused(
        "bag", "write", recording, tmp_path / "bag", "--seed", -1
    )
    assert not (tmp_path / "bag").exists()
    assert "slop: expected 0.0 to 10.0, got -1" in refused("track", recording, "--slop", "-1")
