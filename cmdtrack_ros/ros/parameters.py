"""The tracker node's parameters: one table of names, defaults, units, ranges and meaning."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import InvalidParameterValueException, NameValidationException
from rclpy.node import Node
from rclpy.parameter import Parameter

from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.modalities import THERMAL_UNITS, AuxEncoding
from cmdtrack_ros.ros.qos import TRANSPORTS
from cmdtrack_ros.streams.events import EVENT_WINDOW_RANGE
from cmdtrack_ros.streams.images import MAX_PIXELS
from cmdtrack_ros.streams.pairing import PAIRINGS, RANGES, PairOptions
from cmdtrack_ros.streams.registration import METHODS, Registration, is_homography
from cmdtrack_ros.streams.registration import RANGES as REGISTRATION_RANGES
from cmdtrack_ros.tracking.engines.choose import DEVICES, ENGINES, PRECISIONS
from cmdtrack_ros.tracking.states import RANGES as STATE_RANGES
from cmdtrack_ros.tracking.states import StateConfig


@dataclass(frozen=True)
class Settings:
    """The values of all parameters, checked; see `SPECS` for units and meaning."""

    autostart: bool
    modality: str
    weights: str
    weights_sha256: str
    engine: str
    device: str
    precision: str
    threads: int
    rgb_topic: str
    aux_topic: str
    rgb_transport: str
    aux_transport: str
    rgb_camera_info: str
    aux_camera_info: str
    reliability: str
    pairing: str
    slop: float
    latest_gap: float
    aux_timeout: float
    aux_offset: float
    queue_size: int
    registration: str
    registration_homography: tuple[float, ...]
    registration_distance: float
    aux_translation: tuple[float, ...]
    aux_rotation: tuple[float, ...]
    max_pixels: int
    event_window: float
    thermal_range: tuple[float, ...]
    thermal_unit: str
    depth_max: float
    depth_unit: float
    range_smoothing: float
    target_frame: str
    initial_box: tuple[float, ...]
    max_targets: int
    target_history: float
    target_history_mb: int
    click_topic: str
    detections_topic: str
    detections_class: str
    detections_score: float
    score_confident: float
    score_doubtful: float
    score_found: float
    lost_after: int
    found_after: int
    data_timeout: float
    process_every_pair: bool
    overlay_quality: int

    def registering(self) -> Registration:
        """How auxiliary images come onto RGB images; ConfigError where the method lacks what it needs."""
        return Registration(**{name: getattr(self, name) for name in Registration.__dataclass_fields__})

    def states(self) -> StateConfig:
        """Thresholds of the target's states; ConfigError where one contradicts another."""
        return StateConfig(**{name: getattr(self, name) for name in STATE_RANGES})

    def encoding(self) -> AuxEncoding:
        """How sensor values become pictures."""
        low, high = self.thermal_range or (math.nan, math.nan)
        return AuxEncoding(low, high, self.depth_max, self.depth_unit, self.range_smoothing, self.thermal_unit)


@dataclass(frozen=True)
class Spec:
    """One parameter. `live` ones take effect at once, the others when the node is configured.

    A list is empty or has one number, from `low` to `high`, for each of `items`, and `valid` accepts it
    (`condition` says what it expects).
    """

    name: str
    default: Any
    text: str
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    live: bool = False
    topic: bool = False
    items: tuple[str, ...] = ()
    condition: str = ""
    valid: Callable[[tuple[float, ...]], bool] = bool

    def read(self, value: Any) -> Any:
        """The value in its Python type; a whole number passes for a floating-point one.

        Raises:
            ConfigError: wrong type, out of range, or none of the choices.
        """
        if isinstance(self.default, list):
            return self._read_list(value)
        kind = type(self.default)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not kind:
            raise ConfigError(f"parameter '{self.name}': expected {_TYPE_NAMES[kind]}, got {value!r}")
        if self.choices and value not in self.choices:
            raise ConfigError(f"parameter '{self.name}': expected one of {', '.join(self.choices)}, got {value!r}")
        if kind in (int, float) and not self.low <= value <= self.high:
            raise ConfigError(f"parameter '{self.name}': expected {self.low:g} to {self.high:g}, got {value!r}")
        return value

    def _read_list(self, value: Any) -> tuple[float, ...]:
        numbers = list(value) if isinstance(value, (list, tuple, array)) else value
        if numbers == []:
            return ()
        if not isinstance(numbers, list) or len(numbers) != len(self.items) or not self._are_numbers(numbers):
            raise ConfigError(
                f"parameter '{self.name}': expected [] or {', '.join(self.items)}{self.condition}, "
                f"each from {self.low:g} to {self.high:g}, got {numbers!r}"
            )
        return tuple(float(n) for n in numbers)

    def _are_numbers(self, entries: list[Any]) -> bool:
        numbers = all(type(n) in (int, float) and self.low <= n <= self.high for n in entries)
        return numbers and self.valid(tuple(entries))

    def descriptor(self) -> ParameterDescriptor:
        when = "Takes effect at once." if self.live else "Takes effect when the node is configured."
        descriptor = ParameterDescriptor(name=self.name, description=f"{self.text} {when}", dynamic_typing=True)
        if self.choices:
            descriptor.additional_constraints = f"one of: {', '.join(self.choices)}"
        if math.isfinite(self.low) and isinstance(self.default, float):
            descriptor.floating_point_range = [FloatingPointRange(from_value=self.low, to_value=self.high)]
        if math.isfinite(self.low) and isinstance(self.default, int):
            descriptor.integer_range = [IntegerRange(from_value=int(self.low), to_value=int(self.high), step=1)]
        return descriptor


_PAIRING_DEFAULTS, _ENCODING_DEFAULTS, _STATE_DEFAULTS = PairOptions(), AuxEncoding(), StateConfig()
_TYPE_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}

SPECS = (
    Spec("autostart", True, "Configure and activate by itself; false leaves that to a lifecycle manager."),
    Spec(
        "modality",
        "thermal",
        "What the auxiliary stream carries; rgb tracks in RGB alone.",
        choices=("thermal", "depth", "event", "rgb"),
    ),
    Spec(
        "weights",
        "",
        "Path of a weights file (safetensors); nano: half the cost; permissive: for products; empty: the shipped ones.",
    ),
    Spec("weights_sha256", "", "SHA-256 that the weights file must have (hexadecimal); empty checks nothing."),
    Spec(
        "engine", "auto", "What runs the network; auto takes torch on a GPU and ONNX Runtime on a CPU.", choices=ENGINES
    ),
    Spec("device", "auto", "Where the network runs; auto takes a GPU where there is one.", choices=DEVICES),
    Spec(
        "precision",
        "auto",
        "Numbers that the network computes with; auto takes half precision on a GPU, on a CPU int8 where the "
        "processor has instructions for it, else fp32.",
        choices=PRECISIONS,
    ),
    Spec("threads", 0, "CPU threads of the network; 0 takes one per core.", 0, 256),
    Spec(
        "rgb_topic",
        "rgb/image",
        "RGB images: sensor_msgs/Image, or CompressedImage where the topic carries that.",
        topic=True,
    ),
    Spec(
        "aux_topic",
        "aux/image",
        "Auxiliary images, registered to RGB: Image, CompressedImage or compressedDepth; for events EventPacket, too.",
        topic=True,
    ),
    Spec(
        "rgb_transport",
        "auto",
        "image_transport of the RGB images, whose end is added to rgb_topic; auto takes what is published there, and "
        "where nobody is, the /compressed topic beside it.",
        choices=TRANSPORTS,
    ),
    Spec(
        "aux_transport",
        "auto",
        "The same of the auxiliary images, which may be compressedDepth too.",
        choices=TRANSPORTS,
    ),
    Spec(
        "rgb_camera_info",
        "",
        "Calibration of the RGB camera (sensor_msgs/CameraInfo); empty for camera_info beside the RGB images.",
        topic=True,
    ),
    Spec(
        "aux_camera_info",
        "",
        "Calibration of the auxiliary camera (CameraInfo); empty for camera_info beside the auxiliary images.",
        topic=True,
    ),
    Spec(
        "reliability",
        "auto",
        "Reliability asked of the image publishers; auto follows what they offer. qos_overrides of a topic go before.",
        choices=("auto", "reliable", "best_effort"),
    ),
    Spec(
        "pairing",
        _PAIRING_DEFAULTS.pairing,
        "The auxiliary image that an RGB image is tracked with: the nearest in time within slop, the one of exactly "
        "its stamp, or the latest that has come, for which nothing waits.",
        choices=PAIRINGS,
        live=True,
    ),
    Spec(
        "slop",
        _PAIRING_DEFAULTS.slop,
        "Largest stamp gap in s of a pair by pairing nearest, inclusive; 0 pairs equal stamps only, as exact does. "
        "More tolerates free-running cameras, and lets the two images show different moments.",
        *RANGES["slop"],
        live=True,
    ),
    Spec(
        "latest_gap",
        _PAIRING_DEFAULTS.latest_gap,
        "Largest stamp gap in s of a pair by pairing latest, inclusive. More goes on with older auxiliary images, "
        "which show where the target was then.",
        *RANGES["latest_gap"],
        live=True,
    ),
    Spec(
        "aux_timeout",
        _PAIRING_DEFAULTS.aux_timeout,
        "Longest wait in s of an RGB image for its partner before it is tracked alone. More "
        "tolerates a slow auxiliary driver, at the price of latency whenever an image is lost.",
        *RANGES["aux_timeout"],
        live=True,
    ),
    Spec(
        "aux_offset",
        _PAIRING_DEFAULTS.aux_offset,
        "Seconds added to every auxiliary stamp; negative where that camera's clock is ahead.",
        *RANGES["aux_offset"],
        live=True,
    ),
    Spec(
        "queue_size",
        _PAIRING_DEFAULTS.queue_size,
        "Images kept per stream while they wait for a partner. More bridges a larger difference "
        "in delay between the two drivers, and takes memory.",
        *RANGES["queue_size"],
    ),
    Spec(
        "registration",
        "none",
        "How auxiliary images are brought onto the RGB image: none expects equal sizes, resize stretches them over it, "
        "homography moves them by registration_homography, camera_info by both cameras' CameraInfo and mounting.",
        choices=METHODS,
        live=True,
    ),
    Spec(
        "registration_homography",
        [],
        "Nine numbers, row by row, of the matrix that maps a pixel of the auxiliary image to one of the RGB image, as "
        "`cmdtrack register` finds it; empty for none.",
        *REGISTRATION_RANGES["registration_homography"],
        live=True,
        items=("h11", "h12", "h13", "h21", "h22", "h23", "h31", "h32", "h33"),
        condition=" of an invertible matrix that enlarges less than 50 times either way",
        valid=is_homography,
    ),
    Spec(
        "registration_distance",
        Registration().registration_distance,
        "Metres from the RGB camera at which camera_info lays thermal and event images on RGB: where the targets are. "
        "Depth images need none.",
        *REGISTRATION_RANGES["registration_distance"],
        live=True,
    ),
    Spec(
        "aux_translation",
        [],
        "Where the auxiliary camera's optical frame is in the RGB camera's (x right, y down, z forward), in m, for "
        "camera_info; empty takes both translation and rotation from tf.",
        *REGISTRATION_RANGES["aux_translation"],
        live=True,
        items=("x", "y", "z"),
        valid=lambda numbers: True,
    ),
    Spec(
        "aux_rotation",
        [],
        "Roll, pitch and yaw of the same about fixed x, y, z, in rad; empty for none, beside aux_translation.",
        *REGISTRATION_RANGES["aux_rotation"],
        live=True,
        items=("roll", "pitch", "yaw"),
        valid=lambda numbers: True,
    ),
    Spec(
        "max_pixels",
        MAX_PIXELS,
        "Pixels of an image at most; a larger one is refused before it is decoded. More takes larger cameras, and "
        "memory where a header is damaged.",
        1,
        1_000_000_000,
    ),
    Spec(
        "event_window",
        0.0,
        "Seconds before an RGB image whose events its event frame shows, where the auxiliary topic has event packets; "
        "0 takes the interval of the RGB images. More shows slow edges better, and smears fast ones.",
        *EVENT_WINDOW_RANGE,
        live=True,
    ),
    Spec(
        "thermal_range",
        [],
        "What a 16-bit or float thermal image shows as black and as white, in degrees Celsius, or where thermal_unit "
        "is counts in these; empty follows the image's 1st and 99th percentile.",
        -1e6,
        1e6,
        items=("low", "high"),
        condition=" with low below high",
        valid=lambda pair: pair[0] < pair[1],
        live=True,
    ),
    Spec(
        "thermal_unit",
        _ENCODING_DEFAULTS.thermal_unit,
        "What a value of a 16-bit or float thermal image is: counts, which mean no temperature, or celsius, "
        "centikelvin or decikelvin, with which thermal_range is in degrees Celsius.",
        choices=tuple(THERMAL_UNITS),
        live=True,
    ),
    Spec(
        "depth_max",
        _ENCODING_DEFAULTS.depth_max,
        "Metres shown as the far end of the depth colours, at most; farther is far. More keeps distant "
        "targets apart, and near ones less.",
        0.1,
        1000.0,
        live=True,
    ),
    Spec(
        "depth_unit",
        _ENCODING_DEFAULTS.depth_unit,
        "Metres per unit of an integer depth image; 0.001 is REP 118's millimetre.",
        1e-6,
        1.0,
        live=True,
    ),
    Spec(
        "range_smoothing",
        _ENCODING_DEFAULTS.smoothing,
        "Share of the last range kept where the range follows the image. More flickers less, and follows "
        "a change of scene later.",
        0.0,
        0.99,
        live=True,
    ),
    Spec(
        "target_frame",
        "",
        "Frame of ~/target_pose and ~/markers, by tf2; empty for that of the RGB images. Depth alone.",
    ),
    Spec(
        "initial_box",
        [],
        "x, y, width, height in RGB pixels: a target that is started on the first frame, and again "
        "when a recording starts over; empty for none.",
        -1e5,
        1e5,
        items=("x", "y", "width", "height"),
        condition=" in pixels with width and height above 0",
        valid=lambda box: min(box[2:]) > 0,
    ),
    Spec(
        "max_targets",
        1,
        "Targets that are followed at once. With 1 a new one takes the place of the one there is; with more each has "
        "its target_id, and adds to the time per image, in the worst case as much as the first one takes.",
        1,
        16,
    ),
    Spec(
        "target_history",
        5.0,
        "Seconds of frames kept so that a target can be started on the frame its user saw. More "
        "accepts slower users, and takes memory.",
        0.0,
        60.0,
    ),
    Spec(
        "target_history_mb",
        256,
        "MiB of images that these frames may take; the oldest go first. More keeps larger images for all of "
        "`target_history`.",
        1,
        16384,
    ),
    Spec(
        "click_topic",
        "",
        "Points that start a target, in RGB pixels: geometry_msgs/PointStamped with the image's stamp, or Point as "
        "rqt_image_view publishes; empty for none.",
        topic=True,
    ),
    Spec(
        "detections_topic",
        "",
        "A detector's vision_msgs/Detection2DArray, in RGB pixels: starts a target where there is none, and is looked "
        "at while the target is LOST; empty for none.",
        topic=True,
    ),
    Spec("detections_class", "", "Class ids that are taken from the detector, with commas between; empty for any."),
    Spec(
        "detections_score",
        0.5,
        "Score that a detection must have. More starts fewer wrong targets, and right ones later.",
        0.0,
        1.0,
    ),
    Spec(
        "score_confident",
        _STATE_DEFAULTS.score_confident,
        "Score (probability that the box is right) from which the target is TRACKING. More is UNCERTAIN more often, "
        "and less often sure of the wrong thing.",
        *STATE_RANGES["score_confident"],
        live=True,
    ),
    Spec(
        "score_doubtful",
        _STATE_DEFAULTS.score_doubtful,
        "Score below which a frame counts towards LOST. More gives up a target sooner; at most score_confident.",
        *STATE_RANGES["score_doubtful"],
        live=True,
    ),
    Spec(
        "score_found",
        _STATE_DEFAULTS.score_found,
        "Score needed to take up a lost target again where it was TRACKING last, elsewhere half of what is left to 1 "
        "more. More finds it later, and takes another for it less often; at least score_confident.",
        *STATE_RANGES["score_found"],
        live=True,
    ),
    Spec(
        "lost_after",
        _STATE_DEFAULTS.lost_after,
        "Consecutive doubtful frames until LOST. More bridges longer occlusions, and searches later.",
        *STATE_RANGES["lost_after"],
        live=True,
    ),
    Spec(
        "found_after",
        _STATE_DEFAULTS.found_after,
        "Consecutive frames with score_found until a lost target is TRACKING again. More is surer of it, and later.",
        *STATE_RANGES["found_after"],
        live=True,
    ),
    Spec(
        "data_timeout",
        5.0,
        "Seconds without images, after the first warning, until the log says again what to check; when both streams "
        "are silent for as long, images that wait for a partner are tracked alone. More tolerates pauses.",
        0.1,
        3600.0,
        live=True,
    ),
    Spec(
        "process_every_pair",
        False,
        "Replay for evaluation: no pair is dropped when the network is slower than the "
        "streams, and pairing goes by the stamps alone, so that it does not depend on the machine's speed.",
    ),
    Spec(
        "overlay_quality",
        80,
        "JPEG quality of ~/overlay/compressed, 1 to 100. More shows finer detail, and takes more of the network.",
        1,
        100,
        live=True,
    ),
)


def rcl_reason(error: Exception) -> str:
    """What an error of rcl says, in one line and without the places in its sources."""
    return str(error).splitlines()[0].split(", at /")[0]


class Parameters:
    """Declares `SPECS` on a node and accepts or refuses changes as a whole.

    A start-up value that cannot be used does not end the node: `settings` then raises ConfigError until the
    parameter is set anew. An empty list in a YAML file arrives as no value at all, which means the default;
    once declared, a parameter cannot be deleted, because rclpy would not let it be set again.

    Args:
        configured: tells whether the node is past its configuration, when only `live` parameters may change.
        changed: called with the new settings after a live change was accepted.
    """

    def __init__(self, node: Node, configured: Callable[[], bool], changed: Callable[[Settings], None]) -> None:
        self._node = node
        self._configured = configured
        self._changed = changed
        self._refused: dict[str, str] = {}
        for spec in SPECS:
            self._declare(spec)
        node.add_on_set_parameters_callback(self._on_set)

    def _declare(self, spec: Spec) -> None:
        try:
            value = self._node.declare_parameter(spec.name, spec.default, spec.descriptor()).value
            if value is not None:
                self._read(spec, value)
                return
            self._node.undeclare_parameter(spec.name)
        except ConfigError as error:
            self._node.undeclare_parameter(spec.name)
            self._refused[spec.name] = str(error)
        except InvalidParameterValueException as error:  # rclpy's own check of the range
            self._refused[spec.name] = str(error)
        self._node.declare_parameter(spec.name, spec.default, spec.descriptor(), ignore_override=True)

    def _read(self, spec: Spec, value: Any) -> Any:
        """As `Spec.read`; a topic's name must be one that this node can resolve."""
        value = spec.read(value)
        if spec.topic and (value or spec.default):  # one that is empty by default is off
            try:
                self._node.resolve_topic_name(value)
            except (NameValidationException, RuntimeError) as error:  # rclpy's RCLError has no public name
                raise ConfigError(
                    f"parameter '{spec.name}': expected the name of a topic, got {value!r}: {rcl_reason(error)}"
                ) from error
        return value

    def settings(self) -> Settings:
        """All values, checked. Raises ConfigError for the first that cannot be used."""
        if self._refused:
            raise ConfigError("; ".join(self._refused.values()))
        return self._with({})

    def _with(self, changes: Mapping[str, Any]) -> Settings:
        values = {}
        for spec in SPECS:
            value = changes[spec.name] if spec.name in changes else self._node.get_parameter(spec.name).value
            values[spec.name] = self._read(spec, value)
        settings = Settings(**values)
        settings.states()  # these parameters limit one another
        settings.registering()
        return settings

    def _on_set(self, parameters: list[Parameter]) -> SetParametersResult:
        ours = {spec.name: spec for spec in SPECS}
        changes = {p.name: p.value for p in parameters if p.name in ours}
        try:
            for name, value in changes.items():
                if value is None:
                    raise ConfigError(f"parameter '{name}': cannot be deleted; its default is {ours[name].default!r}")
                self._read(ours[name], value)
                if self._configured() and not ours[name].live:
                    raise ConfigError(
                        f"parameter '{name}': takes effect when the node is configured; bring it back "
                        "to unconfigured first (ros2 lifecycle set <node> deactivate, then cleanup)"
                    )
            settings = self._with(changes)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        for name in changes:
            self._refused.pop(name, None)
        if changes and self._configured():
            self._changed(settings)
        return SetParametersResult(successful=True)
