"""Python's logging, where the operator of a ROS node looks: on the console in ROS' format, and on /rosout."""

from __future__ import annotations

import logging

from rclpy.impl.rcutils_logger import RcutilsLogger


class RosoutHandler(logging.Handler):
    """Hands records to a node's logger, whose level decides what is shown."""

    def __init__(self, logger: RcutilsLogger) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        # rclpy's logger raises when one line of code logs at two severities, hence a line each.
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        elif record.levelno >= logging.INFO:
            self._logger.info(text)
        else:
            self._logger.debug(text)


def forward_logging(logger: RcutilsLogger) -> None:
    """Send what Python modules log to a node's logger: this package's all, other libraries' from warnings on."""
    logging.getLogger().addHandler(RosoutHandler(logger))
    logging.getLogger("cmdtrack_ros").setLevel(logging.DEBUG)
