"""The report: what is on the page, and that nothing in the data can break it."""

import base64
import dataclasses
import html.parser
import io
import json
import pathlib
import re
import shutil
from collections.abc import Sequence

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from tests import documents as made
from tests.documents import SAMPLER
from vaefill.errors import ResultError
from vaefill.model import evaluation
from vaefill.model.fields import FIELDS
from vaefill.records.features import imputed_features
from vaefill.records.imputed import encode_imputed
from vaefill.records.record import DIAGNOSTICS, CarriedFeature, ImputedRecord, MaskedRecord, Schema
from vaefill.report import evaluate, figures, pictures, text
from vaefill.report.page import MAX_LABELS, NUM_SHOWN, choose, write_report
from vaefill.results import documents, value_maps
from vaefill.results.reading import read_summary
from vaefill.summary import statistics

NUM_IMPUTATIONS = 5
ESTIMATORS = documents.LogLikelihood(
    observed=documents.Estimator(estimator="importance sampling", num_draws=4321),
    missing=documents.Estimator(estimator="a difference", num_draws=8642),
)


def make_record(
    index: int, shape=(6, 9, 1), truth=True, label: int | None = None, record_id=None, **diagnostics
) -> ImputedRecord:
    rng = np.random.default_rng(index)
    observed = rng.random(shape) < 0.5
    complete = rng.integers(0, 2, shape, np.uint8) * 255
    mean = rng.random(shape, np.float32)
    draws = ((rng.random((NUM_IMPUTATIONS, *shape)) < mean) * 255).astype(np.uint8)
    values = {
        "r_hat": 1 + rng.random() / 10,
        "ess_bulk": 100 + 100 * rng.random(),
        "ess_tail": 100 + 100 * rng.random(),
        "acceptance_rate": 0.7,
        "num_sweeps": 200,
        "num_network_passes": 1600,
        "num_non_finite": 0,
        "num_unvisited": 0,
        "num_latents": NUM_IMPUTATIONS,
        "fit_p_value": 0.25,
        "misfit": index == 1,
        "log_prob_observed": -20.0,
        "log_prob_observed_error": 0.01,
        "log_prob_missing": -30.0 if truth else np.nan,
        "log_prob_missing_error": 0.02 if truth else np.nan,
        "pareto_k": 0.3,
        **diagnostics,
    }
    values["converged"] = values["r_hat"] < SAMPLER["target_r_hat"]
    return ImputedRecord(
        MaskedRecord(
            record_id or b"test/%03d" % index,
            np.where(observed, complete, 0).astype(np.uint8),
            observed,
            complete if truth else None,
            {} if label is None else {"label": label},
        ),
        np.where(observed, complete, draws),
        np.where(observed, complete / 255, mean).astype(np.float32),
        np.where(observed, 0, np.sqrt(mean * (1 - mean))).astype(np.float32),
        values,
    )


def write_result(
    directory: pathlib.Path,
    records: Sequence[ImputedRecord],
    sampler=SAMPLER,
    score=evaluation.score,
) -> str:
    """Writes an output directory as the pipeline lays it out, labels carried if any record has
    one.
    """
    shape = records[0].masked.image.shape
    has_labels = any(record.masked.carried for record in records)
    schema = Schema(
        shape, {"label": CarriedFeature("int64")} if has_labels else {}, NUM_IMPUTATIONS
    )
    write_imputed(directory / "imputed", records, schema)
    (directory / "summary").mkdir()
    missing = np.stack([~record.masked.observed.ravel() for record in records])
    scored = missing & np.array([[record.masked.truth is not None] for record in records])
    truths = np.stack(
        [np.zeros(shape) if r.masked.truth is None else r.masked.truth / 255 for r in records]
    )
    scored_as = score(
        np.stack([record.mean.ravel() for record in records]), truths.reshape(missing.shape), scored
    )
    binary = score is evaluation.score
    rows = [
        statistics.row(record, scored_as, index, binary) for index, record in enumerate(records)
    ]
    pyarrow.parquet.write_table(
        pa.Table.from_pylist(rows), directory / "summary" / "records.parquet"
    )
    summary = summarise(directory, records, scored_as, shape, binary)
    (directory / "summary" / "summary.json").write_text(json.dumps(summary.plain()))
    (directory / "manifest.json").write_text(
        json.dumps(
            made.manifest(made.impute_identity(sampler=documents.Sampler(**sampler))).plain()
        )
    )
    return str(directory)


def write_imputed(
    directory: pathlib.Path, records: Sequence[ImputedRecord], schema: Schema
) -> None:
    directory.mkdir(parents=True)
    template = tfds.core.ShardedFileTemplate(
        data_dir=directory,
        dataset_name="imputed",
        filetype_suffix="tfrecord",
        template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    )
    with tf.io.TFRecordWriter(str(directory / "imputed-train.tfrecord-00000-of-00001")) as writer:
        for record in records:
            writer.write(encode_imputed(record, schema))
    tfds.folder_dataset.write_metadata(
        data_dir=directory,
        features=imputed_features(schema),
        split_infos=[tfds.core.SplitInfo("train", [len(records)], 0, template)],
        filename_template=template,
        check_data=False,
    )


def summarise(
    directory: pathlib.Path,
    records: Sequence[ImputedRecord],
    scored_as: evaluation.Scores,
    shape: Sequence[int],
    binary: bool,
) -> documents.Summary:
    def describe(group, accumulator):
        chosen = [
            record for record in records if group is None or statistics.group_of(record) == group
        ]
        diagnostics = {
            field.name: statistics.quantiles([r.diagnostics[field.name] for r in chosen])
            for field in FIELDS
            if field.has_quantiles
        }
        row = None if group else 0
        return statistics.result(accumulator, shape, binary, diagnostics, row)

    groups = statistics.by_group(records, scored_as, SAMPLER["num_chains"])
    value_maps.write(str(directory), [statistics.imputed_values(groups[None], shape)])
    described = {group: describe(group, accumulator) for group, accumulator in groups.items()}
    return documents.Summary(
        counts=made.counts(len(records), bad_image=7),
        log_likelihood=ESTIMATORS,
        all=described.pop(None),
        by_label=described,
        num_labels_left_out=0,
    )


class Page(html.parser.HTMLParser):
    """What is on a page: its tags, its text, and the pictures by their alternative text."""

    def __init__(self, path: str | pathlib.Path):
        super().__init__()
        self.source = pathlib.Path(path).read_text(encoding="utf-8")
        self.tags, self.pictures, self._texts = [], {}, []
        self.feed(self.source)
        self.text = " ".join(" ".join(self._texts).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "img":
            self.pictures.setdefault(dict(attrs)["alt"], []).append(dict(attrs)["src"])

    def handle_data(self, data):
        self._texts.append(data)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> pathlib.Path:
    """A result with truth and labels, and its report in `report`."""
    directory = tmp_path_factory.mktemp("labelled")
    result = write_result(directory / "out", [make_record(i, label=i % 3) for i in range(20)])
    path = write_report([result], str(directory / "report"))
    assert path == str(directory / "report" / "index.html")
    return directory


def test_truth_and_labels(labelled):
    page = Page(labelled / "report" / "index.html")
    assert len(page.pictures["truth"]) == len(page.pictures["given"]) == NUM_SHOWN
    assert len(page.pictures["draw 4"]) == NUM_SHOWN and "draw 5" not in page.pictures
    assert any(name.startswith("R-hat against") for name in page.pictures)
    assert any(name.startswith("Reliability") for name in page.pictures)
    summary = read_summary(str(labelled / "out"))
    for expected in (
        f"{summary.all.truth.nll:.4f}",
        f"{summary.by_label['2'].truth.brier:.4f}",
        f"{summary.all.quantile('ess_tail', '0.75'):,.0f}",
        "median sweeps of a chain",
        "5.0 % are misfits 2.0 % would be by chance",
        "importance sampling, 4,321 draws a record",
        "a difference; 8,642",
        "bad_image 7",
        "read 27",
        "5eed" * 16,
        "seed 17",
        "tensorflow 9.8.7",
        "target_ess 123.0",
        "12,345",
        "R-hat < 1.0625 and ESS ≥ 123",
        "Missing at random",
    ):
        assert expected in page.text


def test_page_stands_alone(labelled):
    page = Page(labelled / "report" / "index.html")
    assert {"script", "iframe", "object", "embed"}.isdisjoint(page.tags)
    assert all(
        image.startswith("data:image/png;base64,")
        for images in page.pictures.values()
        for image in images
    )
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:|\#)|url\(|@import""", page.source)


def test_same_bytes_again(labelled, tmp_path):
    again = pathlib.Path(write_report([str(labelled / "out")], str(tmp_path)))
    assert again.read_bytes() == (labelled / "report" / "index.html").read_bytes()


def test_no_truth_no_labels(tmp_path):
    result = write_result(tmp_path / "out", [make_record(i, truth=False) for i in range(3)])
    page = Page(write_report([result], str(tmp_path)))
    assert "truth" not in page.pictures and len(page.pictures["given"]) == 3
    assert "No record came with its truth" in page.text
    assert "By label" not in page.text


def test_truth_of_grey_values(tmp_path):
    records = [make_record(i, label=i % 2) for i in range(4)]
    result = write_result(tmp_path / "out", records, score=evaluation.score_real)
    page = Page(write_report([result, result], str(tmp_path)))
    assert "Mean squared error of the imputed mean" in page.text
    assert "Reliability" not in page.text and "nats per missing value" not in page.text


def broken_record(index: int, **settings) -> ImputedRecord:
    """A record none of whose means is a number."""
    record = make_record(index, **settings)
    record.mean[~record.masked.observed] = np.nan
    return record


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_records_that_could_not_be_scored_are_counted_and_the_others_scored(tmp_path):
    records = [make_record(i, label=i % 2) for i in range(4)]
    good = write_result(tmp_path / "good", records)
    result = write_result(
        tmp_path / "out", [*records, broken_record(4, label=0), broken_record(5, label=7)]
    )
    summary = read_summary(result)
    page = Page(write_report([result], str(tmp_path)))
    printed = evaluate.of_result(result, summary)
    assert "2 records were not scored" in page.text and "2 records were not scored" in printed
    assert "2 records are left out" in page.text
    of_good = read_summary(good)
    for score in (of_good.all.truth.nll, of_good.all.truth.brier):
        number = f"{score:.4f}"
        assert number in page.text and number in printed
    assert "Brier" in printed and "sq. error" not in printed and "reliability" in printed
    assert "not scored" not in Page(write_report([good], str(tmp_path))).text + evaluate.of_result(
        good, of_good
    )


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("score", [evaluation.score, evaluation.score_real])
def test_nothing_could_be_scored(tmp_path, score):
    result = write_result(
        tmp_path / "out", [broken_record(i, label=i) for i in range(2)], score=score
    )
    page = Page(write_report([result, result], str(tmp_path)))
    assert "2 records were not scored" in page.text and "No record could be scored" in page.text
    summary = read_summary(result)
    printed = evaluate.of_result(result, summary)
    assert "2 records were not scored" in printed and ("Brier" in printed) == (
        score is evaluation.score
    )


def test_labels_that_were_left_out_are_counted(tmp_path):
    result = write_result(tmp_path / "out", [make_record(i, label=i) for i in range(3)])
    path = tmp_path / "out" / "summary" / "summary.json"
    summary = read_summary(result).plain() | {"num_labels_left_out": 1234}
    path.write_text(json.dumps(summary))
    assert "1,234 labels more" in evaluate.of_result(result, read_summary(result))
    assert "1,234 labels more" in Page(write_report([result], str(tmp_path))).text
    path.write_text(json.dumps(summary | {"by_label": {}}))
    assert "1,234 labels more" in Page(write_report([result], str(tmp_path))).text


def test_truth_of_some_only(tmp_path):
    result = write_result(tmp_path / "out", [make_record(0), make_record(1, truth=False)])
    page = Page(write_report([result], str(tmp_path)))
    assert len(page.pictures["truth"]) == 1 and len(page.pictures["given"]) == 2


def half_known(shape, other: int) -> ImputedRecord:
    """A record with a truth of which two of three values are known, and another value elsewhere."""
    record, known = make_record(0, shape), np.arange(54).reshape(shape) % 3 > 0
    truth = np.where(known, record.masked.truth, np.uint8(other))
    masked = dataclasses.replace(record.masked, truth=truth, truth_observed=known)
    return dataclasses.replace(record, masked=masked)


def test_what_is_not_known_of_a_truth_is_painted_as_missing(tmp_path):
    record = half_known((6, 9, 1), other=255)
    page = Page(write_report([write_result(tmp_path / "out", [record])], str(tmp_path)))
    painted = pixels(base64.b64decode(page.pictures["truth"][0].split(",")[1]))
    colour = [int(pictures.MISSING[i : i + 2], 16) for i in (1, 3, 5)]
    np.testing.assert_array_equal(
        (painted == colour).all(axis=-1), ~record.masked.truth_known[..., 0]
    )
    assert "of a truth, unknown" in page.text


def test_lines_of_a_truth_are_drawn_where_it_is_known():
    """Whatever it is elsewhere."""
    one, other = (pictures.lines(half_known((1, 54, 1), value), 1) for value in (0, 255))
    assert one == other != pictures.lines(make_record(0, (1, 54, 1)), 1)


@pytest.mark.parametrize(
    "shape, picture",
    [((4, 5, 3), "mean"), ((1, 30, 1), "values"), ((1, 24, 5), "values"), ((5, 4, 2), "mean")],
    ids=["rgb", "one_line", "lines", "two_channels"],
)
def test_shapes(tmp_path, monkeypatch, shape, picture):
    monkeypatch.setattr(figures, "MOST_PANELS", 2)
    result = write_result(tmp_path / "out", [make_record(i, shape) for i in range(2)])
    page = Page(write_report([result], str(tmp_path)))
    assert len(page.pictures[picture]) == 2 and ("draw 1" in page.pictures) == (picture == "mean")
    said = {5: "The first 2 of 5 channels", 2: "The 2 channels side by side"}
    assert all((text in page.text) == (number == shape[2]) for number, text in said.items())


def test_hostile_bytes_are_text(tmp_path):
    good = [b"<script>alert(1)</script>", "blume/é".encode(), b"&amp;", b"$" * 40]
    ids = [*good, b"\xff\x00<img>", "\u202e evil".encode()]
    result = write_result(
        tmp_path / "<i>out", [make_record(i, record_id=name) for i, name in enumerate(ids)]
    )
    page = Page(write_report([result], str(tmp_path)))
    assert "script" not in page.tags and "<b>" not in page.tags and "<script>" not in page.source
    names = (
        "<scrip…t(1)</script>",
        "0xff003c696d673e",
        "blume/é",
        "&amp;",
        "$" * 6 + "…" + "$" * 13,
    )
    for expected in (*names, "in/<b>.tfrecord"):
        assert expected in page.text
    assert "\u202e" not in page.source


def test_no_diagnostics(tmp_path):
    """Importance samplers have no R-hat, complete records no chains at all."""
    nothing = dict.fromkeys(
        {f.name for f in FIELDS if f.has_quantiles and f.dtype is np.float32}, np.nan
    )
    records = [
        make_record(0, r_hat=np.nan),
        make_record(1, r_hat=np.inf),
        make_record(2, **nothing),
    ]
    result = write_result(tmp_path / "out", records)
    page = Page(write_report([result], str(tmp_path)))
    assert any(name.startswith("R-hat against") for name in page.pictures)
    assert "1 have no ESS and are not drawn" in page.text


def test_many_labels_are_capped(tmp_path):
    """Of which none has an ESS, so there is nothing to draw either."""
    without = {"ess_bulk": np.nan, "ess_tail": np.nan}
    labels = [1000 + i // 2 for i in range(2 * MAX_LABELS + 1)]
    records = [make_record(i, (2, 2, 1), label=label, **without) for i, label in enumerate(labels)]
    result = write_result(tmp_path / "out", records)
    page = Page(write_report([result], str(tmp_path)))
    assert not any(name.startswith("R-hat against") for name in page.pictures)
    assert f"The {MAX_LABELS} labels with the most records, of {MAX_LABELS + 1}" in page.text


def test_least_trusted_first(tmp_path):
    records = [make_record(i, r_hat=1 + i / 100) for i in range(30)] + [
        make_record(30, r_hat=np.nan)
    ]
    page = Page(write_report([write_result(tmp_path / "out", records)], str(tmp_path)))
    listed = re.findall(r"test/\d+", page.text.split("Records to trust least")[1])
    assert listed[:3] == ["test/030", "test/029", "test/028"]


def test_misfits_are_not_to_be_trusted_though_they_converge(tmp_path):
    records = [
        make_record(i, r_hat=1 + i / 1000, misfit=i == 5, fit_p_value=0.015 * (i + 1))
        for i in range(10)
    ]
    page = Page(write_report([write_result(tmp_path / "out", records)], str(tmp_path)))
    listed = page.text.split("Records to trust least")[1]
    assert re.findall(r"test/\d+", listed)[:3] == ["test/005", "test/009", "test/008"]
    assert "0.090" in listed and "10.0 % are misfits" in page.text


def test_peaks_that_no_chain_has_visited_are_shown(tmp_path):
    records = [make_record(i, num_unvisited=9 * (i == 3)) for i in range(4)]
    page = Page(write_report([write_result(tmp_path / "out", records)], str(tmp_path)))
    assert page.text.count("peaks not visited") == 2  # of the worst records, and quantiles of all
    assert page.source.count('<td class="bad">9</td>') == 1


def test_a_label_of_any_length_is_ordered(tmp_path):
    result = write_result(tmp_path / "out", [make_record(i, label=i) for i in range(2)])
    path = tmp_path / "out" / "summary" / "summary.json"
    summary = read_summary(result).plain()
    summary["by_label"]["9" * 5000] = summary["by_label"]["1"]
    path.write_text(json.dumps(summary))
    assert "9" * 5000 in Page(write_report([result], str(tmp_path))).text


def test_several_results(tmp_path):
    gibbs = {**SAMPLER, "name": "pseudo_gibbs"}
    results = [
        write_result(tmp_path / "first", [make_record(0)]),
        write_result(tmp_path / "second", [make_record(1)], gibbs),
    ]
    page = Page(write_report(results, str(tmp_path / "report")))
    assert "Side by side" in page.text and len(page.pictures["given"]) == 2
    assert "Here that concerns second." in page.text


def test_nothing_imputed(tmp_path):
    (tmp_path / "summary").mkdir()
    summary = documents.Summary(
        counts=made.counts(0, bad_image=7),
        log_likelihood=None,
        all=statistics.result(statistics.empty(6), (2, 3, 1), True),
        by_label={},
        num_labels_left_out=0,
    )
    (tmp_path / "summary" / "summary.json").write_text(json.dumps(summary.plain()))
    (tmp_path / "manifest.json").write_text(json.dumps(made.manifest().plain()))
    page = Page(write_report([str(tmp_path)], str(tmp_path)))
    assert "No record was imputed" in page.text and "read 7" in page.text


@pytest.mark.parametrize(
    "damaged, content",
    [
        ("manifest.json", None),
        ("manifest.json", b"{"),
        ("summary/summary.json", b"[]"),
        ("summary/summary.json", None),
        ("summary/records.parquet", b"PAR1"),
        ("imputed/dataset_info.json", None),
        ("imputed/imputed-train.tfrecord-00000-of-00001", b"short"),
    ],
)
def test_incomplete_result(labelled, tmp_path, damaged, content):
    result = str(shutil.copytree(labelled / "out", tmp_path / "out"))
    path = tmp_path / "out" / damaged
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ResultError) as error:
        write_report([result], str(tmp_path / "report"))
    message = str(error.value)
    assert str(path) in message or str(path.parent) in message
    assert (
        re.search("run `vaefill impute`( or `vaefill mask`)? again", message)
        and "\n" not in message
    )
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    "results, named", [([], "no result"), (["nowhere/at/all"], "nowhere/at/all")]
)
def test_no_result(tmp_path, results, named):
    with pytest.raises(ResultError, match=named):
        write_report(results, str(tmp_path))


def test_choice_covers_labels():
    """The first of each label in the order of the data set, then the first of the others."""
    labels = [7, 7, 7, 1, None, 7, 1, 12, 7, 7, 7, 7]
    records = [make_record(i, (1, 1, 1), label=label) for i, label in enumerate(labels)]
    shown = [record.masked.id for record in choose(iter(records), 3)]
    assert shown == [b"test/%03d" % i for i in (3, 6, 0, 1, 2, 5, 8, 9, 7, 4)]


def test_choice_draws_no_more_than_it_needs():
    drawn = []
    records = (drawn.append(i) or make_record(i, (1, 1, 1), label=i % 2) for i in range(1000))
    assert len(choose(records, 2)) == NUM_SHOWN
    assert len(drawn) == NUM_SHOWN


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(PIL.Image.open(io.BytesIO(png)))


def test_missing_pixels_are_painted():
    values = np.array([[[0], [128]], [[255], [7]]], np.uint8)
    missing = np.array([[[False], [False]], [[False], [True]]])
    painted = pixels(pictures.picture(values, missing))
    colour = [int(pictures.MISSING[i : i + 2], 16) for i in (1, 3, 5)]
    np.testing.assert_array_equal(painted, [[[0] * 3, [128] * 3], [[255] * 3, colour]])
    assert len(set(colour)) > 1  # no grey


def test_pictures_keep_colours_and_survive_nan():
    values = np.array([[[1.0, 0.5, 0.0], [np.nan, 0.0, 0.0]]], np.float32)
    assert pixels(pictures.picture(values))[0, 0].tolist() == [255, 128, 0]
    assert pixels(pictures.stddev_picture(values)).shape == (1, 2, 3)


def test_large_pictures_are_scaled_down():
    """To means of blocks, so that a fine pattern becomes grey."""
    board = np.indices((600, 300, 1)).sum(axis=0) % 2 * 255
    found = pixels(pictures.picture(board.astype(np.uint8)))
    assert found.shape == (120, 60, 3) and abs(found.astype(int) - 127).max() <= 10
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    assert len(pictures.picture(noise)) < 50_000
    assert len(pictures.picture(np.repeat(noise, 5, axis=2))) < 100_000


def test_channels_lie_side_by_side_where_they_are_no_colour():
    values = np.zeros((2, 3, 2), np.uint8)
    values[..., 1] = 200
    missing = np.zeros((2, 3, 2), bool)
    missing[0, 0, 1] = True
    found = pixels(pictures.picture(values, missing))
    assert found.shape == (2, 7, 3) and (found[:, :3] == 0).all() and (found[:, 3] == 255).all()
    assert (found[1, 4:] == 200).all() and found[0, 4].tolist() != [200] * 3


def real_record(index: int, shape=(6, 9, 2), offset=290.0) -> ImputedRecord:
    """A record of real values around an offset, far from [0, 1]."""
    record, generator = make_record(index, shape), np.random.default_rng(index)
    truth = generator.normal(offset, 5, shape).astype(np.float32)
    observed = record.masked.observed
    draws = np.where(observed, truth, truth + generator.normal(0, 2, (5, *shape)))
    return ImputedRecord(
        MaskedRecord(
            record.masked.id, np.where(observed, truth, 0).astype(np.float32), observed, truth
        ),
        draws.astype(np.float32),
        truth,
        np.where(observed, 0, np.float32(2)),
        record.diagnostics,
    )


def test_real_values_are_drawn_on_their_own_scale():
    records = [real_record(index) for index in range(3)]
    scale = pictures.scale_of(records)
    everything = np.stack([record.mean for record in records])
    assert everything.min() <= scale.low < np.percentile(everything, 3)
    assert np.percentile(everything, 97) < scale.high <= everything.max() and scale.stddev == 2
    found = pixels(pictures.picture(records[0].mean, scale=scale))
    assert found.min() < 20 and found.max() > 235 and len(np.unique(found)) > 30
    flat = real_record(0)
    flat.mean[:] = np.nan
    flat.stddev[:] = np.nan
    assert pictures.scale_of([flat]) == (0, 1, 1)
    assert pictures.scale_of([make_record(0)]) == (0, 1, 0.5)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("shape", [(6, 9, 1), (6, 9, 2), (1, 24, 7), (1, 3000, 1)])
def test_maps_of_real_values_have_a_scale_of_their_own(shape):
    """The same pattern in other units gives the same picture but for the numbers beside it."""
    mean = np.random.default_rng(0).normal(size=shape)
    mean[0, 0, 0] = np.nan
    near, far = (
        pixels(figures.value_maps(values, np.abs(values), True)) for values in (mean, 1000 * mean)
    )
    assert near.shape == far.shape and len(np.unique(near)) > 30
    assert shape[0] == 1 or (near != far).mean() < 0.02  # lines have their ticks beside them


@pytest.mark.parametrize(
    "value, expected",
    [
        (None, "–"),
        (np.nan, "–"),
        (0.0, "0 %"),
        (1e-9, "<0.1 %"),
        (0.5, "50.0 %"),
        (1 - 1e-9, ">99.9 %"),
        (1, "100 %"),
    ],
)
def test_percent(value, expected):
    assert text.percent(value) == expected


@pytest.mark.parametrize(
    "value, spec, expected",
    [
        (None, "d", "–"),
        (np.nan, "d", "–"),
        (np.inf, "d", "∞"),
        (-2.55, ".1f", "−2.5"),
        (12345, ",d", "12,345"),
    ],
)
def test_number(value, spec, expected):
    assert text.number(value, spec) == expected


def test_records_are_made_of_every_diagnostic():
    assert set(make_record(0).diagnostics) == set(DIAGNOSTICS)


def test_short_ids_keep_their_end():
    assert text.short("digits-test.tfrecord-00000-of-00001__113") == "digits…of-00001__113"
    assert text.short("exactly-twenty-chars") == "exactly-twenty-chars"
