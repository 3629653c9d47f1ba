"""A quick look at tracking quality while training goes on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cmdtrack_ros.boxes import iou, visible
from cmdtrack_ros.data import ImageSequence
from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.models.backbone import fold_batch_norm
from cmdtrack_ros.models.confidence import Confidence
from cmdtrack_ros.models.config import TEMPLATE_FIELDS
from cmdtrack_ros.models.fusion import TemplateFeatures
from cmdtrack_ros.models.student import Student
from cmdtrack_ros.models.teacher import STREAMS, Teacher
from cmdtrack_ros.tracking.drive import BoxTracker, drive
from cmdtrack_ros.tracking.engines.choose import DEVICES
from cmdtrack_ros.tracking.engines.contract import Engine, Query, Response, Template, TemplateCrop
from cmdtrack_ros.tracking.engines.torch import TorchEngine
from cmdtrack_ros.tracking.tracker import Tracker


class TeacherEngine:
    """A teacher as an engine, so that it can track; for evaluation only."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = fold_batch_norm(teacher).eval()
        self.teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's types lack it
        self.config = teacher.config
        self._place = next(teacher.parameters()).device
        self.device = self._place.type
        self.confidence: Confidence | None = None
        self.name = f"teacher ({self._place})"

    @torch.inference_mode()
    def encode(self, crops: Sequence[TemplateCrop]) -> list[Template]:
        templates: dict[int, Template] = {}
        for stream in range(STREAMS):
            numbers = [i for i, crop in enumerate(crops) if crop.stream == stream]
            if numbers:
                templates |= zip(numbers, self._templates(stream, [crops[i] for i in numbers]), strict=True)
        return [templates[i] for i in range(len(crops))]

    def _templates(self, stream: int, crops: Sequence[TemplateCrop]) -> list[Template]:
        boxes = torch.from_numpy(np.stack([crop.box for crop in crops])).float().to(self._place)
        features = self.teacher.encode_template(stream, self._input([crop.picture for crop in crops]), boxes)
        parts = [getattr(features, field).split(1) for field in TEMPLATE_FIELDS]
        return [Template(stream, one) for one in zip(*parts, strict=True)]

    @torch.inference_mode()
    def search(self, queries: Sequence[Query]) -> list[Response]:
        given = [
            {template.stream: (picture, template) for picture, template in zip(query.pictures, query.templates)}
            for query in queries
        ]
        # What stands in for an absent stream is ignored by the network.
        whole = [[one.get(stream, next(iter(one.values()))) for one in given] for stream in range(STREAMS)]
        pictures = torch.stack([self._input([picture for picture, _ in stream]) for stream in whole], 1)
        templates = [_joined([template for _, template in stream]) for stream in whole]
        present = torch.tensor([[float(stream in one) for stream in range(STREAMS)] for one in given])
        output, weights = self.teacher(pictures, templates, present.to(self._place))
        answer = (part.float().cpu().numpy() for part in (output.score.sigmoid()[:, 0], output.box, weights))
        return [Response(score, box, shares[list(one)]) for score, box, shares, one in zip(*answer, given, strict=True)]

    def _input(self, pictures: Sequence[np.ndarray]) -> Tensor:
        return (
            torch.from_numpy(np.stack(pictures))
            .to(self._place)
            .permute(0, 3, 1, 2)
            .float()
            .contiguous(
                memory_format=torch.channels_last  # three times faster on a CPU
            )
        )


def _joined(templates: Sequence[Template]) -> TemplateFeatures:
    return TemplateFeatures(*(torch.cat(parts) for parts in zip(*(template.parts for template in templates))))


def find_device(asked: str = "auto") -> torch.device:
    """Where networks are measured: ``cpu``, ``cuda``, or ``auto`` = a GPU where torch finds one.

    Raises:
        ConfigError: another name, or a GPU that is not there.
    """
    if asked not in DEVICES:
        raise ConfigError(f"device: expected one of {', '.join(DEVICES)}, got {asked!r}")
    gpu = asked != "cpu" and torch.cuda.is_available()
    if asked == "cuda" and not gpu:
        raise ConfigError("device cuda: expected a GPU that torch can use, got none")
    return torch.device("cuda" if gpu else "cpu")


def engine_of(network: Student | Teacher) -> Engine:
    """What runs a network as it is now, where it is, in single precision."""
    if isinstance(network, Teacher):
        return TeacherEngine(network)  # type: ignore[return-value]  # its configuration has the crops, which is all
    return TorchEngine(network, next(network.parameters()).device)


def mean_overlap(engine: Engine, sequences: list[ImageSequence]) -> dict[str, float]:
    """``mean`` and per sequence: mean IoU of one pass from the first visible frame (which is not counted)."""
    scores = {
        sequence.name: float(overlaps(Tracker(engine, sequence.modality), sequence).mean()) for sequence in sequences
    }
    return {"mean": float(np.mean(list(scores.values()))), **scores} if scores else {}


def overlaps(tracker: BoxTracker, sequence: ImageSequence) -> np.ndarray:
    """IoU of each frame with a box after the first visible one."""
    boxes = np.array([track.box for track in drive(tracker, sequence)])[1:]
    truth = sequence.boxes[len(sequence) - len(boxes) :]
    return iou(boxes, truth)[visible(truth)]
