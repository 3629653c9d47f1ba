"""The tracker with the shipped weights, on synthetic motion and on real recordings."""

import numpy as np
import pytest

from cmdtrack_ros.boxes import iou
from cmdtrack_ros.data import load_sequence
from cmdtrack_ros.data.derived import Covered
from cmdtrack_ros.errors import CmdtrackError, ConfigError, ImageError
from cmdtrack_ros.evaluation.confidence import plain_background
from cmdtrack_ros.models.confidence import EVIDENCE
from cmdtrack_ros.track import TargetState
from cmdtrack_ros.tracking.drive import drive
from cmdtrack_ros.tracking.states import StateConfig, StateMachine
from cmdtrack_ros.tracking.tracker import Tracker, TrackerConfig, see

SIZE = (240, 320)


def scene(box: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """RGB and thermal pictures of a warm, textured block on a smooth gradient; None = no block."""
    rows, columns = np.indices(SIZE)
    rgb = np.stack([60 + columns // 4, 90 + rows // 4, np.full(SIZE, 100)], -1).astype(np.uint8)
    thermal = np.full(SIZE, 40, np.uint8)
    if box is not None:
        x, y, w, h = (int(v) for v in box)
        checks = ((rows // 6 + columns // 6) % 2)[:h, :w, None]
        rgb[y : y + h, x : x + w] = np.where(checks, (220, 40, 30), (30, 30, 160))
        thermal[y : y + h, x : x + w] = 210
    return rgb, thermal


PATH = [np.array([100.0 + 3 * i, 90 + i, 42, 30]) for i in range(25)]


@pytest.mark.parametrize("streams", ["both", "rgb", "aux"])
def test_follows_a_moving_block(tracker, streams):
    def pick(pair):
        return (pair[0] if streams != "aux" else None, pair[1] if streams != "rgb" else None)

    tracker.init(*pick(scene(PATH[0])), PATH[0])
    tracks = [tracker.update(*pick(scene(box))) for box in PATH[1:]]
    assert np.mean([iou(track.box, box) for track, box in zip(tracks, PATH[1:])]) > 0.6
    assert all(track.state == TargetState.TRACKING for track in tracks)
    expected = {"both": None, "rgb": (1, 0), "aux": (0, 1)}[streams]
    for track in tracks:
        assert track.weight_rgb + track.weight_aux == pytest.approx(1, abs=1e-3)
        assert expected is None or (track.weight_rgb, track.weight_aux) == pytest.approx(expected)


def test_either_stream_may_stop_and_return(tracker):
    tracker.init(*scene(PATH[0]), PATH[0])
    for index, box in enumerate(PATH[1:]):
        rgb, thermal = scene(box)
        track = tracker.update(None if index % 3 == 1 else rgb, None if index % 3 == 2 else thermal)
    assert iou(track.box, PATH[-1]) > 0.5


def test_stream_absent_at_the_start_gets_a_template_later(tracker):
    tracker.init(scene(PATH[0])[0], None, PATH[0])
    for box in PATH[1:6]:
        tracker.update(*scene(box))
    assert tracker.update(None, scene(PATH[6])[1]).weight_aux == pytest.approx(1)


def test_target_that_vanishes_is_lost_and_found_again(tracker):
    tracker.init(*scene(PATH[0]), PATH[0])
    for box in PATH[1:5]:
        tracker.update(*scene(box))
    gone = [tracker.update(*scene(None)) for _ in range(15)]
    assert gone[-1].state == TargetState.LOST
    far = np.array([20.0, 180, 42, 30])
    back = [tracker.update(*scene(far)) for _ in range(40)]
    assert back[-1].state == TargetState.TRACKING
    assert iou(back[-1].box, far) > 0.5


def test_same_input_same_boxes(tracker):
    runs = []
    for _ in range(2):
        tracker.init(*scene(PATH[0]), PATH[0])
        runs.append([tracker.update(*scene(box)).box for box in PATH[1:8]])
    np.testing.assert_array_equal(runs[0], runs[1])


def test_times_are_reported(tracker):
    tracker.init(*scene(PATH[0]), PATH[0])
    times = tracker.update(*scene(PATH[1])).times_ms
    assert set(times) == {"encode", "crop", "network", "decode", "template", "total"}
    assert times["total"] >= times["network"] > 0


def test_bad_input_is_named_and_tracking_goes_on(tracker):
    rgb, thermal = scene(PATH[0])
    with pytest.raises(ConfigError, match="0% of it lies in the 320x240 image"):
        tracker.init(rgb, thermal, np.array([900.0, 900, 20, 20]))
    for box in ([10, 10, np.nan, 5], [10, 10, 1, 20], [1, 2, 3]):
        with pytest.raises(ConfigError, match="four finite numbers"):
            tracker.init(rgb, thermal, np.array(box, float))
    tracker.init(rgb, thermal, PATH[0])
    with pytest.raises(ImageError, match="160x120, RGB is 320x240"):
        tracker.update(rgb, thermal[::2, ::2])
    with pytest.raises(ImageError, match="both images are None"):
        tracker.update(None, None)
    with pytest.raises(ImageError, match="float32"):
        tracker.update(rgb.astype(np.float32), thermal)
    assert iou(tracker.update(*scene(PATH[1])).box, PATH[1]) > 0.5


def test_update_needs_a_target(tracker):
    tracker.reset()
    assert tracker.state == TargetState.IDLE
    with pytest.raises(CmdtrackError, match="no target"):
        tracker.update(*scene(PATH[0]))


def test_states_have_hysteresis():
    machine = StateMachine(StateConfig(0.5, 0.3, 0.6, lost_after=3, found_after=2))
    machine.start()
    scores = [0.9, 0.4, 0.2, 0.2, 0.4, 0.2, 0.2, 0.2, 0.55, 0.7, 0.1, 0.7, 0.7]
    states = "".join(machine.update(score).name[0] for score in scores)
    #        0.9 0.4 0.2 0.2 0.4 then three doubtful -> lost; 0.55 and a single 0.7 are not enough
    assert states == "TUUUUUULLLLLT"


@pytest.mark.parametrize("values", [{"score_doubtful": 0.6}, {"score_found": 0.1}, {"lost_after": 0}])
def test_unusable_thresholds_are_refused(values):
    with pytest.raises(ConfigError):
        StateConfig(**values)


@pytest.mark.parametrize("name", ["0117_1605_greyman", "0117_1605_leftman"])
def test_men_in_smoke_are_kept_by_thermal(tracker, shared_data, name):
    """RGB alone loses both men; with thermal beside it the student must not."""
    sequence = load_sequence(shared_data / "test" / "rgbt" / name)
    boxes = [track.box for track in drive(tracker, sequence)]
    assert np.mean(iou(np.array(boxes), sequence.boxes)[1:]) > 0.6


def test_box_over_the_whole_image_is_refused_and_the_old_target_kept(tracker):
    tracker.init(*scene(PATH[0]), PATH[0])
    with pytest.raises(ConfigError, match="covers 100% of the 320x240 image"):
        tracker.init(*scene(PATH[0]), np.array([0.0, 0, 320, 240]))
    assert iou(tracker.update(*scene(PATH[1])).box, PATH[1]) > 0.5


def test_looking_back_costs_one_search_in_fifteen_frames(counting):
    tracker = Tracker(counting, "thermal")
    tracker.init(*scene(PATH[0]), PATH[0])
    for box in PATH[1:21]:
        tracker.update(*scene(box))
    assert len(counting.searched) == 20 + 2
    assert counting.encoded == [2] + [2] * 4, "the templates of a look back are those of a renewal"


def test_target_that_does_not_lead_back_is_suspect(tracker):
    """The first frame is swapped for one in which the target is elsewhere: the look back ends there."""

    def follow(swapped):
        tracker.init(*scene(PATH[0]), PATH[0])
        if swapped:
            crop = tracker._region(PATH[0])
            other = scene(PATH[0] + [-40, 30, 0, 0])
            elsewhere = see(*other, tracker.encoder)
            tracker._origin = {stream: elsewhere.cut(crop, stream) for stream in (0, 1)}
        return [tracker.update(*scene(box)) for box in PATH[1:7]]

    true, other = follow(swapped=False), follow(swapped=True)
    assert not any(track.suspect for track in true) and other[-1].suspect
    assert other[-1].score < 0.7 * true[-1].score


def test_thresholds_change_while_a_target_is_followed(counting):
    tracker = Tracker(counting, "thermal")
    tracker.init(*scene(PATH[0]), PATH[0])
    assert tracker.update(*scene(PATH[1])).state == TargetState.TRACKING
    tracker.configure(StateConfig(score_confident=1.0, score_found=1.0))
    assert tracker.update(*scene(PATH[2])).state == TargetState.UNCERTAIN


def test_score_without_calibration_is_the_networks_own(counting):
    counting.confidence = None
    tracker = Tracker(counting, "thermal")
    tracker.init(*scene(PATH[0]), PATH[0])
    score = tracker.update(*scene(PATH[1])).score
    response = tracker.evidence[EVIDENCE.index("response")]
    assert score == pytest.approx(1 / (1 + np.exp(-response)), abs=1e-3)


@pytest.mark.parametrize("name", ["rgb/otb_Crossing", "rgb/otb_Man", "rgbd/mug_flower_437"])
def test_start_on_plain_background_is_not_tracked_for_long(tracker, shared_data, name):
    sequence = load_sequence(shared_data / "test" / name)
    tracker = Tracker(tracker.engine, sequence.modality)
    box = plain_background(sequence)
    states = [track.state for track in drive(tracker, sequence, range(50), box)]
    assert np.mean([state == TargetState.TRACKING for state in states]) < 0.4


@pytest.mark.parametrize("name, since, until", [("rgb/otb_Man", 40, 80), ("rgbt/0117_1605_leftman", 44, 87)])
def test_target_that_is_covered_is_lost_and_found_again(tracker, shared_data, name, since, until):
    sequence = load_sequence(shared_data / "test" / name)
    covered = Covered(sequence, since, until)
    states = [track.state for track in drive(Tracker(tracker.engine, sequence.modality), covered)]
    assert TargetState.TRACKING not in states[since + 20 : until] and TargetState.LOST in states[since:until]
    assert states[until + 15 :].count(TargetState.TRACKING) > 0.8 * len(states[until + 15 :])


@pytest.mark.parametrize("move, needed", [((0, 0), 0.4), ((40, 30), 0.4), ((100, 0), 0.7), ((0, 90), 0.7)])
def test_lost_target_needs_a_higher_score_beyond_the_last_region(counting, monkeypatch, move, needed):
    asked = []
    tracker = Tracker(counting, "thermal", config=TrackerConfig(state=StateConfig(score_found=0.4)))
    tracker.init(*scene(PATH[0]), PATH[0])
    tracker.doubt()
    update = tracker._machine.update
    monkeypatch.setattr(tracker._machine, "update", lambda *args: asked.append(args) or update(*args))
    at = PATH[0] + [*move, 0, 0]
    for _ in range(20):
        if iou(tracker.update(*scene(at)).box, at) > 0.5:
            break
    assert asked[-1][1] == pytest.approx(needed)


def test_score_needed_to_leave_lost():
    machine = StateMachine(StateConfig(score_found=0.4, found_after=1))
    machine.start()
    machine.lose()
    assert machine.update(0.5, 0.7) == TargetState.LOST
    assert machine.update(0.7, 0.7) == TargetState.TRACKING


def test_search_starts_where_it_was_tracking_last(tracker, shared_data):
    """Doubtful, the box goes along with the patch that covers him."""
    sequence = load_sequence(shared_data / "test" / "rgbt" / "0117_1605_greyman")
    tracks = list(drive(Tracker(tracker.engine, sequence.modality), Covered(sequence, 44, 87), range(70)))
    sure = max(i for i, track in enumerate(tracks[:60]) if track.state == TargetState.TRACKING)
    lost = next(i for i, track in enumerate(tracks) if track.state == TargetState.LOST)
    assert iou(tracks[lost - 1].box, tracks[sure].box) < 0.5
    assert np.array_equal(tracks[lost].box, tracks[sure].box)
