"""Staging, sealing, publishing: all or nothing, and never over another run's result by accident."""

import json
import os

import pytest

from pipeline import results
from pipeline.results import ResultError
from pipeline.sources import InputFile, SourceError

IDENTITY = {"seed": 1, "inputs": ["abc"]}


def publish(directory: str, identity=IDENTITY, text: str = "content") -> None:
    with results.staging(directory) as root:
        for name in ("spill", "parts", "data"):
            os.makedirs(os.path.join(root, name))
            with open(os.path.join(root, name, "file"), "w", encoding="utf-8") as file:
                file.write(text)
        results.seal(root, {"identity": identity})
        results.publish(root, directory)


def test_a_published_result_is_sealed_and_nothing_else_is_left(tmp_path):
    out = str(tmp_path / "out")
    publish(out)
    manifest = results.read_manifest(out)
    assert manifest["files"] == {"data/file": results.sha256(os.path.join(out, "data", "file"))}
    assert manifest["identity"] == IDENTITY
    assert os.listdir(tmp_path) == ["out"] and sorted(os.listdir(out)) == ["data", "manifest.json"]


def test_the_same_run_is_done_and_another_is_refused(tmp_path):
    out = str(tmp_path / "out")
    assert not results.is_done(out, IDENTITY, replace=False)
    publish(out)
    assert results.is_done(out, IDENTITY, replace=False)
    with pytest.raises(ResultError, match=r"another run \(different: seed\).*--replace"):
        results.is_done(out, {**IDENTITY, "seed": 2}, replace=False)
    assert not results.is_done(out, {**IDENTITY, "seed": 2}, replace=True)


def test_replacing_leaves_the_new_result_alone(tmp_path):
    out = str(tmp_path / "out")
    publish(out)
    publish(out, {"seed": 2}, "new")
    assert results.read_manifest(out)["identity"] == {"seed": 2}
    assert (tmp_path / "out" / "data" / "file").read_text() == "new"
    assert os.listdir(tmp_path) == ["out"]


def test_what_a_killed_run_left_is_removed_and_nothing_else(tmp_path):
    out = str(tmp_path / "out")
    for name in ("out.staging", "out.staging-mine", "out.old"):
        (tmp_path / name).mkdir()
    (tmp_path / "out.staging-file").write_text("mine")
    with results.staging(out):
        pass  # as if killed here
    with results.staging(out) as living:
        publish(out)
        assert os.path.exists(living)
    assert sorted(os.listdir(tmp_path)) == sorted(
        ["out", "out.old", "out.staging", "out.staging-file", "out.staging-mine", os.path.basename(living)]
    )


def test_a_directory_that_is_no_result_is_never_replaced(tmp_path):
    (tmp_path / "precious").write_text("mine")
    for replace in (True, False):
        with pytest.raises(ResultError, match="is not a finished result"):
            results.is_done(str(tmp_path), IDENTITY, replace)


def test_an_empty_directory_may_be_used(tmp_path):
    assert not results.is_done(str(tmp_path), IDENTITY, replace=False)
    out = tmp_path / "empty"
    out.mkdir()
    publish(str(out))
    assert results.is_done(str(out), IDENTITY, replace=False)


def test_object_stores_are_refused_for_now():
    with pytest.raises(ResultError, match="can rename a directory"):
        results.is_done("gs://bucket/out", IDENTITY, replace=False)


def test_a_foreign_manifest_is_no_result(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ResultError, match="not of vaefill"):
        results.is_done(str(tmp_path), IDENTITY, replace=True)


@pytest.mark.parametrize("content", [None, "{"])
def test_what_is_not_a_result_cannot_be_read(tmp_path, content):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ResultError):
        results.read_summary(str(tmp_path))


def test_an_input_that_cannot_be_read_is_named(tmp_path):
    gone = InputFile(str(tmp_path / "gone"), 0, 0.0)
    with pytest.raises(SourceError, match="cannot read .*gone: No such file"):
        results.describe_inputs([gone])


def test_identity_parts_are_json():
    json.dumps([results.software(), results.device()])
    assert results.software()["tensorflow"] and results.device()["type"]
