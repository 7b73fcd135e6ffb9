"""Counts that go with the data.

Beam's counters may count a bundle that was tried again twice, and a runner need not have committed
ones. A tally is part of what a bundle yields, and so counts what has gone on, once.
"""

import collections
import functools
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindows

from vaefill.model import files
from vaefill.records import signs
from vaefill.store.layout import Layout

TALLY = "tally"  # tag of the outputs that hold tallies
READ = "read"  # records that were read, dead letters of the reader among them
SKIPPED = "skipped"  # records that earlier results hold

_MOST_NAMES = 16  # that come from the input
_FILE = "tally.json"


def add(tally: collections.Counter[str], counts: Iterable[str] | Mapping[str, int]) -> None:
    """Adds to a tally; of names that come from the input the first ones in their order stay.

    Those are counted in full whatever the bundles: what is among the first of all is among the
    first of every part.
    """
    tally.update(counts)
    names = sorted(name for name in tally if name.startswith(signs.LIKE_MASK))
    for name in names[_MOST_NAMES:]:
        del tally[name]


class Tallying(beam.DoFn):
    """A DoFn that counts in `tally`, and yields its counts at the end of a bundle under `TALLY`."""

    @functools.cached_property
    def tally(self) -> collections.Counter[str]:
        """What the bundle has counted so far."""
        return collections.Counter()

    def start_bundle(self) -> None:
        self.tally.clear()

    def finish_bundle(self) -> Iterator[Any]:
        if self.tally:
            counts = tuple(self.tally.items())
            yield beam.pvalue.TaggedOutput(TALLY, GlobalWindows.windowed_value(counts))
            self.tally.clear()


class _WriteTally(beam.DoFn):
    """(None, tallies) -> the file of their sum."""

    def __init__(self, layout: Layout):
        self._layout = layout

    def process(self, key_and_tallies: tuple[Any, Any]) -> Iterator[Any]:
        total: collections.Counter[str] = collections.Counter()
        for counts in key_and_tallies[1]:
            add(total, dict(counts))
        content = json.dumps(total, sort_keys=True)
        files.write_whole(self._layout.part(_FILE), content, self._layout.temporary())
        yield total[READ]


def write(tallies: Iterable[beam.PCollection], layout: Layout) -> None:
    """Leaves the sum of tallies for the end of the job."""
    _ = (
        tuple(tallies)
        | "AllTallies" >> beam.Flatten()
        | "OneTally" >> beam.WithKeys(None)
        | "GroupTallies" >> beam.GroupByKey()
        | "WriteTally" >> beam.ParDo(_WriteTally(layout))
    )


def read(layout: Layout) -> Mapping[str, int]:
    """The tally of a pipeline that has run; 0 for what nobody has counted."""
    path = layout.part(_FILE)
    found: Mapping[str, int] = files.read_json(path) if files.exists(path) else {}
    return collections.Counter(found)
