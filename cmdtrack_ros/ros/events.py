"""The auxiliary stream of an event camera: packets become images at the moments of the RGB images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from cmdtrack_ros.errors import ImageError
from cmdtrack_ros.ros.messages import EventPacket
from cmdtrack_ros.streams.events import EventFrame, EventSlicer
from cmdtrack_ros.streams.images import fill_image
from cmdtrack_ros.streams.pairing import PairOptions, stamp_ns


class EventFrames:
    """A filter (message_filters' protocol) between the two inputs and the pairing.

    Packets come out as Images, stamped so that each pairs with its RGB image; images that a camera rendered itself
    pass. To be made before the pairing listens to RGB: a frame of what has come must be there first.

    Args:
        rgb, aux: filters of the two inputs.
        window: of a frame, seconds; 0 = the interval of the RGB images.
        report: told what is wrong with a packet.
    """

    def __init__(
        self, rgb: Any, aux: Any, window: float, max_pixels: int, options: PairOptions, report: Callable[[str], None]
    ) -> None:
        self._slicer = EventSlicer(max_pixels, report)
        self._report = report
        self._frame_id = ""
        self._callbacks: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self.configure(window, options)
        rgb.registerCallback(self._add_rgb)
        aux.registerCallback(self._add_aux)

    def registerCallback(self, cb: Callable[..., None], *args: Any) -> int:  # noqa: N802 - message_filters' name
        self._callbacks.append((cb, args))
        return len(self._callbacks) - 1

    def configure(self, window: float, options: PairOptions) -> None:
        """Other values from now on."""
        self._slicer.configure(window, options.aux_offset, options.pairing != "latest")

    def _add_rgb(self, message: Any) -> None:
        self._signal(self._slicer.add_rgb(stamp_ns(message)))

    def _add_aux(self, message: Any) -> None:
        if EventPacket is None or not isinstance(message, EventPacket):
            self._pass_on(message)
            return
        self._frame_id = message.header.frame_id
        try:
            self._signal(self._slicer.add_packet(message))
        except ImageError as error:
            self._report(str(error))

    def _signal(self, frames: list[EventFrame]) -> None:
        for frame in frames:
            seconds, nanoseconds = divmod(frame.stamp, 10**9)
            if not 0 <= seconds < 2**31:  # a stamp that no message can have
                continue
            header = Header(stamp=Time(sec=seconds, nanosec=nanoseconds), frame_id=self._frame_id)
            self._pass_on(fill_image(Image(header=header), frame.pixels, "mono8"))

    def _pass_on(self, message: Any) -> None:
        for callback, args in self._callbacks:
            callback(message, *args)
