"""The one way to touch files: paths of this machine and, by `etils.epath`, of object stores (gs://,
s3://).

A file is written whole or not at all. On this machine it gets its name by a rename, when it is
complete; an object store shows an object only when it is complete, and knows no renames.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any

from etils import epath

from vaefill.model.errors import ExpectedError


def is_local(path: str) -> bool:
    """Whether a path is of this machine's file systems, which can rename."""
    return "://" not in path


def exists(path: str) -> bool:
    """Whether there is a file or directory."""
    return epath.Path(path).exists()


def list_names(directory: str) -> list[str]:
    """The names of what a directory holds, sorted; none where there is no directory."""
    place = epath.Path(directory)
    return sorted(each.name for each in place.iterdir()) if place.exists() else []


def make_directory(path: str) -> None:
    """Makes a directory and those above it, unless they are there."""
    epath.Path(path).mkdir(parents=True, exist_ok=True)


def remove(path: str) -> None:
    """Removes a file, or a directory and all in it; nothing where there is nothing."""
    place = epath.Path(path)
    if place.is_dir():
        place.rmtree(missing_ok=True)
    else:
        place.unlink(missing_ok=True)


@contextlib.contextmanager
def written_whole(path: str, temporary: str | None = None) -> Iterator[str]:
    """A path to write to, which becomes `path` at the end of what is done inside; of a failure
    nothing becomes it.

    Args:
        path: of the file; an earlier one is replaced.
        temporary: where it grows meanwhile, on the same file system; by default beside it.

    Example:
        >>> with written_whole("table.parquet") as growing:
        ...     pyarrow.parquet.write_table(table, growing)
    """
    if not is_local(path):
        yield path
        return
    growing = temporary or f"{path}.tmp"
    yield growing
    os.replace(growing, path)


def write_whole(path: str, content: bytes | str, temporary: str | None = None) -> None:
    """Writes a file that is never seen half-written; see `written_whole`."""
    raw = content.encode() if isinstance(content, str) else content
    with written_whole(path, temporary) as growing:
        epath.Path(growing).write_bytes(raw)


def write_json(path: str, values: Any) -> None:
    """Writes JSON values as an indented file with sorted keys, whole or not at all."""
    write_whole(path, json.dumps(values, indent=2, sort_keys=True) + "\n")


def read_at_most(path: str, limit: int) -> bytes:
    """The content of a file that nobody vouches for.

    Args:
        limit: bytes; a larger file is refused before any of it is read.

    Raises:
        ExpectedError: it is larger.
        OSError: it cannot be read.
    """
    place = epath.Path(path)
    if place.stat().length > limit:
        raise ExpectedError(f"{path} is larger than {limit} bytes")
    return place.read_bytes()


def flush(path: str) -> None:
    """Waits until a file, or what a directory lists, is on the disk; an object store has done so
    already.
    """
    if not is_local(path):
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
