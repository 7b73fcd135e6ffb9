"""What a run came to as a file of OpenMetrics text, for whoever watches over scheduled jobs."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.openmetrics.exposition import generate_latest

from vaefill.model import files
from vaefill.results.documents import Outcome

_LOGGER = logging.getLogger("vaefill")
_NUMBERS = {
    "chain_sweeps": "Sweeps of all chains, without those of records that were reused",
    "network_passes": "Network passes, likewise",
    "converged_fraction": "Of the imputed records",
    "misfit_fraction": "Of the records whose fit was tested",
    "unreadable_stretches": "Stretches of the input that no record can be found in",
    "unreadable_bytes": "Bytes of those",
}


class RunMetrics:
    """The figures of one run; a collector of `prometheus_client`.

    Args:
        path: of the file; nothing is written if it is None.
        command: label of all figures.
    """

    def __init__(self, path: str | None, command: str):
        self._path, self._command, self._began, self._code = path, command, time.time(), 0
        self.outcome: Outcome | None = None  # what the job returned

    @contextlib.contextmanager
    def written(self, exit_code: Callable[[Exception], int | None]) -> Iterator[None]:
        """Writes the figures at the end of what is done inside, with the exit code of an exception
        if there is one.
        """
        try:
            yield
        except Exception as error:
            self.outcome = getattr(error, "outcome", self.outcome)
            self.write(exit_code(error) or 1)
            raise
        self.write(0)

    def write(self, code: int) -> None:
        """Replaces the file in one step; where it cannot be written that is a warning, not what the
        run ends with.
        """
        if self._path is None:
            return
        self._code, registry = code, CollectorRegistry()
        registry.register(self)
        try:
            files.write_whole(self._path, generate_latest(registry))
        except OSError as error:
            _LOGGER.warning("the figures of the run cannot be written: %s", error)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The figures that there are."""
        yield self._gauge("exit_code", "Of the last run", self._code)
        yield self._gauge("start_time_seconds", "When it began, Unix time", self._began)
        yield self._gauge("duration_seconds", "How long it took", time.time() - self._began)
        if self.outcome is not None:
            yield from self._of_outcome(self.outcome)

    def _of_outcome(self, outcome: Outcome) -> Iterator[GaugeMetricFamily]:
        counts, work, summary = outcome.counts, outcome.work, outcome.summary
        of_state = {"read": counts.read, "written": counts.written, "dead": counts.dead}
        of_state |= {"repeated": counts.repeated}
        if work:
            of_state |= {"reused": work.reused, "skipped": work.skipped, "complete": work.complete}
        yield self._gauges("records", "Records by what became of them", "state", of_state)
        by_reason = counts.dead_by_reason
        codes: dict[str, float] = {warning.code: 1 for warning in outcome.warnings}
        yield self._gauges("warnings", "What is most likely wrong all the same", "code", codes)
        yield self._gauges("dead_letters", "Records that could not be used", "reason", by_reason)
        found = dict(counts)
        if work:
            found |= dict(work)
        if summary:
            found |= dict(summary.all)
        for name, text in _NUMBERS.items():
            if found.get(name) is not None:
                yield self._gauge(name, text, found[name])

    def _gauge(self, name: str, text: str, value: float) -> GaugeMetricFamily:
        family = GaugeMetricFamily(f"vaefill_{name}", text, labels=["command"])
        family.add_metric([self._command], value)
        return family

    def _gauges(
        self,
        name: str,
        text: str,
        label: str,
        values: Mapping[str, float],
    ) -> GaugeMetricFamily:
        family = GaugeMetricFamily(f"vaefill_{name}", text, labels=["command", label])
        for key, value in values.items():
            family.add_metric([self._command, key], value)
        return family
