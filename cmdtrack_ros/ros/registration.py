"""What the node does for the registration of its auxiliary images beside moving them: finds out how the cameras are
mounted, and notices when that has changed."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

from rclpy.node import Node
from rclpy.time import Time

from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.modalities import Modality
from cmdtrack_ros.ros.camera_info import CameraInfoInput
from cmdtrack_ros.ros.health import Health
from cmdtrack_ros.ros.parameters import Settings
from cmdtrack_ros.streams.alignment import ResidualWatch
from cmdtrack_ros.streams.frames import Pose, pose_of
from cmdtrack_ros.streams.registration import Registrar, mounted
from cmdtrack_ros.tracking.pipeline import Pipeline

try:
    from tf2_ros import Buffer, TransformException, TransformListener
except ImportError:
    Buffer = None

_OFF = 0.015  # of the RGB image's width, from which a shift is told: 10 px of 640
_OFF_LOOKS = 3  # in a row


class RegistrationDesk:
    """Hands the pipeline the registration that the parameters ask for, and watches how well it fits.

    All methods are for the executor's thread.

    Args:
        topics: resolved names of the RGB and the auxiliary images.
        rgb_info: of the RGB images, where the node has it already; else it is opened when it is needed.
    """

    def __init__(
        self,
        node: Node,
        settings: Settings,
        pipeline: Pipeline,
        health: Health,
        topics: tuple[str, str],
        rgb_info: CameraInfoInput | None = None,
    ) -> None:
        self._node, self._pipeline, self._health, self._topics = node, pipeline, health, topics
        self._rgb_info = rgb_info
        self._watch = ResidualWatch()
        self._residual = math.nan
        self._off = 0  # looks in a row
        self._seen: Any = None  # the images looked at last
        self._infos: list[CameraInfoInput] = []
        self._tf: Any = None
        self._rig: tuple[Any, ...] = ()  # what the present one was made of
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Register by other parameters from now on."""
        self._modality = Modality(settings.modality)
        self._wanted = settings.registering()
        self._forget()
        self._rig = ()
        wanted = self._wanted.registration == "camera_info" and self._modality is not Modality.RGB
        if wanted and not self._infos:
            rgb, aux = self._topics
            self._infos = [
                self._rgb_info or CameraInfoInput(self._node, "rgb_camera_info", rgb, settings.rgb_camera_info),
                CameraInfoInput(self._node, "aux_camera_info", aux, settings.aux_camera_info),
            ]
            if Buffer is not None:
                buffer = Buffer()
                self._tf = buffer, TransformListener(buffer, self._node)
        if wanted:
            self._pipeline.register(Registrar(self._wanted, missing="nothing is known of the cameras yet"))
            self._find_rig()
        else:
            self._pipeline.register(Registrar(self._wanted))

    def close(self) -> None:
        for info in self._infos:
            if info is not self._rgb_info:
                info.close()
        if self._tf:
            self._tf[1].unregister()
        self._infos, self._tf = [], None
        self._health.condition("registration off", None)

    def check(self) -> None:
        """To be called once a second."""
        if self._modality is Modality.RGB:
            return
        if self._wanted.registration == "camera_info":
            self._find_rig()
        images = self._pipeline.images
        if images is self._seen or images[0] is None or images[1] is None:
            return
        self._seen = images
        rgb, aux = images
        if rgb.shape[:2] == aux.shape[:2]:
            self._judge(self._watch.look(rgb, aux, self._modality), rgb.shape[1])

    def values(self) -> dict[str, str]:
        """Of /diagnostics."""
        shown = {} if math.isnan(self._residual) else {"registration residual (px)": f"{self._residual:.1f}"}
        return {"registration": self._wanted.registration, **shown}

    def _judge(self, residual: float, width: int) -> None:
        """Unsure looks change nothing: what was found last holds."""
        self._residual = residual
        if math.isnan(residual):
            return
        self._off = self._off + 1 if residual > _OFF * width else 0
        text = None
        if self._off >= _OFF_LOOKS:
            text = (
                f"{self._topics[1]} shows the same things as {self._topics[0]} about {residual:.0f} px beside their "
                f"places (registration: {self._wanted.registration}). Was a camera knocked, or turned? Run `cmdtrack "
                "register` on a new recording, or calibrate anew"
            )
        if self._off == 0 or text:
            self._health.condition("registration off", text)

    def _forget(self) -> None:
        self._watch.reset()
        self._off, self._residual = 0, math.nan
        self._health.condition("registration off", None)

    def _find_rig(self) -> None:
        """Cameras and mounting as they are known now, to the pipeline where they changed."""
        sizes = self._pipeline.sizes
        if None in sizes:
            return
        for info in self._infos:
            info.follow_publishers()
        try:
            rgb, aux = (info.camera(size) for info, size in zip(self._infos, sizes))
            rig = mounted(self._wanted, rgb, aux, self._lookup)
        except ConfigError as error:
            self._pipeline.register(Registrar(self._wanted, missing=str(error)))
            self._rig = ()
            return
        made_of = (rgb, aux, rig.rotation.tolist(), rig.translation.tolist())
        if made_of != self._rig:
            self._rig = made_of
            self._forget()
            self._pipeline.register(Registrar(self._wanted, rig))

    def _lookup(self, target: str, source: str) -> Pose | None:
        """A frame in another one, by tf."""
        if self._tf is None:
            raise ConfigError(
                "tf2_ros is not installed, so how the cameras are mounted is not known: install it, or set "
                "aux_translation and aux_rotation"
            )
        with suppress(TransformException):
            return pose_of(self._tf[0].lookup_transform(target, source, Time()).transform)
        return None
