"""Recordings as rosbag2 (MCAP or sqlite3), written and read without ROS.

Bags hold what a robot's cameras would publish: sensor_msgs/Image (or CompressedImage) on one topic a stream,
and, where known, the true box of each frame as cmdtrack_ros/msg/TargetBox.
"""

from cmdtrack_ros.data.bags.messages import (
    AUX_NOTE,
    AUX_TOPIC,
    BOX_NOTE,
    RGB_NOTE,
    RGB_TOPIC,
    TRUTH_FILE,
    TRUTH_TOPIC,
    header_stamp,
    with_stamp,
)
from cmdtrack_ros.data.bags.reader import (
    Arrival,
    Bag,
    BagOptions,
    BagSequence,
    RawMessage,
    choose_topics,
    image_arrivals,
    is_bag,
    load_bag,
)
from cmdtrack_ros.data.bags.ring import Ring
from cmdtrack_ros.data.bags.writer import WriterOptions, stamps_in_bag, write_bag, write_messages

__all__ = [
    "AUX_NOTE",
    "AUX_TOPIC",
    "BOX_NOTE",
    "RGB_NOTE",
    "RGB_TOPIC",
    "TRUTH_FILE",
    "TRUTH_TOPIC",
    "Arrival",
    "Bag",
    "BagOptions",
    "BagSequence",
    "RawMessage",
    "Ring",
    "WriterOptions",
    "choose_topics",
    "header_stamp",
    "image_arrivals",
    "is_bag",
    "load_bag",
    "stamps_in_bag",
    "with_stamp",
    "write_bag",
    "write_messages",
]
