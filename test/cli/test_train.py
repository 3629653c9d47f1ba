"""The training verbs."""

import pytest

from cmdtrack_ros.cli.train import train_app
from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.training import config as config_module


@pytest.mark.parametrize("arguments, expected", [([], "student.yaml"), (["--init", "shipped"], "finetune.yaml")])
def test_student_verb_finds_its_configuration(monkeypatch, arguments, expected):
    """Without data the configuration is read, and the folder is what is complained about."""
    monkeypatch.delenv("CMDTRACK_DATA", raising=False)
    seen = []
    monkeypatch.setattr(config_module, "load_config", lambda file, *_, **__: seen.append(file))
    with pytest.raises(ConfigError, match="CMDTRACK_DATA"):
        train_app(["student", *arguments], standalone_mode=False)
    assert seen[0].name == expected
