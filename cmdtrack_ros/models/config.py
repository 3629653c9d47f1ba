"""Shapes of networks that robots run; they travel in weights files and exported graphs. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

STRIDE = 16
"""Pixels of a crop per cell of the deepest feature map."""
TEMPLATE_FIELDS = ("keys", "values", "pooled", "mask")
"""Order of a template's parts outside of torch; see ``models.fusion.TemplateFeatures``."""

BACKBONES = {"lite0": (1.0, 1.0), "lite2": (1.1, 1.2)}
"""Scale of width and depth of each EfficientNet-Lite variant."""
LIMITS: dict[str, tuple[float, float]] = {
    "template_size": (STRIDE, 1024),
    "search_size": (STRIDE, 1024),
    "template_factor": (1, 16),
    "search_factor": (1, 16),
    "channels": (8, 1024),
    "heads": (1, 64),
    "streams": (1, 2),
    "patch": (STRIDE, 1024),
}
"""Lowest and highest of the numbers of all networks' configurations: a typing error must not take the whole memory."""


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """The crops a network is made for. ValueError for numbers that cannot be.

    Attributes:
        template_size, search_size: sides of the square crops, pixels, multiples of 16.
        template_factor, search_factor: crop side over sqrt(w * h) of the target's box.
    """

    template_size: int = 128
    search_size: int = 256
    template_factor: float = 2.0
    search_factor: float = 4.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, kind = getattr(self, field.name), type(field.default)
            if type(value) is not kind and (kind, type(value)) != (float, int):
                raise ValueError(f"{field.name}: expected {kind.__name__}, got {value!r}")
            if field.name == "backbone":
                self._check_backbone(value)
            else:
                self._check_number(field.name, value)

    @staticmethod
    def _check_backbone(name: str) -> None:
        if name not in BACKBONES:
            raise ValueError(f"backbone: expected one of {', '.join(BACKBONES)}, got {name!r}")

    @staticmethod
    def _check_number(name: str, value: float) -> None:
        low, high = LIMITS[name]
        if not low <= value <= high:
            raise ValueError(f"{name}: expected {low} to {high}, got {value}")
        if name.endswith("_size") and value % STRIDE:
            raise ValueError(f"{name}: expected a multiple of {STRIDE}, got {value}")

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
