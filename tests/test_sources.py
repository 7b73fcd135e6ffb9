"""Reading files: all good records arrive, whatever is between them."""

import contextlib
import gzip
import os
import struct
import tempfile
import zlib

import fsspec
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from vaefill.errors import SourceError
from vaefill.records.record import Reason
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


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_good_files_with_any_name(tmp_path, content, compress):
    good, dead = read(tmp_path, compress(content))
    assert [each.payload for each in good] == PAYLOADS
    assert [each.offset for each in good] == OFFSETS
    assert not dead


@given(
    payloads=st.lists(st.binary(max_size=99), max_size=9),
    compress=st.sampled_from((bytes, gzip.compress)),
)
def test_any_payloads_come_back_from_our_frames_and_tensorflow_reads_them(payloads, compress):
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "file")
        with open(path, "wb") as file:
            file.write(compress(b"".join(map(frame, payloads))))
        assert [found.payload for found in read_frames(path, LIMIT)] == payloads
        compression = "GZIP" if compress is gzip.compress else ""
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


def test_gzip_files_one_after_another_are_one(tmp_path, content):
    good, dead = read(
        tmp_path, gzip.compress(content) + bytes(512) + gzip.compress(content) + bytes(7)
    )
    assert [each.payload for each in good] == PAYLOADS * 2 and not dead


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
    from vaefill.store.tfrecord import _masked_crc

    length = struct.pack("<Q", 1 << 60)
    good, dead = read(tmp_path, content + length + struct.pack("<I", _masked_crc(length)) + b"rest")
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


def test_a_directory_is_no_file_but_may_stand_for_its_files(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(SourceError, match=rf"^{tmp_path} is a directory; .* '{tmp_path}/\*"):
        expand((str(tmp_path),))
    assert [file.path for file in expand((f"{tmp_path}/",))] == [f"{tmp_path}/a"]


def test_a_local_address_is_a_path(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    assert expand((f"file://{tmp_path}/*",)) == expand((f"{tmp_path}/a",))


def test_what_is_out_of_reach_is_an_error_with_the_fix(monkeypatch):
    def missing(scheme):
        raise ImportError(f"no package for {scheme}")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(SourceError, match=r"^gs://bucket/\*: .*pip install 'vaefill\[gcp\]'$"):
        expand(("gs://bucket/*",))
    with pytest.raises(SourceError, match="^ftp://host/a: .* not supported"):
        expand(("ftp://host/a",))


@given(data=st.data(), compress=st.sampled_from((bytes, gzip.compress)))
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
