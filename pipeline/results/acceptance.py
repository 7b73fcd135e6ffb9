"""Whether what a job came to may be published."""

from vaefill.config import LimitsConfig
from vaefill.errors import BadInputError, JobError
from vaefill.results.documents import Counts, Outcome


def reconcile(counts: Counts, skipped: int) -> None:
    """Fails a job whose runner has lost records, or brought some twice.

    Args:
        counts: what was read, as the reader has counted it, and what became of it.
        skipped: records beside these that were left out because earlier results hold them.

    Raises:
        JobError: the numbers do not add up.
    """
    accounted = counts.written + counts.dead
    if counts.read != accounted:
        raise JobError(
            f"{counts.read + skipped} records were read, but {counts.written} written, "
            f"{counts.dead} dead letters and {skipped} left out make {accounted + skipped}; "
            "nothing was published, run it again"
        )


def check(counts: Counts, skipped: int, limits: LimitsConfig, dead_letters: str) -> None:
    """Fails a job before it publishes no records, or where too much of its input was bad.

    A stretch in which no record can be found counts as one bad record, at least so many it held.

    Args:
        counts: what became of the records.
        skipped: records beside them, that were left out because earlier results hold them.
        limits: what the job puts up with.
        dead_letters: where those are, for the message.

    Raises:
        BadInputError: there are no records, or too many bad ones.
    """
    bad = counts.dead + counts.unreadable_stretches
    found = counts.written + bad + skipped
    reasons = [f"{reason}: {count}" for reason, count in counts.dead_by_reason.items()]
    if counts.unreadable_stretches:
        stretches = f"unreadable stretches: {counts.unreadable_stretches}"
        reasons.append(f"{stretches}, {counts.unreadable_bytes} bytes")
    said = f"{bad} of {found} records are bad ({', '.join(reasons)})"
    outcome = Outcome(counts=counts)
    if not found:
        raise BadInputError(
            "the input holds no records; a data set of none cannot be read, so none is written",
            outcome,
        )
    allowed = {
        "max_bad_fraction": limits.max_bad_fraction * found,
        "max_bad_records": limits.max_bad_records,
    }
    for name, most in allowed.items():
        if most is not None and bad > most:
            raise BadInputError(
                f"{said}, more than limits.{name} = {getattr(limits, name)} allows; "
                f"nothing was published, the dead letters are in {dead_letters}",
                outcome,
            )
    if not counts.written + skipped:
        raise BadInputError(f"{said}; tfds cannot read a data set of none", outcome)
