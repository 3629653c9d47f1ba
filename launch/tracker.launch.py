"""Starts the tracker node, and on request RViz and a recorder of losses beside it.

    ros2 launch cmdtrack_ros tracker.launch.py modality:=depth \\
        rgb_topic:=/camera/color/image_raw aux_topic:=/camera/aligned_depth_to_color/image_raw
"""

from __future__ import annotations

from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.logging import get_logger
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from cmdtrack_ros.ros.transport import profile_variables

SHARE = FindPackageShare("cmdtrack_ros")
MODALITIES = ("thermal", "depth", "event", "rgb")
SWITCH = ["true", "false", "True", "False"]  # Nav2's launch files hand on True and False

# Names and order are Nav2's. Of values that are given twice, these arguments' go before params_file's.
ARGUMENTS = (
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node and of its topics"),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value="false",
        choices=SWITCH,
        description="Take the time from /clock, as in simulation and replay",
    ),
    DeclareLaunchArgument(
        "modality",
        default_value="",
        description="thermal, depth, event, or rgb for RGB alone: takes over the parameters that differ for it "
        "(config/depth.yaml, ...); empty: as params_file says, else thermal",
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value="",
        description="A file of yours with the parameters that differ from config/tracker.yaml and from the modality's",
    ),
    DeclareLaunchArgument(
        "autostart",
        default_value="true",
        choices=SWITCH,
        description="Configure and activate the node at once; false leaves it to a manager",
    ),
    DeclareLaunchArgument(
        "use_composition",
        default_value="false",
        choices=SWITCH,
        description="Nav2's; not possible here: rclpy has no component composition, the node is a process of its own",
    ),
    DeclareLaunchArgument(
        "use_respawn",
        default_value="false",
        choices=SWITCH,
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
    DeclareLaunchArgument(
        "detections_class",
        default_value="",
        description="Class ids that are taken from the detector, with commas between; empty: as params_file says",
    ),
    DeclareLaunchArgument(
        "detections_score",
        default_value="",
        description="Score of a detection that is taken, at least; empty: as params_file says",
    ),
    DeclareLaunchArgument(
        "record",
        default_value="",
        description="Folder where the 20 s before a loss of the target go as a bag (`cmdtrack record`); empty: none do",
    ),
    DeclareLaunchArgument("rviz", default_value="false", choices=SWITCH, description="Start RViz too"),
    DeclareLaunchArgument("rviz_config", default_value=[SHARE, "/config/tracker.rviz"], description="What RViz shows"),
    DeclareLaunchArgument(
        "rviz_frame", default_value="map", description="RViz' fixed frame; without tf, the frame_id of the RGB images"
    ),
)


def load_transport_profile(context: LaunchContext) -> list[SetEnvironmentVariable]:
    """Fast DDS with room for images (config/fastdds.xml), where the user has chosen no transports."""
    return [SetEnvironmentVariable(name, value) for name, value in profile_variables(context.environment).items()]


def start_tracker(context: LaunchContext) -> list[Node]:
    modality = modality_in(context)
    parameters = [[SHARE, "/config/tracker.yaml"]]
    if modality:
        parameters.append([SHARE, "/config/", modality, ".yaml"])
    parameters += params_file_in(context)
    if modality:
        parameters.append({"modality": modality})
    parameters.append(
        {name: ParameterValue(LaunchConfiguration(name), value_type=bool) for name in ("use_sim_time", "autostart")}
    )
    if box := initial_box_in(context):
        parameters.append({"initial_box": box})
    for name, kind in (("detections_class", str), ("detections_score", float)):
        if LaunchConfiguration(name).perform(context):
            parameters.append({name: ParameterValue(LaunchConfiguration(name), value_type=kind)})
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


def refuse_composition(context: LaunchContext) -> None:  # noqa: ARG001
    get_logger("tracker.launch").warning(
        "use_composition:=true is not possible: rclpy has no component composition. The tracker is started as a "
        "process of its own; images reach it through shared memory, see config/fastdds.xml"
    )


def start_recorder(context: LaunchContext) -> list[ExecuteProcess]:
    """`cmdtrack record` beside the tracker, in the tracker's time."""
    folder = LaunchConfiguration("record").perform(context)
    if not folder:
        return []
    namespace = LaunchConfiguration("namespace").perform(context).strip("/")
    command = [
        Path(get_package_prefix("cmdtrack_ros")) / "lib" / "cmdtrack_ros" / "cmdtrack",
        "record",
        Path(folder).expanduser(),
        "--tracker",
        f"/{namespace}/tracker" if namespace else "/tracker",
    ]
    if LaunchConfiguration("use_sim_time").perform(context).lower() == "true":
        command.append("--use-sim-time")
    return [ExecuteProcess(cmd=[str(word) for word in command], output="screen")]


def modality_in(context: LaunchContext) -> str:
    modality = LaunchConfiguration("modality").perform(context)
    if modality and modality not in MODALITIES:
        raise RuntimeError(
            f"modality:={modality}: expected one of {', '.join(MODALITIES)}: what the camera beside the RGB one sees, "
            "or rgb without one"
        )
    return modality


def params_file_in(context: LaunchContext) -> list[str]:
    """The user's file, if there is one; launch_ros itself only warns of one that is missing."""
    path = LaunchConfiguration("params_file").perform(context)
    if path and not Path(path).is_file():
        raise RuntimeError(f"params_file:={path}: there is no such file (searched from {Path.cwd()})")
    return [path] if path else []


def initial_box_in(context: LaunchContext) -> list[float]:
    """Four numbers, or none: an empty box must not hide that of params_file. The node checks their values."""
    text = LaunchConfiguration("initial_box").perform(context)
    words = text.strip("[] ").split(",")
    if words == [""]:
        return []
    try:
        x, y, width, height = map(float, words)
    except ValueError:
        raise RuntimeError(
            f"initial_box:={text}: expected four numbers, x, y, width and height in px of the RGB image, "
            'such as initial_box:="[312, 140, 48, 96]"'
        ) from None
    return [x, y, width, height]


def start_rviz(context: LaunchContext) -> list[Node]:  # noqa: ARG001
    """RViz, which a headless robot lacks and which the tracker does not need."""
    try:
        get_package_prefix("rviz2")
    except PackageNotFoundError:
        get_logger("tracker.launch").warning(
            "rviz:=true, but rviz2 is not installed (apt install ros-$ROS_DISTRO-rviz2); started without it"
        )
        return []
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        namespace=LaunchConfiguration("namespace"),
        arguments=["-d", LaunchConfiguration("rviz_config"), "-f", LaunchConfiguration("rviz_frame")],
        parameters=[{"use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool)}],
        # The RViz file names the topics of a node without a namespace.
        remappings=[(f"/tracker/{name}", f"tracker/{name}") for name in ("overlay", "markers", "target_pose")],
    )
    return [rviz]


def generate_launch_description() -> LaunchDescription:
    rviz = OpaqueFunction(function=start_rviz, condition=IfCondition(LaunchConfiguration("rviz")))
    # The environment first: it is that of what is started after it, the player of replay.launch.py too.
    actions = [
        OpaqueFunction(function=load_transport_profile),
        OpaqueFunction(function=refuse_composition, condition=IfCondition(LaunchConfiguration("use_composition"))),
        OpaqueFunction(function=start_tracker),
        OpaqueFunction(function=start_recorder),
        rviz,
    ]
    return LaunchDescription([*ARGUMENTS, *actions])
