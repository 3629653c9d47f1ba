"""Event frames as the messages of a camera that renders them itself."""

from __future__ import annotations

from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from cmdtrack_ros.streams.events import EventFrame
from cmdtrack_ros.streams.images import fill_image


def to_image(frame: EventFrame, frame_id: str) -> Image:
    """mono8: 0 negative, 128 none, 255 positive."""
    seconds, nanoseconds = divmod(frame.stamp, 10**9)
    header = Header(stamp=Time(sec=seconds, nanosec=nanoseconds), frame_id=frame_id)
    return fill_image(Image(header=header), frame.pixels, "mono8")
