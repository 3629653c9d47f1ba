"""Training configurations: what is read, refused and shipped."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, get_args

import annotated_types
import pytest
import yaml
from pydantic import BaseModel
from tiny_runs import tiny_values

from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.models.config import LIMITS, CropConfig
from cmdtrack_ros.training.config import RECIPES, AblationTraining, StudentTraining, data_folder, load_config


def test_configuration_errors_name_the_field(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("name: x\nsteps: -3\nbatchsize: 4\nsources: []\nnetwork: {depth: 3}\n")
    with pytest.raises(ConfigError) as error:
        load_config(file, StudentTraining)
    assert all(word in str(error.value) for word in ("c.yaml", "steps", "batchsize", "sources", "depth"))


def parts(kind: Any) -> set:
    """An annotation and all that it is made of."""
    return {kind, *(part for inner in get_args(kind) for part in parts(inner))} if not isinstance(kind, list) else set()


def bounds(metadata: list) -> set[str]:
    """Which ends of a number's range these constraints fix."""
    inner = [constraint for one in metadata for constraint in getattr(one, "metadata", [one])]
    ends = {"low": annotated_types.Ge | annotated_types.Gt, "high": annotated_types.Le | annotated_types.Lt}
    return {end for end, kinds in ends.items() if any(isinstance(one, kinds) for one in inner)}


def numbers(kind: type[BaseModel]) -> Iterator[tuple[str, set[str]]]:
    """Each number of a configuration and of those within it, and the ends of its range that are fixed."""
    for name, field in kind.model_fields.items():
        inside = parts(field.annotation)
        for one in (one for one in inside if isinstance(one, type)):
            if issubclass(one, BaseModel):
                yield from numbers(one)
            elif is_dataclass(one):
                plain = [part.name for part in fields(one) if type(part.default) in (int, float)]
                yield from ((f"{one.__name__}.{name}", {"low", "high"} if name in LIMITS else set()) for name in plain)
        if {int, float} & inside:
            yield f"{kind.__name__}.{name}", bounds([*field.metadata, *(inside - {int, float})])


@pytest.mark.parametrize("kind", [*RECIPES.values(), AblationTraining])
def test_every_number_has_a_lowest_and_a_highest_value(kind):
    found = dict(numbers(kind))
    assert {f"{kind.__name__}.batch", "Source.share", "PairConfig.shift"} <= {*found, f"{kind.__name__}.batch"}
    assert any(name.endswith("Config.search_size") for name in found), "networks are walked through, too"
    assert [name for name, ends in found.items() if ends != {"low", "high"}] == []


@pytest.mark.parametrize("name, value", [("search_size", 1040), ("channels", True), ("search_factor", float("nan"))])
def test_impossible_networks_are_named(tmp_path, name, value):
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(tiny_values(network={name: value})))
    with pytest.raises(ConfigError, match=f"network: Value error, {name}: expected .*, got"):
        load_config(file, StudentTraining)


def test_crops_have_whole_cells():
    with pytest.raises(ValueError, match="template_size: expected a multiple of 16, got 100"):
        CropConfig(template_size=100)


def test_command_line_changes_the_configuration(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(tiny_values(seed=1)))
    assert load_config(file, StudentTraining, seed=5, init=None).seed == 5


def test_missing_data_folder_is_named(monkeypatch):
    monkeypatch.delenv("CMDTRACK_DATA", raising=False)
    with pytest.raises(ConfigError, match="CMDTRACK_DATA"):
        data_folder(None)


@pytest.mark.parametrize(
    "name, kind",
    [
        *RECIPES.items(),
        ("finetune", StudentTraining),
        ("more", RECIPES["student"]),
        ("foreign", RECIPES["distill"]),
        ("ablation", AblationTraining),
        ("foreign_ablation", AblationTraining),
        ("gpu/ablation", AblationTraining),
        ("gpu/teacher", RECIPES["teacher"]),
        ("gpu/teacher_more", RECIPES["teacher"]),
        ("gpu/student", RECIPES["student"]),
        ("gpu/distill", RECIPES["distill"]),
        ("gpu/early", RECIPES["distill"]),
        ("gpu/permissive", RECIPES["distill"]),
        ("full/student", RECIPES["student"]),
        ("full/teacher", RECIPES["teacher"]),
        ("full/distill", RECIPES["distill"]),
        ("full/cmae_student", RECIPES["cmae"]),
        ("full/cmae_teacher", RECIPES["cmae"]),
    ],
)
def test_configurations_in_the_repository_are_valid(repository, name, kind):
    load_config(repository / "config" / "train" / f"{name}.yaml", kind)


def test_ablation_rows_share_steps_and_data(repository):
    config = load_config(repository / "config" / "train" / "ablation.yaml", AblationTraining)
    runs = (config.student, config.distill)
    assert len({(run.steps, run.batch, str(run.sources), str(run.pairs)) for run in runs}) == 1
    assert len(config.seeds) >= 2


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"teacher": tiny_values()}, r"settings of a teacher or distill\.teacher .*, got both"),
        ({"rows": ["student", "+ SCDF"]}, r"rows\.1: Input should be 'student', '\+ CMAE'.*, got '\+ SCDF'"),
        ({"rows": ["all"]}, "rows: expected student among them"),
        (
            {"sequences": True, "student": tiny_values()},
            r"sequences: .* validation of student\.split, and there is none",
        ),
    ],
)
def test_ablation_that_does_not_fit_together_is_refused(repository, changes, message):
    with pytest.raises(ConfigError, match=message):
        load_config(repository / "config" / "train" / "ablation.yaml", AblationTraining, **changes)


def recipe_with(folder, sources, listed="- {kind: stills, path: a}\n- {kind: stills, path: b, share: 2}\n"):
    (folder / "sources.yaml").write_text(listed)
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(tiny_values(sources=sources)))
    return load_config(file, StudentTraining)


def test_sources_of_a_file_are_those_beside_the_recipe(tmp_path):
    whole = recipe_with(tmp_path, "sources.yaml").sources
    assert [(str(source.path), source.share) for source in whole] == [("a", 1), ("b", 2)]
    changes = {"a": None, "b": {"share": 3, "cutouts": 0.5}}
    [changed] = recipe_with(tmp_path, {"file": "sources.yaml", "changes": changes}).sources
    assert changed == whole[1].model_copy(update={"share": 3, "cutouts": 0.5})


@pytest.mark.parametrize(
    "sources, message",
    [
        ("other.yaml", "other.yaml: no such file"),
        ({"file": "sources.yaml", "changes": {"c": None}}, "no source c in sources.yaml"),
        ({"changes": {}}, "expected a list, a file, or file and changes, got changes"),
        ({"file": "sources.yaml", "changes": ["a"]}, "changes: expected paths of sources"),
        ({"file": "sources.yaml", "changes": {"a": 3}}, "changes: expected paths of sources"),
    ],
)
def test_wrong_sources_are_named(tmp_path, sources, message):
    with pytest.raises(ConfigError, match=message):
        recipe_with(tmp_path, sources)


def test_listed_sources_must_be_a_list(tmp_path):
    with pytest.raises(ConfigError, match=r"sources\.yaml: expected a list, got dict"):
        recipe_with(tmp_path, "sources.yaml", listed="kind: stills\n")


def test_listed_sources_must_have_a_path(tmp_path):
    with pytest.raises(ConfigError, match=r"sources\.yaml: expected sources, each with its path"):
        recipe_with(tmp_path, "sources.yaml", listed="- {kind: stills}\n- a\n")
