"""Whether what a job came to may be published."""

import shlex
from collections.abc import Mapping

from vaefill.config import LimitsConfig
from vaefill.errors import BadInputError, JobError
from vaefill.records.record import Reason
from vaefill.results.documents import Counts, Outcome


def reconcile(counts: Counts, skipped: int) -> None:
    """Fails a job whose runner has lost records, or brought some twice.

    Args:
        counts: what was read, as the reader has counted it, and what became of it.
        skipped: records beside these that were left out because earlier results hold them.

    Raises:
        JobError: the numbers do not add up.
    """
    accounted = counts.written + counts.repeated + counts.dead
    if counts.read != accounted:
        raise JobError(
            f"{counts.read + skipped} records were read, but {counts.written} written, "
            f"{counts.dead} dead letters and {skipped + counts.repeated} left out make "
            f"{accounted + skipped}; "
            "nothing was published, run it again"
        )


def check(
    counts: Counts,
    skipped: int,
    limits: LimitsConfig,
    dead_letters: str,
    first: Mapping[str, str] | None = None,
) -> None:
    """Fails a job before it publishes no records, or where too much of its input was bad.

    A stretch in which no record can be found counts as one bad record, at least so many it held.

    Args:
        counts: what became of the records.
        skipped: records beside them, that were left out because earlier results hold them.
        limits: what the job puts up with.
        dead_letters: where those are, for the message.
        first: reason -> its first dead letter in words, for the message too.

    Raises:
        BadInputError: there are no records, or too many bad ones.
    """
    bad = counts.dead + counts.unreadable_stretches
    found = counts.written + counts.repeated + bad + skipped
    said = f"{bad} of {found} records are bad ({_reasons(counts, first or {})})"
    outcome = Outcome(counts=counts)
    if not found:
        raise BadInputError(
            "the input holds no records; a data set of none cannot be read, so none is written",
            outcome,
        )
    if exceeded := limits.exceeded_by(bad, found):
        raise BadInputError(
            f"{said}, more than {exceeded} allows; "
            f"nothing was published, see `vaefill dead-letters {shlex.quote(dead_letters)}`",
            outcome,
        )
    if not counts.written + skipped:
        raise BadInputError(f"{said}; tfds cannot read a data set of none", outcome)


def _reasons(counts: Counts, first: Mapping[str, str]) -> str:
    """How many dead letters of each reason there are, and the first of each."""
    found = [(reason, f"{reason}: {count}") for reason, count in counts.dead_by_reason.items()]
    if counts.unreadable_stretches:
        stretches = f"unreadable stretches: {counts.unreadable_stretches}"
        found.append((Reason.UNREADABLE_REST, f"{stretches}, {counts.unreadable_bytes} bytes"))
    return "; ".join(
        f"{said}, the first: {first[reason]}" if reason in first else said for reason, said in found
    )
