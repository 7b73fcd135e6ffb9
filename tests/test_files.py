"""Files are written whole or not at all, on this machine and on others."""

import os
import pathlib

import numpy as np
import pytest
from etils import epath

from vaefill.model import files
from vaefill.model.errors import ExpectedError


def test_a_file_that_fails_to_be_written_leaves_the_old_one(tmp_path):
    path = str(tmp_path / "a.json")
    files.write_json(path, {"b": 1, "a": 2})
    assert pathlib.Path(path).read_text() == '{\n  "a": 2,\n  "b": 1\n}\n'
    with pytest.raises(RuntimeError), files.written_whole(path) as growing:
        pathlib.Path(growing).write_text("half")
        raise RuntimeError
    assert "1" in pathlib.Path(path).read_text()


def test_others_never_see_it_grow(tmp_path):
    path = str(tmp_path / "a")
    with files.written_whole(path, str(tmp_path / "elsewhere")) as growing:
        pathlib.Path(growing).write_text("x")
        assert not files.exists(path) and growing == str(tmp_path / "elsewhere")
    assert files.list_names(str(tmp_path)) == ["a"]


def test_an_object_store_gets_whole_objects_and_no_renames(monkeypatch):
    """A stand-in for one that shows what it is asked to do: no bucket is within reach of a test."""
    asked = []

    class Store:
        def __init__(self, path):
            self._path = path

        def write_bytes(self, content):
            asked.append((self._path, content))

    monkeypatch.setattr(epath, "Path", Store)
    files.write_whole("gs://bucket/a", "text")
    files.flush("gs://bucket/a")
    assert asked == [("gs://bucket/a", b"text")]


def test_what_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "a"
    np.save(path.open("wb"), np.zeros(100))
    assert len(files.read_at_most(str(path), 10_000)) == os.path.getsize(path)
    with pytest.raises(ExpectedError, match="larger than 100 bytes"):
        files.read_at_most(str(path), 100)


def test_removing_and_listing_what_is_not_there(tmp_path):
    assert files.list_names(str(tmp_path / "no")) == []
    files.remove(str(tmp_path / "no"))
    files.make_directory(str(tmp_path / "a" / "b"))
    files.write_whole(str(tmp_path / "a" / "b" / "c"), b"")
    files.remove(str(tmp_path / "a"))
    assert files.list_names(str(tmp_path)) == []
