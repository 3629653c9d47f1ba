"""Starts the tracker on RGB and depth, with a detector's person as the target, for a robot that follows it.

    ros2 launch cmdtrack_ros follow.launch.py detections_topic:=/detector/detections \\
        rgb_topic:=/camera/color/image_raw aux_topic:=/camera/aligned_depth_to_color/image_raw

docs/follow_person.md has the rest of the robot: the detector, and Nav2's following server.
"""

from __future__ import annotations

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import SetRemap
from launch_ros.substitutions import FindPackageShare

SHARE = FindPackageShare("cmdtrack_ros")

# tracker.launch.py declares the rest (namespace, use_sim_time, autostart, use_respawn, log_level, rgb_topic, aux_topic,
# initial_box, detections_class, detections_score, rviz, rviz_config); what is given on the command line reaches it.
ARGUMENTS = (
    DeclareLaunchArgument(
        "detections_topic",
        default_value="detections",
        description="The detector's vision_msgs/Detection2DArray, in px of the RGB image",
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value=[SHARE, "/config/follow.yaml"],
        description="A file of yours in place of config/follow.yaml, with what else differs: copy it",
    ),
)


def generate_launch_description() -> LaunchDescription:
    tracker = IncludeLaunchDescription(
        PythonLaunchDescriptionSource([SHARE, "/launch/tracker.launch.py"]),
        launch_arguments={"modality": "depth"}.items(),
    )
    detections = SetRemap(src="detections", dst=LaunchConfiguration("detections_topic"))
    return LaunchDescription([*ARGUMENTS, GroupAction([detections, tracker])])
