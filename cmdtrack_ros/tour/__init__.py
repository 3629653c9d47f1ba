"""`cmdtrack tour`: one recording per modality through the real node, with targets from each kind of door."""

from cmdtrack_ros.tour.run import run_tour
from cmdtrack_ros.tour.stops import Stop, stops

__all__ = ["Stop", "run_tour", "stops"]
