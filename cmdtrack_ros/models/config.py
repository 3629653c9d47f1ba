"""Shapes of networks that robots run; they travel in weights files and exported graphs. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass

STRIDE = 16
"""Pixels of a crop per cell of the deepest feature map."""
TEMPLATE_FIELDS = ("keys", "values", "pooled", "mask")
"""Order of a template's parts outside of torch; see ``models.fusion.TemplateFeatures``."""


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """The crops a network is made for.

    Attributes:
        template_size, search_size: sides of the square crops, pixels, multiples of 16.
        template_factor, search_factor: crop side over sqrt(w * h) of the target's box.
    """

    template_size: int = 128
    search_size: int = 256
    template_factor: float = 2.0
    search_factor: float = 4.0

    def to_dict(self) -> dict:
        """The whole configuration as plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class StudentConfig(CropConfig):
    """Shape of a student.

    Attributes:
        backbone: EfficientNet-Lite variant.
        channels: width of neck, fusion and head.
    """

    backbone: str = "lite0"
    channels: int = 128
