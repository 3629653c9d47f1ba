"""What our bags hold: topics, message types, and stamps in serialised messages."""

from __future__ import annotations

import struct

from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from cmdtrack_ros.errors import DataError
from cmdtrack_ros.streams.events import EVENT_PACKET

RGB_TOPIC = "/rgb/image"
AUX_TOPIC = "/aux/image"
TRUTH_TOPIC = "/ground_truth"
TRUTH_FILE = "boxes.txt"
"""In a bag's folder: its true boxes, one a line for each RGB image."""
RGB_NOTE, AUX_NOTE, BOX_NOTE = "rgb_topic", "aux_topic", "initial_box"
"""What a bag may note of itself: its image topics, and `x,y,w,h` of the target in the first RGB image, in pixels.
Such a box was a tracker's own answer, from which it is started again; it is no truth."""
IMAGE = "sensor_msgs/msg/Image"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
TF_STATIC = "/tf_static"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
TARGET_BOX = "cmdtrack_ros/msg/TargetBox"
DETECTIONS = "vision_msgs/msg/Detection2DArray"
# As in msg/TargetBox.msg (a test compares the two): bags are read where that file isn't installed, too.
TARGET_BOX_DEFINITION = """
std_msgs/Header header
string target_id
string class_id
float64 x
float64 y
float64 width
float64 height
"""
# As event_camera_msgs has it: sqlite3 bags do not say.
EVENT_PACKET_DEFINITION = """
std_msgs/Header header
uint32 height
uint32 width
uint64 seq
uint64 time_base
string encoding
bool is_bigendian
uint8[] events
"""


def message_types() -> Typestore:
    """The message definitions of ROS 2, our own, and that of event packets."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    store.register(get_types_from_msg(TARGET_BOX_DEFINITION, TARGET_BOX))
    store.register(get_types_from_msg(EVENT_PACKET_DEFINITION, EVENT_PACKET))
    return store


def header_stamp(data: bytes) -> int:
    """Stamp in ns of a serialised message whose first field is a std_msgs/Header; DataError where it ends before."""
    seconds, nanoseconds = struct.unpack_from(_stamp_format(data), data, 4)
    return seconds * 10**9 + nanoseconds


def with_stamp(data: bytes, time_ns: int) -> bytes:
    """The same serialised message (first field a std_msgs/Header) with another stamp; errors as `header_stamp`."""
    out = bytearray(data)
    struct.pack_into(_stamp_format(data), out, 4, time_ns // 10**9, time_ns % 10**9)
    return bytes(out)


def _stamp_format(data: bytes) -> str:
    if len(data) < 12:
        raise DataError(f"expected 12 bytes up to the stamp, got {len(data)}")
    # CDR: four bytes of encapsulation, the lowest bit of the second one tells little endian.
    return "<iI" if data[1] & 1 else ">iI"
