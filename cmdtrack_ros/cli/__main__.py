"""`python -m cmdtrack_ros.cli`, as torchrun starts it."""

from cmdtrack_ros.cli.app import main

main()
