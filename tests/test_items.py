"""Items come back from their runs in order, whatever the runs and their blocks."""

import random
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from vaefill.store import items as items_lib
from vaefill.store.items import Item
from vaefill.store.spill import Place
from vaefill.store.tfrecord import Source

NUMBERS = st.integers(0, 2**64 - 1)
PATHS = st.text(max_size=20)
PLACES = st.builds(Place, PATHS, NUMBERS, NUMBERS, st.integers(0, 2**32 - 1))
SOURCES = st.builds(Source, PATHS, NUMBERS, NUMBERS)
ITEMS = st.builds(Item, st.binary(max_size=8), st.binary(min_size=16, max_size=16), SOURCES, PLACES)


def item(record_id: bytes, file: str = "in", offset: int = 0, content_hash: bytes = bytes(16)):
    return Item(record_id, content_hash, Source(file, offset, 9), Place("p", 1, 2, 3))


@given(st.lists(st.lists(ITEMS, max_size=5), max_size=4))
def test_runs_merge_to_all_of_their_items_in_order(runs):
    with mock.patch.object(items_lib, "_BLOCK", 2):
        merged = list(items_lib.merge(map(items_lib.encode, runs)))
    assert merged == sorted(item for run in runs for item in run)


def test_a_merge_holds_one_block_of_a_run():
    made = [item(b"%05d" % index) for index in range(5000)]
    runs, asked = [list(items_lib.encode(made[start::4])) for start in range(4)], []
    assert all(len(blocks) > 4 for blocks in runs)
    merged = items_lib.merge(map(lambda block: asked.append(block) or block, run) for run in runs)
    assert next(merged) == made[0] and len(asked) == 4
    assert list(merged) == made[1:] and len(asked) == sum(map(len, runs))


def test_ids_of_many_lengths_sort_as_bytes():
    ids = [bytes(length) for length in (0, 1, 300, 70_000)] + [b"\xff", b"a", b"a\x00", b"b"]
    made = [item(record_id, "\u00fc") for record_id in ids]
    random.Random(1).shuffle(made)
    assert [each.record_id for each in items_lib.merge([items_lib.encode(made)])] == sorted(ids)


def test_of_one_id_content_comes_before_file_and_file_before_offset():
    small, large = bytes(16), bytes(15) + b"\1"
    expected = [
        item(b"x", "b", 30, small),
        item(b"x", "b", 200, small),
        item(b"x", "c", 4, small),
        item(b"x", "a", 3, large),
    ]
    runs = [items_lib.encode([each]) for each in expected[::-1]]
    assert list(items_lib.merge(runs)) == expected


def test_paths_of_any_bytes_come_back():
    made = [item(b"x", os_path) for os_path in ("\udcff", "a\udc80b")]
    assert list(items_lib.merge([items_lib.encode(made)])) == sorted(made)
