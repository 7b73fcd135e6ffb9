"""Bytes that workers leave in files, and the places where they are found again.

Payloads never go through a shuffle: what is grouped is their places.
"""

import os
import secrets
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import apache_beam as beam
import google_crc32c

from vaefill.model import files
from vaefill.store.layout import Layout


class Place(NamedTuple):
    """Where bytes were spilled."""

    path: str
    offset: int
    size: int
    crc: int  # CRC-32C of the bytes

    def relative_to(self, root: str) -> "Place":
        """With a path that is shorter to hand on, for `below` the same root."""
        return self._replace(path=os.path.relpath(self.path, root))

    def below(self, root: str) -> "Place":
        """With the whole path again."""
        return self._replace(path=os.path.normpath(os.path.join(root, self.path)))


class SpillWriter:
    """Appends bytes to a file of its own in a directory, made when there is something to write."""

    def __init__(self, directory: str, suffix: str = ""):
        self._directory = directory
        self._suffix = suffix
        self._path = ""
        self._file: BinaryIO | None = None
        self._size = 0

    def append(self, content: bytes) -> Place:
        """Writes bytes, which are there for others once the writer is flushed or closed."""
        if self._file is None:
            self._path = os.path.join(self._directory, secrets.token_hex(8) + self._suffix)
            self._file = files.create(self._path)
        self._file.write(content)
        self._size += len(content)
        return Place(
            self._path, self._size - len(content), len(content), google_crc32c.value(content)
        )

    def flush(self) -> None:
        """Hands what was written to the operating system: then a killed process loses none of
        it.
        """
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Completes the file; more goes to another one."""
        if self._file is not None:
            self._file.close()
        self._file = None
        self._size = 0


class SpillReader:
    """Reads spilled bytes; keeps the file that it read last open."""

    def __init__(self) -> None:
        self._path: str | None = None
        self._file: BinaryIO | None = None

    def __call__(self, place: Place) -> bytes:
        """The bytes at a place.

        Raises:
            OSError: they are not what was written.
        """
        path, offset, size, crc = place
        if self._file is None or path != self._path:
            self.close()
            self._path = path
            self._file = files.open_to_read(path)
        self._file.seek(offset)
        content = self._file.read(size)
        if len(content) != size or google_crc32c.value(content) != crc:
            raise OSError(f"{path}: what was spilled at {offset} does not come back")
        return content

    def close(self) -> None:
        """Closes the file that is open."""
        if self._file is not None:
            self._file.close()
        self._path = None
        self._file = None


class Spill(beam.DoFn):
    """Appends bytes to one file a bundle."""

    def __init__(self, layout: Layout):
        self._layout = layout

    def start_bundle(self) -> None:
        self._writer = SpillWriter(self._layout.spill)

    def finish_bundle(self) -> Iterator[Any] | None:
        self._writer.close()
        return None

    def spill(self, content: bytes | Place) -> Place:
        """Writes bytes, unless they lie somewhere already; returns their place, to be handed on."""
        place = content if isinstance(content, Place) else self._writer.append(content)
        return place.relative_to(self._layout.root)


class Spilled:
    """What places stand for.

    Args:
        root: the staging directory.
    """

    def __init__(self, root: str):
        self._root, self._read = root, SpillReader()

    def content(self, place: Sequence) -> bytes:
        """The bytes at a place."""
        return self._read(Place(*place).below(self._root))

    def close(self) -> None:
        """Closes the file that is open."""
        self._read.close()
