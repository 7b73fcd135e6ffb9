"""The ModelHandler, and the job around it: the same bytes whatever the bundling, bad records
apart.
"""

import hashlib
import os
import time

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from tests.documents import counts
from vaefill import config as config_lib
from vaefill import imputation, jobs
from vaefill.errors import BadInputError, ConfigError, JobError, ResultError, SourceError
from vaefill.imputation import ImputationHandler
from vaefill.isolation import DeviceError
from vaefill.model import checkpoints, datasets, parallel, vae
from vaefill.model.errors import ModelError
from vaefill.model.imputer import Imputed
from vaefill.progress import Progress
from vaefill.records.imputed import decode_imputed
from vaefill.records.masked import encode_masked
from vaefill.records.record import MaskedRecord, Reason, Schema, with_content_hash
from vaefill.report import evaluate
from vaefill.report.page import write_report
from vaefill.results.reading import read_manifest, read_summary
from vaefill.store.items import Item
from vaefill.store.resume import ResumeCache
from vaefill.store.spill import SpillReader
from vaefill.store.tfrecord import DeadLetter, Frame

pytestmark = pytest.mark.slow

REAL = [
    "model.likelihood=gaussian",
    "record.dtype=float32",
    "record.binarize=none",
    "record.shape=[2, 3, 1]",
]
LITTLE = ["sampler.name=pseudo_gibbs", "sampler.num_evidence_draws=0"]  # to compile
GREY = ["model.likelihood=discretized_logistic_mixture", "record.binarize=none"]


def hashes(out: str) -> dict[str, str]:
    files = read_manifest(out).files
    return {
        path: digest
        for path, digest in files.items()
        if path.startswith(("imputed/", "summary/", "dead_letters/"))
    }


def rewrite(
    masked: str, directory, num_files: int, order=lambda payloads: payloads, more=()
) -> str:
    """The same records in other files and another order."""
    payloads = [
        record.numpy() for record in tf.data.TFRecordDataset(sorted(tf.io.gfile.glob(masked)))
    ]
    payloads = order(payloads) + list(more)
    for index in range(num_files):
        options = tf.io.TFRecordOptions(compression_type="GZIP" if index % 2 else "")
        with tf.io.TFRecordWriter(str(directory / f"part-{index}"), options) as writer:
            for payload in payloads[index::num_files]:
                writer.write(payload)
    return str(directory / "part-*")


def test_the_same_bytes_from_other_files_in_another_order(
    config, model_directory, masked, result, tmp_path
):
    pattern = rewrite(masked, tmp_path, 5, order=lambda payloads: payloads[::-1])
    out = str(tmp_path / "out")
    jobs.impute(config, model_directory, [pattern], out)
    assert hashes(out) == hashes(result)


def test_the_same_bytes_from_two_worker_processes(model_directory, masked, tmp_path):
    """Those of dead letters, and of a record that came twice, too."""
    twice = next(iter(tf.data.TFRecordDataset(sorted(tf.io.gfile.glob(masked))))).numpy()
    other = tf.train.Example.FromString(twice)
    other.features.feature["label"].int64_list.value[0] += 1
    changed = other.SerializeToString()
    pattern = rewrite(masked, tmp_path, 4, more=[b"\xff", b"\xff\xff\xff", twice, changed])
    config = config_lib.load("test.yaml", ["limits.max_bad_fraction=0.2", *LITTLE])
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    jobs.impute(config, model_directory, [pattern], one)
    beam_options = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]
    found = jobs.impute(config, model_directory, [pattern], two, beam_options)
    assert found.counts.dead_by_reason == {"duplicate_id": 1, "not_an_example": 2}
    assert found.counts.repeated == 1
    letters = tf.data.TFRecordDataset(os.path.join(two, "dead_letters", "dead_letters.tfrecord"))
    features = [tf.train.Example.FromString(each.numpy()).features.feature for each in letters]
    payloads = {each["payload"].bytes_list.value[0] for each in features}
    assert payloads in ({b"\xff", b"\xff\xff\xff", each} for each in (twice, changed))
    assert hashes(one) == hashes(two) and len(hashes(one)) > 5


@pytest.mark.parametrize(
    "options, cores, threads",
    [
        (["--direct_num_workers=2", "--direct_running_mode=multi_processing"], 8, "4"),
        # As many as there are cores
        (["--direct_num_workers=0", "--direct_running_mode=multi_processing"], 8, "1"),
        (["--direct_num_workers=5", "--direct_running_mode=multi_processing"], 2, "1"),
        (["--direct_num_workers=2", "--direct_running_mode=multi_threading"], 8, None),
    ],
)
def test_worker_processes_share_the_cores(options, cores, threads, monkeypatch):
    monkeypatch.setattr(parallel, "cores", lambda: cores)
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    found = []
    monkeypatch.setattr(
        jobs.beam.Pipeline,
        "run",
        lambda self: found.append(os.environ.get("TF_NUM_INTRAOP_THREADS")) or Done(),
    )
    jobs._run(lambda pipeline: None, options)
    assert found == [threads] and "TF_NUM_INTRAOP_THREADS" not in os.environ


class Done:
    """A pipeline that has run, and counted nothing."""

    def wait_until_finish(self):
        pass

    def metrics(self):
        return self

    def query(self, which):
        return {"counters": []}


@pytest.mark.parametrize("sampler", ["pseudo_gibbs", "lair"])  # test_imputer has them all
def test_samplers_of_two_kinds_give_the_same_bytes_in_any_order(
    sampler, model_directory, masked, tmp_path
):
    settings = [f"sampler.name={sampler}", "sampler.max_sweeps=25"]
    config, found = config_lib.load("test.yaml", settings), []
    for name, num_files, order in (
        ("a", 1, lambda payloads: payloads[:7]),
        ("b", 3, lambda payloads: payloads[6::-1]),
    ):
        (tmp_path / name).mkdir()
        out = str(tmp_path / name / "out")
        jobs.impute(
            config, model_directory, [rewrite(masked, tmp_path / name, num_files, order)], out
        )
        found.append(hashes(out))
    assert found[0] == found[1]
    assert read_summary(out).all.num_records == 7


def test_bad_records_are_dead_letters_and_the_others_arrive_unchanged(
    config, model_directory, masked, result, tmp_path
):
    def example(**features):
        made = tf.train.Example()
        for name, value in features.items():
            made.features.feature[name].bytes_list.value.append(value)
        return made.SerializeToString()

    bad = [
        b"\xff\xff\xff",
        example(image=bytes(784)),
        example(id=b"small", image=bytes(783)),
        example(id=b"mask", image=bytes(784), observed=bytes(783)),
    ]
    pattern = rewrite(masked, tmp_path, 2, more=bad)
    out = str(tmp_path / "out")
    with pytest.raises(BadInputError, match="4 of 34 records are bad"):
        quick = config_lib.load("test.yaml", LITTLE)
        jobs.impute(quick, model_directory, [pattern], out)
    assert not os.path.exists(out)
    lenient = config_lib.load("test.yaml", ["limits.max_bad_fraction=0.2"])
    outcome = jobs.impute(lenient, model_directory, [pattern], out)
    reasons = {"bad_image": 1, "bad_observed": 1, "no_id": 1, "not_an_example": 1}
    assert outcome.counts == counts(30, **reasons) == read_manifest(out).counts
    assert outcome.summary == read_summary(out) and outcome.summary.counts == outcome.counts
    found, expected = hashes(out), hashes(result)
    assert {name for name in found if found[name] != expected[name]} == {
        "dead_letters/dead_letters.tfrecord",
        "summary/summary.json",
    }


def test_the_summary_agrees_with_the_data_set(result):
    """Recomputed with tfds and numpy alone."""
    builder = tfds.builder_from_directory(os.path.join(result, "imputed"))
    examples = list(tfds.as_numpy(builder.as_dataset(split="train")))
    summary = read_summary(result)
    missing = np.stack([~e["observed"] for e in examples])
    mean = np.stack([e["mean"] for e in examples])[missing].astype(np.float64)
    truth = np.stack([e["truth"] > 127 for e in examples])[missing]
    assert summary.all.missing_fraction.mean == pytest.approx(missing.mean())
    assert summary.all.truth.brier == pytest.approx(np.mean((mean - truth) ** 2))
    assert summary.all.truth.nll == pytest.approx(-np.mean(np.log(np.where(truth, mean, 1 - mean))))
    r_hat = np.array([e["r_hat"] for e in examples])
    assert summary.all.quantile("r_hat", "0.5") == pytest.approx(
        np.nanquantile(r_hat, 0.5, method="inverted_cdf")
    )
    assert summary.all.converged_fraction == pytest.approx(
        np.mean([e["converged"] for e in examples])
    )
    sweeps = np.array([e["num_sweeps"] for e in examples])
    assert len(set(sweeps.tolist())) > 1, "records stop by themselves"
    assert summary.all.misfit_fraction == pytest.approx(np.mean([e["misfit"] for e in examples]))
    for example in examples:
        assert 1 / 101 <= example["fit_p_value"] <= 1
        assert example["misfit"] == (example["fit_p_value"] <= np.float32(0.01))
    assert summary.all.num_chain_sweeps == 2 * sweeps.sum()
    for name in ("num_network_passes", "num_unvisited", "log_prob_observed", "log_prob_missing"):
        values = np.array([e[name] for e in examples], np.float64)
        assert np.isfinite(values).all()
        assert summary.all.quantile(name, "0.5") == np.quantile(values, 0.5, method="inverted_cdf")
    for estimator in (summary.log_likelihood.observed, summary.log_likelihood.missing):
        assert estimator.num_draws == 20 and "importance" in estimator.estimator
    labels = [str(e["label"]) for e in examples]
    assert {name: group.num_records for name, group in summary.by_label.items()} == {
        label: labels.count(label) for label in set(labels)
    }


def test_incomplete_records_are_scored_by_what_was_hidden_of_them(
    config, model_directory, tmp_path
):
    """And by nothing else: where nobody knows the value there is noise in the file."""
    digits = datasets.load_images("digits", "test[:5]", (28, 28, 1)).reshape(-1, 28, 28, 1)
    generator = np.random.default_rng(0)
    known = generator.random(digits.shape) < 0.6
    known[0] = True
    noisy = np.where(known, digits, generator.integers(0, 256, digits.shape, np.uint8))
    path, out = str(tmp_path / "in"), str(tmp_path / "out")
    with tf.io.TFRecordWriter(path) as writer:
        for index in range(len(digits)):
            record = MaskedRecord(b"%d" % index, noisy[index], known[index])
            writer.write(encode_masked(record, jobs.schema_of(config)))
    hidden = config_lib.load("test.yaml", ["mask={mechanism: mcar, rate: 0.3}"])
    assert jobs.mask(hidden, path, str(tmp_path / "masked")).counts == counts(5)
    found = jobs.impute(config, model_directory, [str(tmp_path / "masked/*.tfrecord-*")], out)
    builder = tfds.builder_from_directory(f"{out}/imputed")
    examples = {e["id"]: e for e in tfds.as_numpy(builder.as_dataset(split="train"))}
    names = ("observed", "truth", "truth_observed", "mean", "log_prob_missing")
    values = {name: np.stack([examples[b"%d" % i][name] for i in range(5)]) for name in names}
    scored = known & ~values["observed"]
    assert not (values["observed"] & ~known).any() and 0 < scored.sum() < known.sum()
    np.testing.assert_array_equal(values["truth_observed"], known)
    np.testing.assert_array_equal(values["truth"], np.where(known, digits, 0))
    error = (values["mean"] - (digits > 127))[scored].astype(np.float64)
    assert found.summary.all.truth.num_values == scored.sum()
    assert found.summary.all.truth.brier == pytest.approx(np.mean(error**2))
    assert sum(found.summary.all.truth.reliability.counts) == scored.sum()
    np.testing.assert_array_equal(np.isnan(values["log_prob_missing"]), [False] + [True] * 4)
    assert f"{scored.sum():,}" in evaluate.of_result(out, found.summary)
    assert not found.warnings
    write_report([out], str(tmp_path / "report"))


def test_the_manifest_says_what_was_done(config, model_directory, result):
    assert read_manifest(result).warnings == () and read_manifest(result).work.complete == 0
    manifest = read_manifest(result)
    assert manifest.identity.model == checkpoints.fingerprint(model_directory)
    assert manifest.identity.sampler.plain() == config.sampler.model_dump(mode="json")
    assert manifest.config == config.model_dump(mode="json")
    assert manifest.counts.written == 30
    assert len(manifest.inputs) == 3 and all(len(read.sha256) == 64 for read in manifest.inputs)
    for path, digest in manifest.files.items():
        with open(os.path.join(result, path), "rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == digest


def test_the_same_run_again_is_a_no_op(config, model_directory, masked, result, monkeypatch):
    monkeypatch.setattr(jobs, "_run", None)
    assert jobs.impute(config, model_directory, [masked], result) is None
    with pytest.raises(ResultError, match="different: seed"):
        jobs.impute(config_lib.load("test.yaml", ["seed=1"]), model_directory, [masked], result)


def test_what_is_not_there_is_a_clear_error(config, model_directory, masked, tmp_path):
    out = str(tmp_path / "out")
    with pytest.raises(SourceError, match="no file matches"):
        jobs.impute(config, model_directory, [str(tmp_path / "*.none")], out)
    with pytest.raises(ModelError, match="is not a model directory"):
        jobs.impute(config, str(tmp_path), [masked], out)
    other = config_lib.load("test.yaml", ["record.shape=[14, 14, 1]"])
    with pytest.raises(
        ModelError, match=r"a model of shape \[28, 28, 1\], record.shape is \[14, 14, 1\]"
    ):
        jobs.impute(other, model_directory, [masked], out)
    grey = config_lib.load("test.yaml", GREY)
    with pytest.raises(
        ConfigError, match=r"model.likelihood bernoulli needs record.binarize .*, got none$"
    ):
        jobs.impute(grey, model_directory, [masked], out)
    rare = config_lib.load("test.yaml", ["sampler.misfit_rate=0.001"])
    with pytest.raises(
        ConfigError, match="sampler.misfit_rate 0.001 is out of reach .* 100 calibration"
    ):
        jobs.impute(rare, model_directory, [masked], out)
    taken = config_lib.load("test.yaml", ["record.carry={mean: float32}"])
    with pytest.raises(ConfigError, match="mean is a feature of the output itself"):
        jobs.impute(taken, model_directory, [masked], out)
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(BadInputError, match="the input holds no records"):
        jobs.impute(config, model_directory, [str(tmp_path / "empty")], out)


def test_grey_values(masked, tmp_path):
    """Imputations are on all levels, observed bytes are untouched, scores are those of grey
    values.
    """
    config = config_lib.load("test.yaml", [*GREY, *LITTLE])
    model, out = str(tmp_path / "model"), str(tmp_path / "out")
    checkpoints.save(model, vae.build(config.model, config.record.shape, seed=1), config.model, {})
    found = jobs.impute(config, model, [masked], out)
    truth = found.summary.all.truth
    assert truth.brier > 0 and truth.nll is None and truth.reliability is None
    levels = set()
    for example in tfds.as_numpy(
        tfds.builder_from_directory(f"{out}/imputed").as_dataset(split="train")
    ):
        observed = np.broadcast_to(example["observed"], example["imputations"].shape)
        given = np.broadcast_to(example["truth"], observed.shape)
        np.testing.assert_array_equal(example["imputations"][observed], given[observed])
        levels |= set(np.unique(example["imputations"][~observed]).tolist())
        np.testing.assert_allclose(
            example["mean"][example["observed"]], given[0][observed[0]] / 255, rtol=1e-6
        )
    assert len(levels) > 200


def real_records(path: str, num: int) -> None:
    """Records of 6 real values, about half of them missing and NaN; of record 3 an observed one is
    infinite.
    """
    generator = np.random.default_rng(0)
    with tf.io.TFRecordWriter(path) as writer:
        for index in range(num):
            truth = generator.normal(size=6).astype("<f4")
            observed = generator.random(6) < 0.5
            image = np.where(observed, truth, np.float32(np.nan))
            if index == 3:
                image[0], observed[0] = np.inf, True
            features = {"id": b"%d" % index, "image": image.tobytes(), "truth": truth.tobytes()}
            example = tf.train.Example()
            for name, value in (
                features | {"observed": observed.astype(np.uint8).tobytes()}
            ).items():
                example.features.feature[name].bytes_list.value.append(value)
            writer.write(example.SerializeToString())


def test_real_values(tmp_path):
    """Imputations are real numbers, observed ones are untouched, and what is not finite is a dead
    letter.
    """
    config = config_lib.load("test.yaml", [*REAL, "limits.max_bad_fraction=0.5"])
    model, out = str(tmp_path / "model"), str(tmp_path / "out")
    checkpoints.save(model, vae.build(config.model, config.record.shape, seed=1), config.model, {})
    real_records(str(tmp_path / "in"), 20)
    found = jobs.impute(config, model, [str(tmp_path / "in")], out)
    assert found.counts.dead_by_reason == {"bad_image": 1} and found.counts.written == 19
    assert found.summary.all.truth.brier > 0 and found.summary.all.truth.nll is None
    for example in tfds.as_numpy(
        tfds.builder_from_directory(f"{out}/imputed").as_dataset(split="train")
    ):
        assert (
            example["imputations"].dtype == np.float32 and np.isfinite(example["imputations"]).all()
        )
        observed = np.broadcast_to(example["observed"], example["imputations"].shape)
        given = np.broadcast_to(example["truth"], observed.shape)
        np.testing.assert_array_equal(example["imputations"][observed], given[observed])
        np.testing.assert_array_equal(
            example["mean"][example["observed"]], example["truth"][example["observed"]]
        )
        assert (example["stddev"][~example["observed"]] > 0).all()
    write_report([out], str(tmp_path / "report"))


def make_handler(
    config,
    model_directory,
    directory,
    fingerprint: str = "",
    seconds: float = 100.0,
    progress: Progress | None = None,
) -> ImputationHandler:
    computed = str(directory / "computed")
    os.makedirs(computed, exist_ok=True)
    ResumeCache(computed).take_over()
    schema = jobs.schema_of(config)
    return ImputationHandler(
        model_directory,
        fingerprint,
        config.sampler,
        jobs.preprocessor_of(config),
        schema,
        computed,
        call_seconds=seconds,
        progress=progress,
    )


def make_reads(num: int) -> list[tuple[Frame, MaskedRecord]]:
    """Records of an empty image, every second value of which is missing; the odd ones have a
    truth.
    """
    image = np.zeros((28, 28, 1), np.uint8)
    masks = [np.arange(784).reshape(28, 28, 1) % 2 == i % 2 for i in range(num)]
    schema, reads = Schema(image.shape, {}), []
    for i, mask in enumerate(masks):
        record = MaskedRecord(b"%d" % i, image, mask, image if i % 2 else None)
        reads.append((Frame(b"payload %d" % i, "file", i), with_content_hash(record, schema)))
    return reads


def read_bytes(found) -> dict[bytes, bytes]:
    """The Examples of the items among what a handler hands over."""
    read = SpillReader()
    return {each.record_id: read(each.example) for each in found if isinstance(each, Item)}


def test_a_record_without_numbers_is_reported_and_the_others_keep_their_bits(tmp_path):
    """An observed value near the largest of float32: its squared distance from any mean is
    infinite.
    """
    config = config_lib.load(
        "test.yaml", [*REAL, "limits.max_bad_fraction=0.5", "output.num_shards=1"]
    )
    model = str(tmp_path / "model")
    checkpoints.save(model, vae.build(config.model, config.record.shape, seed=1), config.model, {})
    real_records(str(tmp_path / "in"), 20)
    payloads = [each.numpy() for each in tf.data.TFRecordDataset(str(tmp_path / "in"))]
    example = tf.train.Example.FromString(payloads[5])
    example.features.feature["id"].bytes_list.value[0] = b"huge"
    example.features.feature["image"].bytes_list.value[0] = np.full(6, 3e38, "<f4").tobytes()
    with tf.io.TFRecordWriter(str(tmp_path / "more")) as writer:
        writer.write(example.SerializeToString())
    found = {}
    for name in ("in", "[im]*"):
        out = str(tmp_path / f"out-{len(name)}")
        jobs.impute(config, model, [str(tmp_path / name)], out)
        (path,) = tf.io.gfile.glob(f"{out}/imputed/*.tfrecord-*")
        schema, examples = (
            jobs.schema_of(config),
            [each.numpy() for each in tf.data.TFRecordDataset(path)],
        )
        found[name] = {decode_imputed(each, schema).masked.id: each for each in examples}
    assert found["[im]*"].items() >= found["in"].items() and found["[im]*"].keys() - found[
        "in"
    ].keys() == {b"huge"}
    diagnostics = decode_imputed(found["[im]*"][b"huge"], schema).diagnostics
    assert diagnostics["num_non_finite"] > 0 and not diagnostics["converged"]


def test_a_worker_refuses_another_model(config, model_directory, tmp_path):
    with pytest.raises(ModelError, match="has changed"):
        make_handler(config, model_directory, tmp_path, "another fingerprint").load_model()


def test_a_handler_works_with_a_model_that_another_one_loaded(config, model_directory, tmp_path):
    """Beam shares a loaded model between the handlers of a process."""
    fingerprint = checkpoints.fingerprint(model_directory)
    loader, worker = (
        make_handler(config, model_directory, tmp_path, fingerprint) for _ in range(2)
    )
    reads = make_reads(2)
    items = list(worker.run_inference(reads, loader.load_model()))
    expected = {(record.id, record.content_hash, frame.source) for frame, record in reads}
    assert {item[:3] for item in items} == expected
    examples = read_bytes(items)
    for index, (_, record) in enumerate(reads):
        found = decode_imputed(examples[record.id], jobs.schema_of(config))
        np.testing.assert_array_equal(found.masked.observed, record.observed)
        assert np.isnan(found.diagnostics["log_prob_missing"]) == (index == 0)
        assert found.imputations.shape == (3, 28, 28, 1)


def test_batches_have_a_fixed_size(config, model_directory, tmp_path):
    """Many device batches, as many as some memory holds, and at least one."""
    schema = jobs.schema_of(config)
    places = config.sampler.slots // config.sampler.rows_per_record
    record = 784 * (3 + config.sampler.num_imputations + 8)
    for num_bytes, num_batches in ((1 << 30, 64), (3 * places * record, 3), (1, 1)):
        size = imputation.batch_size(config.sampler, schema, num_bytes)
        assert size == num_batches * places
    sizes = make_handler(config, model_directory, tmp_path).batch_elements_kwargs()
    size = imputation.batch_size(config.sampler, schema)
    weigh = sizes.pop("element_size_fn")
    assert sizes == {"min_batch_size": size, "max_batch_size": size}
    assert all(weigh(read) == 1 for read in make_reads(2))


@pytest.mark.parametrize("extra, carried", [(700, 0), (0, 700), (300, 400)])
def test_records_with_much_to_hand_on_fill_a_batch_sooner(extra, carried):
    """At 10,000 bytes a batch, in which what is handed on is twice; never more than a batch."""
    image = np.zeros((1, 1, 1), np.uint8)
    read = (
        Frame(b"", "file", 0),
        MaskedRecord(
            b"id", image, image > 0, None, {"label": 3, "jpeg": b"-" * carried}, b"-" * extra
        ),
    )
    for size, of_one in ((100, 15), (10, 2), (5, 1)):
        assert imputation.weight(read, size, 10_000) == of_one
    assert imputation.weight(read, 100, 100) == 100


class Faulty:
    """An imputer that fails on a batch with certain records in it."""

    def __init__(self, imputer, budget, error: Exception):
        self._imputer, self._culprits, self._error = imputer, set(budget), error
        self.calls = 0

    def stream(self, images, observed, ids, truths):
        self.calls += 1
        if self._culprits & set(ids):
            raise self._error
        return self._imputer.stream(images, observed, ids, truths)


@pytest.fixture(scope="module")
def loaded(config, model_directory, tmp_path_factory):
    fingerprint = checkpoints.fingerprint(model_directory)
    return make_handler(
        config, model_directory, tmp_path_factory.mktemp("loader"), fingerprint
    ).load_model()


@pytest.mark.parametrize("culprit", [0, 7, 19])
def test_a_record_that_fails_its_batch_is_found_and_the_others_keep_their_bits(
    config, model_directory, loaded, tmp_path, culprit
):
    reads = make_reads(20)
    (tmp_path / "well").mkdir()
    well = make_handler(config, model_directory, tmp_path / "well").run_inference(reads, loaded)
    expected = read_bytes(well)
    faulty = Faulty(loaded, [b"%d" % culprit], ValueError("no such luck"))
    found = make_handler(config, model_directory, tmp_path).run_inference(reads, faulty)
    (dead,) = [each for each in found if isinstance(each, DeadLetter)]
    assert (dead.record_id, dead.frame, dead.reason) == (
        b"%d" % culprit,
        reads[culprit][0],
        Reason.NOT_IMPUTED,
    )
    assert dead.message == "ValueError: no such luck"
    del expected[b"%d" % culprit]
    assert read_bytes(found) == expected
    assert faulty.calls <= 2 * 5 + 1  # halving, not one by one


class Forgetful:
    """An imputer that leaves out the last record of a batch of several, the first time."""

    def __init__(self, imputer):
        self._imputer, self._last = imputer, -1

    def stream(self, images, observed, ids, truths):
        kept, self._last = slice(0, self._last), None
        return self._imputer.stream(images[kept], observed[kept], ids[kept], truths[kept])


def test_a_record_that_does_not_come_back_is_tried_again(config, model_directory, loaded, tmp_path):
    reads = make_reads(6)
    found = make_handler(config, model_directory, tmp_path).run_inference(reads, Forgetful(loaded))
    assert sorted(item.record_id for item in found) == sorted(record.id for _, record in reads)


def test_where_every_record_fails_it_is_not_the_records(config, model_directory, loaded, tmp_path):
    reads = make_reads(40)
    faulty = Faulty(loaded, [record.id for _, record in reads], ValueError("broken"))
    with pytest.raises(
        DeviceError, match="9 records failed one by one, the last: ValueError: broken"
    ):
        make_handler(config, model_directory, tmp_path).run_inference(reads, faulty)
    assert faulty.calls < 30


def test_many_records_that_fail_are_found_also_when_the_others_were_computed_before(
    config, model_directory, loaded, tmp_path
):
    """A rerun has little left but those."""
    reads = make_reads(40)
    budget = [record.id for _, record in reads[::3]]
    faulty = Faulty(loaded, budget, ValueError("no such luck"))
    for _ in range(2):
        found = make_handler(config, model_directory, tmp_path).run_inference(reads, faulty)
        assert sorted(each.record_id for each in found if isinstance(each, DeadLetter)) == sorted(
            budget
        )
        assert len(read_bytes(found)) == 40 - len(budget)


@pytest.mark.parametrize(
    "error", [tf.errors.ResourceExhaustedError(None, None, "OOM when allocating"), MemoryError()]
)
def test_out_of_memory_names_the_slots_to_set(config, model_directory, loaded, tmp_path, error):
    faulty = Faulty(loaded, [b"3"], error)
    for slots, advice in ((32, "sampler.slots=32, the fewest"), (96, r"--set sampler.slots=32 ")):
        larger = config.model_copy(
            update={"sampler": config.sampler.model_copy(update={"slots": slots})}
        )
        with pytest.raises(DeviceError, match=f"out of memory with .*{advice}"):
            make_handler(larger, model_directory, tmp_path).run_inference(make_reads(5), faulty)
    assert faulty.calls == 2  # nothing else is tried


def test_a_device_that_gives_no_answer_ends_by_the_time_limit(config, model_directory, tmp_path):
    class Stuck:
        def stream(self, *arguments):
            yield np.zeros(0, np.int64), Imputed(*[np.zeros(0)] * len(Imputed._fields))
            time.sleep(60)

    handler, began = make_handler(config, model_directory, tmp_path, seconds=0.3), time.monotonic()
    with pytest.raises(
        DeviceError, match="no answer for 0.3 s; .* raise limits.device_call_seconds"
    ):
        handler.run_inference(make_reads(5), Stuck())
    assert time.monotonic() - began < 10


def test_lines_of_progress_keep_their_distance(config, model_directory, loaded, tmp_path, caplog):
    num_lines = []
    for seconds in (0, 1000):
        (tmp_path / str(seconds)).mkdir()
        caplog.clear()
        progress, directory = Progress(seconds), tmp_path / str(seconds)
        handler = make_handler(config, model_directory, directory, progress=progress)
        with caplog.at_level("INFO", "vaefill.impute"):
            handler.run_inference(make_reads(100), loaded)
        num_lines.append(len(caplog.records))
        assert caplog.records[0].records > 0 and "converged" in caplog.text
    assert num_lines[0] > num_lines[1] == 1


def test_what_was_computed_is_found_by_the_next_attempt(config, model_directory, loaded, tmp_path):
    reads = make_reads(20)
    first = read_bytes(
        make_handler(config, model_directory, tmp_path).run_inference(reads[:12], loaded)
    )
    counting = Faulty(loaded, [], ValueError())
    second = make_handler(config, model_directory, tmp_path).run_inference(reads[11::-1], counting)
    assert counting.calls == 0 and read_bytes(second) == first
    third = read_bytes(
        make_handler(config, model_directory, tmp_path).run_inference(reads[::-1], counting)
    )
    assert counting.calls == 1 and third.items() >= first.items() and len(third) == 20


def test_files_that_cannot_be_read_are_bad_input(model_directory, masked, tmp_path, caplog):
    (tmp_path / "noise").write_bytes(b"no TFRecords" * 100)
    config = config_lib.load("test.yaml", [*LITTLE, "limits.max_bad_fraction=0"])
    with pytest.raises(
        BadInputError, match=r"1 of 31 .*unreadable stretches: 1, 1200 bytes"
    ) as error:
        jobs.impute(
            config, model_directory, [masked, str(tmp_path / "noise")], str(tmp_path / "out")
        )
    assert error.value.outcome.counts.unreadable_stretches == 1
    assert f"{tmp_path}/noise: 1200 bytes from 0 on are unreadable" in caplog.text


def test_a_run_without_anything_to_impute_says_so_wherever_one_looks(
    config, model_directory, tmp_path, caplog
):
    """And the mask is found under its name, also by an attempt that another one has worked for."""
    jobs.mask(config, "digits/test[:4]", str(tmp_path / "masked"))
    examples = tf.data.TFRecordDataset(tf.io.gfile.glob(f"{tmp_path}/masked/*.tfrecord-*"))
    with tf.io.TFRecordWriter(str(tmp_path / "in")) as writer:
        for each in examples:
            example = tf.train.Example.FromString(each.numpy())
            example.features.feature["mask"].CopyFrom(example.features.feature.pop("observed"))
            del example.features.feature["truth"]
            writer.write(example.SerializeToString())
        writer.write(b"\xff")
    out, strict = str(tmp_path / "out"), str(tmp_path / "in")
    with pytest.raises(BadInputError):
        jobs.impute(config, model_directory, [strict], out)
    lenient = config_lib.load("test.yaml", ["limits.max_bad_fraction=0.5"])
    found = jobs.impute(lenient, model_directory, [strict], out)
    assert found.work.reused == found.work.complete == 4
    (warning,) = found.warnings
    assert warning.code == "nothing_missing" and "the surplus feature 'mask'" in warning.text
    assert read_manifest(out).warnings == read_summary(out).warnings == found.warnings
    assert caplog.text.count(warning.text) == 1
    page = write_report([out], str(tmp_path / "page"))
    with open(page, encoding="utf-8") as file:
        assert "looks like a mask: name it" in file.read()


@pytest.mark.parametrize("fails", [False, True], ids=["unnoticed", "and_fails_of_it"])
def test_input_that_changes_is_an_error(fails, model_directory, masked, tmp_path, monkeypatch):
    pattern, run = rewrite(masked, tmp_path, 1), jobs._run

    def run_and_append(*arguments):
        found = None if fails else run(*arguments)
        with open(tmp_path / "part-0", "ab") as file:
            file.write(b"more")
        if fails:
            raise JobError("the pipeline failed: a record is there no more")
        return found

    monkeypatch.setattr(jobs, "_run", run_and_append)
    config = config_lib.load("test.yaml", LITTLE)
    with pytest.raises(BadInputError, match="part-0 has changed while it was read"):
        jobs.impute(config, model_directory, [pattern], str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_too_many_bad_records_fail_by_number_too(model_directory, masked, tmp_path):
    pattern = rewrite(masked, tmp_path, 1, more=[b"\xff", b"\xff\xff"])
    settings = [
        "limits.max_bad_fraction=1",
        "limits.max_bad_records=1",
        *LITTLE,
    ]
    with pytest.raises(
        BadInputError,
        match=r"2 of 32 records are bad \(not_an_example: 2, .*: .*/part-0 at \d+: not .*\)"
        r".* limits.max_bad_records = 1 .*; nothing was published, see `vaefill dead-letters .*out",
    ):
        jobs.impute(
            config_lib.load("test.yaml", settings),
            model_directory,
            [pattern],
            str(tmp_path / "out"),
        )
    assert not (tmp_path / "out").exists()
