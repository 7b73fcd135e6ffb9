"""The one way to touch files: paths of this machine, also as `file://`, and of object stores.

On this machine that is the standard library, as fast as it gets. `gs://` and `s3://` go through
`fsspec` and the package that an extra of ours brings; `etils.epath` would send them to TensorFlow,
which knows no S3.

A file is written whole or not at all. On this machine it gets its name by a rename, when it is
complete; an object store shows an object only when it is complete.

What opens files by itself and so needs paths of this machine is given them by `local_copy` and
`written_whole`.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import fsspec

from vaefill.model import patterns
from vaefill.model.errors import StoreError, TooLargeError

_EXTRAS = {"gs": "gcp", "s3": "aws"}  # scheme of an object store -> our extra that brings it
_HERE = "file://"
_BLOCK = 1 << 20  # bytes
_STORE_BLOCK = 8 << 20  # bytes that a store is asked for at once


class FileInfo(NamedTuple):
    """A file that is there."""

    path: str
    size: int  # bytes
    modified: float  # Unix time


def _local(path: str) -> str | None:
    """The path as the standard library has it, None where it is not of this machine."""
    if path.startswith(_HERE):
        return path.removeprefix(_HERE)
    return None if "://" in path else path


def _store(path: str) -> fsspec.AbstractFileSystem:
    """The object store that a path is of.

    Raises:
        StoreError: there is none, or its package is not installed.
    """
    scheme = path.partition("://")[0]
    if scheme not in _EXTRAS:
        known = " and ".join(f"{name}://" for name in _EXTRAS)
        raise StoreError(f"{path}: {scheme}:// is not supported; {known} are, and local paths")
    try:
        return fsspec.filesystem(scheme)
    except ImportError:
        fix = f"pip install 'vaefill[{_EXTRAS[scheme]}]'"
        raise StoreError(f"{path}: a package for {scheme}:// is not installed; {fix}") from None
    except Exception as error:  # of credentials, for instance
        raise StoreError(f"{path}: {scheme}:// is not within reach: {_line(error)}") from error


def exists(path: str) -> bool:
    """Whether there is a file or directory."""
    place = _local(path)
    return _store(path).exists(path) if place is None else os.path.exists(place)


def is_file(path: str) -> bool:
    """Whether there is a file."""
    place = _local(path)
    return _store(path).isfile(path) if place is None else os.path.isfile(place)


def is_directory(path: str) -> bool:
    """Whether there is a directory; in an object store, whether anything has a name below it."""
    place = _local(path)
    if place is not None:
        return os.path.isdir(place)
    with _in_one_line(f"look for {path}"):
        return _store(path).isdir(path)


def list_names(directory: str) -> list[str]:
    """The names of what a directory holds, sorted; none where there is no directory."""
    place = _local(directory)
    try:
        if place is not None:
            return sorted(os.listdir(place))
        names = _store(directory).ls(directory, detail=False)
    except FileNotFoundError:
        return []
    return sorted(os.path.basename(name.rstrip("/")) for name in names)


def walk(directory: str) -> Iterator[tuple[str, list[str]]]:
    """A directory and all below it, each with the names of its files."""
    place = _local(directory)
    if place is not None:
        for folder, _, names in os.walk(place):
            yield folder, names
        return
    for folder, _, names in _store(directory).walk(directory):
        yield _named(directory, folder), names


def _named(like: str, name: str) -> str:
    """The path of what a store calls by a name without its scheme."""
    return f"{like.partition('://')[0]}://{name.lstrip('/')}"


def match(pattern: str) -> list[FileInfo]:
    """The files that match a glob pattern, in the order of their paths.

    Args:
        pattern: `*` stands for any characters but `/`, `**` for any, `?` for one, `[ab]` and
            `[!ab]` for one of a set; with a `/` at its end it stands for all in a directory.
            Names that begin with a dot match too. What is there by its very name is taken
            literally, and links are followed.

    Returns:
        The files, empty where there are none. `file://` is left off their paths.

    Raises:
        StoreError: no such object store is within reach.
        OSError: the pattern is none, the store cannot be asked, or what the pattern may mean
            cannot be read.
    """
    place = _local(pattern)
    if place is None:
        return sorted(_match_in_store(pattern))
    found = []
    for path in sorted(patterns.match(place)):
        with contextlib.suppress(FileNotFoundError):  # gone meanwhile
            found.append(describe(path))
    return found


def _match_in_store(pattern: str) -> list[FileInfo]:
    store = _store(pattern)
    with _in_one_line(f"look for {pattern}"):
        if store.isfile(pattern):
            return [describe(pattern)]
        pattern = f"{pattern}*" if pattern.endswith("/") else pattern
        return [
            FileInfo(_named(pattern, name), info["size"], store.modified(name).timestamp())
            for name, info in store.glob(pattern, detail=True).items()
            if info["type"] == "file"
        ]


@contextlib.contextmanager
def _in_one_line(action: str) -> Iterator[None]:
    """Makes what a store raises, of credentials for instance, an OSError of one line."""
    try:
        yield
    except (FileNotFoundError, StoreError):
        raise
    except Exception as error:
        raise OSError(f"cannot {action}: {_line(error)}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def describe(path: str) -> FileInfo:
    """A file as it is now.

    Raises:
        OSError: it is not there, or the store cannot be asked.
    """
    place = _local(path)
    if place is not None:
        status = os.stat(place)
        return FileInfo(place, status.st_size, status.st_mtime)
    store = _store(path)
    with _in_one_line(f"look for {path}"):
        store.invalidate_cache()  # or it would be as it was when it was last listed
        return FileInfo(path, store.size(path), store.modified(path).timestamp())


def resolve(path: str) -> str:
    """The path of a file without links: the same for whatever names lead to it."""
    place = _local(path)
    return path if place is None else os.path.realpath(place)


def make_directory(path: str) -> None:
    """Makes a directory and those above it, unless they are there."""
    place = _local(path)
    if place is None:
        _store(path).makedirs(path, exist_ok=True)
    else:
        os.makedirs(place, exist_ok=True)


def remove(path: str, ignore_errors: bool = False) -> None:
    """Removes a file, or a directory and all in it; nothing where there is nothing.

    Args:
        path: of it.
        ignore_errors: whether what will not go, of a directory, may stay.
    """
    place = _local(path)
    with contextlib.suppress(FileNotFoundError):
        if place is None:
            _store(path).rm(path, recursive=True)
        elif os.path.isdir(place):
            shutil.rmtree(place, ignore_errors=ignore_errors)
        else:
            os.remove(place)


def rename(source: str, target: str) -> None:
    """Gives a file or directory of this machine another name on its file system, in one step.

    Args:
        source: its path.
        target: the new one; a file, or an empty directory, gives way to its like.

    Raises:
        OSError: it cannot be done, in an object store for one.
    """
    here, there = _local(source), _local(target)
    if here is None or there is None:
        raise OSError(f"{source}: an object store has no renames")
    os.rename(here, there)


def open_to_read(path: str) -> io.BufferedReader:
    """Opens a file to read its bytes, to peek at them and to seek."""
    place = _local(path)
    if place is not None:
        return open(place, "rb")
    with _in_one_line(f"read {path}"):
        return io.BufferedReader(_store(path).open(path, "rb", block_size=_STORE_BLOCK))


def create(path: str) -> BinaryIO:
    """Opens a new file to add bytes to, which others may see when they are flushed.

    In an object store they see nothing before it is closed.
    """
    place = _local(path)
    return _store(path).open(path, "wb") if place is None else open(place, "wb")


def read(path: str) -> bytes:
    """The content of a file."""
    with open_to_read(path) as file:
        return file.read()


def read_json(path: str) -> Any:
    """The values in a JSON file of our own.

    Raises:
        ValueError: it is not JSON.
        OSError: it cannot be read.
    """
    return json.loads(read(path))


def read_at_most(path: str, limit: int) -> bytes:
    """The content of a file that nobody vouches for.

    Args:
        path: of the file.
        limit: bytes; a larger file is refused before any of it is read.

    Raises:
        TooLargeError: it is larger.
        OSError: it cannot be read.
    """
    place = _local(path)
    size = _store(path).size(path) if place is None else os.path.getsize(place)
    if size > limit:
        raise TooLargeError(f"{path} is larger than {limit} bytes")
    return read(path)


def sha256(path: str) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open_to_read(path) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[str]:
    """A path of this machine where a file can be read inside: its own, or that of a copy.

    Args:
        path: of the file.

    Example:
        >>> with local_copy(path) as place, pyarrow.parquet.ParquetFile(place) as table:
        ...     rows = table.read()
    """
    place = _local(path)
    if place is not None:
        yield place
        return
    with tempfile.TemporaryDirectory() as directory:
        copy = os.path.join(directory, os.path.basename(path))
        _store(path).get_file(path, copy)
        yield copy


@contextlib.contextmanager
def written_whole(path: str, temporary: str | None = None) -> Iterator[str]:
    """A path of this machine to write to, which becomes `path` at the end of what is done inside.

    Of a failure nothing becomes it.

    Args:
        path: of the file; an earlier one is replaced.
        temporary: where it grows meanwhile, on the same file system; by default beside it. What
            goes to an object store grows in a directory of its own.

    Example:
        >>> with written_whole("table.parquet") as growing:
        ...     pyarrow.parquet.write_table(table, growing)
    """
    place = _local(path)
    if place is not None:
        growing = temporary or f"{place}.tmp"
        yield growing
        os.replace(growing, place)
        return
    store = _store(path)
    with tempfile.TemporaryDirectory() as directory:
        growing = os.path.join(directory, os.path.basename(path))
        yield growing
        store.put_file(growing, path)


def write_whole(path: str, content: bytes | str, temporary: str | None = None) -> None:
    """Writes a file that is never seen half-written.

    Args:
        path: of the file; an earlier one is replaced.
        content: text is written as UTF-8.
        temporary: where it grows meanwhile; see `written_whole`.
    """
    raw = content.encode() if isinstance(content, str) else content
    with written_whole(path, temporary) as growing, open(growing, "wb") as file:
        file.write(raw)


def write_json(path: str, values: Any) -> None:
    """Writes JSON values as an indented file with sorted keys, whole or not at all."""
    write_whole(path, json.dumps(values, indent=2, sort_keys=True) + "\n")


def flush(path: str) -> None:
    """Waits until a file, or what a directory lists, is on the disk.

    An object store has done so already.
    """
    place = _local(path)
    if place is None:
        return
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
