"""What an attempt leaves is found again, whole, wherever the file was cut or damaged."""

import os
import random

import pytest

from vaefill.store.resume import HashIndex, ResumeCache
from vaefill.store.spill import SpillReader

_GENERATOR = random.Random(1)
HASHES = [_GENERATOR.randbytes(16) for _ in range(200)]


def attempt(directory, chosen, flush: bool = True) -> dict[bytes, bytes]:
    """Adds Examples that their hashes tell; returns what was read at the places."""
    os.makedirs(directory, exist_ok=True)
    computed = ResumeCache(str(directory))
    places = {HASHES[i]: computed.add(HASHES[i], b"example %d" % i) for i in chosen}
    if not flush:
        return {}
    computed.flush()
    return {each: SpillReader()(place) for each, place in places.items()}


def taken_over(directory) -> dict[bytes, bytes]:
    computed = ResumeCache(str(directory))
    num = computed.take_over()
    read = SpillReader()
    found = {each: read(place) for each in HASHES if (place := computed.find(each))}
    assert len(found) == num
    return found


def test_places_hold_what_was_added_once_it_is_flushed(tmp_path):
    assert attempt(tmp_path, range(10)) == {HASHES[i]: b"example %d" % i for i in range(10)}


def test_the_next_attempt_finds_all_of_several_files(tmp_path):
    assert taken_over(tmp_path) == {}
    expected = attempt(tmp_path, range(50)) | attempt(tmp_path, range(40, 120))
    assert taken_over(tmp_path) == expected
    expected |= attempt(tmp_path, range(150, 160))
    assert taken_over(tmp_path) == expected


@pytest.mark.parametrize("seed", range(20))
def test_a_cut_file_loses_no_more_than_its_end(tmp_path, seed):
    attempt(tmp_path, range(100))
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    cut = random.Random(seed).randrange(len(whole))
    path.write_bytes(whole[:cut])
    found = taken_over(tmp_path)
    size = len(whole) / 100
    assert list(found) == HASHES[: len(found)] and (cut / size) - 3 < len(found) <= cut / size + 3


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_example_is_never_used(tmp_path, seed):
    expected = attempt(tmp_path, range(100))
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[random.Random(seed).randrange(len(content))] ^= 1 << seed % 8
    path.write_bytes(content)
    found = taken_over(tmp_path)
    assert found.items() <= expected.items() and found != expected


def test_damage_after_indexing_is_an_error(tmp_path):
    attempt(tmp_path, [0])
    computed = ResumeCache(str(tmp_path))
    computed.take_over()
    (path,) = tmp_path.glob("*.tfrecord")
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)
    with pytest.raises(OSError, match="does not come back"):
        SpillReader()(computed.find(HASHES[0]))


def test_hashes_are_told_apart_by_all_of_their_bytes(tmp_path):
    alike = [bytes(8) + bytes([i]) + bytes(7) for i in range(5)] + [
        bytes(7) + b"\x01" + bytes(8),
        b"\xff" * 16,
    ]
    order = HashIndex.write(str(tmp_path / "index.npy"), b"".join(alike[:4] + alike[5:]))
    index = HashIndex(str(tmp_path / "index.npy"))
    assert index.find(alike[4]) is None
    for row, each in enumerate(alike[:4] + alike[5:]):
        assert order[index.find(each)] == row
