"""What an int8 network is calibrated with."""

from itertools import islice

import numpy as np

from cmdtrack_ros.models.config import StudentConfig
from cmdtrack_ros.tracking.engines.choose import make_engine
from cmdtrack_ros.training.calibration import calibration_inputs
from cmdtrack_ros.training.config import PairConfig
from cmdtrack_ros.training.pairs import PairDataset
from cmdtrack_ros.training.sources import StillSource, find_stills


def test_inputs_are_training_pairs_with_both_streams(stills):
    pairs = PairDataset([(StillSource(find_stills(stills)), 1.0)], PairConfig(dropped=0.5), StudentConfig(), 3)
    engine = make_engine(engine="onnx", device="cpu", precision="fp32", threads=1)
    found = list(islice(calibration_inputs(engine, pairs), 3))
    whole = [sample for sample in (pairs[index] for index in range(30)) if sample["present"].all()][:3]
    for values, sample in zip(found, whole):
        np.testing.assert_array_equal(values["pictures"], sample["search"].permute(0, 2, 3, 1).numpy())
        assert values["present"].tolist() == [[1, 1]]
        assert values["keys"].shape == (2, 64, 128)
