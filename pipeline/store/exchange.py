"""How items come from the workers that made them to whoever writes their shard, in order.

A shard holds the records whose ids have the same hash, in the order of (id, content hash, source).
"""

import collections
import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindows

from vaefill.store import items as items_lib
from vaefill.store.items import Item
from vaefill.store.layout import Layout
from vaefill.store.spill import Spill, Spilled

_MOST_ITEMS = 10_000  # that a worker holds before it spills them, some 6 MB


class Exchange(Protocol):
    """A sort of items by shard, and within a shard.

    In two halves, one on either side of a `GroupByKey` or what stands for it, so that a shard may
    hold more than there is memory for.
    """

    def by_shard(self, items: beam.PCollection) -> beam.PCollection:
        """Brings the items of each shard together.

        Args:
            items: of `Item`, with Examples or with the places of Examples in a spilled file.

        Returns:
            (shard, parts), once for every shard that has items; `in_order` reads the parts.
        """

    def in_order(self, parts: Iterable[Any]) -> Iterator[Item]:
        """The items of a shard, sorted and with their Examples; holds few of them at once."""


@dataclasses.dataclass(frozen=True)
class SpillingExchange:
    """An `Exchange` by way of files in the staging directory, which all workers must share.

    Workers spill Examples, and sorted runs of items that say where those are; what Beam groups is
    the places of these runs. A shard merges its runs.

    Attributes:
        layout: with the directory to spill to.
    """

    layout: Layout

    def by_shard(self, items: beam.PCollection) -> beam.PCollection:
        """See `Exchange`."""
        spilled = items | "Spill" >> beam.ParDo(_SpillItems(self.layout))
        return spilled | "ByShard" >> beam.GroupByKey()

    def in_order(self, parts: Iterable[Any]) -> Iterator[Item]:
        """See `Exchange`.

        Raises:
            OSError: what was spilled does not come back.
        """
        with contextlib.closing(Spilled(self.layout.root)) as spilled:
            for item in items_lib.merge(map(spilled.content, places) for places in parts):
                yield item._replace(example=spilled.content(item.example))


class _SpillItems(Spill):
    """Item -> (shard, places of the blocks of a run of items)."""

    def start_bundle(self) -> None:
        super().start_bundle()
        self._runs: dict[int, list[Item]] = collections.defaultdict(list)
        self._num_items = 0

    def process(self, item: Item) -> Iterator[Any]:
        spilled = item._replace(example=self.spill(item.example))
        self._runs[self._layout.shard_of(item.record_id)].append(spilled)
        self._num_items += 1
        if self._num_items == _MOST_ITEMS:
            yield from self._spill_runs()

    def finish_bundle(self) -> Iterator[Any]:
        runs = self._spill_runs()
        super().finish_bundle()
        yield from map(GlobalWindows.windowed_value, runs)

    def _spill_runs(self) -> list[tuple[int, tuple[tuple, ...]]]:
        runs = [
            (shard, tuple(tuple(self.spill(block)) for block in items_lib.encode(run)))
            for shard, run in self._runs.items()
        ]
        self._runs = collections.defaultdict(list)
        self._num_items = 0
        return runs
