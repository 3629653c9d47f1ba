"""The exceptions this package raises on bad input. Every message names what was expected and what came."""

from __future__ import annotations


class CmdtrackError(Exception):
    """Base of all errors a caller may want to catch and show without a traceback."""


class ConfigError(CmdtrackError, ValueError):
    """A parameter or configuration value that cannot be used."""


class DataError(CmdtrackError):
    """A file, folder or recording that is missing, truncated or laid out otherwise than expected."""


class ImageError(CmdtrackError, ValueError):
    """An image whose size, type or encoding cannot be used."""


class WeightsError(CmdtrackError):
    """A weights file that is missing, damaged, or belongs to another model."""
