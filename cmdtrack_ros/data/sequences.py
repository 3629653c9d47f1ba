"""Sequences of the public benchmarks (and folders laid out like them), read lazily, frame by frame.

Each layout is one row of `LAYOUTS`; nothing else in this module knows a benchmark by name.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from cmdtrack_ros.errors import DataError, ImageError, writing
from cmdtrack_ros.modalities import Modality
from cmdtrack_ros.streams.images import decode

DEFAULT_FPS = 30.0
RowForm = Literal["xywh", "corners", "xywh+4", "polygon"]
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"}


@dataclass(frozen=True)
class Frame:
    """One moment of a sequence.

    rgb: HxWx3 uint8 RGB, or None when the sequence has no RGB stream.
    aux: the sensor's own array (HxW or HxWx3; uint8, uint16 or float32; depth in mm), or None.
    stamp: seconds.
    """

    rgb: np.ndarray | None
    aux: np.ndarray | None
    stamp: float

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in px, of the RGB image where there is one; DataError without any image."""
        image = self.aux if self.rgb is None else self.rgb
        if image is None:
            raise DataError(f"the frame of {self.stamp:.3f} s: expected an image, it has none")
        return image.shape[1], image.shape[0]


class ImageSequence(ABC):
    """A target followed through two streams. Nothing is decoded before `frame(i)`.

    name: unique within its data set. modality: kind of the aux stream; RGB when there is none.
    boxes: (n, 4) float64 x, y, w, h in pixels of the RGB image; NaN rows = no box (absent, or not labelled).
    aux_boxes: the same for the aux image where a benchmark annotates both streams apart, else None.
    labelled: (n,) bool, False where the benchmark says nothing (VTUAV labels every tenth frame).
    anchors: (n,) float64 VOT multi-start anchors (> 0 forward, < 0 backward), else None.
    stamps: (n,) float64 seconds, strictly increasing.
    layout: one of `LAYOUT_NAMES`, by whose rules it is scored; empty for other recordings.
    noted_box: (4,) xywh px in the first frame, where the recording notes one to start a tracker from that is no true
        box, but a tracker's own; else None.
    """

    noted_box: np.ndarray | None = None

    def __init__(
        self,
        name: str,
        modality: Modality,
        boxes: np.ndarray,
        stamps: np.ndarray,
        *,
        layout: str = "",
        aux_boxes: np.ndarray | None = None,
        labelled: np.ndarray | None = None,
        anchors: np.ndarray | None = None,
    ) -> None:
        self.name = name
        self.modality = modality
        self.boxes = boxes
        self.stamps = stamps
        self.layout = layout
        self.aux_boxes = aux_boxes
        self.labelled = np.ones(len(boxes), bool) if labelled is None else labelled
        self.anchors = anchors

    def __len__(self) -> int:
        return len(self.stamps)

    @abstractmethod
    def rgb(self, index: int) -> np.ndarray | None:
        """RGB image of frame `index` (HxWx3 uint8 RGB) or None; DataError names what does not decode."""

    @abstractmethod
    def aux(self, index: int) -> np.ndarray | None:
        """Aux image of frame `index` as the sensor gave it, None without one."""

    def frame(self, index: int) -> Frame:
        """Both images of frame `index`."""
        return Frame(self.rgb(index), self.aux(index), float(self.stamps[index]))


class FolderSequence(ImageSequence):
    """A sequence of image files; `rgb_files` or `aux_files` is empty when there is no such stream."""

    def __init__(
        self,
        path: Path,
        layout: str,
        rgb_files: list[Path],
        aux_files: list[Path],
        modality: Modality,
        boxes: np.ndarray,
        stamps: np.ndarray,
        **annotations: np.ndarray | None,
    ) -> None:
        super().__init__(path.name, modality, boxes, stamps, layout=layout, **annotations)
        self.path = path
        self.rgb_files = rgb_files
        self.aux_files = aux_files

    def rgb(self, index: int) -> np.ndarray | None:
        return read_rgb(self.rgb_files[index]) if self.rgb_files else None

    def aux(self, index: int) -> np.ndarray | None:
        return read_aux(self.aux_files[index], self.modality) if self.aux_files else None


@dataclass(frozen=True)
class Layout:
    """How one benchmark lays out a sequence folder. Of the annotation names the first that exists counts."""

    name: str
    modality: Modality
    rgb: str
    aux: str | None
    annotations: tuple[str, ...]
    aux_annotation: str | None = None
    row: RowForm = "xywh"
    present_file: str | None = None  # one number a frame, 1 = target present
    label_step: int = 1  # every how many frames the benchmark labels
    rgb_stem: str = ""  # ending of the image names, where only that tells two layouts apart

    def describe(self) -> str:
        folders = "{" + f"{self.rgb},{self.aux}" + "}" if self.aux else self.rgb
        return f"{self.name}: {folders}/ and {' or '.join(self.annotations)}"

    def matches(self, path: Path) -> bool:
        folders = [self.rgb] + ([self.aux] if self.aux else [])
        if not all((path / folder).is_dir() for folder in folders):
            return False
        if not any((path / name).is_file() for name in self.annotations):
            return False
        return not self.rgb_stem or any(p.stem.endswith(self.rgb_stem) for p in (path / self.rgb).iterdir())


LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        # RGBT234 before LasHeR: same folders and files, told apart by the image names (00001v.jpg).
        Layout("rgbt234", Modality.THERMAL, "visible", "infrared", ("visible.txt",), "infrared.txt", rgb_stem="v"),
        Layout("lasher", Modality.THERMAL, "visible", "infrared", ("init.txt", "visible.txt")),
        Layout("gtot", Modality.THERMAL, "v", "i", ("groundTruth_v.txt",), "groundTruth_i.txt", row="corners"),
        Layout("vtuav", Modality.THERMAL, "rgb", "ir", ("rgb.txt",), "ir.txt", row="xywh+4", label_step=10),
        Layout("depthtrack", Modality.DEPTH, "color", "depth", ("groundtruth.txt",)),
        Layout(
            "visevent", Modality.EVENT, "vis_imgs", "event_imgs", ("groundtruth.txt",), present_file="absent_label.txt"
        ),
        Layout("otb", Modality.RGB, "img", None, ("groundtruth_rect.txt", "groundtruth.txt")),
    )
}
VOT = "vot"
VOT_DESCRIPTION = f"{VOT}: sequence (channels.color=..., channels.depth or channels.ir=...) and groundtruth.txt"
VOT_CHANNELS = {"depth": Modality.DEPTH, "ir": Modality.THERMAL, "event": Modality.EVENT}
LAYOUT_NAMES = (*LAYOUTS, VOT)


def load_sequence(path: str | Path, layout: str = "auto") -> ImageSequence:
    """Open one sequence folder. `layout`: one of `LAYOUT_NAMES`, or "auto" to tell by its content.

    DataError when the folder is laid out otherwise, a frame is missing, or boxes and frames differ in number.
    """
    path = Path(path)
    found = _detect(path, layout)
    if found is None:
        raise DataError(_wrong_folder(path, layout))
    return _load_vot(path) if found == VOT else _load_folder(path, LAYOUTS[found])


def load_dataset(path: str | Path, layout: str = "auto") -> list[ImageSequence]:
    """All sequences below `path` (see `find_sequences`), opened."""
    return [load_sequence(p, layout) for p in find_sequences(path, layout)]


def find_sequences(path: str | Path, layout: str = "auto") -> list[Path]:
    """Sequence folders: `path` itself, those that its list.txt names, or those up to two levels below it.

    Opens none of them, so that a caller may report a broken one and go on with the rest.
    """
    path = Path(path)
    if _detect(path, layout) is not None:
        return [path]
    found = _listed(path) or _search(path, layout, depth=2)
    if not found:
        raise DataError(_wrong_folder(path, layout))
    return found


def read_rgb(path: Path) -> np.ndarray:
    """Image file as HxWx3 uint8 RGB."""
    image = _decode(path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def write_rgb(path: Path, picture: np.ndarray) -> None:
    """HxWx3 uint8 RGB as an image file; DataError where it cannot be written, of which `cv2.imwrite` says nothing."""
    _, data = cv2.imencode(path.suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    with writing(path):
        path.write_bytes(data.tobytes())


def read_aux(path: Path, modality: Modality) -> np.ndarray:
    """Image file as stored: HxW or HxWx3 (RGB order), of its own type; depth must be one channel."""
    image = _decode(path, cv2.IMREAD_UNCHANGED)
    if image.ndim == 2:
        return image
    if modality is Modality.DEPTH:
        raise DataError(f"{path}: expected a depth image of one channel (16-bit, mm), got {image.shape[2]} channels")
    return cv2.cvtColor(image, cv2.COLOR_BGRA2RGB if image.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def _decode(path: Path, flags: int) -> np.ndarray:
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        return decode(data, flags, str(path))
    except ImageError as error:
        raise DataError(str(error)) from error


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Sort key under which img2 comes before img10."""
    parts = re.split(r"(\d+)", path.name)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]


def list_images(folder: Path) -> list[Path]:
    """Image files of a folder in natural order; DataError when there is none."""
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder of images, found none")
    files = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
    if not files:
        raise DataError(f"{folder}: expected images ({', '.join(sorted(IMAGE_SUFFIXES))}), found none")
    return sorted(files, key=natural_key)


def read_boxes(path: Path, row: RowForm = "xywh") -> np.ndarray:
    """Annotation file as (n, 4) float64 x, y, w, h; numbers may be separated by commas, tabs or spaces.

    row: "xywh"; "corners" = x1 y1 x2 y2; "xywh+4" = four more numbers may follow and are not read;
    "polygon" = xywh, or eight numbers of a quadrilateral, which becomes its upright bounding box.
    Rows with NaN, or without an area, say that the target is absent and come back as NaN.
    """
    rows = [_box_row(path, i, line, row) for i, line in enumerate(_lines(path), 1)]
    if not rows:
        raise DataError(f"{path}: expected one box a line, the file is empty")
    boxes = np.array(rows, np.float64)
    boxes[~((boxes[:, 2] > 0) & (boxes[:, 3] > 0) & np.isfinite(boxes).all(axis=1))] = np.nan
    return boxes


def _box_row(path: Path, number: int, line: str, row: RowForm) -> list[float]:
    values = _numbers(path, number, line)
    if len(values) == 8 and row == "polygon":
        x, y = values[0::2], values[1::2]
        return [min(x), min(y), max(x) - min(x), max(y) - min(y)]
    if len(values) == 8 and row == "xywh+4":
        return values[:4]
    if len(values) != 4:
        expected = "4 or 8 numbers" if row in ("polygon", "xywh+4") else "4 numbers"
        raise DataError(f"{path}, line {number}: expected {expected}, got {line[:60]!r}")
    return [values[0], values[1], values[2] - values[0], values[3] - values[1]] if row == "corners" else values


def _numbers(path: Path, number: int, line: str) -> list[float]:
    try:
        return [float(word) for word in re.split(r"[,\s]+", line.strip(", \t"))]
    except ValueError:
        raise DataError(f"{path}, line {number}: expected numbers, got {line[:60]!r}") from None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error})") from error


def _column(path: Path, length: int) -> np.ndarray:
    """A file of one number a frame as (length,) float64."""
    values = np.array([_numbers(path, i, line)[0] for i, line in enumerate(_lines(path), 1)])
    if len(values) != length:
        raise DataError(f"{path}: expected one number for each of {length} frames, got {len(values)}")
    return values


def _detect(path: Path, layout: str) -> str | None:
    if layout not in (*LAYOUT_NAMES, "auto"):
        raise DataError(f"layout {layout!r}: expected auto or one of {', '.join(LAYOUT_NAMES)}")
    if layout in ("auto", VOT) and (path / "sequence").is_file() and (path / "groundtruth.txt").is_file():
        return VOT
    names = LAYOUTS if layout == "auto" else [layout] if layout in LAYOUTS else []
    # A layout asked for by name need not show its telling image names.
    return next((n for n in names if LAYOUTS[n].matches(path)), None)


def _wrong_folder(path: Path, layout: str) -> str:
    if not path.is_dir():
        what = "this is a file" if path.exists() else "there is no such folder"
        return f"{path}: expected a sequence folder, {what}"
    known = {name: row.describe() for name, row in LAYOUTS.items()} | {VOT: VOT_DESCRIPTION}
    wanted = known.values() if layout == "auto" else [known[layout]]
    names = sorted(p.name + "/" * p.is_dir() for p in path.iterdir())
    found = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "") or "nothing"
    return f"{path}: not a sequence. Expected " + "; ".join(wanted) + f". Found: {found}"


def _listed(path: Path) -> list[Path]:
    """The sequences that a list.txt names (VOT keeps it below sequences/)."""
    for root in (path, path / "sequences"):
        if (root / "list.txt").is_file():
            return [root / name.strip() for name in _lines(root / "list.txt") if name.strip()]
    return []


def _search(path: Path, layout: str, depth: int) -> list[Path]:
    if not path.is_dir():
        return []
    found: list[Path] = []
    for folder in sorted((p for p in path.iterdir() if p.is_dir()), key=natural_key):
        if _detect(folder, layout) is not None:
            found.append(folder)
        elif depth > 1:
            found.extend(_search(folder, layout, depth - 1))
    return found


def _load_folder(path: Path, layout: Layout) -> FolderSequence:
    meta = _read_meta(path)
    annotation = next(path / name for name in layout.annotations if (path / name).is_file())
    rgb = list_images(path / layout.rgb)
    aux = list_images(path / layout.aux) if layout.aux else []
    modality = layout.modality
    only = _only_stream(meta)
    if only is not None and not aux:
        rgb, aux, modality = [], rgb, only
    count = _check_counts(path, rgb, aux)
    boxes, labelled = _expand(annotation, read_boxes(annotation, layout.row), rgb or aux, layout.label_step)
    aux_boxes = None
    if layout.aux_annotation is not None and (path / layout.aux_annotation).is_file():
        file = path / layout.aux_annotation
        aux_boxes, _ = _expand(file, read_boxes(file, layout.row), rgb, layout.label_step)
    if layout.present_file is not None and (path / layout.present_file).is_file():
        boxes[_column(path / layout.present_file, count) == 0] = np.nan
    return FolderSequence(
        path, layout.name, rgb, aux, modality, boxes, _stamps(path, meta, count), aux_boxes=aux_boxes, labelled=labelled
    )


def _load_vot(path: Path) -> FolderSequence:
    keys = dict(line.split("=", 1) for line in _lines(path / "sequence") if "=" in line)
    channels = {k.removeprefix("channels.").strip(): v.strip() for k, v in keys.items() if k.startswith("channels.")}
    channels = channels or {"color": "color/%08d.jpg"}
    aux_name = next((name for name in VOT_CHANNELS if name in channels), None)
    if aux_name is None and "color" not in channels:
        raise DataError(f"{path / 'sequence'}: expected channels.color, .depth, .ir or .event, got {sorted(channels)}")
    rgb = _channel(path, channels["color"]) if "color" in channels else []
    aux = _channel(path, channels[aux_name]) if aux_name else []
    count = _check_counts(path, rgb, aux)
    file = path / "groundtruth.txt"
    boxes, labelled = _expand(file, read_boxes(file, "polygon"), rgb or aux, 1)
    anchors = path / "anchor.value"
    meta = {"fps": keys["fps"], **_read_meta(path)} if "fps" in keys else _read_meta(path)
    return FolderSequence(
        path,
        VOT,
        rgb,
        aux,
        VOT_CHANNELS[aux_name] if aux_name else Modality.RGB,
        boxes,
        _stamps(path, meta, count),
        labelled=labelled,
        anchors=_column(anchors, count) if anchors.is_file() else None,
    )


def _channel(path: Path, pattern: str) -> list[Path]:
    folder, suffix = path / Path(pattern).parent, Path(pattern).suffix.lower()
    return [p for p in list_images(folder) if p.suffix.lower() == suffix]


def _check_counts(path: Path, rgb: list[Path], aux: list[Path]) -> int:
    if rgb and aux and len(rgb) != len(aux):
        fewer = min(rgb, aux, key=len)
        raise DataError(
            f"{path}: {rgb[0].parent.name}/ has {len(rgb)} images and {aux[0].parent.name}/ {len(aux)}; "
            f"expected as many{_gap(fewer)}"
        )
    return len(rgb or aux)


def _gap(files: list[Path]) -> str:
    """Says which frame number is the first one missing, where the names tell."""
    numbers = [int(found[-1]) for found in (re.findall(r"\d+", p.stem) for p in files) if found]
    for before, after, file in zip(numbers, numbers[1:], files[1:]):
        if after != before + 1:
            return f" (frame number {before + 1} is missing before {file.parent.name}/{file.name})"
    return f" (the last one is {files[-1].parent.name}/{files[-1].name})"


def _expand(file: Path, boxes: np.ndarray, images: list[Path], step: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and "is labelled" for every frame; `step` > 1 where only every step-th frame has a row."""
    count = len(images)
    if len(boxes) == count:
        return boxes, np.ones(count, bool)
    if step > 1 and len(boxes) == -(-count // step):
        full, labelled = np.full((count, 4), np.nan), np.zeros(count, bool)
        full[::step], labelled[::step] = boxes, True
        return full, labelled
    missing = _gap(images) if count < len(boxes) else ""
    raise DataError(
        f"{file}: {len(boxes)} annotation rows for {count} images in {images[0].parent}/; expected as many{missing}"
    )


def _read_meta(path: Path) -> dict:
    file = path / "meta.json"
    if not file.is_file():
        return {}
    try:
        meta = json.loads(file.read_text())
    except ValueError as error:
        raise DataError(f"{file}: is not JSON ({error})") from error
    if not isinstance(meta, dict):
        raise DataError(f"{file}: expected an object, got {type(meta).__name__}")
    return meta


def _only_stream(meta: dict) -> Modality | None:
    """`"modality": "thermal only"` marks a single stream that is not RGB."""
    word = str(meta.get("modality", "")).lower()
    return next((m for m in Modality if m is not Modality.RGB and word == f"{m.value} only"), None)


def _stamps(path: Path, meta: dict, count: int) -> np.ndarray:
    """meta.json's `stamps` (s), else even ones by its `fps` (30 when absent) and `frame_step`."""
    try:
        if "stamps" in meta:
            stamps: np.ndarray = np.asarray(meta["stamps"], np.float64)
        else:
            stamps = np.arange(count) * (float(meta.get("frame_step", 1)) / float(meta.get("fps", DEFAULT_FPS)))
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise DataError(f"{path}: fps, frame_step and stamps must be numbers ({error})") from error
    if stamps.shape != (count,) or not (np.diff(stamps) > 0).all():
        raise DataError(f"{path}: expected {count} increasing stamps, got {stamps.size} (fps {meta.get('fps')})")
    return stamps
