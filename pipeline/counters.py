"""Beam's counters, all in one namespace: what workers have done."""

import collections
from collections.abc import Mapping

from apache_beam.metrics import Metrics, MetricsFilter
from apache_beam.runners.runner import PipelineResult

NAMESPACE = "vaefill"


def count(name: str, number: int = 1) -> None:
    """Adds to a counter of the step that is at work."""
    Metrics.counter(NAMESPACE, name).inc(int(number))


def totals(ran: PipelineResult) -> Mapping[str, int]:
    """The counters of a pipeline that has run, summed over its steps; 0 for one that nothing was
    added to.
    """
    found: dict[str, int] = collections.Counter()
    for counter in ran.metrics().query(MetricsFilter().with_namespace(NAMESPACE))["counters"]:
        found[counter.key.metric.name] += counter.result
    return found
