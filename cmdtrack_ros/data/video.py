"""Video files as sequences, and pictures written as a video that any player opens (H.264 in MP4)."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np

from cmdtrack_ros.data.sequences import ImageSequence
from cmdtrack_ros.errors import DataError
from cmdtrack_ros.modalities import Modality

VIDEO_SUFFIXES = {".mp4", ".mkv", ".avi", ".mov", ".webm"}


class VideoFile:
    """Frames of a video, HxWx3 uint8 RGB. In order, each is decoded once; stepping back starts over."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise DataError(f"{self.path}: expected a video file, there is none")
        self.stamps = self._read_stamps()
        self._frames: Iterator[np.ndarray] | None = None
        self._next = 0
        self._last: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.stamps)

    def __getitem__(self, index: int) -> np.ndarray:
        """Frame `index`; DataError when the file does not decode that far."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path}: frame {index} of {len(self)}")
        if self._frames is None or index < self._next - 1:
            self._frames, self._next = self._decode(), 0
        while self._last is None or self._next <= index:
            self._last = self._following(self._frames)
        return self._last

    def __getstate__(self) -> dict:
        # A decoder cannot travel to another process; the next access opens one there.
        return {**self.__dict__, "_frames": None, "_next": 0, "_last": None}

    def _following(self, frames: Iterator[np.ndarray]) -> np.ndarray:
        try:
            frame = next(frames)
        except (StopIteration, av.FFmpegError) as error:
            raise DataError(f"{self.path}: frame {self._next} of {len(self)} does not decode ({error})") from error
        self._next += 1
        return frame

    def _decode(self) -> Iterator[np.ndarray]:
        with av.open(str(self.path)) as container:
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")

    def _read_stamps(self) -> np.ndarray:
        try:
            with av.open(str(self.path)) as container:
                if not container.streams.video:
                    raise DataError(f"{self.path}: expected a video stream, found none")
                stream = container.streams.video[0]
                # Packets come in decoding order, hence the sort.
                stamps = sorted(p.pts for p in container.demux(stream) if p.pts is not None and p.size)
                seconds = np.array(stamps, np.float64) * float(stream.time_base or 0)
        except av.FFmpegError as error:
            raise DataError(f"{self.path}: does not open as a video ({error})") from error
        if not len(seconds) or not (np.diff(seconds) > 0).all():
            raise DataError(f"{self.path}: expected frames with increasing times, got {len(seconds)} frames")
        return seconds


class VideoSequence(ImageSequence):
    """A recording in one video file, or in two of equal length for two cameras; without boxes unless given.

    boxes: (n, 4) as in `ImageSequence`, or None.
    """

    def __init__(
        self,
        rgb: str | Path,
        aux: str | Path | None = None,
        modality: Modality | str = Modality.THERMAL,
        boxes: np.ndarray | None = None,
    ) -> None:
        self._rgb = VideoFile(rgb)
        self._aux = None if aux is None else VideoFile(aux)
        count = len(self._rgb)
        if self._aux is not None and len(self._aux) != count:
            raise DataError(f"{rgb} has {count} frames and {aux} {len(self._aux)}; expected as many")
        boxes = np.full((count, 4), np.nan) if boxes is None else boxes
        if boxes.shape != (count, 4):
            raise DataError(f"{rgb}: {len(boxes)} boxes for {count} frames; expected as many")
        super().__init__(Path(rgb).stem, Modality.RGB if aux is None else Modality(modality), boxes, self._rgb.stamps)

    def rgb(self, index: int) -> np.ndarray | None:
        return self._rgb[index]

    def aux(self, index: int) -> np.ndarray | None:
        return None if self._aux is None else self._aux[index]


class VideoWriter:
    """Writes HxWx3 uint8 RGB pictures of one size as H.264; use it as a context manager."""

    def __init__(self, path: str | Path, fps: float, quality: int = 20) -> None:
        """quality: H.264's constant rate factor, 0 (lossless) to 51; lower is larger and better."""
        self._container = av.open(str(path), "w")
        self._stream = self._container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {"crf": str(quality), "preset": "veryfast"}
        self._sized = False

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sized:
            self._container.mux(self._stream.encode())
        self._container.close()

    def write(self, picture: np.ndarray) -> None:
        # yuv420p halves the colour planes, so a side must be even.
        picture = np.ascontiguousarray(picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2])
        if not self._sized:
            self._stream.height, self._stream.width = picture.shape[:2]
            self._sized = True
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
