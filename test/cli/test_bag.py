"""`cmdtrack bag`, and a command line that answers without ROS and torch."""

from __future__ import annotations

import subprocess
import sys
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


def test_help_needs_neither_ros_nor_torch() -> None:
    code = (
        "import sys\nfor name in ('rclpy', 'torch'): sys.modules[name] = None\n"
        "from cmdtrack_ros.cli.app import main\nmain(['--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for verb in ("bag", "track", "demo"):
        assert verb in done.stdout
