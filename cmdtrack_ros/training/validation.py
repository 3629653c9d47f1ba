"""A quick look at tracking quality while training goes on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cmdtrack_ros.boxes import iou, visible
from cmdtrack_ros.data import ImageSequence
from cmdtrack_ros.models.backbone import fold_batch_norm
from cmdtrack_ros.models.confidence import Confidence
from cmdtrack_ros.models.config import TEMPLATE_FIELDS
from cmdtrack_ros.models.fusion import TemplateFeatures
from cmdtrack_ros.models.student import Student
from cmdtrack_ros.models.teacher import STREAMS, Teacher
from cmdtrack_ros.tracking.drive import BoxTracker, drive
from cmdtrack_ros.tracking.engines.contract import Engine, Query, Response, Template, TemplateCrop
from cmdtrack_ros.tracking.engines.torch import TorchEngine
from cmdtrack_ros.tracking.tracker import Tracker


class TeacherEngine:
    """A teacher as an engine, so that it can track; for evaluation only."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = fold_batch_norm(teacher).eval()
        self.teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's types lack it
        self.config = teacher.config
        self.device = next(teacher.parameters()).device
        self.confidence: Confidence | None = None
        self.name = f"teacher ({self.device})"

    @torch.inference_mode()
    def encode(self, crops: Sequence[TemplateCrop]) -> list[Template]:
        return [self._template(crop) for crop in crops]

    def _template(self, crop: TemplateCrop) -> Template:
        boxes = torch.as_tensor(crop.box, dtype=torch.float32, device=self.device)[None]
        features = self.teacher.encode_template(crop.stream, self._input(crop.picture), boxes)
        return Template(crop.stream, tuple(getattr(features, field) for field in TEMPLATE_FIELDS))

    @torch.inference_mode()
    def search(self, queries: Sequence[Query]) -> list[Response]:
        return [self._search(query) for query in queries]

    def _search(self, query: Query) -> Response:
        pairs = zip(query.pictures, query.templates)
        given = {t.stream: (picture, TemplateFeatures(*t.parts)) for picture, t in pairs}
        # What stands in for an absent stream is ignored by the network.
        whole = [given.get(stream, next(iter(given.values()))) for stream in range(STREAMS)]
        present = torch.tensor([[float(stream in given) for stream in range(STREAMS)]], device=self.device)
        joined = torch.stack([self._input(picture) for picture, _ in whole], 1)
        output, weights = self.teacher(joined, [template for _, template in whole], present)
        weights = torch.stack([weights[0, stream] for stream in given])
        parts = (output.score.sigmoid()[0, 0], output.box[0], weights)
        return Response(*(part.float().cpu().numpy() for part in parts))

    def _input(self, picture: np.ndarray) -> Tensor:
        return (
            torch.as_tensor(picture, device=self.device)
            .permute(2, 0, 1)[None]
            .float()
            .contiguous(
                memory_format=torch.channels_last  # three times faster on a CPU
            )
        )


def engine_of(network: Student | Teacher) -> Engine:
    """What runs a network as it is now: a student on the CPU, a teacher where it is."""
    if isinstance(network, Teacher):
        return TeacherEngine(network)  # type: ignore[return-value]  # its configuration has the crops, which is all
    return TorchEngine(network, torch.device("cpu"))


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
