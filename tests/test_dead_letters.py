"""What became dead letters is shown, kept for the next attempt, and comes back for a second try."""

import os

import pytest
import tensorflow as tf
from click.testing import CliRunner

from tests.documents import counts
from vaefill import cli
from vaefill.config import LimitsConfig
from vaefill.errors import BadInputError, ResultError
from vaefill.records.record import Reason
from vaefill.records.text import printable
from vaefill.results import acceptance, staging
from vaefill.store import dead_letters
from vaefill.store.dead_letters import DeadLetterCounts, Entry, Letter
from vaefill.store.tfrecord import frame, read_frames

LETTERS = [
    Letter(b"worse", "bad_image", "a bad image", "in/a", 9, b"me"),
    Letter(b"", "unreadable_rest", "cut", "in/a", 50, b""),
    Letter(b"torn", "bad_data_crc", "bad checksum of the data", "in/b", 3, b""),
    Letter(b"bad", "bad_image", "two\x1b]0;title\x07\nlines", "in/b\x1b[2J", 7, b"\x1b[31m\xff"),
]


def entry(letter: Letter) -> Entry:
    source = (letter.file.encode(), letter.offset, len(letter.payload))
    return Entry(source, letter.reason, letter.message, letter.record_id, 0)


def write(path, letters=LETTERS) -> str:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        for each in letters:
            file.write(frame(dead_letters._dead_letter_example(entry(each), each.payload)))
    return str(path)


def run(*arguments: str):
    return CliRunner().invoke(cli.main, ["dead-letters", *arguments])


@pytest.mark.parametrize(
    ("place", "at"),
    [
        ("out", "out/dead_letters/dead_letters.tfrecord"),
        ("out", "out.staging/attempt-1/dead_letters/dead_letters.tfrecord"),
        ("out/", "out.staging/dead_letters.tfrecord"),
        ("out.staging", "out.staging/dead_letters.tfrecord"),
        ("out.staging", "out.staging/attempt-1/dead_letters/dead_letters.tfrecord"),
        ("some/file", "some/file"),
    ],
)
def test_they_are_found_where_a_run_leaves_them(tmp_path, place, at):
    path = write(tmp_path / at)
    found = staging.dead_letters_of(os.path.join(tmp_path, place))
    assert found == path and list(dead_letters.read(found)) == LETTERS


def test_they_are_a_table_that_no_terminal_obeys(tmp_path):
    result = run(write(tmp_path / "file"))
    assert result.exit_code == 0
    assert all(letter.isprintable() for letter in result.output.replace("\n", ""))
    lines = result.output.splitlines()
    assert lines[0].split() == ["reason", "offset", "id", "file", "message"]
    assert lines[1].split() == ["bad_image", "9", "me", "in/a", "a", "bad", "image"]
    assert lines[4].split() == [
        *("bad_image", "7", r"\x1b[31m\xff", r"in/b\x1b[2J"),
        r"two\x1b]0;title\x07\nlines",
    ]
    assert lines[5] == "4 dead letters (bad_data_crc: 1, bad_image: 2, unreadable_rest: 1)"
    only = run(str(tmp_path / "file"), "--reason", "bad_image").output.splitlines()
    assert only[1:3] == [lines[1], lines[4]] and only[3] == "2 dead letters (bad_image: 2)"


@pytest.mark.parametrize(
    ("reasons", "written", "said"),
    [
        ([], [b"worse", b"bad"], "2 payloads in {out}; 1 dead letters have none; 1 with a"),
        (["bad_image"], [b"worse", b"bad"], "2 payloads in {out}\n"),
        # Whose checksum is a good one then
        (["bad_data_crc", "unreadable_rest"], [b"torn"], "1 payloads in {out}; 1 dead letters"),
    ],
)
def test_payloads_come_back_for_a_second_try(tmp_path, reasons, written, said):
    out = str(tmp_path / "new" / "again.tfrecord")
    options = [option for reason in reasons for option in ("--reason", reason)]
    result = run(write(tmp_path / "file"), *options, "--output", out)
    assert result.exit_code == 0 and said.format(out=out) in result.output
    assert [each.payload for each in read_frames(out, 1000)] == written
    assert [record.numpy() for record in tf.data.TFRecordDataset(out)] == written
    again = run(str(tmp_path / "file"), "--output", out)
    assert again.exit_code == 2 and "is there already" in again.output


def example(**features) -> bytes:
    made = tf.train.Example.FromString(dead_letters._dead_letter_example(entry(LETTERS[0]), b"x"))
    for name, values in features.items():
        made.features.feature[name].bytes_list.value[:] = values
    return frame(made.SerializeToString())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no TFRecord at all", "bad checksum of a length"),
        (frame(b"\xff"), "broken at 0"),
        (frame(b""), "has a feature 'payload', a bytes_list"),
        (example(offset=[b"1"]), "has a feature 'offset', a int64_list"),
        (example(reason=[b"a", b"b"]), "feature 'reason' has 2 values"),
        (example(message=[]), "feature 'message' has 0 values"),
        (example() + example()[:-5], "file ends within a record"),
        (frame(b"x" * 99)[:12], "file ends within a record"),
    ],
)
def test_what_is_no_file_of_dead_letters_is_one_line(tmp_path, content, said):
    (tmp_path / "file").write_bytes(content)
    result = run(str(tmp_path / "file"))
    assert result.exit_code == 2
    (line,) = [line for line in result.output.splitlines() if line.startswith("vaefill: ")]
    assert said in line


def test_a_place_without_any_and_unknown_reasons_are_clear_errors(tmp_path):
    with pytest.raises(ResultError, match="has no dead letters; name a result"):
        staging.dead_letters_of(str(tmp_path / "out"))
    result = run(write(tmp_path / "file"), "--reason", "bad")
    assert result.exit_code == 2 and "unknown reason 'bad'; known: not_an_example" in result.output


def test_a_run_that_fails_says_the_first_of_each_reason():
    found = DeadLetterCounts.empty()
    for letter in LETTERS:
        found.add(entry(letter))
    counted = counts(1, **found.by_reason).model_copy(update={"unreadable_stretches": 1})
    with pytest.raises(BadInputError) as error:
        acceptance.check(counted, 0, LimitsConfig(), "my out.staging", found.first)
    assert str(error.value) == (
        "4 of 5 records are bad (bad_image: 2, the first: in/a at 9, id me: a bad image; "
        "bad_data_crc: 1, the first: in/b at 3: bad checksum of the data; "
        "unreadable stretches: 1, 0 bytes, the first: in/a at 50: cut), "
        "more than limits.max_bad_fraction = 0.01 allows; nothing was published, "
        "see `vaefill dead-letters 'my out.staging'`"
    )


@pytest.mark.parametrize(
    ("content", "longest", "shown"),
    [
        ("grüße", 9, "grüße"),
        (b"gr\xc3\xbc\xc3\x9fe", 9, "grüße"),
        (b"\xff\x00", 9, r"\xff\x00"),
        ("a\u202eb\udcffc", 20, r"a\u202eb\udcffc"),
        ("0123456789", 9, "01234567…"),
        ("0123456789", 10, "0123456789"),
        ("\n" * 10**6, 5, r"\n\n…"),
    ],
)
def test_text_is_printable_and_short(content, longest, shown):
    assert printable(content, longest) == shown


def test_reasons_are_those_of_records():
    assert {letter.reason for letter in LETTERS} <= set(Reason)
