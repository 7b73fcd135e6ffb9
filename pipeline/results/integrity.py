"""What a result directory says of itself: `manifest.json`, written last, with the SHA-256 of every other file.

A directory without it is not a result.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from vaefill.pipeline.errors import ResultError

MANIFEST = "manifest.json"
_LARGEST_JSON = 256 << 20  # bytes
DIGEST = "manifest_sha256"  # of the manifest's other entries


def sha256(path: str) -> str:
    """The SHA-256 of a file on any of Beam's file systems, in hexadecimal."""
    digest = hashlib.sha256()
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_manifest(directory: str) -> dict[str, Any]:
    """The manifest of a finished result.

    Raises:
        ResultError: the directory is not a result.
    """
    path = os.path.join(directory, MANIFEST)
    if not os.path.exists(path):
        raise ResultError(f"{directory} is not a finished result: it has no {MANIFEST}")
    return _read_json(path)


def read_summary(directory: str) -> dict[str, Any]:
    """What summary.json of a finished result holds.

    Raises:
        ResultError: the directory is not a result of imputation.
    """
    read_manifest(directory)
    path = os.path.join(directory, "summary", "summary.json")
    if not os.path.exists(path):
        raise ResultError(f"{directory} holds no summary of imputed records")
    return _read_json(path)


def _read_json(path: str) -> dict[str, Any]:
    try:
        if os.path.getsize(path) > _LARGEST_JSON:
            raise ValueError(f"larger than {_LARGEST_JSON} bytes")
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise ResultError(f"cannot read {path}: {error}") from None
    if not isinstance(content, dict):
        raise ResultError(f"cannot read {path}: expected an object, got {type(content).__name__}")
    return content


def check_files(directory: str, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Checks that files of a result, all of them by default, are there and as they were written.

    Returns:
        The manifest.

    Raises:
        ResultError: the directory is not a result, or not the one that was written; it says which files are not.
    """
    manifest = read_manifest(directory)
    files = manifest.get("files")
    if not isinstance(files, dict) or manifest.get(DIGEST) != _digest(manifest):
        raise ResultError(f"{directory} is not what was written: {MANIFEST}: altered")
    chosen = sorted(files if names is None else names)
    _refuse(
        directory, [f"{ascii(name)[1:-1]}: {text}" for name in chosen if (text := _problem(directory, name, files))]
    )
    return manifest


def verify(directory: str) -> dict[str, Any]:
    """Checks that every file of a result is there and as it was written, and that there are no others beside them.

    Returns and raises: as `check_files`.
    """
    manifest = check_files(directory)
    surplus = []
    for folder in sorted({os.path.dirname(name) for name in manifest["files"]}):
        for name in sorted(os.listdir(os.path.join(directory, folder))):
            path = os.path.join(folder, name)
            if path not in (*manifest["files"], MANIFEST) and not os.path.isdir(os.path.join(directory, path)):
                surplus.append(f"{ascii(path)[1:-1]}: not part of it")
    _refuse(directory, surplus)
    return manifest


def _refuse(directory: str, wrong: Sequence[str]) -> None:
    if wrong:
        raise ResultError(f"{directory} is not what was written: {'; '.join(wrong)}")


def _problem(directory: str, name: str, files: Mapping[str, Any]) -> str | None:
    """What is wrong with a file of a result, if anything; links are not followed."""
    if os.path.isabs(name) or os.path.normpath(name) != name or name.startswith("..") or not name.isprintable():
        return "not a name within the result"
    path = os.path.join(directory, name)
    if os.path.realpath(path) != os.path.join(os.path.realpath(directory), name):
        return "a link"
    if not os.path.isfile(path):
        return "missing"
    try:
        return None if sha256(path) == files.get(name) else "altered"
    except OSError as error:
        return error.strerror or str(error)


def _digest(manifest: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != DIGEST}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


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


def seal(root: str, content: Mapping[str, Any]) -> None:
    """Removes what only the run needed, and writes the manifest when every file left has reached the disk."""
    for name in ("spill", "parts"):
        shutil.rmtree(os.path.join(root, name), ignore_errors=True)
    files = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            files[os.path.relpath(path, root)] = sha256(path)
            flush(path)
        flush(folder)
    manifest = {**content, "files": dict(sorted(files.items()))}
    manifest[DIGEST] = _digest(json.loads(json.dumps(manifest)))
    path = os.path.join(root, MANIFEST)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=2, sort_keys=True)
    flush(path)
    flush(root)


def flush(path: str) -> None:
    """Waits until a file, or what a directory lists, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
