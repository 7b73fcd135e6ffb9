"""The documents of a result: what is written is read back, and nothing else is taken for it."""

import json
import pathlib

import numpy as np
import pytest
import safetensors.numpy

from tests import documents as made
from vaefill.errors import ResultError
from vaefill.results import documents, integrity, value_maps
from vaefill.results.documents import Manifest, RunWarning, Summary, Work
from vaefill.results.reading import FormatError, read_manifest, read_summary
from vaefill.summary import statistics

SHAPE = (2, 1, 1)


def group() -> documents.Group:
    """Statistics of no records, that have scores all the same."""
    reliability = documents.Reliability(
        edges=(0.0, 0.5, 1.0), counts=(3, 0), predicted=(0.25, None), frequency=(1 / 3, None)
    )
    truth = documents.TruthScores(
        num_unscored=0, num_values=3, nll=0.5, brier=0.1, f1=None, reliability=reliability
    )
    diagnostics = {"r_hat": statistics.quantiles([1.0, 1.5, np.inf, np.nan])}
    nothing = statistics.result(statistics.empty(2), SHAPE, True, diagnostics)
    return nothing.model_copy(update={"truth": truth})


def summary() -> Summary:
    return Summary(
        counts=made.counts(2, no_id=1),
        log_likelihood=None,
        all=group(),
        by_label={"7": group()},
        num_labels_left_out=0,
    )


def write(
    directory: pathlib.Path, manifest: dict | None = None, content: dict | None = None
) -> str:
    """A result of these two documents, by default right ones."""
    (directory / "summary").mkdir(exist_ok=True)
    files = {"manifest.json": manifest or made.manifest().plain()}
    files["summary/summary.json"] = content or summary().plain()
    for name, values in files.items():
        (directory / name).write_text(json.dumps(values))
    return str(directory)


@pytest.mark.parametrize(
    "manifest",
    [
        made.manifest(
            work=Work(reused=1, skipped=2, chain_sweeps=3, network_passes=4),
            model={"latent_size": 2},
            warnings=(RunWarning(code="mask_inverted", text="invert it"),),
        ),
        made.manifest(made.mask_identity()),
        made.manifest(made.mask_identity(inputs=("ab",), masks=("cd",))),
        made.manifest(config={"a": [1, 1.0, None, {"b": "ü"}], "large": 10**30}),
    ],
    ids=["imputed", "masked_dataset", "masked_files", "any_json"],
)
def test_manifests_are_read_back(tmp_path, manifest):
    sealed = manifest.sealed({"b": "2", "a": "1"})
    found = read_manifest(write(tmp_path, sealed.plain()))
    assert found == sealed and found.digest == found.manifest_sha256 == sealed.digest
    assert list(found.files) == ["a", "b"]
    assert found.sealed({"a": "1"}).digest != sealed.digest


def test_summaries_are_read_back(tmp_path):
    found = read_summary(write(tmp_path))
    assert found == summary()
    assert found.all.quantile("r_hat", "0.5") == 1.5 and found.all.diagnostics["r_hat"].num_nan == 1
    assert found.all.quantile("r_hat", "0.99") is None and found.all.quantile("none", "0.5") is None
    assert found.all.truth.reliability.bins()[1] == (0.5, 1.0, 0, None, None)


ALTERED = {
    "not_a_number": (("all", "converged_fraction"), float("nan")),
    "infinite": (("all", "truth", "nll"), float("inf")),
    "infinite_quantile": (("all", "diagnostics", "r_hat", "0.5"), float("-inf")),
    "text_for_a_number": (("counts", "written"), "30"),
    "negative_count": (("by_label", "7", "num_records"), -1),
    "count_of_a_thousand_digits": (("counts", "dead"), 10**1000),
    "share_above_one": (("all", "misfit_fraction"), 1.5),
    "missing_key": (("all", "truth"), ...),
    "unknown_key": (("all", "more\x1b[2J\n"), 1),
    "null": (("all",), None),
    "list_for_object": (("by_label",), []),
    "negative_row": (("all", "values_row"), -1),
    "bins_without_counts": (("all", "missing_fraction", "counts"), [1]),
    "no_bins": (
        ("all", "truth", "reliability"),
        {"edges": [0], "counts": [], "predicted": [], "frequency": []},
    ),
    "another_version_of_another_type": (("format_version",), "2"),
}


@pytest.mark.parametrize(("keys", "value"), ALTERED.values(), ids=ALTERED)
def test_broken_summaries_are_one_line(tmp_path, keys, value):
    content = summary().plain()
    place = content
    for key in keys[:-1]:
        place = place[key]
    if value is ...:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    with pytest.raises(ResultError, match="summary.json") as error:
        read_summary(write(tmp_path, content=content))
    assert str(error.value).isprintable() and len(str(error.value)) < 500


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 10**5, b'{"a": "\\ud800"}']
)
def test_what_is_no_json_object_is_one_line(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ResultError, match=r"manifest\.json.*run `vaefill impute`") as error:
        read_manifest(str(tmp_path))
    assert str(error.value).isprintable()


def test_a_result_of_masking_has_no_summary(tmp_path):
    with pytest.raises(
        ResultError, match="holds masked records; name a result of `vaefill impute`"
    ):
        read_summary(write(tmp_path, made.manifest(made.mask_identity()).plain()))


def of_row(row: int | None) -> documents.Group:
    return group().model_copy(update={"values_row": row})


def test_imputed_values_are_read_back_a_row_at_a_time(tmp_path):
    (tmp_path / "summary").mkdir()
    rows = [
        value_maps.ImputedValues(*np.random.default_rng(row).random((2, 3, 4, 2), np.float32))
        for row in range(3)
    ]
    rows[1].mean[0, 0, 0] = np.nan
    value_maps.write(str(tmp_path), rows)
    (tmp_path / "plain").write_bytes(b"")
    modes = {path.stat().st_mode for path in (tmp_path / "plain", tmp_path / value_maps.VALUE_MAPS)}
    assert len(modes) == 1
    for row, expected in enumerate(rows):
        np.testing.assert_array_equal(value_maps.read(str(tmp_path), of_row(row)), expected)
    assert value_maps.read(str(tmp_path), of_row(None)) is None
    with pytest.raises(ResultError, match="names row 3, there are 3"):
        value_maps.read(str(tmp_path), of_row(3))


def tensors(**arrays: np.ndarray) -> bytes:
    return safetensors.numpy.save(arrays)


NONE = np.zeros((1, 1, 1, 1), np.float32)
HEAD = b'{"mean":{"dtype":"F32","shape":[1,1000000,1000000,1],"data_offsets":[0,4000000000000]}}'
BROKEN = {
    "missing": None,
    "pickle": b"\x80\x04N.",
    "empty": b"",
    "exabytes": len(HEAD).to_bytes(8, "little") + HEAD,
    "long_head": (1 << 60).to_bytes(8, "little"),
    "one_array": tensors(mean=NONE),
    "of_integers": tensors(mean=NONE.astype(np.int32), stddev=NONE),
    "two_shapes": tensors(mean=NONE, stddev=np.zeros((1, 2, 1, 1), np.float32)),
    "flat": tensors(mean=NONE[0], stddev=NONE[0]),
    "no_rows": tensors(mean=NONE[:0], stddev=NONE[:0]),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_of_imputed_values_is_one_line(tmp_path, content):
    (tmp_path / "summary").mkdir()
    if content is not None:
        (tmp_path / value_maps.VALUE_MAPS).write_bytes(content)
    with pytest.raises(ResultError, match="imputed_values.*; run `vaefill impute` again") as error:
        value_maps.read(str(tmp_path), of_row(0))
    assert str(error.value).isprintable() and len(str(error.value)) < 500


def test_a_row_of_more_than_there_is_room_for_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(value_maps, "_LARGEST_ROW", 3)
    (tmp_path / "summary").mkdir()
    value_maps.write(str(tmp_path), [value_maps.ImputedValues(NONE[0], NONE[0])])
    with pytest.raises(ResultError, match="a row of 4 bytes; 3 are the most"):
        value_maps.read(str(tmp_path), of_row(0))


VERSION_1 = {
    "identity": {"kind": "impute"},
    "counts": {"written": 1},
    "files": {},
    "manifest_sha256": "",
}


OTHERS = [(VERSION_1, 1), ({"format_version": 2}, 2), ({"format_version": 4}, 4)]


@pytest.mark.parametrize(("content", "version"), OTHERS)
def test_results_of_other_versions_are_told_and_may_be_replaced(tmp_path, content, version):
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    told = f"has format version {version}, this program reads 3; run "
    for read in (read_manifest, read_summary, integrity.verify):
        with pytest.raises(FormatError, match=told):
            read(str(tmp_path))
    with pytest.raises(ResultError, match=f"{told}.*--replace"):
        integrity.is_done(str(tmp_path), made.impute_identity(), replace=False)
    assert not integrity.is_done(str(tmp_path), made.impute_identity(), replace=True)


VERSIONS = ["null", "2.5", "true", "0", "-1", "1" + "0" * 1000, '"1"', "[2]"]


@pytest.mark.parametrize(
    "content", ["{}", *(f'{{"format_version": {version}}}' for version in VERSIONS)]
)
def test_what_has_no_version_is_none_of_ours(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ResultError, match="is not of vaefill: it has no format_version") as error:
        integrity.is_done(str(tmp_path), made.impute_identity(), replace=True)
    assert not isinstance(error.value, FormatError)


def properties(schema: dict, part: dict) -> dict:
    """The properties of a part of a schema, through references."""
    while "$ref" in part:
        part = schema["$defs"][part["$ref"].split("/")[-1]]
    return part["properties"]


@pytest.mark.parametrize(
    ("name", "document"),
    [("manifest", made.manifest()), ("summary", summary()), ("scores", made.scores())],
)
def test_a_schema_has_every_key_of_its_document(name, document):
    schema = documents.json_schema(name)
    assert properties(schema, schema).keys() == document.plain().keys()
    # Not of any JSON
    assert all("description" in part for part in schema["$defs"].values() if part)
    assert schema["additionalProperties"] is False and json.dumps(schema)
    assert properties(schema, schema)["format_version"]["const"] == documents.FORMAT_VERSION


def test_documents_do_not_change():
    manifest: Manifest = made.manifest()
    with pytest.raises(ValueError, match="frozen"):
        manifest.files = {}
