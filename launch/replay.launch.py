"""Plays a recording beside the tracker node, in the recording's own time.

    ros2 launch cmdtrack_ros replay.launch.py bag:=walk modality:=thermal \\
        rgb_topic:=/camera/image_raw aux_topic:=/thermal/image_raw initial_box:="[312, 140, 48, 96]"
"""

from __future__ import annotations

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, IncludeLaunchDescription, OpaqueFunction, TimerAction
from launch.conditions import IfCondition, UnlessCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.substitutions import FindPackageShare

SHARE = FindPackageShare("cmdtrack_ros")

# tracker.launch.py declares the rest (namespace, params_file, autostart, use_composition, use_respawn, log_level,
# modality, rgb_topic, aux_topic, initial_box, record, rviz, rviz_config, rviz_frame); what is given on the command
# line reaches it.
ARGUMENTS = (
    DeclareLaunchArgument("bag", description="The recording: a rosbag2 folder, or an MCAP file"),
    DeclareLaunchArgument("rate", default_value="1.0", description="Speed of the replay; 2.0 is twice as fast"),
    DeclareLaunchArgument(
        "loop", default_value="false", choices=["true", "false"], description="Start over at the end, for ever"
    ),
    DeclareLaunchArgument(
        "delay",
        default_value="3.0",
        description="Seconds before the replay starts, so that the network is loaded by then",
    ),
)


def find_player(context: LaunchContext) -> None:  # noqa: ARG001
    try:
        get_package_prefix("ros2bag")
    except PackageNotFoundError:
        raise RuntimeError(
            "ros2bag is not installed (apt install ros-$ROS_DISTRO-ros2bag ros-$ROS_DISTRO-rosbag2-storage-mcap); "
            "`cmdtrack bag play` plays a recording without it"
        ) from None


def generate_launch_description() -> LaunchDescription:
    tracker = IncludeLaunchDescription(
        PythonLaunchDescriptionSource([SHARE, "/launch/tracker.launch.py"]),
        launch_arguments={"use_sim_time": "true"}.items(),
    )
    # 100 Hz: the node's latency figures come from this clock, and are no finer than it.
    play = [
        "ros2",
        "bag",
        "play",
        LaunchConfiguration("bag"),
        "--clock",
        "100",
        "--rate",
        LaunchConfiguration("rate"),
        "--disable-keyboard-controls",
    ]
    loop = LaunchConfiguration("loop")
    player = [
        ExecuteProcess(cmd=play, output="screen", condition=UnlessCondition(loop)),
        ExecuteProcess(cmd=[*play, "--loop"], output="screen", condition=IfCondition(loop)),
    ]
    # A timer and not the player's own --delay, which waits before every round of a loop.
    delayed = TimerAction(period=LaunchConfiguration("delay"), actions=player)
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=find_player), tracker, delayed])
