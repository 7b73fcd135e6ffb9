"""Finding the items that a batch fails on. Knows neither Beam nor TensorFlow."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_LOGGER = logging.getLogger("vaefill.impute")
MOST_CULPRITS = 8  # if more fail one by one, and none succeeds, it is not they


class DeviceError(RuntimeError):
    """Something that no record is to blame for, and that another attempt would meet again."""


class Isolated(NamedTuple):
    """What became of a batch; every item is in one of the two."""

    done: list[tuple[Any, Any]]  # (item, result), in the order in which they were done
    culprits: list[tuple[Any, Exception]]  # (item, error); they failed alone


def isolate_failures(
    batch: Sequence[T],
    attempt: Callable[[Sequence[T]], Iterator[tuple[int, R]]],
    any_success: bool = False,
) -> Isolated:
    """Does all of a batch that can be done: where that fails, halves of what is left.

    Of N items with one culprit there are some 2 log2(N) attempts.

    Args:
        batch: the items.
        attempt: items -> (place, result) of each as it is done, every place once. What came before
            it raised counts.
        any_success: whether others like them have been done, so that any number may be culprits.

    Raises:
        DeviceError: raised by an attempt; or the first `MOST_CULPRITS` + 1 items that were tried
            alone have failed, before any was done.
        OSError: raised by an attempt.
        Exception: what an attempt raised after all of its items were done.
    """
    done: list[tuple[T, R]] = []
    culprits: list[tuple[T, Exception]] = []
    to_try = [list(batch)] if batch else []  # the next one last
    while to_try:
        items = to_try.pop()
        left = dict(enumerate(items))
        error = _try(attempt, items, left, done)
        if error is None:
            continue
        if len(items) > 1:
            message = "a batch failed, trying parts of the %d records left: %s"
            _LOGGER.warning(message, len(left), one_line(error))
            to_try += _halves(list(left.values()))[::-1]
            continue
        culprits.append((items[0], error))
        if len(culprits) > MOST_CULPRITS and not (any_success or done):
            failed = f"{len(culprits)} records failed one by one"
            raise DeviceError(f"{failed}, the last: {one_line(error)}") from error
    return Isolated(done, culprits)


def _try(
    attempt: Callable[[Sequence[T]], Iterator[tuple[int, R]]],
    items: Sequence[T],
    left: dict[int, T],
    done: list[tuple[T, R]],
) -> Exception | None:
    """Moves what an attempt does from `left`, by place, to `done`; returns why some are left."""
    try:
        for place, result in attempt(items):
            done.append((left.pop(place), result))
    except (DeviceError, OSError):
        raise
    except Exception as error:
        if not left:
            raise
        return error
    if left:
        return RuntimeError(f"{len(left)} of {len(items)} records did not come back")
    return None


def _halves(items: list[T]) -> list[list[T]]:
    half = (len(items) + 1) // 2
    return [part for part in (items[:half], items[half:]) if part]


def one_line(error: Exception) -> str:
    """The kind of an error and what it says, in 300 characters at most."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
