"""Where a result comes from: its inputs, the software and the device, and its identity of them."""

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf

from vaefill.config import Config
from vaefill.errors import SourceError
from vaefill.model.config import Section
from vaefill.model.files import FileInfo, sha256
from vaefill.results.documents import (
    Device,
    ImputeIdentity,
    Input,
    MaskIdentity,
    RecordIdentity,
    Sampler,
)
from vaefill.store.sources import expand

_SOFTWARE = (
    "vaefill",
    "tensorflow",
    "tensorflow-probability",
    "keras",
    "numpy",
    "apache-beam",
    "tensorflow-datasets",
)
# Keys of `record`, and what went without saying before
_IMPLIED = {"mask_means": "observed", "missing": "nan"}
# Those of `mask`, likewise
_IMPLIED_OF_MASK = dict.fromkeys(("dark", "bright", "black", "white"))
_INSTRUCTION_SETS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16")


def describe_inputs(files: Iterable[FileInfo]) -> tuple[Input, ...]:
    """What the manifest says of the input.

    Args:
        files: as they were found.

    Raises:
        SourceError: a file cannot be read.
    """
    return tuple(map(_describe, files))


def _describe(file: FileInfo) -> Input:
    try:
        digest = sha256(file.path)
    except OSError as error:
        raise SourceError(f"cannot read {file.path}: {error.strerror or error}") from None
    return Input(
        path=file.path.encode("utf-8", "backslashreplace").decode(),  # names can be any bytes
        size=file.size,
        modified=_iso(file.modified),
        sha256=digest,
    )


def _iso(modified: float) -> str:
    """A Unix time in ISO 8601; one outside of the years 1 to 9999 as the nearest within."""
    try:
        return datetime.datetime.fromtimestamp(modified, datetime.UTC).isoformat()
    except (OverflowError, ValueError, OSError):
        nearest = datetime.datetime.max if modified > 0 else datetime.datetime.min
        return nearest.replace(tzinfo=datetime.UTC).isoformat()


def digests(inputs: Iterable[Input]) -> tuple[str, ...]:
    """The SHA-256 of inputs, sorted: the same in whatever order and under whatever names."""
    return tuple(sorted(file.sha256 for file in inputs))


def record_identity(config: Config, model: str) -> RecordIdentity:
    """What the result of a record depends on, beside the record.

    Args:
        config: of the job.
        model: the model's fingerprint.
    """
    return RecordIdentity(
        model=model,
        seed=config.seed,
        sampler=Sampler(**config.sampler.model_dump(mode="json")),
        record=_said(config.record, _IMPLIED),
        software=software(),
        device=device(),
    )


def impute_identity(
    config: Config,
    of_records: RecordIdentity,
    inputs: Iterable[Input],
    since: Iterable[str],
) -> ImputeIdentity:
    """What the result of imputation depends on.

    Args:
        config: of the job.
        of_records: what its records depend on.
        inputs: its input files.
        since: the digests of the manifests of earlier results, sorted.
    """
    return ImputeIdentity(
        **dict(of_records),
        output=config.output.model_dump(mode="json"),
        max_record_bytes=config.limits.max_record_bytes,
        inputs=digests(inputs),
        since=tuple(since),
    )


def mask_identity(config: Config, inputs: tuple[str, ...] | dict[str, Any]) -> MaskIdentity:
    """What a data set of masked records depends on.

    Args:
        config: of the job.
        inputs: the `digests` of its input files, or what tells a tfds data set from others.

    Raises:
        SourceError: the files of masks are not there.
    """
    pattern = config.mask.parameters.get("masks")
    masks = expand((pattern,), config.limits.allow_missing_shards) if pattern else []
    return MaskIdentity(
        seed=config.seed,
        mask=_said(config.mask, _IMPLIED_OF_MASK),
        record=_said(config.record, _IMPLIED),
        output=config.output.model_dump(mode="json"),
        max_record_bytes=config.limits.max_record_bytes,
        inputs=inputs,
        masks=tuple(sha256(file.path) for file in masks),
        software=software(),
    )


def _said(section: Section, implied: Mapping[str, Any]) -> dict[str, Any]:
    """A section without what says nothing that was not so before there was a word for it: results
    that are older stay the same run's.
    """
    values = section.model_dump(mode="json")
    return {key: value for key, value in values.items() if implied.get(key, ...) != value}


def software() -> dict[str, str]:
    """The versions that a result may depend on."""
    return {name: importlib.metadata.version(name) for name in _SOFTWARE} | {
        "python": platform.python_version(),
    }


def device() -> Device:
    """What the numbers are computed on: the device type and, on a CPU, its instruction sets."""
    devices = tf.config.list_physical_devices("GPU")
    gpus = [tf.config.experimental.get_device_details(gpu) for gpu in devices]
    flags: set[str] = set()
    if os.path.exists("/proc/cpuinfo"):  # of the kernel, not a file of ours
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = set(next((line for line in file if line.startswith("flags")), "").split())
    return Device(
        type=gpus[0].get("device_name", "GPU") if gpus else "CPU",
        machine=platform.machine(),
        instruction_sets=tuple(name for name in _INSTRUCTION_SETS if name in flags),
    )
