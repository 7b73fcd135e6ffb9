"""All or nothing: a result is staged beside its directory, sealed by a manifest, and renamed into place.

A directory without `manifest.json` is not a result.
"""

import contextlib
import datetime
import fcntl
import glob
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from pipeline.sinks import Layout
from pipeline.sources import InputFile, SourceError

MANIFEST = "manifest.json"
_LOGGER = logging.getLogger("vaefill")
_STAGING = ".staging-"
_LOCK = ".lock"
_SOFTWARE = ("vaefill", "tensorflow", "tensorflow-probability", "keras", "numpy", "apache-beam", "tensorflow-datasets")
_INSTRUCTION_SETS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16")


class ResultError(ValueError):
    """An output directory that cannot be written or read."""


def sha256(path: str) -> str:
    """The SHA-256 of a file on any of Beam's file systems, in hexadecimal."""
    digest = hashlib.sha256()
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def describe_inputs(files: Iterable[InputFile]) -> list[dict[str, Any]]:
    """What the manifest says of the input.

    Raises:
        SourceError: a file cannot be read.
    """

    def describe(file: InputFile) -> dict[str, Any]:
        try:
            digest = sha256(file.path)
        except OSError as error:
            raise SourceError(f"cannot read {file.path}: {error.strerror or error}") from None
        modified = datetime.datetime.fromtimestamp(file.modified, datetime.UTC).isoformat()
        return {"path": file.path, "size": file.size, "modified": modified, "sha256": digest}

    return [describe(file) for file in files]


def software() -> dict[str, str]:
    """The versions that a result may depend on."""
    return {name: importlib.metadata.version(name) for name in _SOFTWARE} | {"python": platform.python_version()}


def device() -> dict[str, Any]:
    """What the numbers are computed on: the device type and, on a CPU, its instruction sets."""
    gpus = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    flags: set[str] = set()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = set(next((line for line in file if line.startswith("flags")), "").split())
    return {
        "type": gpus[0].get("device_name", "GPU") if gpus else "CPU",
        "machine": platform.machine(),
        "instruction_sets": [name for name in _INSTRUCTION_SETS if name in flags],
    }


def read_manifest(directory: str) -> dict[str, Any]:
    """The manifest of a finished result.

    Raises:
        ResultError: the directory is not a result.
    """
    path = os.path.join(directory, MANIFEST)
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        raise ResultError(f"{directory} is not a finished result: it has no {MANIFEST}") from None
    except (OSError, ValueError) as error:
        raise ResultError(f"cannot read {path}: {error}") from None


def read_summary(directory: str) -> dict[str, Any]:
    """What summary.json of a finished result holds.

    Raises:
        ResultError: the directory is not a result of imputation.
    """
    read_manifest(directory)
    path = os.path.join(directory, "summary", "summary.json")
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise ResultError(f"{directory} holds no summary of imputed records: {error}") from None


def is_done(directory: str, identity: Mapping[str, Any], replace: bool) -> bool:
    """Whether a directory already holds the result of the same run.

    Raises:
        ResultError: it holds something else, which `replace` does not allow to replace.
    """
    if "://" in directory:
        raise ResultError(f"{directory}: results are written to a file system that can rename a directory")
    if not os.path.exists(directory) or (os.path.isdir(directory) and not os.listdir(directory)):
        return False
    theirs = read_manifest(directory).get("identity")
    if not isinstance(theirs, dict):
        raise ResultError(f"{directory} holds a {MANIFEST} that is not of vaefill")
    if theirs == json.loads(json.dumps(identity)):
        return True
    if not replace:
        different = sorted(key for key in identity.keys() | theirs.keys() if identity.get(key) != theirs.get(key))
        raise ResultError(
            f"{directory} holds the result of another run (different: {', '.join(different)}); "
            "choose another directory, or replace it with --replace"
        )
    return False


@contextlib.contextmanager
def staging(directory: str) -> Iterator[str]:
    """A fresh staging directory beside a result, on the same file system.

    Its owner holds a lock while it works, so that a run removes what killed ones left and never what
    another one is writing.
    """
    path = os.path.abspath(directory)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    for leftover in glob.glob(f"{glob.escape(path)}{_STAGING}*"):
        _remove_if_abandoned(leftover)
    root = tempfile.mkdtemp(prefix=os.path.basename(path) + _STAGING, dir=os.path.dirname(path))
    os.chmod(root, 0o755)
    with open(os.path.join(root, _LOCK), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield root


def _remove_if_abandoned(root: str) -> None:
    try:
        with open(os.path.join(root, _LOCK), encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(root)
    except (FileNotFoundError, NotADirectoryError):
        return  # none of ours, or gone meanwhile
    except BlockingIOError:
        _LOGGER.warning("another run is writing %s", root)


def write_dataset_info(
    layout: Layout, features: tfds.features.FeaturesDict, shards: Sequence[Mapping[str, int]], description: str
) -> None:
    """Makes the staged files a tfds data set: features.json and dataset_info.json."""
    template = tfds.core.ShardedFileTemplate(
        data_dir=layout.dataset,
        dataset_name=layout.name,
        split=layout.split,
        filetype_suffix="tfrecord",
        template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    )
    split = tfds.core.SplitInfo(
        name=layout.split,
        shard_lengths=[shard["num_records"] for shard in shards],
        num_bytes=sum(shard["num_bytes"] for shard in shards),
        filename_template=template,
    )
    tfds.folder_dataset.write_metadata(
        data_dir=layout.dataset,
        features=features,
        split_infos=[split],
        filename_template=template,
        description=description,
        check_data=False,
    )


def seal(root: str, content: Mapping[str, Any]) -> None:
    """Removes what only the run needed, and writes the manifest with the SHA-256 of every file left."""
    for name in ("spill", "parts"):
        shutil.rmtree(os.path.join(root, name), ignore_errors=True)
    os.remove(os.path.join(root, _LOCK))
    files = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            files[os.path.relpath(path, root)] = sha256(path)
    path = os.path.join(root, MANIFEST)
    with open(path, "w", encoding="utf-8") as file:
        json.dump({**content, "files": dict(sorted(files.items()))}, file, indent=2, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())


def publish(root: str, directory: str) -> None:
    """Renames a sealed staging directory into place; an earlier result gives way only then."""
    old = f"{root}.old"  # as unique as the staging directory
    if os.path.exists(directory):
        os.rename(directory, old)
    os.rename(root, directory)
    shutil.rmtree(old, ignore_errors=True)
