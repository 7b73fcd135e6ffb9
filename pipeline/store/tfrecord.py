"""TFRecord framing: files -> frames, and dead letters for what cannot be read.

It is read here rather than by Beam's own source, which gives up on a file at its first bad
checksum: a record with a bad data checksum is lost alone, one with a bad length checksum takes the
rest of its file with it, since nothing says where the next record starts.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, Protocol

import google_crc32c

from vaefill.model import files
from vaefill.records.record import Reason

_HEADER = struct.Struct("<QI")  # length, masked CRC of its eight bytes
_FOOTER = struct.Struct("<I")  # masked CRC of the data
HEADER_SIZE = _HEADER.size
_GZIP_SIGNATURE = b"\x1f\x8b"
_GZIP = 31  # zlib's word for the format
_GZIP_PART = 1 << 14  # bytes at a time; they hold a thousand times as many at most


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes, none at the end."""


class Source(NamedTuple):
    """Where a record comes from; sorts by (file, offset)."""

    file: str  # or the split of a tfds data set
    offset: int  # of the frame, in the uncompressed stream; or the number of the example
    size: int  # bytes of the payload; 0 where no file holds one


class Frame(NamedTuple):
    """A record as it stands in its file; of a tfds data set it has no payload."""

    payload: bytes
    file: str
    offset: int

    @property
    def source(self) -> Source:
        """Where the payload can be read again."""
        return Source(self.file, self.offset, len(self.payload))


class DeadLetter(NamedTuple):
    """A record, or a stretch of a file, that could not be used."""

    frame: Frame
    reason: Reason
    message: str
    record_id: bytes  # empty if not known
    num_bytes: int  # of the file that no record can be found in; 0 for a single bad record


def read_frames(path: str, max_record_bytes: int) -> Iterator[Frame | DeadLetter]:
    """All records of a TFRecord file, gzipped or not, whatever its name.

    Args:
        path: the file.
        max_record_bytes: a longer record is skipped without being read into memory.
    """
    with files.open_to_read(path) as raw:
        yield from _frames(_content_of(raw), path, max_record_bytes, 0)


class PayloadReader:
    """Reads payloads again from where they stand, fastest in the order of their sources.

    To go on within a gzip file is to inflate what lies between; to go back, to begin anew.
    """

    def __init__(self) -> None:
        self._path = ""
        self._raw: BinaryIO | None = None
        self._position = 0

    def __call__(self, source: Source) -> bytes:
        """The payload of a record that has been read before; empty where no file holds one.

        Raises:
            OSError: there is no such record any more.
        """
        file, offset, size = source
        if not size:
            return b""
        if file != self._path or offset < self._position:
            self._open(file)
        if isinstance(self._stream, _Gunzip):
            _drain(self._stream, offset - self._position)
        else:
            self._stream.seek(offset)
        found = next(_frames(self._stream, file, size, offset), None)
        if not isinstance(found, Frame) or len(found.payload) != size:
            self.close()
            raise OSError(f"{file}: the record of {size} bytes at {offset} is there no more")
        self._position = offset + HEADER_SIZE + size + _FOOTER.size
        return found.payload

    def _open(self, path: str) -> None:
        self.close()
        self._raw = files.open_to_read(path)
        self._path = path
        self._stream = _content_of(self._raw)
        self._position = 0

    def close(self) -> None:
        """Closes the file that is open."""
        if self._raw is not None:
            self._raw.close()
        self._path = ""
        self._raw = None


def _content_of(raw: io.BufferedReader) -> "io.BufferedReader | _Gunzip":
    """What an open file holds, inflated where it is a gzip file."""
    start = raw.peek(HEADER_SIZE)[:HEADER_SIZE]
    # The first two bytes alone could also be the length of a record.
    is_gzip = start.startswith(_GZIP_SIGNATURE) and not _is_header(start)
    return _Gunzip(raw) if is_gzip else raw


def _masked_crc(content: bytes) -> int:
    crc = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def frame(payload: bytes) -> bytes:
    """A record as it stands in a TFRecord file."""
    length = struct.pack("<Q", len(payload))
    return b"".join(
        (length, _FOOTER.pack(_masked_crc(length)), payload, _FOOTER.pack(_masked_crc(payload)))
    )


def _is_header(content: bytes) -> bool:
    return len(content) == _HEADER.size and _HEADER.unpack(content)[1] == _masked_crc(content[:8])


def _frames(
    stream: _Readable, path: str, max_record_bytes: int, offset: int
) -> Iterator[Frame | DeadLetter]:
    """The rest of a stream, which stands at `offset`."""

    def dead(reason: Reason, message: str, payload: bytes = b"", num_bytes: int = 0) -> DeadLetter:
        return DeadLetter(Frame(payload, path, offset), reason, message, b"", num_bytes)

    while True:
        header, error = _read(stream, _HEADER.size)
        if not header and not error:
            return
        if error or not _is_header(header):
            rest = len(header) + _drain(stream)
            message = error or (
                "file ends within a length"
                if len(header) < _HEADER.size
                else "bad checksum of a length"
            )
            yield dead(Reason.UNREADABLE_REST, message, num_bytes=rest)
            return
        length = _HEADER.unpack(header)[0]
        if length > max_record_bytes:
            skipped = _drain(stream, length + _FOOTER.size)
            if skipped < length + _FOOTER.size:
                yield dead(
                    Reason.UNREADABLE_REST,
                    "file ends within a record",
                    num_bytes=_HEADER.size + skipped,
                )
                return
            yield dead(
                Reason.TOO_LARGE, f"{length} bytes, limits.max_record_bytes is {max_record_bytes}"
            )
        else:
            body, error = _read(stream, length + _FOOTER.size)
            if error or len(body) < length + _FOOTER.size:
                rest = _HEADER.size + len(body) + _drain(stream)
                yield dead(
                    Reason.UNREADABLE_REST, error or "file ends within a record", num_bytes=rest
                )
                return
            payload = body[:length]
            if _FOOTER.unpack(body[length:])[0] == _masked_crc(payload):
                yield Frame(payload, path, offset)
            else:
                yield dead(Reason.BAD_DATA_CRC, "bad checksum of the data", payload)
        offset += _HEADER.size + length + _FOOTER.size


def _read(stream: _Readable, size: int) -> tuple[bytes, str]:
    """Reads up to `size` bytes; a broken or cut gzip stream is an error message, not an
    exception.
    """
    content = bytearray()
    try:
        while len(content) < size and (part := stream.read(size - len(content))):
            content += part
    except (EOFError, zlib.error) as error:
        return bytes(content), f"broken gzip stream: {error}"
    return bytes(content), ""


class _Gunzip:
    """The content of a gzip file, up to the very byte at which it is broken.

    The standard library's reader loses the whole block that it meets an error in, and good records
    with it.
    """

    def __init__(self, raw: _Readable):
        self._raw = raw
        self._inflater = zlib.decompressobj(wbits=_GZIP)
        self._begun = False
        self._content = bytearray()
        self._error: zlib.error | None = None

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, none at the end.

        Raises:
            EOFError: the file is cut.
            zlib.error: it is broken.
        """
        while not self._content and not self._error and (part := self._raw.read(_GZIP_PART)):
            self._inflate(part)
        if not self._content:
            if self._error or self._begun:
                raise self._error or EOFError("the file ends before it should")
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
                self._inflater = zlib.decompressobj(wbits=_GZIP)


def _drain(stream: _Readable, size: int | None = None) -> int:
    """Reads and forgets `size` bytes, or all that is left; returns how many there were."""
    total = 0
    while size is None or total < size:
        content, error = _read(stream, min(1 << 20, size - total) if size is not None else 1 << 20)
        total += len(content)
        if error or not content:
            break
    return total
