"""Bytes come back from where they were put, or not at all."""

import os

import pytest

from vaefill.store.spill import SpillReader, SpillWriter


def test_bytes_come_back_from_several_files(tmp_path):
    contents = [bytes([i]) * (i * 37 % 50) for i in range(60)]
    writers = [SpillWriter(str(tmp_path)) for _ in range(3)]
    places = [writers[i % 3].append(content) for i, content in enumerate(contents)]
    for writer in writers:
        writer.close()
    read = SpillReader()
    assert [read(place) for place in places[::-1]] == contents[::-1]
    read.close()
    assert len(list(tmp_path.iterdir())) == 3


def test_places_are_handed_on_relative_to_a_root(tmp_path):
    (tmp_path / "computed").mkdir()
    place = SpillWriter(str(tmp_path / "computed")).append(b"one")
    root = str(tmp_path / "attempt")
    short = place.relative_to(root)
    assert not os.path.isabs(short.path) and short.below(root) == place


def test_a_writer_that_writes_nothing_makes_no_file(tmp_path):
    writer = SpillWriter(str(tmp_path))
    writer.flush()
    writer.close()
    assert not list(tmp_path.iterdir())


def test_what_follows_a_close_goes_to_another_file(tmp_path):
    writer = SpillWriter(str(tmp_path), ".suffix")
    first = writer.append(b"one")
    writer.close()
    second = writer.append(b"two")
    writer.flush()
    assert first.path != second.path and first.path.endswith(".suffix")
    assert [SpillReader()(place) for place in (first, second)] == [b"one", b"two"]


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-1], lambda content: b"X" + content[1:]]
)
def test_other_bytes_are_an_error(tmp_path, damage):
    writer = SpillWriter(str(tmp_path))
    place = writer.append(b"content")
    writer.close()
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(OSError, match="what was spilled at 0 does not come back"):
        SpillReader()(place)
