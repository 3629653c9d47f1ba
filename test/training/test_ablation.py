"""The ablation's runs and its table."""

import json

from standin import write_standin
from tiny_runs import stage

from cmdtrack_ros.data.bags import write_bag
from cmdtrack_ros.training.ablation import ROWS, markdown, run_ablation
from cmdtrack_ros.training.config import RECIPES, AblationTraining, Split
from synthetic import Drawn, make_block


def test_ablation_writes_a_table_and_resumes(stills, tmp_path):
    write_bag(Drawn(4), tmp_path / "bags" / "one")
    sources = [
        {"kind": "bags", "path": str(tmp_path / "bags"), "held_out_part": 0.5},
        {"kind": "stills", "path": str(stills)},
    ]
    make_block(tmp_path / "seq" / "block", 3)
    common = {"steps": 1, "batch": 2, "sources": sources, "split": Split(validation=["seq/block"])}
    stages = {name: stage(kind, **common) for name, kind in RECIPES.items()}
    foreign = {"foreign": [write_standin(tmp_path / "standin")]}
    stages["distill"] = stages["distill"].model_copy(update=foreign)
    config = AblationTraining(seeds=[1], fixed_pairs=2, **stages)
    table = run_ablation(config, tmp_path, tmp_path / "out").read_text()
    assert all(f"| {row} |" in table for row in ROWS)
    assert "| thermal | aux | 2 |" in table
    assert "(at least 0.03 above student is asked for)." in table
    kept = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert set(kept["rows"]) == set(kept["pairs"]["thermal, both"]) == set(ROWS)
    assert 0 <= kept["rows"]["all"]["held-out"]["mean"] <= 1
    assert kept["pairs"]["all, rgb"]["student"]["difference"] is None
    assert -1 <= kept["pairs"]["all, rgb"]["all"]["difference"]["low"] <= 1
    stamps = {file: file.stat().st_mtime_ns for file in tmp_path.glob("out/seed_1/*/last.ckpt")}
    assert len(stamps) == 8
    run_ablation(config, tmp_path, tmp_path / "out")
    given = config.distill.model_copy(update={"teacher": tmp_path / "out/seed_1/teacher/teacher.safetensors"})
    run_ablation(
        config.model_copy(update={"seeds": [1, 2], "teacher": None, "distill": given}), tmp_path, tmp_path / "out"
    )
    assert (tmp_path / "out/teacher/scores.json").is_file()
    assert not (tmp_path / "out/seed_2/teacher").exists()
    assert (tmp_path / "out/seed_2/all").exists()
    assert stamps == {file: file.stat().st_mtime_ns for file in tmp_path.glob("out/seed_1/*/last.ckpt")}


def test_ablation_table_shows_mean_and_spread():
    table = {"student": {"test": {"mean": 0.5, "low": 0.45, "high": 0.55}}}
    assert "| student | 0.500 (0.450 to 0.550) |" in markdown(table, [1, 2])
