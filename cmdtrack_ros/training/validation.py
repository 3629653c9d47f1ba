"""A quick look at tracking quality while training goes on."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cmdtrack_ros.boxes import iou
from cmdtrack_ros.data import Sequence
from cmdtrack_ros.models.fusion import TemplateFeatures
from cmdtrack_ros.models.student import Student
from cmdtrack_ros.models.teacher import STREAMS, Teacher
from cmdtrack_ros.tracking import Tracker
from cmdtrack_ros.tracking.engine import Engine, Response, make_engine


class TeacherEngine:
    """A teacher as an engine, so that it can track; for evaluation only."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = copy.deepcopy(teacher).eval()
        self.config = teacher.config
        self.device = next(teacher.parameters()).device
        self.name = f"teacher ({self.device})"

    @torch.inference_mode()
    def encode_template(self, picture: np.ndarray, box: np.ndarray, stream: int = 0) -> list[Any]:
        boxes = torch.as_tensor(box, dtype=torch.float32, device=self.device)[None]
        features = self.teacher.encode_template(stream, self._input(picture), boxes)
        # The stream goes along as a number, so that a tracker may blend templates of the same stream.
        return [float(stream), features.keys, features.values, features.pooled, features.mask]

    @torch.inference_mode()
    def search(self, pictures: list[np.ndarray], templates: list[Any]) -> Response:
        given = {
            round(stream): (picture, TemplateFeatures(*features))
            for picture, (stream, *features) in zip(pictures, templates)
        }
        # What stands in for an absent stream is ignored by the network.
        whole = [given.get(stream, next(iter(given.values()))) for stream in range(STREAMS)]
        present = torch.tensor([[float(stream in given) for stream in range(STREAMS)]], device=self.device)
        joined = torch.stack([self._input(picture) for picture, _ in whole], 1)
        output, weights = self.teacher(joined, [template for _, template in whole], present)
        weights = torch.stack([weights[0, stream] for stream in given])
        parts = (output.score.sigmoid()[0, 0], output.box[0], weights)
        return Response(*(part.float().cpu().numpy() for part in parts))

    def _input(self, picture: np.ndarray) -> Tensor:
        return torch.as_tensor(picture, device=self.device).permute(2, 0, 1)[None].float()


def student_overlap(student: Student, sequences: list[Sequence], threads: int = 1) -> dict[str, float]:
    """:func:`mean_overlap` of a student, on the CPU."""
    return (
        mean_overlap(make_engine(copy.deepcopy(student).cpu(), "cpu", threads), sequences)
        if sequences
        else {}
    )


def teacher_overlap(teacher: Teacher, sequences: list[Sequence]) -> dict[str, float]:
    """:func:`mean_overlap` of a teacher, where it is."""
    return mean_overlap(TeacherEngine(teacher), sequences)


def mean_overlap(engine: Engine, sequences: list[Sequence]) -> dict[str, float]:
    """``mean`` and per sequence: mean IoU of one pass from the first visible frame (which is not counted)."""
    scores = {
        sequence.name: float(np.mean(overlaps(Tracker(engine, sequence.modality), sequence)))
        for sequence in sequences
    }
    return {"mean": float(np.mean(list(scores.values()))), **scores} if scores else {}


def overlaps(tracker: Tracker, sequence: Sequence) -> np.ndarray:
    """IoU of each frame with a box after the first visible one."""
    visible = np.flatnonzero(np.isfinite(sequence.boxes).all(1))
    scores = []
    for index in range(visible[0], len(sequence)):
        frame = sequence.frame(index)
        step = (
            tracker.update
            if index > visible[0]
            else lambda rgb, aux: tracker.init(rgb, aux, sequence.boxes[visible[0]])
        )
        track = step(frame.rgb, frame.aux)
        if index > visible[0] and index in visible:
            scores.append(iou(track.box, sequence.boxes[index]))
    return np.array(scores)
