"""Aux images onto RGB images: each way against exact geometry, and where an aux image lies, told by the images."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from cmdtrack_ros.cameras import Camera
from cmdtrack_ros.data.derived import Misregistered
from cmdtrack_ros.data.sequences import load_sequence
from cmdtrack_ros.errors import ConfigError, DataError
from cmdtrack_ros.evaluation.registration import as_registration, register_recording, spread_pairs
from cmdtrack_ros.modalities import Modality
from cmdtrack_ros.streams.alignment import NoAgreementError, ResidualWatch, align, corner_error
from cmdtrack_ros.streams.frames import rotation_from
from cmdtrack_ros.streams.registration import Registrar, Registration, Rig, read_registration

SIZE = (240, 320)


def scene(seed: int, size: tuple[int, int] = (360, 480)) -> np.ndarray:
    """Grey shapes of many sizes, HxW uint8."""
    rng = np.random.default_rng(seed)
    image = np.full(size, 110, np.uint8)
    for _ in range(60):
        centre = (int(rng.integers(size[1])), int(rng.integers(size[0])))
        axes = (int(rng.integers(6, 40)), int(rng.integers(6, 40)))
        cv2.ellipse(image, centre, axes, float(rng.integers(180)), 0, 360, int(rng.integers(256)), -1)
    return image


class TwoCameras(SimpleNamespace):
    """A registered recording of still scenes in which the second camera sees other brightness than the first."""

    name, modality, layout, anchors, aux_boxes = "shapes", Modality.THERMAL, "", None, None

    def __init__(self, frames: int = 4) -> None:
        super().__init__(stamps=np.arange(frames) / 10, labelled=np.ones(frames, bool))
        self.boxes = np.tile([100.0, 80, 40, 40], (frames, 1))

    def __len__(self) -> int:
        return len(self.stamps)

    def rgb(self, index: int) -> np.ndarray:
        return cv2.cvtColor(scene(index), cv2.COLOR_GRAY2RGB)

    def aux(self, index: int) -> np.ndarray:
        levels = np.random.default_rng(9).permutation(np.repeat(np.arange(0, 256, 16), 16)).astype(np.uint8)
        return cv2.LUT(scene(index), levels)

    def frame(self, index: int) -> SimpleNamespace:
        rgb = self.rgb(index)
        return SimpleNamespace(rgb=rgb, aux=self.aux(index), size=rgb.shape[1::-1])


def test_homography_moves_pixels_to_where_it_says_and_the_rest_is_no_content() -> None:
    matrix = np.array([[1.5, 0.1, 40], [-0.05, 1.4, 30], [1e-4, 0, 1]])
    for modality, kind, nothing in (
        ("depth", np.uint16, 0),
        ("event", np.uint8, 128),
        ("thermal", np.uint8, 100),
        ("thermal", np.float32, 100),
    ):
        aux = np.full((120, 160), 100, kind)
        aux[57:64, 77:84] = 200
        registrar = Registrar(as_registration(matrix))
        moved = registrar(aux, SIZE, modality)
        assert moved.shape == SIZE and moved.dtype == kind
        x, y, w = matrix @ [80, 60, 1]
        assert moved[round(y / w), round(x / w)] == 200
        assert moved[0, 0] == pytest.approx(nothing, abs=1), "the aux camera does not see this corner"
        if modality == "depth":
            assert set(np.unique(moved)) == {0, 100, 200}, "depth is never blended"


@pytest.mark.parametrize(
    "numbers", [[1.0] * 9, [0.0] * 9, [math.nan] * 9, [1, 0, 0, 0, 1, 0, 0, 0, 0], [1e3, 0, 0, 0, 1e3, 0, 0, 0, 1]]
)
def test_what_is_no_homography_is_refused(numbers: list[float]) -> None:
    with pytest.raises(ConfigError, match="registration_homography"):
        Registration("homography", tuple(numbers))


def test_homography_that_leaves_the_image_is_told() -> None:
    away = as_registration(np.array([[1, 0, 5000.0], [0, 1, 0], [0, 0, 1]]))
    with pytest.raises(ConfigError, match="cover 0.0% of"):
        Registrar(away)(np.zeros((120, 160), np.uint8), SIZE, "thermal")


def test_depth_is_reprojected_and_the_nearest_wins() -> None:
    rgb = Camera(320, 240, np.array([[300.0, 0, 160], [0, 300, 120], [0, 0, 1]]))
    aux = Camera(320, 240, np.array([[300.0, 0, 160], [0, 300, 120], [0, 0, 1]]))
    turn, place = rotation_from(0, 0, 0.02), np.array([0.1, 0.0, 0.0])
    depth = np.full(SIZE, 3000, np.uint16)
    depth[100:140, 140:180] = 1000
    depth[:10] = 0
    registration = Registration("camera_info", aux_translation=(0.1, 0.0, 0.0), aux_rotation=(0.0, 0.0, 0.02))
    moved = Registrar(registration, Rig(rgb, aux, turn, place))(depth, SIZE, "depth")
    for row, column in ((120, 160), (105, 150), (200, 60), (30, 200)):
        z = depth[row, column] / 1000
        ray = np.array([(column - 160) / 300, (row - 120) / 300, 1.0])
        point = turn @ (ray * z) + place
        u, v = 300 * point[0] / point[2] + 160, 300 * point[1] / point[2] + 120
        assert moved[round(v), round(u)] == pytest.approx(point[2] * 1000, abs=1)
    # The square is near, so it moves 30 px while what is behind moves 10: its place is free, its goal is covered.
    assert moved[120, 195] == 1000, "the nearest of two"
    assert 0 in moved[110:130, 140:175], "what the depth camera could not see behind the square is a hole"


def test_distortion_is_worked_out_once_for_all_depth_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each point of each image by itself took 190 ms."""
    matrix = np.array([[300.0, 0, 160], [0, 300, 120], [0, 0, 1]])
    lens = Camera(320, 240, matrix, "plumb_bob", np.array([0.2, -0.4, 0.001, -0.002, 0.3]))
    registration = Registration("camera_info", aux_translation=(0.1, 0.0, 0.0))
    registrar = Registrar(registration, Rig(lens, Camera(320, 240, matrix), np.eye(3), np.array([0.1, 0.0, 0.0])))
    depth = np.full(SIZE, 3000, np.uint16)
    depth[118:123, 40:45] = 1500
    first = registrar(depth, SIZE, "depth")
    (u, v), near = lens.project([[(42 - 160) / 300 * 1.5 + 0.1, 0.5 / 300 * 1.5, 1.5]])[0], np.nonzero(first == 1500)
    assert near[0].mean() == pytest.approx(v, abs=0.6) and near[1].mean() == pytest.approx(u, abs=0.6)
    monkeypatch.setattr(Camera, "project", None)
    assert np.array_equal(registrar(depth, SIZE, "depth"), first)


def test_plane_at_the_distance_lies_where_geometry_says() -> None:
    rgb = Camera(320, 240, np.array([[300.0, 0, 160], [0, 300, 120], [0, 0, 1]]))
    aux = Camera(160, 120, np.array([[200.0, 0, 80], [0, 200, 60], [0, 0, 1]]))
    registration = Registration("camera_info", registration_distance=2.0, aux_translation=(0.2, 0.0, 0.0))
    image = np.zeros((120, 160), np.uint8)
    image[58:63, 78:83] = 255
    moved = Registrar(registration, Rig(rgb, aux, np.eye(3), np.array([0.2, 0, 0])))(image, SIZE, "thermal")
    rows, columns = np.nonzero(moved > 128)
    assert columns.mean() == pytest.approx(160 + 300 * 0.2 / 2, abs=0.6) and rows.mean() == pytest.approx(120, abs=0.6)


def test_camera_info_without_cameras_says_what_is_missing() -> None:
    with pytest.raises(ConfigError, match="nothing came on /info"):
        Registrar(Registration("camera_info"), missing="nothing came on /info")(np.zeros(SIZE, np.uint8), SIZE, "depth")


def test_register_finds_a_known_view_and_its_file_is_read_back(tmp_path: Path) -> None:
    view = Misregistered(TwoCameras(), seed=1)
    said = list(register_recording(view, tmp_path / "r.yaml", tmp_path / "r.jpg", 3))
    assert "Residual" in said[0] and cv2.imread(str(tmp_path / "r.jpg")) is not None
    found = read_registration(str(tmp_path / "r.yaml"))
    assert found.registration == "homography"
    matrix = np.array(found.registration_homography).reshape(3, 3)
    assert corner_error(matrix, view.homography, view.rgb(0).shape) < 3.0


def test_noise_is_refused() -> None:
    rng = np.random.default_rng(0)
    pairs = [(rng.integers(0, 256, (*SIZE, 3), np.uint8), rng.integers(0, 256, SIZE, np.uint8)) for _ in range(2)]
    with pytest.raises(NoAgreementError, match="nothing"):
        align(pairs, "thermal")


def test_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("just text")
    with pytest.raises(DataError, match="wrong.yaml"):
        read_registration(str(tmp_path / "wrong.yaml"))
    with pytest.raises(ConfigError, match="guess"):
        read_registration("guess")


def test_watch_sees_a_knock_and_is_silent_where_nothing_shows() -> None:
    recording, steady, knocked, dark = TwoCameras(5), ResidualWatch(), ResidualWatch(), ResidualWatch()
    rng = np.random.default_rng(0)
    for i in range(5):
        rgb, aux = recording.rgb(i), recording.aux(i)
        still = steady.look(rgb, aux, "thermal")
        off = knocked.look(rgb, np.roll(aux, (9, 18), (0, 1)), "thermal")
        night = dark.look(rng.integers(0, 4, rgb.shape, np.uint8), aux, "thermal")
    assert still < 1.5 and off == pytest.approx(math.hypot(9, 18), abs=2.5) and math.isnan(night)


def test_real_pair_is_registered(shared_data: Path) -> None:
    sequence = load_sequence(shared_data / "train" / "rgbt" / "0113_1714_redcoat")
    view = Misregistered(sequence, seed=1)
    found = align(spread_pairs(view, 3), view.modality)
    assert corner_error(found.homography, view.homography, view.rgb(0).shape) < 6.0
