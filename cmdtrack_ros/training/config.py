"""The training configurations: one YAML file per run, checked before anything is loaded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

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
from cmdtrack_ros.streams.events import EVENT_WINDOW_RANGE
from cmdtrack_ros.streams.pairing import PAIRINGS, RANGES, PairOptions


class Strict(BaseModel):
    """Unknown fields are errors, and so is what is no number."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


# Every number has both bounds: a typing error must not take the whole memory, or years.
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0, le=1000)]
Rate = Annotated[float, Field(gt=0, le=1)]
Steps = Annotated[int, Field(gt=0, le=10_000_000)]
StepsOrNever = Annotated[int, Field(ge=0, le=10_000_000)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]


def _shape(kind: type) -> BeforeValidator:
    """Accepts the fields of a network's configuration, and names those it does not have."""

    def build(value: Any) -> Any:
        try:
            return value if isinstance(value, kind) else kind(**value)
        except TypeError as error:
            raise ValueError(str(error)) from error

    return BeforeValidator(build)


def _pairing(name: str) -> Any:
    low, high = RANGES[name]
    return Field(default=getattr(PairOptions(), name), ge=low, le=high)


class Source(Strict):
    """One source of training pairs.

    ``kind``: ``sequences`` (any layout of ``cmdtrack_ros.data``), ``bags`` (a rosbag2 or a folder of them, with boxes
    on a topic or in ``boxes.txt`` in the bag's folder), ``stills``, ``boxed_stills`` (pictures in ``img/`` and their
    targets in ``boxes.json``, ``{file: [[x, y, w, h], ...]}``, px) or ``labelled`` (by ``cmdtrack train label``).
    ``path``: of the folder or file, below the data folder when relative. ``share``: relative frequency.
    ``max_gap``: largest distance of a pair, frames. ``layout``: of the folders, ``auto`` tells by their
    content. ``names``: a text file (below the data folder when relative) with the name of one sequence to use
    per line. ``only``: patterns of paths below ``path``, of sequence folders or single stills: nothing else of it is
    used. ``cutouts``: of stills, share of pairs in which a segment of one picture moves across another
    one. ``held_out``: sequences never trained on, used for validation; ``held_out_part``: the last part of
    every sequence, likewise; ``held_out_share``: of the sequences, at least one, the last by their names (of a single
    sequence, its last part), likewise. ``cache``: decoded frames kept in memory.
    ``rgb_topic``, ``aux_topic``, ``truth_topic``, ``modality``: of bags that other programs wrote; ``modality``
    also of boxed stills, which show RGB without it.
    ``pairing``, ``slop``, ``latest_gap``, ``aux_offset``: how the images of bags are paired, s; as the node's
    parameters, as are ``event_window``, ``rgb_camera_info`` and ``aux_camera_info``. ``registration``: how their aux
    images come onto RGB: none, resize, camera_info, or a file of the node's parameters, as `cmdtrack register` writes.
    ``terms``: under which the data may be used, for the weights' metadata.
    """

    kind: str = Field(pattern="^(sequences|bags|stills|boxed_stills|labelled)$")
    path: Path
    share: float = Field(default=1.0, gt=0, le=1000)
    max_gap: int = Field(default=100, gt=0, le=100_000)
    layout: str = "auto"
    names: Path | None = None
    only: list[str] = []
    held_out: list[str] = []
    held_out_part: float = Field(default=0.0, ge=0, lt=1)
    held_out_share: float = Field(default=0.0, ge=0, lt=1)
    cache: int = Field(default=6000, gt=0, le=1_000_000)
    cutouts: Share = 0.0
    rgb_topic: str | None = None
    aux_topic: str | None = None
    truth_topic: str | None = None
    modality: Modality | None = None
    pairing: str = Field(default=PairOptions().pairing, pattern=f"^({'|'.join(PAIRINGS)})$")
    slop: float = _pairing("slop")
    latest_gap: float = _pairing("latest_gap")
    aux_offset: float = _pairing("aux_offset")
    registration: str = "none"
    rgb_camera_info: str | None = None
    aux_camera_info: str | None = None
    event_window: float = Field(default=0.0, ge=EVENT_WINDOW_RANGE[0], le=EVENT_WINDOW_RANGE[1])
    terms: str = ""


class Split(Strict):
    """What is not trained on, as patterns of paths below the data folder: of sequence folders, of single stills.

    ``validation``: what recipes are chosen by. ``test``: what is run once, at the end.
    """

    validation: list[str] = []
    test: list[str] = []


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

    shift: float = Field(default=1.4, ge=0, le=10)
    zoom: float = Field(default=0.18, ge=0, le=2)
    jitter: float = Field(default=0.04, ge=0, le=1)
    margin: float = Field(default=0.0, ge=0, le=2)
    misalignment: float = Field(default=4.0, ge=0, le=100)
    negatives: Share = 0.1
    hard_negatives: Share = 0.0
    distractors: Share = 0.0
    degraded: Share = 0.2
    dropped: Share = 0.0
    occluded: Share = 0.15
    misleading: Share = 0.0
    edges: Share = 0.0


class Training(Strict):
    """What all stages have in common.

    ``steps`` of ``batch`` samples per process; ``learning_rate`` for new layers, ``backbone_learning_rate``
    for the backbone, both with a linear warm-up over ``warmup`` steps and a cosine decay to 1 %. ``ema``:
    decay of the averaged weights that are saved. ``train_early``: also train the backbone's stages up to
    stride 8, which are otherwise frozen. ``init_backbone``: weights of a ``cmae`` run to start the backbone
    from, instead of ImageNet's. ``precision``: ``32-true``, ``bf16-mixed``, ``16-mixed``, or ``auto`` =
    ``bf16-mixed`` on a GPU that has it, else ``32-true``. ``threads``, ``workers``: of torch in each training
    process, and data processes beside it. The fields ``*_every`` count steps; 0 validates or draws pictures
    never. ``pool``: so many samples are made, once, and seen again in other orders, every second one mirrored;
    0 = each sample is a new one. ``sources``: a list of :class:`Source`, or the name of a YAML file beside the
    recipe that holds one; ``{file: NAME, changes: {PATH: {FIELD: VALUE}}}`` takes that list with other values for
    single sources, and ``PATH: null`` leaves a source out. ``split``: a :class:`Split`, or the name of a YAML file
    beside the recipe that holds one; whatever it names is kept out of the sources. ``fixed_pairs``: of each
    recording of its validation, seen at each validation beside whole sequences; 0 = none.
    """

    name: str
    steps: Steps
    batch: int = Field(default=16, gt=0, le=1024)
    learning_rate: Rate = 1e-3
    backbone_learning_rate: Rate = 1e-4
    weight_decay: Share = 1e-4
    warmup: StepsOrNever = 100
    clip_norm: float = Field(default=5.0, gt=0, le=1000)
    ema: float = Field(default=0.998, gt=0, lt=1)
    seed: Seed = 1
    train_early: bool = False
    init_backbone: Path | None = None
    precision: str = Field(default="auto", pattern="^(auto|32-true|bf16-mixed|16-mixed)$")
    threads: int = Field(default=2, gt=0, le=256)
    workers: int = Field(default=0, ge=0, le=256)
    log_every: Steps = 1
    checkpoint_every: Steps = 250
    validate_every: StepsOrNever = 500
    pictures_every: StepsOrNever = 500
    pool: int = Field(default=0, ge=0, le=100_000_000)
    pairs: PairConfig = PairConfig()
    sources: list[Source] = Field(min_length=1)
    split: Split | None = None
    fixed_pairs: int = Field(default=0, ge=0, le=1000)

    @property
    def wants_foreign_features(self) -> bool:
        """Whether foreign trackers shall show their features with each sample."""
        return False

    @field_validator("split", mode="before")
    @classmethod
    def _read_split(cls, value: Any, info: ValidationInfo) -> Any:
        return _read_yaml((info.context or {}).get("folder", Path()) / value, dict) if isinstance(value, str) else value

    @field_validator("sources", mode="before")
    @classmethod
    def _read_sources(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, str):
            value = {"file": value}
        if not isinstance(value, dict):
            return value
        if not {"file"} <= set(value) <= {"file", "changes"}:
            raise ValueError(f"expected a list, a file, or file and changes, got {', '.join(value)}")
        listed = _read_yaml((info.context or {}).get("folder", Path()) / str(value["file"]), list)
        return _changed(listed, value.get("changes") or {}, value["file"])

    @model_validator(mode="after")
    def _pairs_come_from_a_split(self) -> Training:
        if self.fixed_pairs and self.split is None:
            raise ValueError("fixed_pairs: they are drawn from the validation of a split, and there is none")
        return self


def _changed(listed: list, changes: Any, file: str) -> list[dict]:
    """The sources of a file with other values for those that ``changes`` names; ValueError: not made of such."""
    if not all(isinstance(source, dict) and isinstance(source.get("path"), str) for source in listed):
        raise ValueError(f"{file}: expected sources, each with its path")
    if not isinstance(changes, dict) or not all(isinstance(change, dict | None) for change in changes.values()):
        raise ValueError("changes: expected paths of sources, each with fields and values, or null")
    if unknown := set(changes) - {source["path"] for source in listed}:
        raise ValueError(f"changes: no source {', '.join(sorted(map(str, unknown)))} in {file}")
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
    both have the same backbone, channels and crops. ``foreign``, ``foreign_weight``: as of a student's distillation."""

    network: Annotated[TeacherConfig, _shape(TeacherConfig)] = TeacherConfig()
    single_weight: Weight = 0.3
    path_weight: Weight = 0.3
    init: Path | None = None
    foreign: list[Path] = []
    foreign_weight: Weight = 1.0


class StudentTraining(Training):
    """Settings of a student's training. ``single_weight``: weight of the losses of each modality alone.
    ``init``: weights to start from, ``shipped`` for those of this package. ``start_share``: of these in the weights
    that are saved: a run then adds to what was known and loses less of it (Wortsman et al., "Robust fine-tuning of
    zero-shot models", CVPR 2022); ``held_out``: the share that is best on what the sources hold out, and the start
    itself where nothing is better, see ``choice.py``.
    """

    network: Annotated[StudentConfig, _shape(StudentConfig)] = StudentConfig()
    single_weight: Weight = 0.3
    init: Path | None = None
    start_share: Share | Literal["held_out"] = 0.0

    @model_validator(mode="after")
    def _share_of_a_start(self) -> StudentTraining:
        if self.start_share and self.init is None:
            raise ValueError("start_share: of the weights of init, and there is none")
        return self


class DistillTraining(StudentTraining):
    """Settings of a student's training under a teacher.

    ``teacher``: weights of a teacher run with the same crops, ``shipped`` for those of this package; not needed without
    its losses. ``scfd_weight``, ``mpsd_weight``, ``response_weight``: of these three, 0 = without.
    ``foreign``: folders of foreign trackers (``foreign.py``), which teach every stream what they see in clean RGB;
    ``foreign_weight``: of their answers' loss, ``foreign_features_weight``: of their features', 0 = without.
    ``feature_channels``: width of the teacher's specific and common part. ``selection_temperature``: of the
    softmax over paths, in units of the tracking loss. ``selection_floor``: share of the selection that is
    spread evenly over all valid paths. ``entropy_warning``: entropy of the selection, as a fraction of an
    even one's, below which a warning is logged.
    """

    teacher: Path | None = None
    scfd_weight: Weight = 1.0
    mpsd_weight: Weight = 1.0
    response_weight: Weight = 0.5
    foreign: list[Path] = []
    foreign_weight: Weight = 1.0
    foreign_features_weight: Weight = 0.0
    feature_channels: int = Field(default=96, gt=0, le=1024)
    selection_temperature: float = Field(default=1.0, gt=0, le=1000)
    selection_floor: Share = 0.1
    entropy_warning: Share = 0.3

    @property
    def wants_foreign_features(self) -> bool:
        return bool(self.foreign and self.foreign_features_weight)


RECIPES: dict[str, type[Training]] = {
    "cmae": CmaeTraining,
    "teacher": TeacherTraining,
    "student": StudentTraining,
    "distill": DistillTraining,
}
"""What ``cmdtrack train VERB`` reads its configuration as."""


Row = Literal["student", "+ CMAE", "+ SCFD", "+ MPSD", "+ response", "+ foreign teacher", "all", "teacher"]
"""Of an ablation's table; what each one is: ``ablation.py``."""


class AblationTraining(Strict):
    """Settings of an ablation: one run per row and seed, see ``ablation.py``. ``rows``: which ones; without it, all
    that the recipe has the settings for. ``test``: folders of sequences that no run sees. ``fixed_pairs``: of each
    recording of the validation of the student's split; 0 = none. ``sequences``: also whole passes over the sequences
    of that validation, through both streams and each alone (of RGB recordings, aux is simulated events).
    ``cmae``: for ``+ CMAE``, and part of ``all`` where it is given. Rows under an own teacher have it from a run
    (``teacher``), or as weights (``distill.teacher``). ``one_teacher``: the run of the first seed teaches all.
    """

    seeds: list[Seed] = Field(min_length=1)
    rows: list[Row] | None = None
    test: list[Path] = []
    fixed_pairs: int = Field(default=48, ge=0, le=1000)
    sequences: bool = False
    cmae: CmaeTraining | None = None
    teacher: TeacherTraining | None = None
    one_teacher: bool = False
    student: StudentTraining
    distill: DistillTraining

    @model_validator(mode="after")
    def _fits_together(self) -> AblationTraining:
        if self.rows is not None and "student" not in self.rows:
            raise ValueError("rows: expected student among them, as all others are compared with it")
        if self.teacher is not None and self.distill.teacher is not None:
            raise ValueError("expected settings of a teacher or distill.teacher (--teacher), got both")
        if self.sequences and self.student.split is None:
            raise ValueError("sequences: they are those of the validation of student.split, and there is none")
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
        raise ConfigError(f"training configuration {path}: {_in_one_line(error)}") from error


def _in_one_line(error: ValidationError) -> str:
    """Each wrong field, with what was expected and what came."""
    return "; ".join(
        f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}, got {repr(wrong['input'])[:60]}"
        for wrong in error.errors(include_url=False)
    )


def _read_yaml(path: Path, kind: type) -> Any:
    """The fields and values (``dict``) or the list of a YAML file; ConfigError when it is something else."""
    if not path.is_file():
        raise ConfigError(f"training configuration {path}: no such file")
    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"training configuration {path}: expected YAML ({error})") from error
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
