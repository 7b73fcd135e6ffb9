"""What a compressed file holds, up to where it is broken, and no more of it in memory than a part.

Which format a file has, its first bytes say, not its name.
"""

import abc
import bz2
import io
import zlib
from collections.abc import Callable
from typing import Protocol

_GZIP, _ZLIB = 31, 15  # zlib's words for the formats
_PART = 1 << 14  # bytes at a time; by zlib they hold a thousand times as many at most
_STEP = 1 << 12  # bytes of content at a time; by bzip2 a part may hold a million times as many
_SNIFFED = 16  # bytes of content that say what it is

_READ = {b"\x1f\x8b": "gzip", b"BZh": "bzip2"}
_NOT_READ = {
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
}


class BrokenError(Exception):
    """A compressed stream that is broken, or cut."""


class Readable(Protocol):
    """A stream of bytes."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes, none at the end."""


def format_of(start: bytes) -> str:
    """The name of the format that a stream seems to have by its first bytes; empty if none is
    known.
    """
    known = (_READ | _NOT_READ).items()
    return next((name for signature, name in known if start.startswith(signature)), "")


def content_of(
    raw: io.BufferedReader, is_content: Callable[[bytes], bool]
) -> "io.BufferedReader | Inflated":
    """What an open file holds, inflated where it is a gzip, zlib or bzip2 file.

    Args:
        raw: the file, at its beginning.
        is_content: whether a stream that begins with these bytes is what is looked for. The
            signatures of compressed files could also be the length of a record.
    """
    start = raw.peek(_SNIFFED)
    if is_content(start):
        return raw
    name = format_of(start)
    if name == "gzip":
        return _Deflated(raw, "gzip", _GZIP)
    if name == "bzip2":
        return _Bzipped(raw, "bzip2")
    return _Deflated(raw, "zlib", _ZLIB) if _is_zlib(start, is_content) else raw


def _is_zlib(start: bytes, is_content: Callable[[bytes], bool]) -> bool:
    """Whether this begins a zlib stream; as its signature says little, its content is looked at."""
    inflater = zlib.decompressobj(wbits=_ZLIB)
    try:
        content = inflater.decompress(start, _SNIFFED)
    except zlib.error:
        return False
    return is_content(content) or bool(format_of(content)) or inflater.eof


class Inflated(abc.ABC):
    """The content of a compressed file.

    Args:
        raw: the file, at its beginning.
        name: of its format.
    """

    def __init__(self, raw: Readable, name: str):
        self.name = name
        self._raw = raw

    @abc.abstractmethod
    def read(self, size: int) -> bytes:
        """Up to `size` bytes, none at the end.

        Raises:
            BrokenError: the file is cut or broken here.
        """

    def _broken(self, error: object) -> BrokenError:
        return BrokenError(f"broken {self.name} stream: {error}")


class _Deflated(Inflated):
    """The content of a gzip or zlib file, up to the very byte at which it is broken.

    The standard library's reader loses the whole block that it meets an error in, and good records
    with it.
    """

    def __init__(self, raw: Readable, name: str, wbits: int):
        super().__init__(raw, name)
        self._wbits = wbits
        self._inflater = zlib.decompressobj(wbits=wbits)
        self._begun = False
        self._content = bytearray()
        self._error: zlib.error | None = None

    def read(self, size: int) -> bytes:
        """See `Inflated`."""
        while not self._content and not self._error and (part := self._raw.read(_PART)):
            self._inflate(part)
        if not self._content:
            if self._error or self._begun:
                raise self._broken(self._error or "the file ends before it should")
            return b""
        content = bytes(self._content[:size])
        del self._content[:size]
        return content

    def _inflate(self, part: bytes) -> None:
        """Takes in a part of the file; halves one with an error in it until that is found."""
        while not self._error:
            if not self._begun:
                # Zeros may fill up a block after the last member, or between two
                part = part.lstrip(b"\0")
            if not part:
                return
            before = self._inflater.copy()
            try:
                self._content += self._inflater.decompress(part)
            except zlib.error as error:
                self._inflater, half = before, len(part) // 2
                if not half:
                    self._error = error
                    return
                self._inflate(part[:half])
                part = part[half:]
                continue
            self._begun, part = not self._inflater.eof, self._inflater.unused_data
            if not self._begun:
                self._inflater = zlib.decompressobj(wbits=self._wbits)


class _Bzipped(Inflated):
    """The content of a bzip2 file, up to a step before the byte at which it is broken."""

    def __init__(self, raw: Readable, name: str):
        super().__init__(raw, name)
        self._inflater = bz2.BZ2Decompressor()
        self._begun = False
        self._next = b""  # of the file, already read
        self._error: OSError | None = None

    def read(self, size: int) -> bytes:
        """See `Inflated`."""
        while not self._error:
            part = self._part() if self._inflater.needs_input else b""
            if not part and self._inflater.needs_input:
                if self._begun:
                    raise self._broken("the file ends before it should")
                return b""
            self._begun = True
            try:
                content = self._inflater.decompress(part, min(size, _STEP))
            except OSError as error:  # not of the disk: nothing is read here
                self._error = error
                break
            if self._inflater.eof:
                self._next = self._inflater.unused_data
                self._inflater, self._begun = bz2.BZ2Decompressor(), False
            if content:
                return content
        raise self._broken(self._error)

    def _part(self) -> bytes:
        """The next part of the file, without zeros between two members."""
        while part := self._next or self._raw.read(_PART):
            self._next = b""
            if part := part if self._begun else part.lstrip(b"\0"):
                break
        return part
