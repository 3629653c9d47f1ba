"""`cmdtrack bag` as a user calls it."""

from __future__ import annotations

from pathlib import Path

from synthetic import run_cli


def test_bag_verbs(tmp_path: Path, video: Path) -> None:
    done = run_cli("bag", "write", video, tmp_path / "bag", "--simulate-events", "--aux-offset", "0.005")
    assert done.returncode == 0, done.stderr
    shown = run_cli("bag", "info", tmp_path / "bag")
    assert shown.returncode == 0 and "modality: event" in shown.stdout
    assert any(line.split() == ["/aux/image", "10", "sensor_msgs/msg/Image"] for line in shown.stdout.splitlines())
    again = run_cli("bag", "write", video, tmp_path / "bag")
    assert again.returncode == 1 and again.stdout == ""
    assert again.stderr.strip().splitlines()[-1].startswith("cmdtrack: ") and "exists already" in again.stderr
    assert "Traceback" not in again.stderr
