"""TFRecord framing: files -> frames, and dead letters for what cannot be read.

It is read here rather than by Beam's own source, which gives up on a file at its first bad
checksum: a record with a bad data checksum is lost alone, one with a bad length checksum takes the
rest of its file with it, since nothing says where the next record starts.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import google_crc32c

from vaefill.model import files
from vaefill.records.record import Reason
from vaefill.store.compression import BrokenError, Inflated, Readable, content_of, format_of

_HEADER = struct.Struct("<QI")  # length, masked CRC of its eight bytes
_FOOTER = struct.Struct("<I")  # masked CRC of the data
HEADER_SIZE = _HEADER.size
# Bytes of a stretch at least, and of how many a file has at most. The more there are, the more
# evenly workers share them; each takes an element of the pipeline, and a file to be opened.
_STRETCH, _MOST_STRETCHES = 1 << 20, 1024
_BLOCK = 1 << 18  # bytes read at once to look for lengths


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


class Stretch(NamedTuple):
    """A part of the content of a file that begins and ends between two records."""

    start: int = 0  # bytes
    end: int | None = None  # None is the end of the file


WHOLE = Stretch()


def read_frames(
    path: str, max_record_bytes: int, stretch: Stretch = WHOLE
) -> Iterator[Frame | DeadLetter]:
    """All records of a TFRecord file, compressed by gzip, zlib or bzip2 or not, whatever its name.

    Args:
        path: the file.
        max_record_bytes: a longer record is skipped without being read into memory.
        stretch: one of its `stretches`, by default all of it.
    """
    with files.open_to_read(path) as raw:
        stream: Readable = raw
        if stretch.start:
            raw.seek(stretch.start)
        else:
            stream = content_of(raw, _begins_frames)
        yield from _frames(stream, path, max_record_bytes, *stretch)


def stretches(path: str) -> Iterator[Stretch]:
    """Cuts a TFRecord file into stretches that can be read apart: together they hold what it does.

    It goes from length to length, which takes a fraction of what reading takes. To look for a
    record in the middle of a file would be faster, but a payload may hold what looks like records.
    What comes after a bad checksum of a length stays in the last stretch, and so does all of a
    compressed file.

    Args:
        path: the file.
    """
    start = 0
    size = files.describe(path).size
    least = max(_STRETCH, -(-size // _MOST_STRETCHES))
    if size > least:
        with files.open_to_read(path) as raw:
            for position in _boundaries(raw):
                if position >= size:
                    break
                if position - start >= least:
                    yield Stretch(start, position)
                    start = position
    yield Stretch(start)


def _boundaries(raw: BinaryIO) -> Iterator[int]:
    """Where the records of an open file end, up to a bad checksum of a length.

    Lengths are looked up in blocks, which is faster than to read and seek for each.
    """
    block, first, position = b"", 0, 0  # the block lies at `first`
    while True:
        place = position - first
        if place + HEADER_SIZE > len(block):
            raw.seek(position)
            block, first, place = raw.read(_BLOCK), position, 0
        header = block[place : place + HEADER_SIZE]
        if not _is_header(header):
            return
        position += HEADER_SIZE + _HEADER.unpack(header)[0] + _FOOTER.size
        yield position


def looks_like_frames(path: str) -> bool:
    """Whether a file, compressed or not, begins with the length of a record and its checksum.

    Raises:
        OSError: it cannot be read.
    """
    with files.open_to_read(path) as raw:
        content, _ = _read(content_of(raw, _begins_frames), HEADER_SIZE)
        return _is_header(content)


class PayloadReader:
    """Reads payloads again from where they stand, fastest in the order of their sources.

    To go on within a compressed file is to inflate what lies between; to go back, to begin anew.
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
        if isinstance(self._stream, Inflated):
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
        self._stream = content_of(self._raw, _begins_frames)
        self._position = 0

    def close(self) -> None:
        """Closes the file that is open."""
        if self._raw is not None:
            self._raw.close()
        self._path = ""
        self._raw = None


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


def _begins_frames(start: bytes) -> bool:
    return _is_header(start[:HEADER_SIZE])


def _frames(
    stream: Readable, path: str, max_record_bytes: int, offset: int, end: int | None = None
) -> Iterator[Frame | DeadLetter]:
    """A stream, which stands at `offset`, up to where a record ends at `end`, or all of it."""

    def dead(reason: Reason, message: str, payload: bytes = b"", num_bytes: int = 0) -> DeadLetter:
        return DeadLetter(Frame(payload, path, offset), reason, message, b"", num_bytes)

    while offset != end:
        header, error = _read(stream, _HEADER.size)
        if not header and not error:
            return
        if error or not _is_header(header):
            rest = len(header) + _drain(stream)
            message = error or _why_no_header(header, offset, stream)
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


def _why_no_header(content: bytes, offset: int, stream: Readable) -> str:
    """What to say of bytes that should be the length of a record and its checksum."""
    if not offset and (name := format_of(content)):
        if isinstance(stream, Inflated):
            return f"compressed twice, by {name} within {stream.name}; decompress it once"
        return f"compressed by {name}, which is not read; decompress it"
    return "file ends within a length" if len(content) < HEADER_SIZE else "bad checksum of a length"


def _read(stream: Readable, size: int) -> tuple[bytes, str]:
    """Reads up to `size` bytes; a broken or cut compressed stream is an error message, not an
    exception.
    """
    content = bytearray()
    try:
        while len(content) < size and (part := stream.read(size - len(content))):
            content += part
    except BrokenError as error:
        return bytes(content), str(error)
    return bytes(content), ""


def _drain(stream: Readable, size: int | None = None) -> int:
    """Reads and forgets `size` bytes, or all that is left; returns how many there were."""
    total = 0
    while size is None or total < size:
        content, error = _read(stream, min(1 << 20, size - total) if size is not None else 1 << 20)
        total += len(content)
        if error or not content:
            break
    return total
