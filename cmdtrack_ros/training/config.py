"""The training configurations: one YAML file per run, checked before anything is loaded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.modalities import Modality
from cmdtrack_ros.models.cmae import CmaeConfig
from cmdtrack_ros.models.config import StudentConfig
from cmdtrack_ros.models.teacher import TeacherConfig
from cmdtrack_ros.streams.pairing import PairOptions


class Strict(BaseModel):
    """Unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _shape(kind: type) -> BeforeValidator:
    """Accepts the fields of a network's configuration, and names those it does not have."""

    def build(value: Any) -> Any:
        try:
            return value if isinstance(value, kind) else kind(**value)
        except TypeError as error:
            raise ValueError(str(error)) from error

    return BeforeValidator(build)


class Source(Strict):
    """One source of training pairs.

    ``kind``: ``sequences`` (any layout of ``cmdtrack_ros.data``), ``bags`` (a rosbag2 or a folder of them,
    with boxes on a topic) or ``stills``. ``path``: a folder, below the data folder when relative. ``share``:
    relative frequency. ``max_gap``: largest distance of a pair, frames. ``layout``: of the folders, ``auto``
    tells by their content. ``names``: a text file (below the data folder when relative) with the name of one
    sequence to use per line. ``cutouts``: of stills, share of pairs in which a segment of one picture moves
    across another one. ``held_out``: sequences never trained on, used for validation;
    ``held_out_part``: the last part of every sequence, likewise. ``cache``: decoded frames kept in memory.
    ``rgb_topic``, ``aux_topic``, ``truth_topic``, ``modality``: of bags that other programs wrote.
    ``slop``, ``aux_offset``: how the images of bags are paired, s; as the node's parameters. ``terms``: under
    which the data may be used, for the weights' metadata.
    """

    kind: str = Field(pattern="^(sequences|bags|stills)$")
    path: Path
    share: float = Field(default=1.0, gt=0)
    max_gap: int = Field(default=100, gt=0)
    layout: str = "auto"
    names: Path | None = None
    held_out: list[str] = []
    held_out_part: float = Field(default=0.0, ge=0, lt=1)
    cache: int = Field(default=6000, gt=0)
    cutouts: float = Field(default=0.0, ge=0, le=1)
    rgb_topic: str | None = None
    aux_topic: str | None = None
    truth_topic: str | None = None
    modality: Modality | None = None
    slop: float = Field(default=PairOptions().slop, ge=0)
    aux_offset: float = PairOptions().aux_offset
    terms: str = ""


class PairConfig(Strict):
    """How a pair becomes a sample. Crop sizes and factors are the network's.

    Attributes:
        shift: largest displacement of the search region from the target, in units of sqrt(w * h) of its box.
        zoom: standard deviation of the logarithm of the search region's scale.
        jitter: standard deviation of the template box's error, as a fraction of its sides.
        margin: standard deviation of the logarithm of a factor on the width, and of one on the height, of
            both boxes: one user draws boxes close to the target, another one with a margin, and gets back the
            like.
        misalignment: largest shift between RGB and aux, in crop pixels.
        negatives: share of samples whose search region is of any other draw.
        hard_negatives: share of samples that search another instance of the same source; not for
            sources with several targets of one recording, where that region may show the target as well.
        distractors: share of samples with another instance of the same source pasted beside the target.
        degraded, dropped: shares of samples with one useless stream, and with one stream gone.
        occluded: share of samples with a patch over part of the target.
        misleading: share of samples in which one stream does not show the target but veiled surroundings, in
            another place than the target's: a camera in smoke sees the same background while a man walks by.
        edges: share of samples whose template touches an edge of the image, from which the target moves
            away.
    """

    shift: float = Field(default=1.4, ge=0)
    zoom: float = Field(default=0.18, ge=0)
    jitter: float = Field(default=0.04, ge=0)
    margin: float = Field(default=0.0, ge=0)
    misalignment: float = Field(default=4.0, ge=0)
    negatives: float = Field(default=0.1, ge=0, le=1)
    hard_negatives: float = Field(default=0.0, ge=0, le=1)
    distractors: float = Field(default=0.0, ge=0, le=1)
    degraded: float = Field(default=0.2, ge=0, le=1)
    dropped: float = Field(default=0.0, ge=0, le=1)
    occluded: float = Field(default=0.15, ge=0, le=1)
    misleading: float = Field(default=0.0, ge=0, le=1)
    edges: float = Field(default=0.0, ge=0, le=1)


class Training(Strict):
    """What all stages have in common.

    ``steps`` of ``batch`` samples per process; ``learning_rate`` for new layers, ``backbone_learning_rate``
    for the backbone, both with a linear warm-up over ``warmup`` steps and a cosine decay to 1 %. ``ema``:
    decay of the averaged weights that are saved. ``train_early``: also train the backbone's stages up to
    stride 8, which are otherwise frozen. ``init_backbone``: weights of a ``cmae`` run to start the backbone
    from, instead of ImageNet's. ``precision``: ``32-true``, ``bf16-mixed``, ``16-mixed``, or ``auto`` =
    ``bf16-mixed`` on a GPU that has it, else ``32-true``. ``threads``, ``workers``: of torch in each training
    process, and data processes beside it. The fields ``*_every`` count steps; 0 validates or draws pictures
    never. ``sources``: a list of :class:`Source`, or the name of a YAML file beside the recipe that holds
    one; ``{file: NAME, changes: {PATH: {FIELD: VALUE}}}`` takes that list with other values for single
    sources, and ``PATH: null`` leaves a source out.
    """

    name: str
    steps: int = Field(gt=0)
    batch: int = Field(default=16, gt=0)
    learning_rate: float = Field(default=1e-3, gt=0)
    backbone_learning_rate: float = Field(default=1e-4, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    warmup: int = Field(default=100, ge=0)
    clip_norm: float = Field(default=5.0, gt=0)
    ema: float = Field(default=0.998, gt=0, lt=1)
    seed: int = Field(default=1, ge=0)
    train_early: bool = False
    init_backbone: Path | None = None
    precision: str = Field(default="auto", pattern="^(auto|32-true|bf16-mixed|16-mixed)$")
    threads: int = Field(default=2, gt=0)
    workers: int = Field(default=0, ge=0)
    log_every: int = Field(default=1, gt=0)
    checkpoint_every: int = Field(default=250, gt=0)
    validate_every: int = Field(default=500, ge=0)
    pictures_every: int = Field(default=500, ge=0)
    pairs: PairConfig = PairConfig()
    sources: list[Source] = Field(min_length=1)

    @field_validator("sources", mode="before")
    @classmethod
    def _read_sources(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, str):
            value = {"file": value}
        if not isinstance(value, dict):
            return value
        if not {"file"} <= set(value) <= {"file", "changes"}:
            raise ValueError(f"expected a list, a file, or file and changes, got {', '.join(value)}")
        listed = _read_yaml((info.context or {}).get("folder", Path()) / value["file"], list)
        changes = value.get("changes") or {}
        if unknown := set(changes) - {source["path"] for source in listed}:
            raise ValueError(f"changes: no source {', '.join(sorted(unknown))} in {value['file']}")
        return [{**source, **change} for source in listed if (change := changes.get(source["path"], {})) is not None]


class CmaeTraining(Training):
    """Settings of CMAE pre-training. ``mask_ratio``: share of the places where one of the modalities is
    masked.
    """

    network: Annotated[CmaeConfig, _shape(CmaeConfig)] = CmaeConfig()
    mask_ratio: float = Field(default=0.6, gt=0, le=1)


class TeacherTraining(Training):
    """Settings of a teacher's training. ``single_weight``: weight of the losses of each modality alone;
    ``path_weight``: of the head's loss on each path of the fusion, without which the paths could not be
    compared later. ``init``: weights to start from; those of a student (``shipped``: of this package) when
    both have the same backbone, channels and crops."""

    network: Annotated[TeacherConfig, _shape(TeacherConfig)] = TeacherConfig()
    single_weight: float = Field(default=0.3, ge=0)
    path_weight: float = Field(default=0.3, ge=0)
    init: Path | None = None


class StudentTraining(Training):
    """Settings of a student's training. ``single_weight``: weight of the losses of each modality alone.
    ``init``: weights to start from, ``shipped`` for those of this package."""

    network: Annotated[StudentConfig, _shape(StudentConfig)] = StudentConfig()
    single_weight: float = Field(default=0.3, ge=0)
    init: Path | None = None


class DistillTraining(StudentTraining):
    """Settings of a student's training under a teacher.

    ``teacher``: weights of a teacher run with the same crops, ``shipped`` for those of this package.
    ``scfd_weight``, ``mpsd_weight``, ``response_weight``: of the three distillation losses, 0 = without.
    ``feature_channels``: width of the teacher's specific and common part. ``selection_temperature``: of the
    softmax over paths, in units of the tracking loss. ``selection_floor``: share of the selection that is
    spread evenly over all valid paths. ``entropy_warning``: entropy of the selection, as a fraction of an
    even one's, below which a warning is logged.
    """

    teacher: Path | None = None
    scfd_weight: float = Field(default=1.0, ge=0)
    mpsd_weight: float = Field(default=1.0, ge=0)
    response_weight: float = Field(default=0.5, ge=0)
    feature_channels: int = Field(default=96, gt=0)
    selection_temperature: float = Field(default=1.0, gt=0)
    selection_floor: float = Field(default=0.1, ge=0, le=1)
    entropy_warning: float = Field(default=0.3, ge=0, le=1)


RECIPES: dict[str, type[Training]] = {
    "cmae": CmaeTraining,
    "teacher": TeacherTraining,
    "student": StudentTraining,
    "distill": DistillTraining,
}
"""What ``cmdtrack train VERB`` reads its configuration as."""


class AblationTraining(Strict):
    """Settings of an ablation: one run per row and seed, see ``ablation.py``. ``test``: folders of sequences
    that no run sees. Without ``teacher``, no teacher is trained: all seeds learn from ``distill.teacher``.
    """

    seeds: list[int] = Field(min_length=1)
    test: list[Path] = []
    cmae: CmaeTraining
    teacher: TeacherTraining | None = None
    student: StudentTraining
    distill: DistillTraining

    @model_validator(mode="after")
    def _one_teacher(self) -> AblationTraining:
        if (self.teacher is None) == (self.distill.teacher is None):
            raise ValueError("expected either settings of a teacher, or distill.teacher (--teacher)")
        return self


Settings = TypeVar("Settings", bound=Strict)


def load_config(path: str | Path, kind: type[Settings], **changes: Any) -> Settings:
    """Read and check a configuration of this kind; ConfigError names the file and each wrong field.

    ``changes`` replace fields of the file, except those that are None.
    """
    path = Path(path)
    values = _read_yaml(path, dict)
    values.pop("common", None)  # a place for YAML anchors
    values |= {name: value for name, value in changes.items() if value is not None}
    try:
        return kind.model_validate(values, context={"folder": path.parent})
    except ValidationError as error:
        raise ConfigError(f"training configuration {path}: {error}") from error


def _read_yaml(path: Path, kind: type) -> Any:
    """The fields and values (``dict``) or the list of a YAML file; ConfigError when it is something else."""
    if not path.is_file():
        raise ConfigError(f"training configuration {path}: no such file")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"training configuration {path}: {error}") from error
    if not isinstance(values, kind):
        expected = "fields and values" if kind is dict else "a list"
        raise ConfigError(f"training configuration {path}: expected {expected}, got {type(values).__name__}")
    return values


def data_folder(given: str | Path | None) -> Path:
    """The folder that relative source paths start from: the argument, or the variable CMDTRACK_DATA."""
    folder = given or os.environ.get("CMDTRACK_DATA")
    if not folder or not Path(folder).is_dir():
        raise ConfigError(f"data folder: expected an existing folder by --data or CMDTRACK_DATA, got {folder!r}")
    return Path(folder)
