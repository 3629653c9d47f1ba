"""Shapes of the networks; they travel in weights files and exported graphs. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass

STRIDE = 16
"""Pixels per cell of a feature map."""


@dataclass(frozen=True)
class StudentConfig:
    """Shape of a student.

    Attributes:
        backbone: EfficientNet-Lite variant.
        channels: width of neck, fusion and head.
        template_size, search_size: sides of the square crops, pixels, multiples of 16.
        template_factor, search_factor: crop side over sqrt(w * h) of the target's box.
    """

    backbone: str = "lite0"
    channels: int = 128
    template_size: int = 128
    search_size: int = 256
    template_factor: float = 2.0
    search_factor: float = 4.0

    def to_dict(self) -> dict:
        """The configuration as plain values, for JSON."""
        return asdict(self)
