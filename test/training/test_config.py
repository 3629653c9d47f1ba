"""Training configurations: what is read, refused and shipped."""

import pytest
import yaml
from tiny_runs import tiny_values

from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.training.config import RECIPES, AblationTraining, StudentTraining, data_folder, load_config


def test_configuration_errors_name_the_field(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("name: x\nsteps: -3\nbatchsize: 4\nsources: []\nnetwork: {depth: 3}\n")
    with pytest.raises(ConfigError) as error:
        load_config(file, StudentTraining)
    assert all(word in str(error.value) for word in ("c.yaml", "steps", "batchsize", "sources", "depth"))


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
        ("ablation", AblationTraining),
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


def test_ablation_needs_one_teacher(repository):
    config = load_config(repository / "config" / "train" / "ablation.yaml", AblationTraining).model_dump()
    config["distill"]["teacher"] = None
    with pytest.raises(ValueError, match=r"settings of a teacher, or distill\.teacher"):
        AblationTraining.model_validate(config)


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
    ],
)
def test_wrong_sources_are_named(tmp_path, sources, message):
    with pytest.raises(ConfigError, match=message):
        recipe_with(tmp_path, sources)


def test_listed_sources_must_be_a_list(tmp_path):
    with pytest.raises(ConfigError, match=r"sources\.yaml: expected a list, got dict"):
        recipe_with(tmp_path, "sources.yaml", listed="kind: stills\n")
