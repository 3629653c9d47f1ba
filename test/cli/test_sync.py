"""`cmdtrack sync` as a user calls it."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from synthetic import run_cli


def test_a_wrong_clock_is_told_and_drawn(tmp_path: Path, video: Path) -> None:
    made = run_cli("bag", "write", video, tmp_path / "bag", "--simulate-events", "--aux-clock", "3600")
    assert made.returncode == 0, made.stderr
    done = run_cli("sync", tmp_path / "bag", "--plot", tmp_path / "new" / "clocks.png")
    assert done.returncode == 0, done.stderr
    assert "within slop 0.03 s" in done.stdout
    exact = run_cli("sync", tmp_path / "bag", "--pairing", "exact", "--plot", tmp_path / "exact.png")
    assert "of the same stamp (pairing: exact)" in exact.stdout
    assert "nothing pairs: " in done.stdout and "\n    aux_offset: -3600.0\n" in done.stdout
    with Image.open(tmp_path / "new" / "clocks.png") as picture:
        assert picture.size == (1000, 700)


def test_what_cannot_be_done_is_said(tmp_path: Path, video: Path) -> None:
    assert run_cli("bag", "write", video, tmp_path / "bag").returncode == 0
    for arguments, text in (
        ((tmp_path / "bag",), "found no auxiliary topic"),
        ((tmp_path / "none",), "there is no such file or folder"),
        ((tmp_path / "bag", "--plot", "clocks.doc"), "--plot clocks.doc: expected a name that ends in one of"),
        ((tmp_path / "bag", "--aux-offset", "1e9"), "aux_offset: expected -86400.0 to 86400.0"),
        ((tmp_path / "bag", "--pairing", "next"), "pairing: expected one of nearest, exact, latest, got 'next'"),
    ):
        done = run_cli("sync", *arguments)
        assert done.returncode == 1 and done.stderr.startswith("cmdtrack: ") and text in done.stderr
