"""What a result says of itself, and that it is believed only where it is so."""

import json
import os
import shutil

import pytest

from tests.documents import impute_identity, mask_identity
from tests.documents import manifest as manifest_of
from vaefill.errors import ResultError, SourceError
from vaefill.model.files import FileInfo, sha256
from vaefill.results import integrity, provenance
from vaefill.results.reading import read_manifest, read_summary

IDENTITY = impute_identity()
OTHER = impute_identity(seed=18)


def make(directory, identity=IDENTITY) -> str:
    """A sealed result of two files."""
    for name, text in (
        ("data/a", "content of a"),
        ("data/b", "content of b"),
        ("parts/x", "gone"),
        ("spill/y", "gone"),
    ):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    integrity.seal(str(directory), manifest_of(identity))
    return str(directory)


def test_a_sealed_result_names_its_files_and_nothing_else_is_left(tmp_path):
    manifest = read_manifest(make(tmp_path))
    assert manifest.files == {name: sha256(str(tmp_path / name)) for name in ("data/a", "data/b")}
    assert manifest.identity == IDENTITY
    assert sorted(os.listdir(tmp_path)) == ["data", "manifest.json"]


def test_a_whole_result_is_verified(tmp_path):
    out = make(tmp_path)
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.html").write_text("made from the rest")
    (tmp_path / "notes").write_text("mine")
    assert integrity.verify(out) == read_manifest(out)


def alter(path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def link(path) -> None:
    """A link to the very same content."""
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda out: (out / "data" / "a").unlink(), "data/a: missing$"),
        (lambda out: alter(out / "data" / "b", "content", "Content"), "data/b: altered$"),
        (lambda out: (out / "data" / "b").write_text(""), "data/b: altered$"),
        (lambda out: (out / "data" / "c").write_text("more"), "data/c: not part of it$"),
        (lambda out: link(out / "data" / "a"), "data/a: a link$"),
        (
            lambda out: alter(out / "manifest.json", "data/a", "data/../../a"),
            "manifest.json: altered$",
        ),
        (
            lambda out: alter(out / "manifest.json", '"seed": 17', '"seed": 18'),
            "manifest.json: altered$",
        ),
        (lambda out: (out / "manifest.json").unlink(), "not a finished result"),
        (lambda out: (out / "manifest.json").write_text("{"), "cannot read .*manifest.json"),
        (
            lambda out: (out / "manifest.json").write_text("[" * 10**5),
            "cannot read .*manifest.json",
        ),
        (lambda out: (out / "manifest.json").write_text("[]"), "expected an object, got list"),
        (
            lambda out: alter(out / "manifest.json", '"files"', '"more": 1, "files"'),
            "manifest.json: more: Extra",
        ),
        (
            lambda out: alter(out / "manifest.json", "data/a", "\\ud800"),
            "cannot read .*manifest.json",
        ),
        (lambda out: shutil.rmtree(out / "data"), "data/a: missing; data/b: missing$"),
    ],
)
def test_what_is_not_whole_is_refused_by_the_name_of_the_file(tmp_path, damage, message):
    out = make(tmp_path)
    damage(tmp_path)
    with pytest.raises(ResultError, match=message):
        integrity.verify(out)


@pytest.mark.parametrize(
    "name",
    [
        "../outside",
        "/etc/hostname",
        "data/../../outside",
        "data//a",
        "./data/a",
        "a\0b",
        "x\x1b[2Jy",
    ],
)
def test_names_that_leave_the_result_are_not_followed(tmp_path, name):
    """Also where the manifest's own digest is right."""
    (tmp_path / "outside").write_text("secret")
    out = tmp_path / "out"
    make(out)
    manifest = read_manifest(str(out))
    files = manifest.files | {name: sha256(str(tmp_path / "outside"))}
    (out / "manifest.json").write_text(json.dumps(manifest.sealed(files).plain()))
    with pytest.raises(ResultError, match="not a name within the result$") as error:
        integrity.verify(str(out))
    assert str(error.value).isprintable()  # no control codes for the terminal


def test_a_manifest_of_gigabytes_is_not_read(tmp_path):
    with open(tmp_path / "manifest.json", "wb") as file:
        file.truncate(1 << 40)  # a hole: no disk, and no such memory
    with pytest.raises(ResultError, match="larger than"):
        read_manifest(str(tmp_path))


def test_the_same_run_is_done_and_another_is_refused(tmp_path):
    out = str(tmp_path / "out")
    assert not integrity.is_done(out, IDENTITY, replace=False)
    make(tmp_path / "out")
    assert integrity.is_done(out, IDENTITY, replace=False)
    with pytest.raises(ResultError, match=r"another run \(different: seed\).*--replace"):
        integrity.is_done(out, OTHER, replace=False)
    assert not integrity.is_done(out, OTHER, replace=True)
    with pytest.raises(ResultError, match=r"another run \(different: device, .*, kind, mask, "):
        integrity.is_done(out, mask_identity(), replace=False)


def test_a_directory_that_is_no_result_is_never_replaced(tmp_path):
    (tmp_path / "precious").write_text("mine")
    for replace in (True, False):
        with pytest.raises(ResultError, match="is not a finished result"):
            integrity.is_done(str(tmp_path), IDENTITY, replace)


def test_an_empty_directory_may_be_used(tmp_path):
    assert not integrity.is_done(str(tmp_path), IDENTITY, replace=False)


def test_a_foreign_manifest_is_no_result(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ResultError, match="not of vaefill"):
        integrity.is_done(str(tmp_path), IDENTITY, replace=True)


@pytest.mark.parametrize("content", [None, "{"])
def test_what_is_not_a_result_cannot_be_read(tmp_path, content):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ResultError):
        read_summary(str(tmp_path))


def test_an_input_that_cannot_be_read_is_named(tmp_path):
    gone = FileInfo(str(tmp_path / "gone"), 0, 0.0)
    with pytest.raises(SourceError, match="cannot read .*gone: No such file"):
        provenance.describe_inputs([gone])


def test_an_input_of_any_name_is_described(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    with open(path, "wb"):
        pass
    (described,) = provenance.describe_inputs([FileInfo(path, 0, 0.0)])
    assert described.path == f"{tmp_path}/\\udcff" and described.modified.startswith("1970")


@pytest.mark.parametrize("modified, year", [(3e11, "9999"), (-1e11, "0001"), (1e300, "9999")])
def test_an_input_of_any_age_is_described(tmp_path, modified, year):
    (tmp_path / "a").touch()
    (described,) = provenance.describe_inputs([FileInfo(str(tmp_path / "a"), 0, modified)])
    assert described.modified.startswith(year)


def test_identity_parts_say_something():
    assert provenance.software()["tensorflow"] and provenance.device().type
