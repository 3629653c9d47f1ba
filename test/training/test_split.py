"""What is kept out of training, and that nothing which a recipe evaluates is trained on."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from cmdtrack_ros.errors import ConfigError, DataError
from cmdtrack_ros.modalities import Modality
from cmdtrack_ros.training.config import RECIPES, AblationTraining, Source, Split, StudentTraining, load_config
from cmdtrack_ros.training.sources import BoxedStillSource, find_boxed_stills, open_sources
from cmdtrack_ros.training.split import SplitFolder
from synthetic import draw_stills, make_folder

RECIPE_FOLDER = Path(__file__).resolve().parents[2] / "config" / "train"


def boxed(folder: Path, names: list[str], text: str | None = None) -> Path:
    """Thermal stills of a bright block, with its box and one too small to be trained on."""
    (folder / "img").mkdir(parents=True)
    for name in names:
        image = np.full((64, 96), 60, np.uint8)
        image[20:40, 30:60] = 220
        cv2.imwrite(str(folder / "img" / name), image)
    listed = {name: [[30, 20, 30, 20], [5, 5, 3, 30]] for name in names}
    (folder / "boxes.json").write_text(json.dumps(listed) if text is None else text)
    return folder


def test_validation_and_test_are_kept_out_of_every_kind_of_source(tmp_path):
    for name in ("one", "two", "three"):
        make_folder(tmp_path / "seq" / name, frames=3)
    boxed(tmp_path / "tir", ["a_1.png", "a_2.png", "b_1.png"])
    draw_stills(tmp_path / "stills", 3)
    split = Split(validation=["seq/two", "tir/img/a_*", "stills/set/visible/0*"], test=["seq/th*"])
    sources = [
        Source(kind="sequences", path="seq"),
        Source(kind="boxed_stills", path="tir", modality="thermal"),
        Source(kind="stills", path="stills"),
    ]
    [(sequences, _), (tir, _), (stills, _)], held_out = open_sources(sources, tmp_path, split)
    assert [sequence.name for sequence in sequences.sequences] == ["one"]
    assert [sequence.name for sequence in held_out] == ["two"]
    assert [still.file.name for still in tir.stills] == ["b_1.png"]
    assert [rgb.name for rgb, _ in stills.files] == ["1.png", "2.png"]
    with pytest.raises(
        DataError, match="nothing in it may be trained on; .* keeps 1 for validation and 2 for the test"
    ):
        open_sources(sources[:1], tmp_path, Split(validation=["seq/one"], test=["seq/t*"]))


def test_absent_validation_is_named(tmp_path):
    make_folder(tmp_path / "one", frames=2)
    with pytest.raises(DataError, match="names two; there is no such path"):
        SplitFolder(Split(validation=["one", "two"]), tmp_path).validation()


def test_recipe_names_its_split_by_file(tmp_path):
    (tmp_path / "split.yaml").write_text("test: [a/b]\n")
    recipe = {"name": "x", "steps": 1, "split": "split.yaml", "sources": [{"kind": "stills", "path": "s"}]}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(recipe))
    assert load_config(tmp_path / "c.yaml", StudentTraining).split == Split(test=["a/b"])
    (tmp_path / "split.yaml").write_text("tset: [a/b]\n")
    with pytest.raises(ConfigError, match="split.tset: Extra inputs are not permitted"):
        load_config(tmp_path / "c.yaml", StudentTraining)


def test_boxed_thermal_still_trains_the_aux_stream_alone(tmp_path):
    source = BoxedStillSource(find_boxed_stills(boxed(tmp_path / "tir", ["a.png"])), Modality.THERMAL)
    for seed in range(5):
        pair = source.sample(np.random.default_rng(seed))
        assert pair.template.rgb is None
        assert pair.search.rgb is None
        np.testing.assert_array_equal(pair.template.box, [30, 20, 30, 20])  # never the one of 3 px
        x, y = (pair.search.box[:2] + pair.search.box[2:] / 2).astype(int)
        assert pair.search.aux[y, x, 0] > 150, "the box moves with its target"
    rgb = BoxedStillSource(find_boxed_stills(tmp_path / "tir"), Modality.RGB).sample(np.random.default_rng(0))
    assert rgb.search.rgb.shape == rgb.search.aux.shape == (64, 96, 3)


@pytest.mark.parametrize(
    "text, message",
    [
        ("[1]", "expected {file: "),
        ("{", "expected {file: "),
        ('{"a.png": [[1, 2]]}', "expected {file: "),
        ('{"c.png": [[1, 2, 9, 9]]}', "c.png: no such file"),
        ('{"a.png": [[1, 2, 3, 9]]}', "expected boxes of at least 4 px a side, found none"),
    ],
)
def test_damaged_list_of_boxes_is_named(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        find_boxed_stills(boxed(tmp_path / "tir", ["a.png"], text))


def test_shipped_recipes_name_the_split():
    """All that are for the data it splits."""
    for name, kind in {**RECIPES, "nano": StudentTraining, "more": StudentTraining}.items():
        assert load_config(RECIPE_FOLDER / f"{name}.yaml", kind).split is not None, name
    ablation = load_config(RECIPE_FOLDER / "ablation.yaml", AblationTraining)
    assert None not in (ablation.cmae.split, ablation.student.split, ablation.distill.split)


def test_split_fits_the_data(shared_data):
    split = Split(**yaml.safe_load((RECIPE_FOLDER / "split.yaml").read_text()))
    assert SplitFolder(split, shared_data).validation()
    for pattern in split.test:
        assert list(shared_data.glob(pattern)), pattern
    recipe = load_config(RECIPE_FOLDER / "more.yaml", StudentTraining)
    opened, held_out = open_sources(recipe.sources, shared_data, split)
    parts = SplitFolder(split, shared_data)
    trained = [sequence.path for source, _ in opened for sequence in getattr(source, "sequences", [])]
    assert trained
    assert {parts.part(path) for path in trained} == {"training"}
    assert {"tld_02_jumping", "tray_318", "davis_camel"} <= {sequence.name for sequence in held_out}
