"""An int8 network is calibrated with what it was trained on: search regions and templates, both streams there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import numpy as np
import onnx
from torch import Tensor

from cmdtrack_ros.models.export import describe, save_graph, write_graphs
from cmdtrack_ros.models.graphs import Graphs, graph_file
from cmdtrack_ros.models.header import Header, student_config
from cmdtrack_ros.models.quantize import quantize_search
from cmdtrack_ros.tracking.engines.contract import Engine, Query, TemplateCrop
from cmdtrack_ros.tracking.engines.onnx import OnnxEngine, batch
from cmdtrack_ros.training.config import DistillTraining, load_config
from cmdtrack_ros.training.pairs import PairDataset
from cmdtrack_ros.training.sources import open_sources

SAMPLES = 64
"""Pairs that an int8 graph is calibrated with."""


def write_int8_graphs(weights: Path, header: Header, folder: Path, recipe: Path, data: Path, seed: int) -> list[Path]:
    """Export a student's template graph (fp32) and its search graph in int8 into ``folder``.

    Args:
        recipe: a student's or a distillation's configuration; its sources and augmentations give the pairs.
        data: folder that the sources' paths start from.
        seed: of the pairs.

    Raises:
        ConfigError, DataError: of the recipe and its sources.
        WeightsError: weights that cannot be read, or are no student's.
        CmdtrackError: a graph does not answer as it must.
    """
    settings, config = load_config(recipe, DistillTraining), student_config(weights, header)
    sources, _ = open_sources(settings.sources, data, settings.split)
    pairs = PairDataset(sources, settings.pairs, config, seed)
    with tempfile.TemporaryDirectory() as temporary:
        template, search = write_graphs(weights, header, Path(temporary))
        engine = OnnxEngine(config, Graphs(template, search, "fp32", header.sha256))
        inputs = list(islice(calibration_inputs(engine, pairs), SAMPLES))
        about = {"recipe": settings.name, "seed": str(seed), "samples": str(SAMPLES)}
        graph = quantize_search(onnx.load(str(search)), inputs, describe(header, "int8") | about)
        files = [graph_file(folder, header, "template", "fp32"), graph_file(folder, header, "search", "int8")]
        for file, model in zip(files, (onnx.load(str(template)), graph)):
            save_graph(model, file)
    return files


def calibration_inputs(engine: Engine, pairs: PairDataset) -> Iterator[dict[str, np.ndarray]]:
    """Inputs of the search graph, without end, from the pairs that have both streams.

    engine: makes the templates; in fp32.
    """
    for sample in (pairs[index] for index in count()):
        if not sample["present"].all():
            continue
        box = sample["template_box"].numpy()
        crops = [TemplateCrop(picture, box, stream) for stream, picture in enumerate(_pictures(sample["template"]))]
        yield batch([Query(_pictures(sample["search"]), engine.encode(crops))])


def _pictures(streams: Tensor) -> list[np.ndarray]:
    """(2, 3, S, S) uint8 -> two pictures (S, S, 3)."""
    return list(np.ascontiguousarray(streams.permute(0, 2, 3, 1).numpy()))
