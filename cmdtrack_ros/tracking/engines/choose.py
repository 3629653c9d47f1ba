"""Which engine runs on this machine, and why. Torch is imported only where it will run."""

from __future__ import annotations

import logging
import platform
from importlib.util import find_spec
from pathlib import Path

from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.models.confidence import find_confidence
from cmdtrack_ros.models.graphs import cache_folder, find, get_graphs
from cmdtrack_ros.models.header import Header, read_header, student_config, weights_file
from cmdtrack_ros.tracking.engines.contract import Engine

log = logging.getLogger(__name__)

ENGINES = ("auto", "onnx", "torch", "openvino", "tensorrt")
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "fp32", "int8")
_LIBRARIES = {"onnx": "onnxruntime", "torch": "torch", "openvino": "openvino", "tensorrt": "onnxruntime"}
# Instructions that multiply 8-bit integers without a sum of two overflowing its 16 bits.
_INT8_FLAGS = {"avx512_vnni", "avx_vnni", "asimddp"}
_DRIVERS = ("/dev/nvidiactl", "/dev/nvmap", "/dev/dxg")


def make_engine(
    weights: str | Path | None = None,
    *,
    sha256: str | None = None,
    engine: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    threads: int = 0,
) -> Engine:
    """The engine for a student's weights file; what was chosen, and why, is logged.

    Args:
        weights: a path, ``nano``, or None = the shipped ones.
        sha256: if given, they must have this hash.
        engine: "auto" = torch on a GPU, else ONNX Runtime, else torch on the CPU. "tensorrt" builds its engine
            at the first frames of each kind, which takes minutes, and keeps it in the cache.
        device: "auto" = a GPU where the engine finds one. One that is asked for and absent gives a warning and the CPU.
        precision: "auto" = half precision on a GPU (ONNX Runtime's CUDA: fp32); on a CPU int8 where the processor has
            instructions for it and the weights come with such a graph, else fp32.
        threads: of a CPU engine, 0 = one per core.

    Raises:
        ConfigError: another name, negative ``threads``, an engine that is not installed, int8 where there is none.
        WeightsError: weights that cannot be read, are no student's, or whose graphs or calibration are of others.
    """
    choices = (("engine", engine, ENGINES), ("device", device, DEVICES), ("precision", precision, PRECISIONS))
    for what, value, known in choices:
        if value not in known:
            raise ConfigError(f"{what}: expected one of {', '.join(known)}, got {value!r}")
    if threads < 0:
        raise ConfigError(f"threads: expected 0 (one per core) or more, got {threads}")
    path = weights_file(weights)
    header = read_header(path, sha256)
    runtime, place, why = _choose_runtime(engine, device)
    chosen, because = _choose_precision(precision, runtime, place, path, header)
    made = _load(runtime, place, chosen, threads, path, header)
    made.confidence = find_confidence(path, header)
    log.info("engine: %s: %s; %s", made.name, why, because)
    return made


def _choose_runtime(engine: str, device: str) -> tuple[str, str, str]:
    """An engine by name, "cpu" or "cuda", and the reason."""
    if engine != "auto" and find_spec(_LIBRARIES[engine]) is None:
        raise ConfigError(f"engine {engine}: {_LIBRARIES[engine]} is not installed (pip install {_LIBRARIES[engine]})")
    gpu = device != "cpu" and _finds_gpu(engine)
    if device == "cuda" and not gpu:
        log.warning("device: cuda was asked for, but engine %s finds no GPU to use; running on the CPU", engine)
    why = "a GPU was found" if gpu else "device cpu was asked for" if device == "cpu" else "no GPU that it can use"
    place = "cuda" if gpu else "cpu"
    if engine == "tensorrt" and not gpu:
        raise ConfigError(f"engine tensorrt: expected a GPU and an ONNX Runtime with TensorRT; {why}")
    if engine != "auto":
        return engine, place, f"engine {engine} was asked for, {why}"
    if gpu or find_spec("onnxruntime"):
        return "torch" if gpu else "onnx", place, why
    if find_spec("torch") is None:
        raise ConfigError("engine: expected ONNX Runtime or torch, neither is installed (pip install onnxruntime)")
    log.warning("ONNX Runtime is not installed; running on torch, about half as fast (pip install onnxruntime)")
    return "torch", place, "ONNX Runtime is not installed"


def _finds_gpu(engine: str) -> bool:
    """Whether this engine would run on a GPU; no library is asked where there is no driver, for that takes seconds."""
    if engine == "openvino" or not any(Path(file).exists() for file in _DRIVERS):
        return False
    if engine in ("onnx", "tensorrt"):
        from cmdtrack_ros.tracking.engines.onnx import available

        return available("tensorrt" if engine == "tensorrt" else "cuda")
    if find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def _choose_precision(asked: str, runtime: str, place: str, path: Path, header: Header) -> tuple[str, str]:
    """fp32, fp16 or int8, and the reason."""
    if asked == "int8" and (runtime == "torch" or place == "cuda"):
        raise ConfigError(
            f"precision int8: expected engine onnx or openvino on device cpu, the engine is {runtime} on {place}"
        )
    if asked != "auto":
        return asked, f"precision {asked} was asked for"
    if place == "cuda":
        return ("fp32" if runtime == "onnx" else "fp16"), "a GPU's precision"
    if runtime == "torch":
        return "fp32", "torch's precision on a CPU"
    if not (flags := _INT8_FLAGS & processor_flags()):
        return "fp32", "the processor has no instructions for int8"
    if find(path, header, "search", "int8") is None:
        return "fp32", f"the weights come without an int8 graph (`cmdtrack export {path} --precision int8` makes one)"
    return "int8", f"the processor has {', '.join(sorted(flags))}"


def _load(runtime: str, place: str, precision: str, threads: int, path: Path, header: Header) -> Engine:
    """The chosen engine; libraries are imported here, and no others."""
    if runtime == "torch":
        import torch

        from cmdtrack_ros.models.weights import load_student
        from cmdtrack_ros.tracking.engines.torch import TorchEngine

        if threads and place == "cpu":
            torch.set_num_threads(threads)
        student, _ = load_student(path, header.sha256)
        return TorchEngine(student, torch.device(place), half=precision == "fp16")
    config = student_config(path, header)
    graphs = get_graphs(path, header, "int8" if precision == "int8" else "fp32")
    if runtime == "openvino":
        from cmdtrack_ros.tracking.engines.openvino import OpenVinoEngine

        return OpenVinoEngine(config, graphs, threads)
    from cmdtrack_ros.tracking.engines.onnx import OnnxEngine, TensorRt

    if runtime == "tensorrt":
        return OnnxEngine(config, graphs, threads, TensorRt(cache_folder() / "tensorrt", half=precision == "fp16"))
    return OnnxEngine(config, graphs, threads, place)


def processor_flags() -> set[str]:
    """What the first processor can, by the names that Linux gives; nothing elsewhere."""
    info = Path("/proc/cpuinfo")
    if platform.system() != "Linux" or not info.is_file():
        return set()
    for line in info.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return set(value.split())
    return set()
