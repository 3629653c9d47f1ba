"""How a network's crops are cut around the target: the part that the configurations of all networks share."""

from __future__ import annotations

from dataclasses import asdict, dataclass


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
