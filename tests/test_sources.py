"""Reading files: all good records arrive, whatever is between them."""

import bz2
import contextlib
import gzip
import lzma
import os
import struct
import tempfile
import tracemalloc
import zlib

import fsspec
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tests.test_files import Store
from vaefill.errors import SourceError
from vaefill.records.record import Reason
from vaefill.store import tfrecord
from vaefill.store.sources import expand
from vaefill.store.tfrecord import (
    DeadLetter,
    Frame,
    PayloadReader,
    Source,
    frame,
    read_frames,
)

PAYLOADS = [b"one", b"", b"three" * 50]
HEADER, FOOTER = 12, 4
OFFSETS = [0, HEADER + 3 + FOOTER, 2 * (HEADER + FOOTER) + 3]
LIMIT = 1000


@pytest.fixture
def content(tmp_path) -> bytes:
    path = str(tmp_path / "good")
    with tf.io.TFRecordWriter(path) as writer:
        for payload in PAYLOADS:
            writer.write(payload)
    with open(path, "rb") as file:
        return file.read()


def masked(content: bytes) -> bytes:
    """The checksum as it stands in a file."""
    return frame(content)[-FOOTER:]


def read(tmp_path, content: bytes, limit: int = LIMIT):
    path = str(tmp_path / "file")
    with open(path, "wb") as file:
        file.write(content)
    found = list(read_frames(path, limit))
    good = [item for item in found if isinstance(item, Frame)]
    dead = [item for item in found if isinstance(item, DeadLetter)]
    assert all(
        (item.file if isinstance(item, Frame) else item.frame.file) == path for item in found
    )
    return good, dead


COMPRESSIONS = [bytes, gzip.compress, zlib.compress, bz2.compress]


@pytest.mark.parametrize("compress", COMPRESSIONS, ids=["plain", "gzip", "zlib", "bzip2"])
def test_good_files_with_any_name(tmp_path, content, compress):
    good, dead = read(tmp_path, compress(content))
    assert [each.payload for each in good] == PAYLOADS
    assert [each.offset for each in good] == OFFSETS
    assert not dead


@given(
    payloads=st.lists(st.binary(max_size=99), max_size=9),
    compress=st.sampled_from(COMPRESSIONS),
)
def test_any_payloads_come_back_from_our_frames_and_tensorflow_reads_them(payloads, compress):
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "file")
        with open(path, "wb") as file:
            file.write(compress(b"".join(map(frame, payloads))))
        assert [found.payload for found in read_frames(path, LIMIT)] == payloads
        if compress is bz2.compress:
            return  # which TensorFlow does not read
        compression = {gzip.compress: "GZIP", zlib.compress: "ZLIB"}.get(compress, "")
        assert [each.numpy() for each in tf.data.TFRecordDataset(path, compression)] == payloads


def test_an_empty_file_holds_no_records(tmp_path):
    assert read(tmp_path, b"") == ([], [])


def test_a_length_that_looks_like_gzip(tmp_path):
    """A record of 0x8b1f bytes begins as a gzip file does."""
    path = str(tmp_path / "long")
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(bytes(0x8B1F))
    frames = list(read_frames(path, 1 << 20))
    assert [len(each.payload) for each in frames] == [0x8B1F]


def test_a_bad_data_checksum_loses_that_record_alone(tmp_path, content):
    broken = bytearray(content)
    broken[HEADER] ^= 1
    good, dead = read(tmp_path, bytes(broken))
    assert [each.payload for each in good] == PAYLOADS[1:]
    assert [(letter.reason, letter.frame.offset) for letter in dead] == [(Reason.BAD_DATA_CRC, 0)]


def test_a_bad_length_checksum_loses_the_rest(tmp_path, content):
    broken = bytearray(content)
    broken[OFFSETS[1] + 8] ^= 1
    good, dead = read(tmp_path, bytes(broken))
    assert [each.payload for each in good] == PAYLOADS[:1]
    assert [(letter.reason, letter.frame.offset, letter.num_bytes) for letter in dead] == [
        (Reason.UNREADABLE_REST, OFFSETS[1], len(content) - OFFSETS[1])
    ]


@pytest.mark.parametrize("cut", [1, 5, FOOTER + 3, 250, 255])
def test_a_cut_file_loses_its_last_record(tmp_path, content, cut):
    good, dead = read(tmp_path, content[:-cut])
    assert [each.payload for each in good] == PAYLOADS[:2]
    assert [letter.reason for letter in dead] == [Reason.UNREADABLE_REST]
    assert dead[0].num_bytes == len(content) - cut - OFFSETS[2]


def test_a_cut_gzip_file_keeps_what_comes_before(tmp_path, content):
    compressed = gzip.compress(content * 100, compresslevel=0)
    good, dead = read(tmp_path, compressed[: len(compressed) // 2])
    assert len(good) > 100 and [letter.reason for letter in dead] == [Reason.UNREADABLE_REST]
    assert {each.payload for each in good} == set(PAYLOADS)


@pytest.mark.parametrize("damage", ["cut", "flipped", "checksum"])
def test_a_broken_gzip_file_is_read_up_to_the_byte_where_it_breaks(tmp_path, content, damage):
    """Blocks of one record each: those before the damage are not lost with it."""
    packer = zlib.compressobj(wbits=31)
    blocks = [packer.compress(content) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(40)] + [
        packer.flush()
    ]
    packed, place = bytearray(b"".join(blocks)), sum(map(len, blocks[:25])) + 3
    if damage == "checksum":
        place = len(packed) - 8
    packed[place] ^= 0xFF
    good, dead = read(tmp_path, bytes(packed[:place] if damage == "cut" else packed))
    assert len(good) >= len(PAYLOADS) * (40 if damage == "checksum" else 25)
    assert {each.payload for each in good} == set(PAYLOADS)
    assert [letter.reason for letter in dead] == [Reason.UNREADABLE_REST] and "gzip" in dead[
        0
    ].message


@pytest.mark.parametrize("compress, name", [(zlib.compress, "zlib"), (bz2.compress, "bzip2")])
def test_a_cut_or_broken_file_keeps_what_comes_before(tmp_path, compress, name):
    """Payloads that do not compress, of several blocks. A block of bzip2 is whole or nothing."""
    payloads = [np.random.default_rng(i).bytes(900) for i in range(400)]
    packed = compress(b"".join(map(frame, payloads)), 1)
    for damaged, message in (
        (packed[: len(packed) // 2], f"broken {name} stream: the file ends before it should"),
        (packed[:-200] + bytes(9) + packed[-191:], ""),
    ):
        good, dead = read(tmp_path, damaged)
        assert [each.payload for each in good] == payloads[: len(good)] and len(good) > 80
        assert {letter.reason for letter in dead} <= {Reason.BAD_DATA_CRC, Reason.UNREADABLE_REST}
        assert dead[-1].message.startswith(message)


@pytest.mark.parametrize("compress", COMPRESSIONS[1:])
def test_files_one_after_another_are_one(tmp_path, content, compress):
    good, dead = read(tmp_path, compress(content) + bytes(512) + compress(content) + bytes(7))
    assert [each.payload for each in good] == PAYLOADS * 2 and not dead


def test_a_bomb_is_never_held_whole(tmp_path):
    """A hundred bytes of bzip2, 32 MiB of zeros: a record that is too large."""
    length = struct.pack("<Q", 1 << 25)
    path = tmp_path / "bomb"
    path.write_bytes(bz2.compress(frame(b"good") + length + masked(length) + bytes(1 << 25)))
    assert path.stat().st_size < 200
    tracemalloc.start()
    found = list(read_frames(str(path), LIMIT))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found[0].payload == b"good" and len(found) == 2
    assert most < 1 << 23


@pytest.mark.parametrize(
    "compress, message",
    [
        (lambda it: gzip.compress(gzip.compress(it)), "compressed twice, by gzip within gzip;"),
        (lambda it: zlib.compress(bz2.compress(it)), "compressed twice, by bzip2 within zlib;"),
        (lambda it: bz2.compress(gzip.compress(it)), "compressed twice, by gzip within bzip2;"),
        (lzma.compress, "compressed by xz, which is not read; decompress it"),
    ],
)
def test_what_cannot_be_inflated_is_said(tmp_path, content, compress, message):
    good, dead = read(tmp_path, compress(content))
    assert not good and dead[0].message.startswith(message)


def whole(path: str):
    return list(read_frames(path, LIMIT))


@given(data=st.data(), size=st.integers(1, 300))
def test_stretches_hold_together_what_the_file_does(data, size):
    """Damaged in whatever way, and with payloads that look like records: the same in each."""
    payloads = data.draw(st.lists(st.binary(max_size=99), max_size=9))
    inner = data.draw(st.sampled_from([b"", frame(b"inside") * 3]))
    content = bytearray(b"".join(frame(inner + payload) for payload in payloads))
    if content and data.draw(st.booleans()):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1
    content = content[: data.draw(st.integers(0, len(content)))]
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tfrecord, "_STRETCH", size)
        patch.setattr(tfrecord, "_BLOCK", data.draw(st.integers(HEADER, 200)))
        path = os.path.join(directory, "file")
        with open(path, "wb") as file:
            file.write(content)
        parts = list(tfrecord.stretches(path))
        assert [part.end for part in parts[:-1]] == [part.start for part in parts[1:]]
        assert all(part.end - part.start >= size for part in parts[:-1])
        found = [each for part in parts for each in read_frames(path, LIMIT, part)]
        assert found == whole(path)


@pytest.mark.parametrize("compress, most", [(bytes, 21), (gzip.compress, 1), (bz2.compress, 1)])
def test_a_large_file_is_cut_if_it_is_not_compressed(tmp_path, monkeypatch, compress, most):
    monkeypatch.setattr(tfrecord, "_STRETCH", 50)
    payloads = [np.random.default_rng(i).bytes(90) for i in range(21)]
    path = str(tmp_path / "file")
    with open(path, "wb") as file:
        file.write(compress(b"".join(map(frame, payloads))))
    assert len(list(tfrecord.stretches(path))) == most
    monkeypatch.setattr(tfrecord, "_MOST_STRETCHES", 4)
    assert len(list(tfrecord.stretches(path))) == min(most, 4)  # of a huge one


def test_workers_share_one_file_as_evenly_as_eight(tmp_path):
    """Stretches go to two workers by number: one of them has a twentieth more than half at most."""
    path = str(tmp_path / "file")
    with open(path, "wb") as file:
        for _ in range(24):
            file.write(frame(bytes(840_000)))
    sizes = [(end or os.path.getsize(path)) - start for start, end in tfrecord.stretches(path)]
    half = (len(sizes) + 1) // 2
    assert sum(sorted(sizes)[-half:]) < 1.05 * sum(sizes) / 2


def test_what_is_not_tfrecord(tmp_path):
    good, dead = read(tmp_path, b"id,pixel\n" * 10)
    assert not good and [(letter.reason, letter.num_bytes) for letter in dead] == [
        (Reason.UNREADABLE_REST, 90)
    ]


def test_records_beyond_the_limit_are_skipped_unread(tmp_path, content):
    good, dead = read(tmp_path, content, limit=100)
    assert [each.payload for each in good] == PAYLOADS[:2]
    assert [letter.reason for letter in dead] == [Reason.TOO_LARGE]


def test_a_length_of_exabytes_is_not_allocated(tmp_path, content):
    length = struct.pack("<Q", 1 << 60)
    good, dead = read(tmp_path, content + length + masked(length) + b"rest")
    assert len(good) == 3 and [letter.reason for letter in dead] == [Reason.UNREADABLE_REST]


def test_expand(tmp_path):
    for name in ("b", "a", "c"):
        (tmp_path / name).write_bytes(b"12345")
    pattern = str(tmp_path / "[ab]")
    found = expand((pattern, str(tmp_path / "a")))
    assert [file.path for file in found] == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert [file.size for file in found] == [5, 5]
    with pytest.raises(SourceError, match="no file matches .*/z"):
        expand((pattern, str(tmp_path / "z*")))


@pytest.mark.parametrize("end", ["", "/"])
def test_a_directory_stands_for_its_tfrecords(tmp_path, content, end):
    """By name or by content, compressed or not."""
    (tmp_path / "in").mkdir()
    tmp_path = tmp_path / "in"
    with pytest.raises(SourceError, match=f"^no TFRecord file is in the directory {tmp_path}/;"):
        expand((f"{tmp_path}{end}",))
    for name, what in {
        "a.tfrecord-00000-of-00001": b"",
        "b": content,
        "c": gzip.compress(content),
        "features.json": b"{}",
        "d.tfrecord.json": b"{}",
        "e/f.tfrecord": content,
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(what)
    names = [os.path.basename(file.path) for file in expand((f"{tmp_path}{end}",))]
    assert names == ["a.tfrecord-00000-of-00001", "b", "c"]


def test_a_file_under_several_names_is_read_once(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert len(expand((f"{tmp_path}/*", f"{tmp_path}/b"))) == 1


def test_missing_shards_are_named(tmp_path):
    for shard in (0, 1, 3):
        (tmp_path / f"in.tfrecord-{shard:05d}-of-00004").touch()
    message = (
        "^1 of 4 shards are missing: in.tfrecord-00002-of-00004 in .*allow_missing_shards=true"
    )
    for pattern in ("in.tfrecord*", "in.tfrecord-00000-*", ""):
        with pytest.raises(SourceError, match=message):
            expand((f"{tmp_path}/{pattern}",), allow_missing_shards=False)
    assert len(expand((f"{tmp_path}/in*",), allow_missing_shards=True)) == 3
    named = expand((f"{tmp_path}/in.tfrecord-00000-of-00004",), allow_missing_shards=False)
    assert len(named) == 1
    (tmp_path / "in.tfrecord-00002-of-00004").touch()
    assert len(expand((f"{tmp_path}/in*0[01]-of*",), allow_missing_shards=False)) == 2


def test_of_many_missing_shards_a_few_are_named(tmp_path):
    (tmp_path / "x-00000-of-99999.gz").touch()
    message = r"^99998 of 99999 .*: x-00001-of-99999.gz, x-00002-\S+, x-00003-\S+ and 99995 more in"
    with pytest.raises(SourceError, match=message):
        expand((f"{tmp_path}/x*",), allow_missing_shards=False)


def test_the_home_directory_may_be_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a").touch()
    assert [file.path for file in expand(("~/a",))] == [f"{tmp_path}/a"]


def test_a_link_to_nothing_is_bad_input(tmp_path):
    (tmp_path / "a").touch()
    (tmp_path / "b").symlink_to("/nowhere")
    with pytest.raises(SourceError, match=f"^{tmp_path}/b is a link to /nowhere, which is not"):
        expand((f"{tmp_path}/*",))


def test_a_local_address_is_a_path(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    assert expand((f"file://{tmp_path}/*",)) == expand((f"{tmp_path}/a",))


def test_a_store_is_read_as_a_directory_of_this_machine_is(monkeypatch, content):
    """By a stand-in: literal names, patterns, directories, shards and stretches."""
    monkeypatch.setattr(Store, "store", {})
    monkeypatch.setattr(Store, "pseudo_dirs", [""])
    monkeypatch.setattr(fsspec, "filesystem", lambda scheme: Store())
    monkeypatch.setattr(tfrecord, "_STRETCH", 30)
    names = ["in.tfrecord-00000-of-00002", "a[b]", "features.json"]
    for name, what in zip(names, (content, gzip.compress(content), b"{}")):
        Store().pipe_file(f"gs://b/d/{name}", what)
    for pattern in ("gs://b/d", "gs://b/d/"):
        assert [file.path for file in expand((pattern,))] == [
            f"gs://b/d/{name}" for name in sorted(names[:2])
        ]
    assert [file.path for file in expand(("gs://b/d/a[b]",))] == ["gs://b/d/a[b]"]
    with pytest.raises(SourceError, match="in.tfrecord-00001-of-00002 in gs://b/d;"):
        expand(("gs://b/d/in*",), allow_missing_shards=False)
    path = f"gs://b/d/{names[0]}"
    parts = list(tfrecord.stretches(path))
    assert len(parts) == 2
    found = [each.payload for part in parts for each in read_frames(path, LIMIT, part)]
    assert found == PAYLOADS
    with contextlib.closing(PayloadReader()) as again:
        assert again(Source("gs://b/d/a[b]", OFFSETS[2], 250)) == PAYLOADS[2]


def test_what_is_out_of_reach_is_an_error_with_the_fix(monkeypatch):
    def missing(scheme):
        raise ImportError(f"no package for {scheme}")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(SourceError, match=r"^gs://bucket/\*: .*pip install 'vaefill\[gcp\]'$"):
        expand(("gs://bucket/*",))
    with pytest.raises(SourceError, match="^ftp://host/a: .* not supported"):
        expand(("ftp://host/a",))


@given(data=st.data(), compress=st.sampled_from(COMPRESSIONS))
def test_payloads_are_read_again_in_any_order(data, compress):
    payloads = data.draw(st.lists(st.binary(min_size=1, max_size=99), min_size=1, max_size=9))
    with tempfile.TemporaryDirectory() as directory:
        paths = [os.path.join(directory, name) for name in ("a", "b")]
        for path in paths:
            with open(path, "wb") as file:
                file.write(compress(b"".join(map(frame, payloads))))
        frames = [found for path in paths for found in read_frames(path, LIMIT)]
        with contextlib.closing(PayloadReader()) as again:
            for each in data.draw(st.permutations(frames)):
                assert again(each.source) == each.payload


def test_a_payload_that_is_there_no_more_is_an_error(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    again = PayloadReader()
    assert again(Source("a data set", 3, 0)) == b""
    assert again(Source(str(path), OFFSETS[2], 250)) == PAYLOADS[2] == b"three" * 50
    for offset, size in ((OFFSETS[2], 249), (OFFSETS[2], 251), (1, 3), (len(content), 9)):
        with pytest.raises(OSError, match=f"record of {size} bytes at {offset} is there no more"):
            again(Source(str(path), offset, size))
    again.close()
