"""Sources of training pairs: stills, sequences and bags, and what is held out of them."""

import json

import numpy as np
import pytest

from cmdtrack_ros.data.bags import write_bag
from cmdtrack_ros.data.sequences import read_rgb
from cmdtrack_ros.errors import DataError
from cmdtrack_ros.training import sources as sources_module
from cmdtrack_ros.training.config import Source
from cmdtrack_ros.training.cutouts import moments
from cmdtrack_ros.training.sources import StillSource, find_stills, open_sources
from synthetic import Drawn, draw_stills, make_block


def test_infrared_pictures_that_are_missing_are_named(tmp_path):
    (tmp_path / "a" / "visible").mkdir(parents=True)
    (tmp_path / "a" / "visible" / "1.png").touch()
    with pytest.raises(DataError, match="infrared"):
        find_stills(tmp_path)


def test_cutouts_move(stills):
    source = StillSource(find_stills(stills), cutouts=1.0)
    pairs = [source.sample(np.random.default_rng(i)) for i in range(8)]
    moved = [np.linalg.norm(pair.search.box[:2] - pair.template.box[:2]) for pair in pairs]
    assert max(moved) > 10
    assert all((pair.template.box[2:] >= 4).all() for pair in pairs)


def test_cutout_never_comes_from_its_scene(tmp_path, monkeypatch):
    """Of two stills, each is the scene of some pairs, and the other one the giver then."""
    files = find_stills(draw_stills(tmp_path, 2))
    stills = {read_rgb(rgb).tobytes(): rgb for rgb, _ in files}
    scenes = []
    monkeypatch.setattr(sources_module, "moments", lambda scene, *rest: scenes.append(scene) or moments(scene, *rest))
    source = StillSource(files, cutouts=1.0)
    givers = [source.sample(np.random.default_rng(i)).template.target for i in range(20)]
    assert len(scenes) == 20
    found = {(str(stills[scene[0].tobytes()]), giver) for scene, giver in zip(scenes, givers, strict=True)}
    first, second = (str(rgb) for rgb, _ in files)
    assert found == {(first, second), (second, first)}


def test_cutout_needs_two_stills(tmp_path):
    files = find_stills(draw_stills(tmp_path, 1))
    with pytest.raises(DataError, match=r"cutouts \(0.5\): .* expected two stills or more, got only"):
        StillSource(files, cutouts=0.5)


def test_held_out_frames_are_never_trained_on(tmp_path):
    for name in ("one", "two"):
        write_bag(Drawn(10, name), tmp_path / name)
    source = Source(kind="bags", path=".", held_out_part=0.3)
    [(training, share)], held_out = open_sources([source], tmp_path)
    assert share == 1
    assert [len(sequence) for sequence in training.sequences] == [7, 7]
    assert [len(s) for s in held_out] == [3, 3]
    np.testing.assert_array_equal(held_out[0].rgb(0), Drawn(10).rgb(7))
    np.testing.assert_array_equal(held_out[0].boxes, Drawn(10).boxes[7:])
    with pytest.raises(DataError, match="no sequence three in"):
        open_sources([Source(kind="bags", path=".", held_out=["three"])], tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="expected a rosbag2"):
        open_sources([Source(kind="bags", path="empty")], tmp_path)


@pytest.mark.parametrize("count, share, kept", [(2, 0.25, 1), (5, 0.25, 1), (5, 0.4, 2), (2, 0.9, 1)])
def test_the_last_recordings_are_held_out_whole(tmp_path, count, share, kept):
    for number in range(count):
        write_bag(Drawn(6, str(number)), tmp_path / str(number))
    [(training, _)], held_out = open_sources([Source(kind="bags", path=".", held_out_share=share)], tmp_path)
    assert [s.name for s in training.sequences] == [str(number) for number in range(count - kept)]
    assert [s.name for s in held_out] == [str(number) for number in range(count - kept, count)]
    assert {len(s) for s in (*training.sequences, *held_out)} == {6}


def test_of_a_single_recording_the_last_part_is_held_out(tmp_path):
    write_bag(Drawn(8), tmp_path / "one")
    [(training, _)], held_out = open_sources([Source(kind="bags", path=".", held_out_share=0.25)], tmp_path)
    assert ([len(s) for s in training.sequences], [len(s) for s in held_out]) == ([6], [2])


def test_bag_without_boxes_is_named(tmp_path, caplog):
    late, never = Drawn(10, "late"), Drawn(10, "never")
    late.boxes[7:], never.boxes[:] = np.nan, np.nan
    write_bag(late, tmp_path / "a" / "late")
    [(training, _)], held_out = open_sources([Source(kind="bags", path="a", held_out_part=0.3)], tmp_path)
    assert held_out == []
    assert len(training.sequences) == 1
    assert "late: fewer than two boxes" in caplog.text
    write_bag(never, tmp_path / "b" / "never")
    with pytest.raises(DataError, match=r"never: no box for any image; expected .* on /ground_truth"):
        open_sources([Source(kind="bags", path="b")], tmp_path)


def test_list_of_names_limits_a_source(tmp_path):
    for name in ("one", "two"):
        write_bag(Drawn(4, name), tmp_path / name)
    (tmp_path / "list.txt").write_text("two\n")
    [(training, _)], _ = open_sources([Source(kind="bags", path=".", names="list.txt")], tmp_path)
    assert [sequence.name for sequence in training.sequences] == ["two"]
    (tmp_path / "list.txt").write_text("three\n")
    with pytest.raises(DataError, match="names 1 sequences that"):
        open_sources([Source(kind="bags", path=".", names="list.txt")], tmp_path)


@pytest.mark.parametrize("kind", ["sequences", "stills", "boxed_stills"])
def test_patterns_limit_a_source(tmp_path, kind):
    """Sequences and stills by their paths below the source's; a pattern that chooses nothing is named."""
    if kind == "sequences":
        for name in ("free_1", "free_2", "bound_1"):
            make_block(tmp_path / "data" / name, 3)
        path, pattern, chosen = "data", "free_*", ["free_1", "free_2"]
    else:
        draw_stills(tmp_path / "data" / "img", 3)
        boxes = {f"set/visible/{i}.png": [[4, 4, 20, 20]] for i in range(3)}
        (tmp_path / "data" / "boxes.json").write_text(json.dumps(boxes))
        path, start = ("data", "img/") if kind == "boxed_stills" else ("data/img", "")
        pattern, chosen = f"{start}set/visible/1*", ["1.png"]
    source = Source(kind=kind, path=path, only=[pattern])
    [(opened, _)], _ = open_sources([source], tmp_path)
    names = {
        "sequences": lambda: [sequence.name for sequence in opened.sequences],
        "stills": lambda: [file.name for file, _ in opened.files],
        "boxed_stills": lambda: [still.file.name for still in opened.stills],
    }[kind]()
    assert names == chosen
    with pytest.raises(DataError, match="only: nothing in data.* is called other"):
        open_sources([source.model_copy(update={"only": [pattern, "other*"]})], tmp_path)
