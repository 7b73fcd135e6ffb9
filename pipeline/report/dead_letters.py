"""What `vaefill dead-letters` prints, and the payloads that it writes for a second try."""

import collections
import os
from collections.abc import Iterable, Iterator, Sequence

from vaefill.errors import ConfigError, ResultError
from vaefill.model import files
from vaefill.records.record import Reason
from vaefill.records.text import printable
from vaefill.store.dead_letters import Letter, read
from vaefill.store.tfrecord import frame

_TITLES = ("reason", "offset", "id", "file", "message")


def check_reasons(reasons: Sequence[str]) -> None:
    """Refuses a reason that no dead letter has.

    Raises:
        ConfigError: there is no such reason.
    """
    for reason in reasons:
        if reason not in set(Reason):
            raise ConfigError(f"unknown reason {reason!r}; known: {', '.join(Reason)}")


def table(letters: Iterable[Letter]) -> Iterator[str]:
    """Dead letters as lines of a table, and how many there are."""
    counts: collections.Counter[str] = collections.Counter()
    yield _line(_TITLES)
    for letter in letters:
        cells = letter.cells()
        counts[cells[0]] += 1
        yield _line(cells)
    of_reason = ", ".join(f"{reason}: {count:,}" for reason, count in sorted(counts.items()))
    yield f"{counts.total():,} dead letters" + (f" ({of_reason})" if counts else "")


def _line(cells: Sequence[str]) -> str:
    reason, offset, record_id, *rest = cells
    return "  ".join((f"{reason:15}", f"{offset:>12}", f"{record_id:20}", *rest))


def save(path: str, reasons: Sequence[str], output: str) -> str:
    """Writes the payloads of dead letters as TFRecords, in their order.

    Those with a bad checksum of the data would have a good one then, and so are left out unless
    their reason is named.

    Args:
        path: of the file of dead letters.
        reasons: of those that are wanted, by default all.
        output: the file to write, which must not be there.

    Returns:
        What was done, in a line.

    Raises:
        ResultError: the output is there, or `path` is no file of dead letters.
    """
    if files.exists(output):
        raise ResultError(f"{output} is there already; name another file for --output")
    num_written = num_empty = num_damaged = 0
    files.make_directory(os.path.dirname(output) or ".")
    with files.written_whole(output) as growing, files.create(growing) as file:
        for letter in read(path, reasons):
            if not letter.payload:
                num_empty += 1
            elif letter.reason == Reason.BAD_DATA_CRC and not reasons:
                num_damaged += 1
            else:
                file.write(frame(letter.payload))
                num_written += 1
    said = f"{num_written:,} payloads in {printable(output)}"
    if num_empty:
        said += f"; {num_empty:,} dead letters have none"
    if num_damaged:
        said += f"; {num_damaged:,} with a bad checksum left out, --reason bad_data_crc writes them"
    return said
