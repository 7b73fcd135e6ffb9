"""Lines of progress that keep their distance."""

import logging
import time
from collections.abc import Callable

_LOGGER = logging.getLogger("vaefill.impute")


class Progress:
    """Counts imputed records, and now and then says how many there are.

    Args:
        seconds: between two lines, at least.
        clock: seconds that pass, from any beginning.
    """

    def __init__(self, seconds: float = 10.0, clock: Callable[[], float] = time.monotonic):
        self._seconds = seconds
        self._clock = clock
        self._started: float | None = None
        self._next_line = 0.0
        self._num = 0
        self._num_converged = 0

    def start(self) -> None:
        """Work begins; from the first call on the rate is measured."""
        if self._started is None:
            self._started = self._next_line = self._clock()

    def add(self, num: int, num_converged: int) -> None:
        """So many more records are done, after `start`, and of these so many have converged."""
        self._num += num
        self._num_converged += num_converged
        now = self._clock()
        if not self._num or now < self._next_line:
            return
        self._next_line = now + self._seconds
        started = now if self._started is None else self._started
        rate = self._num / max(now - started, 1e-9)
        share = self._num_converged / self._num
        _LOGGER.info(
            "imputed %s records, %.1f %% of them converged, %.1f a second",
            f"{self._num:,}",
            100 * share,
            rate,
            extra={"records": self._num, "converged_fraction": share, "records_per_second": rate},
        )
