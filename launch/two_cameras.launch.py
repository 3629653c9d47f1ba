"""Two trackers, each with its own pair of cameras and namespace. Copy it, and put your topics into CAMERAS.

    ros2 launch cmdtrack_ros two_cameras.launch.py modality:=thermal

They are /front/tracker and /rear/tracker, with /front/tracker/target, /front/tracker/track and so on. Two trackers on
the same cameras are two rows with the same topics.
"""

from __future__ import annotations

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.substitutions import FindPackageShare

# A namespace for each tracker, and what differs between them: any argument of tracker.launch.py.
CAMERAS = {
    "front": {"rgb_topic": "/front/rgb/image", "aux_topic": "/front/aux/image"},
    "rear": {"rgb_topic": "/rear/rgb/image", "aux_topic": "/rear/aux/image"},
}
# What all of them are told; tracker.launch.py says what each means, and checks the values.
COMMON = {
    "use_sim_time": "false",
    "params_file": "",
    "autostart": "true",
    "use_composition": "false",
    "use_respawn": "false",
    "log_level": "info",
    "modality": "",
    "record": "",
}


def generate_launch_description() -> LaunchDescription:
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description="As of tracker.launch.py, for all trackers")
        for name, default in COMMON.items()
    ]
    tracker = PythonLaunchDescriptionSource([FindPackageShare("cmdtrack_ros"), "/launch/tracker.launch.py"])
    common = {name: LaunchConfiguration(name) for name in COMMON}
    # In groups, so that the arguments of one do not reach the next.
    trackers = [
        GroupAction(
            [
                IncludeLaunchDescription(
                    tracker, launch_arguments={**common, "namespace": namespace, **differences}.items()
                )
            ]
        )
        for namespace, differences in CAMERAS.items()
    ]
    return LaunchDescription([*arguments, *trackers])
