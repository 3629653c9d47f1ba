"""Which engine runs on this machine, and why. Torch is imported only where it will run."""

from __future__ import annotations

import logging
import platform
from importlib.util import find_spec
from pathlib import Path

from cmdtrack_ros.errors import ConfigError
from cmdtrack_ros.models.config import StudentConfig
from cmdtrack_ros.models.graphs import cache_folder, find, get_graphs
from cmdtrack_ros.models.header import SHIPPED, Header, read_header
from cmdtrack_ros.tracking.engines.contract import Engine

log = logging.getLogger(__name__)

ENGINES = ("auto", "onnx", "torch", "openvino", "tensorrt")
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "fp32", "int8")
# Instructions that multiply 8-bit integers without a sum of two overflowing its 16 bits.
_INT8_FLAGS = {"avx512_vnni", "avx_vnni", "asimddp"}


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
        weights: None = the shipped ones. sha256: if given, they must have this hash.
        engine: "auto" = torch on a GPU, else ONNX Runtime, else torch on the CPU.
        device: "auto" = a GPU where there is one. A GPU that is asked for and absent gives a warning and the CPU.
        precision: of a CPU engine; "auto" = int8 where the processor has instructions for it and the weights
            come with such a graph. A GPU computes in half precision.
        threads: of a CPU engine, 0 = one per core.

    Raises:
        ConfigError: another name, negative ``threads``, an engine that is not installed, int8 without a graph.
        WeightsError: weights that cannot be read, or are no student's.
    """
    for what, value, known in (
        ("engine", engine, ENGINES),
        ("device", device, DEVICES),
        ("precision", precision, PRECISIONS),
    ):
        if value not in known:
            raise ConfigError(f"{what}: expected one of {', '.join(known)}, got {value!r}")
    if threads < 0:
        raise ConfigError(f"threads: expected 0 (one per core) or more, got {threads}")
    path = SHIPPED if weights is None else Path(weights).expanduser()
    header = read_header(path, sha256)
    gpu = device != "cpu" and engine != "openvino" and _gpu_usable(asked=device == "cuda")
    if engine in ("auto", "torch") and (gpu or engine == "torch" or find_spec("onnxruntime") is None):
        return _torch_engine(path, sha256, gpu, engine, threads)
    if engine == "tensorrt" and not gpu:
        raise ConfigError("engine tensorrt: expected a GPU, there is none")
    chosen, why = _choose_precision(precision, path, header) if not gpu else ("fp32", "a GPU was found")
    graphs = get_graphs(path, header, chosen)
    config = StudentConfig(**header.config)
    if engine == "openvino":
        made = _openvino_engine(config, graphs, threads)
    else:
        from cmdtrack_ros.tracking.engines.onnx import OnnxEngine

        provider = "tensorrt" if engine == "tensorrt" else "cuda" if gpu else "cpu"
        made = OnnxEngine(config, graphs, threads, provider, cache_folder() / "tensorrt")
    log.info("engine: %s; %s", made.name, why)
    return made


def _torch_engine(path: Path, sha256: str | None, gpu: bool, engine: str, threads: int) -> Engine:
    import torch

    from cmdtrack_ros.models.weights import load_student
    from cmdtrack_ros.tracking.engines.torch import TorchEngine

    if not gpu and engine == "auto":
        log.warning("ONNX Runtime is not installed; running on torch, about half as fast (pip install onnxruntime)")
    if threads and not gpu:
        torch.set_num_threads(threads)
    made = TorchEngine(load_student(path, sha256)[0], torch.device("cuda" if gpu else "cpu"))
    log.info("engine: %s; %s", made.name, "a GPU was found" if gpu else "no GPU is in use")
    return made


def _openvino_engine(config: StudentConfig, graphs, threads: int) -> Engine:
    try:
        from cmdtrack_ros.tracking.engines.openvino import OpenVinoEngine
    except ImportError as error:
        raise ConfigError(f"engine openvino: not installed ({error}); pip install openvino") from error
    return OpenVinoEngine(config, graphs, threads)


def _choose_precision(asked: str, path: Path, header: Header) -> tuple[str, str]:
    """fp32 or int8, and the reason."""
    if asked != "auto":
        return asked, f"precision {asked} was asked for"
    if not (flags := _INT8_FLAGS & processor_flags()):
        return "fp32", "the processor has no instructions for int8"
    if find(path, header, "search", "int8") is None:
        return "fp32", "the weights come without an int8 graph (`cmdtrack export --int8` makes one)"
    return "int8", f"the processor has {', '.join(sorted(flags))}"


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


def _gpu_usable(asked: bool) -> bool:
    """Whether torch sees a GPU; torch is not asked where there is no driver, for it takes seconds to import."""
    driver = any(Path(file).exists() for file in ("/dev/nvidiactl", "/dev/nvmap", "/dev/dxg"))
    if driver and find_spec("torch") is not None:
        import torch

        if torch.cuda.is_available():
            return True
    if asked:
        log.warning("device: cuda was asked for, but no GPU can be used here; running on the CPU")
    return False
