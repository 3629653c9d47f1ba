"""Starts the tracker node, and RViz beside it on request.

    ros2 launch cmdtrack_ros tracker.launch.py modality:=depth \\
        rgb_topic:=/camera/color/image_raw aux_topic:=/camera/aligned_depth_to_color/image_raw
"""

from __future__ import annotations

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from cmdtrack_ros.ros.transport import profile_variables

SHARE = FindPackageShare("cmdtrack_ros")

# Names and order are Nav2's; modality must stand before params_file, whose default needs it.
ARGUMENTS = (
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node and of its topics"),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value="false",
        choices=["true", "false"],
        description="Take the time from /clock, as in simulation and replay",
    ),
    DeclareLaunchArgument(
        "modality",
        default_value="thermal",
        choices=["thermal", "depth", "event"],
        description="Whose parameter file is the default; a params_file of your own names its own modality",
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value=[SHARE, "/config/", LaunchConfiguration("modality"), ".yaml"],
        description="Parameters that differ from config/tracker.yaml; by default those of the modality",
    ),
    DeclareLaunchArgument(
        "autostart",
        default_value="true",
        choices=["true", "false"],
        description="Configure and activate the node at once; false leaves it to a manager",
    ),
    DeclareLaunchArgument(
        "use_respawn",
        default_value="false",
        choices=["true", "false"],
        description="Start the node again, after 2 s, when it crashes",
    ),
    DeclareLaunchArgument("log_level", default_value="info", description="Log level of the node"),
    DeclareLaunchArgument("rgb_topic", default_value="rgb/image", description="RGB images"),
    DeclareLaunchArgument(
        "aux_topic",
        default_value="aux/image",
        description="Thermal, depth or event images, registered to the RGB images",
    ),
    DeclareLaunchArgument(
        "initial_box",
        default_value="",
        description="Target on the first frame, [x, y, width, height] in px of the RGB image; "
        "empty: as params_file says",
    ),
    DeclareLaunchArgument("rviz", default_value="false", choices=["true", "false"], description="Start RViz too"),
    DeclareLaunchArgument("rviz_config", default_value=[SHARE, "/config/tracker.rviz"], description="What RViz shows"),
)


def load_transport_profile(context: LaunchContext) -> list[SetEnvironmentVariable]:
    """Fast DDS with room for images (config/fastdds.xml), where the user has chosen no transports."""
    return [SetEnvironmentVariable(name, value) for name, value in profile_variables(context.environment).items()]


def start_tracker(context: LaunchContext) -> list[Node]:
    parameters = [
        [SHARE, "/config/tracker.yaml"],
        LaunchConfiguration("params_file"),
        {name: ParameterValue(LaunchConfiguration(name), value_type=bool) for name in ("use_sim_time", "autostart")},
    ]
    box = LaunchConfiguration("initial_box").perform(context).strip("[] ")
    if box:  # an empty one must not hide that of params_file
        parameters.append({"initial_box": [float(number) for number in box.split(",")]})
    return [
        Node(
            package="cmdtrack_ros",
            executable="tracker_node",
            name="tracker",
            namespace=LaunchConfiguration("namespace"),
            output="screen",
            respawn=LaunchConfiguration("use_respawn"),
            respawn_delay=2.0,
            parameters=parameters,
            arguments=["--ros-args", "--log-level", LaunchConfiguration("log_level")],
            # Remapped, not set as parameters, so that names in a params_file of the user's own stay in force.
            remappings=[
                ("rgb/image", LaunchConfiguration("rgb_topic")),
                ("aux/image", LaunchConfiguration("aux_topic")),
            ],
        )
    ]


def generate_launch_description() -> LaunchDescription:
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        namespace=LaunchConfiguration("namespace"),
        arguments=["-d", LaunchConfiguration("rviz_config")],
        parameters=[{"use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool)}],
        # The RViz file names the topic of a node without a namespace.
        remappings=[("/tracker/overlay", "tracker/overlay")],
        condition=IfCondition(LaunchConfiguration("rviz")),
    )
    # The environment first: it is that of what is started after it, the player of replay.launch.py too.
    actions = [OpaqueFunction(function=load_transport_profile), OpaqueFunction(function=start_tracker), rviz]
    return LaunchDescription([*ARGUMENTS, *actions])
