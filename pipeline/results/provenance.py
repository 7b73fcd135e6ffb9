"""Where a result comes from: its inputs, the software and the device that made it."""

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Iterable

import tensorflow as tf

from vaefill.pipeline.errors import SourceError
from vaefill.pipeline.results.documents import Device, Input
from vaefill.pipeline.results.integrity import sha256
from vaefill.pipeline.store.sources import InputFile

_SOFTWARE = ("vaefill", "tensorflow", "tensorflow-probability", "keras", "numpy", "apache-beam", "tensorflow-datasets")
_INSTRUCTION_SETS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16")


def describe_inputs(files: Iterable[InputFile]) -> tuple[Input, ...]:
    """What the manifest says of the input.

    Args:
        files: as they were found.

    Raises:
        SourceError: a file cannot be read.
    """
    return tuple(map(_describe, files))


def _describe(file: InputFile) -> Input:
    try:
        digest = sha256(file.path)
    except OSError as error:
        raise SourceError(f"cannot read {file.path}: {error.strerror or error}") from None
    return Input(
        path=file.path.encode("utf-8", "backslashreplace").decode(),  # names can be any bytes
        size=file.size,
        modified=datetime.datetime.fromtimestamp(file.modified, datetime.UTC).isoformat(),
        sha256=digest,
    )


def software() -> dict[str, str]:
    """The versions that a result may depend on."""
    return {name: importlib.metadata.version(name) for name in _SOFTWARE} | {"python": platform.python_version()}


def device() -> Device:
    """What the numbers are computed on: the device type and, on a CPU, its instruction sets."""
    gpus = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    flags: set[str] = set()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = set(next((line for line in file if line.startswith("flags")), "").split())
    return Device(
        type=gpus[0].get("device_name", "GPU") if gpus else "CPU",
        machine=platform.machine(),
        instruction_sets=tuple(name for name in _INSTRUCTION_SETS if name in flags),
    )
