"""What our bags hold: stamps in serialised messages, and the definition of the truth's message."""

from __future__ import annotations

from pathlib import Path

from rosbags.typesys import get_types_from_msg

from cmdtrack_ros.data.bags.messages import TARGET_BOX, TARGET_BOX_DEFINITION, header_stamp, message_types, with_stamp


def test_stamps_of_serialised_messages() -> None:
    store = message_types()
    for kind in ("little", "big"):
        header = store.types["std_msgs/msg/Header"](store.types["builtin_interfaces/msg/Time"](12, 34), "frame")
        box = store.types[TARGET_BOX](header, "me", "", 1.0, 2.0, 3.0, 4.0)
        data = bytes(store.serialize_cdr(box, TARGET_BOX, little_endian=kind == "little"))
        assert header_stamp(data) == 12_000_000_034
        moved = store.deserialize_cdr(with_stamp(data, 56_000_000_078), TARGET_BOX)
        assert (moved.header.stamp.sec, moved.header.stamp.nanosec) == (56, 78)
        assert (moved.header.frame_id, moved.target_id, moved.height) == ("frame", "me", 4.0)


def test_the_definition_of_target_box_is_the_packages_own(repository: Path) -> None:
    text = (repository / "msg" / "TargetBox.msg").read_text()
    assert get_types_from_msg(text, TARGET_BOX) == get_types_from_msg(TARGET_BOX_DEFINITION, TARGET_BOX)
