"""Files of this machine and of stores are used alike, and written whole or not at all."""

import json
import os
import pathlib
import tempfile

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from vaefill.model import files
from vaefill.model.errors import ExpectedError, StoreError


class Store(MemoryFileSystem):
    """Stands in for an object store, none of which is within reach of a test."""

    protocol = "gs"
    store: dict = {}
    pseudo_dirs = [""]

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("gs://", "memory://", 1))


@pytest.fixture
def bucket(monkeypatch):
    monkeypatch.setattr(fsspec, "filesystem", lambda scheme: {"gs": Store}[scheme]())
    monkeypatch.setattr(Store, "store", {})
    monkeypatch.setattr(Store, "pseudo_dirs", [""])
    return "gs://bucket"


@pytest.fixture(params=["path", "file", "store"])
def place(request, tmp_path):
    """A directory, by each way of naming one."""
    if request.param == "store":
        return request.getfixturevalue("bucket")
    return f"file://{tmp_path}" if request.param == "file" else str(tmp_path)


def test_a_file_that_fails_to_be_written_leaves_the_old_one(place):
    path = f"{place}/a.json"
    files.write_json(path, {"b": 1, "a": 2})
    assert files.read(path) == b'{\n  "a": 2,\n  "b": 1\n}\n'
    with pytest.raises(RuntimeError), files.written_whole(path) as growing:
        pathlib.Path(growing).write_text("half")
        raise RuntimeError
    assert files.read_json(path) == {"a": 2, "b": 1}
    with files.written_whole(path) as growing:
        pathlib.Path(growing).write_text("[]")
    assert files.read_json(path) == []


def test_others_never_see_it_grow(place, tmp_path):
    path = f"{place}/a"
    with files.written_whole(path, str(tmp_path / "elsewhere")) as growing:
        pathlib.Path(growing).write_text("x")
        assert not files.exists(path)
    assert files.list_names(place) == ["a"]


def test_it_grows_where_it_is_told_to(tmp_path):
    with files.written_whole(str(tmp_path / "a"), str(tmp_path / "b")) as growing:
        assert growing == str(tmp_path / "b")
        pathlib.Path(growing).touch()


def test_what_is_too_large_is_not_read(place):
    path = f"{place}/a"
    with files.create(path) as file:
        np.save(file, np.zeros(100))
    assert len(files.read_at_most(path, 10_000)) == len(files.read(path)) == 928
    with pytest.raises(ExpectedError, match="larger than 100 bytes"):
        files.read_at_most(path, 100)


def test_removing_and_listing_what_is_not_there(place):
    assert files.list_names(f"{place}/no") == []
    files.remove(f"{place}/no")
    files.make_directory(f"{place}/a/b")
    files.write_whole(f"{place}/a/b/c", b"")
    assert list(files.walk(f"{place}/a"))[-1][1] == ["c"]
    files.remove(f"{place}/a")
    assert files.list_names(place) == []


def test_files_and_directories_are_told_apart(place):
    files.make_directory(f"{place}/a")
    files.write_whole(f"{place}/a/b~", "text")
    assert files.is_directory(f"{place}/a") and not files.is_file(f"{place}/a")
    assert files.is_file(f"{place}/a/b~") and not files.is_directory(f"{place}/a/b~")
    assert files.list_names(f"{place}/a") == ["b~"]
    assert not files.exists(f"{place}/c") and not files.is_file(f"{place}/c")


def test_a_file_is_read_from_anywhere(place):
    files.write_whole(f"{place}/a", b"0123456789")
    with files.open_to_read(f"{place}/a") as file:
        assert file.peek(3)[:3] == b"012"
        file.seek(4)
        assert file.read(2) == b"45"
    with files.local_copy(f"{place}/a") as copy:
        assert pathlib.Path(copy).read_bytes() == b"0123456789"
    assert files.sha256(f"{place}/a").startswith("84d89877f0d4041e")  # as sha256sum has it
    with pytest.raises(FileNotFoundError):
        files.open_to_read(f"{place}/b")


def names_of(pattern: str, root: str) -> list[str]:
    """What a pattern matches, below a directory."""
    return [file.path.partition(f"{root}/")[2] for file in files.match(pattern)]


@pytest.mark.parametrize(
    "pattern, expected",
    [
        ("a1", ["a1"]),
        ("a?", ["a1", "a2"]),
        ("*", ["a1", "a2", "b1"]),
        ("[!a]*", ["b1"]),
        ("[b-c]1", ["b1"]),
        ("", ["a1", "a2", "b1"]),
        ("d/*", ["d/a1"]),
        ("d", []),
        ("no", []),
        ("no/*", []),
        ("c*", []),
    ],
)
def test_patterns(place, pattern, expected):
    files.make_directory(f"{place}/d")
    for name in ("b1", "a1", "a2", "d/a1"):
        files.write_whole(f"{place}/{name}", name)
    root = place.removeprefix("file://")
    assert names_of(f"{place}/{pattern}", root) == expected
    assert all(file.size == len(files.read(file.path)) for file in files.match(f"{place}/*"))
    assert all(file.modified > 1e9 for file in files.match(f"{place}/*"))


NAMES = st.text("ab.[]!^*?\\-", min_size=1, max_size=4).filter(lambda name: name.strip("."))


PATTERNS = st.text("ab.[]!^*?\\-", max_size=5).filter(lambda pattern: not pattern.endswith("\\"))


@given(names=st.sets(NAMES, max_size=5), pattern=PATTERNS)
def test_patterns_match_what_beam_says(names, pattern):
    from apache_beam.io.filesystem import BeamIOError
    from apache_beam.io.filesystems import FileSystems

    with tempfile.TemporaryDirectory() as directory:
        for name in names:
            pathlib.Path(directory, name).touch()
        whole = f"{directory}/{pattern}"
        if pattern in names:  # what is there by its very name is meant, which Beam does not say
            assert [file.path for file in files.match(whole)] == [whole]
            return
        try:
            (beams,) = FileSystems.match([whole])
        except BeamIOError:  # no regular expression
            with pytest.raises(OSError):
                files.match(whole)
            return
        expected = sorted(file.path for file in beams.metadata_list if os.path.isfile(file.path))
        assert [file.path for file in files.match(whole)] == expected


def test_two_stars_go_into_directories(tmp_path):
    for name in ("a1", "a2", "d/a1", "d/e/1"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert names_of(f"{tmp_path}/**1", str(tmp_path)) == ["a1", "d/a1", "d/e/1"]


@pytest.mark.parametrize(
    "pattern, expected",
    [
        ("run[v2]/a", ["run[v2]/a"]),
        ("run[v2]/*", ["run[v2]/*"]),
        ("run[v2]/?", ["run[v2]/*", "run[v2]/a"]),
        ("run[v2]/", ["run[v2]/*", "run[v2]/a"]),
        ("run[v]/*", ["runv/a"]),
        ("run*/a", ["run[v2]/a", "runv/a"]),
        ("who?", ["who?"]),
        ("a~", ["a~"]),
        ("[", ["["]),
        ("caf*", ["caf\udce9"]),
        ("caf\udce9", ["caf\udce9"]),
    ],
)
def test_what_is_there_by_its_very_name_is_no_pattern(tmp_path, pattern, expected):
    for name in ("run[v2]/a", "run[v2]/*", "runv/a", "who?", "whom", "a~", "[", "caf\udce9"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert names_of(f"{tmp_path}/{pattern}", str(tmp_path)) == expected


def test_links_are_followed_but_not_round_and_round(tmp_path):
    (tmp_path / "days/01").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for name in ("days/01/x", "elsewhere/x"):
        (tmp_path / name).touch()
    (tmp_path / "days/02").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "days/01/y").symlink_to(tmp_path / "elsewhere/x")
    (tmp_path / "days/01/z").symlink_to(tmp_path / "days")
    both = ["days/01/x", "days/02/x"]
    assert names_of(f"{tmp_path}/days/*/x", str(tmp_path)) == both
    found = names_of(f"{tmp_path}/days/**", str(tmp_path))
    assert found == ["days/01/x", "days/01/y", "days/02/x"]
    assert len({files.resolve(f"{tmp_path}/{name}") for name in found}) == 2


@pytest.mark.parametrize("pattern", ["days/*/*", "days/**", "*/01/y", "days/0[13]/x", "days/01/p"])
def test_what_hides_files_is_named(tmp_path, pattern):
    """A directory that may not be read, links to nothing, and what is no file."""
    (tmp_path / "days/01").mkdir(parents=True)
    (tmp_path / "days/01/x").touch()
    (tmp_path / "days/01/y").symlink_to("/nowhere")
    (tmp_path / "days/03").symlink_to("/nowhere")
    os.mkfifo(tmp_path / "days/01/p")
    message = f"{tmp_path}/days/.* (is a link to /nowhere, which is not there|is neither a file)"
    with pytest.raises(OSError, match=message):
        files.match(f"{tmp_path}/{pattern}")
    assert names_of(f"{tmp_path}/days/01/x", str(tmp_path)) == ["days/01/x"]


def test_a_directory_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    """By a stand-in, for the superuser can read every directory."""

    def denied(path):
        raise PermissionError(13, "Permission denied", path)

    (tmp_path / "a").mkdir()
    monkeypatch.setattr(os, "listdir", denied)
    with pytest.raises(OSError, match=f"cannot read the directory {tmp_path}: Permission denied"):
        files.match(f"{tmp_path}/*/x")


def test_a_file_is_described_as_it_is_now(place):
    files.write_whole(f"{place}/a", "1")
    (before,) = files.match(f"{place}/*")
    assert files.describe(before.path) == before
    files.write_whole(f"{place}/a", "12")
    assert files.describe(before.path).size == 2
    with pytest.raises(OSError):
        files.describe(f"{place}/b")


def test_a_pattern_may_be_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", ".b"):
        (tmp_path / name).touch()
    assert [file.path for file in files.match("*")] == [".b", "a"]
    assert [file.path for file in files.match("a")] == ["a"]


def test_a_directory_is_renamed_in_one_step(tmp_path, bucket):
    files.make_directory(str(tmp_path / "a"))
    files.rename(str(tmp_path / "a"), str(tmp_path / "b"))
    assert files.list_names(str(tmp_path)) == ["b"]
    with pytest.raises(OSError, match="no renames"):
        files.rename(f"{bucket}/a", f"{bucket}/b")


@pytest.mark.parametrize("scheme, extra", [("gs", "gcp"), ("s3", "aws")])
def test_a_store_that_is_not_installed_is_named_with_the_fix(monkeypatch, scheme, extra):
    def missing(name):
        raise ImportError(f"Please install {name}fs")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    message = rf"^{scheme}://bucket/a: .*pip install 'vaefill\[{extra}\]'$"
    with pytest.raises(StoreError, match=message) as error:
        files.exists(f"{scheme}://bucket/a")
    assert isinstance(error.value, OSError) and isinstance(error.value, ExpectedError)
    with pytest.raises(StoreError, match="^ftp://host/a: ftp:// is not supported; gs:// and s3://"):
        files.read("ftp://host/a")


def test_a_store_without_credentials_is_an_error_in_one_line(monkeypatch):
    def refuses(scheme):
        raise RuntimeError("no credentials\nfound")

    monkeypatch.setattr(fsspec, "filesystem", refuses)
    with pytest.raises(StoreError, match="^gs://b/a: gs:// is not within reach: no credentials fo"):
        files.match("gs://b/a")


def test_what_a_store_raises_is_an_error_in_one_line(monkeypatch, bucket):
    def denied(*arguments, **settings):
        raise RuntimeError("anonymous caller\ndoes not have access")

    monkeypatch.setattr(Store, "glob", denied)
    with pytest.raises(OSError, match="gs://bucket/a: anonymous caller does not have access$"):
        files.match(f"{bucket}/a")


def test_json_that_is_none_is_an_error(tmp_path):
    (tmp_path / "a").write_bytes(b"\xff{")
    with pytest.raises(ValueError):
        files.read_json(str(tmp_path / "a"))
    (tmp_path / "a").write_text(json.dumps({"a": 1}))
    assert files.read_json(str(tmp_path / "a")) == {"a": 1}
