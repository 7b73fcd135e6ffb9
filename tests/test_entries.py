"""Entries come back from their runs in order, whatever the runs and their blocks."""

import random
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from vaefill.pipeline.store import entries
from vaefill.pipeline.store.entries import Entry
from vaefill.pipeline.store.spill import Place

places = st.builds(
    Place, st.text(max_size=20), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1)
)
some = st.builds(Entry, st.binary(max_size=8), st.binary(min_size=32, max_size=32), places, places)


@given(st.lists(st.lists(some, max_size=5), max_size=4))
def test_runs_merge_to_all_of_their_entries_in_order(runs):
    with mock.patch.object(entries, "_BLOCK", 2):
        merged = list(entries.merge(map(entries.encode, runs)))
    assert merged == sorted(entry for run in runs for entry in run)


def test_a_merge_holds_one_block_of_a_run():
    made = [Entry(b"%05d" % index, bytes(32), Place("p", 0, 1, 2), Place("q", 3, 4, 5)) for index in range(5000)]
    runs, asked = [list(entries.encode(made[start::4])) for start in range(4)], []
    assert all(len(blocks) > 4 for blocks in runs)
    merged = entries.merge(map(lambda block: asked.append(block) or block, blocks) for blocks in runs)
    assert next(merged) == made[0] and len(asked) == 4
    assert list(merged) == made[1:] and len(asked) == sum(map(len, runs))


def test_ids_of_many_lengths_sort_as_bytes():
    ids = [bytes(length) for length in (0, 1, 300, 70_000)] + [b"\xff", b"a", b"a\x00", b"b"]
    made = [Entry(record_id, bytes(32), Place("p", 0, 1, 2), Place("ü", 3, 4, 5)) for record_id in ids]
    random.Random(1).shuffle(made)
    assert [entry.record_id for entry in entries.merge([entries.encode(made)])] == sorted(ids)
