"""The ModelHandler, and the job around it: the same bytes whatever the bundling, bad records apart."""

import hashlib
import json
import os

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from model import checkpoints, vae
from model.sampling import SAMPLERS
from pipeline import config as config_lib
from pipeline import imputation, jobs, report, results
from pipeline.imputation import ImputationHandler
from pipeline.record import MaskedRecord
from pipeline.sources import SourceError

REAL = ["model.likelihood=gaussian", "data.dtype=float32", "data.binarize=none", "data.shape=[2, 3, 1]"]
GREY = ["model.likelihood=discretized_logistic_mixture", "data.binarize=none"]


@pytest.fixture(scope="module")
def masked(tmp_path_factory) -> str:
    """30 masked digits in 3 files."""
    directory = str(tmp_path_factory.mktemp("masked") / "masked")
    jobs.mask(config_lib.load("test.yaml"), "digits/test[:30]", directory)
    return os.path.join(directory, "*.tfrecord-*")


@pytest.fixture(scope="module")
def result(config, model_directory, masked, tmp_path_factory) -> str:
    out = str(tmp_path_factory.mktemp("imputed") / "out")
    jobs.impute(config, model_directory, [masked], out)
    return out


def hashes(out: str) -> dict[str, str]:
    files = results.read_manifest(out)["files"]
    return {path: digest for path, digest in files.items() if path.startswith(("imputed/", "summary/"))}


def rewrite(masked: str, directory, num_files: int, order=lambda payloads: payloads, more=()) -> str:
    """The same records in other files and another order."""
    payloads = [record.numpy() for record in tf.data.TFRecordDataset(sorted(tf.io.gfile.glob(masked)))]
    payloads = order(payloads) + list(more)
    for index in range(num_files):
        options = tf.io.TFRecordOptions(compression_type="GZIP" if index % 2 else "")
        with tf.io.TFRecordWriter(str(directory / f"part-{index}"), options) as writer:
            for payload in payloads[index::num_files]:
                writer.write(payload)
    return str(directory / "part-*")


def test_the_same_bytes_from_other_files_in_another_order(config, model_directory, masked, result, tmp_path):
    pattern = rewrite(masked, tmp_path, 5, order=lambda payloads: payloads[::-1])
    out = str(tmp_path / "out")
    jobs.impute(config, model_directory, [pattern], out)
    assert hashes(out) == hashes(result)


def test_the_same_bytes_from_two_worker_processes(config, model_directory, masked, result, tmp_path):
    out = str(tmp_path / "out")
    beam_options = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]
    jobs.impute(config, model_directory, [masked], out, beam_options)
    assert hashes(out) == hashes(result)


@pytest.mark.parametrize(
    "options, cores, threads",
    [
        (["--direct_num_workers=2", "--direct_running_mode=multi_processing"], 8, "4"),
        (["--direct_num_workers=0", "--direct_running_mode=multi_processing"], 8, "1"),  # as many as there are cores
        (["--direct_num_workers=5", "--direct_running_mode=multi_processing"], 2, "1"),
        (["--direct_num_workers=2", "--direct_running_mode=multi_threading"], 8, None),
    ],
)
def test_worker_processes_share_the_cores(options, cores, threads, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    found = []
    monkeypatch.setattr(
        jobs.beam.Pipeline, "run", lambda self: found.append(os.environ.get("TF_NUM_INTRAOP_THREADS")) or Done()
    )
    jobs._run(lambda pipeline: None, options)
    assert found == [threads] and "TF_NUM_INTRAOP_THREADS" not in os.environ


class Done:
    def wait_until_finish(self):
        pass


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "latent_hmc"])
def test_every_sampler_gives_the_same_bytes_in_any_order(sampler, model_directory, masked, tmp_path, monkeypatch):
    config = config_lib.load("test.yaml", [f"sampler.name={sampler}", "sampler.max_sweeps=25"])
    load, loaded, found = ImputationHandler.load_model, [], []

    def load_once(handler):
        if not loaded:
            loaded.append(load(handler))
        return loaded[0]

    monkeypatch.setattr(ImputationHandler, "load_model", load_once)  # compiling takes longer than all else
    for name, num_files, order in (("a", 1, lambda payloads: payloads[:7]), ("b", 3, lambda payloads: payloads[6::-1])):
        (tmp_path / name).mkdir()
        out = str(tmp_path / name / "out")
        jobs.impute(config, model_directory, [rewrite(masked, tmp_path / name, num_files, order)], out)
        found.append(hashes(out))
    assert found[0] == found[1]
    with open(os.path.join(out, "summary", "summary.json"), encoding="utf-8") as file:
        assert json.load(file)["all"]["num_records"] == 7


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
    with pytest.raises(jobs.BadInputError, match="4 of 34 records are bad"):
        quick = config_lib.load("test.yaml", ["sampler.name=pseudo_gibbs"])
        jobs.impute(quick, model_directory, [pattern], out)
    assert not os.path.exists(out)
    lenient = config_lib.load("test.yaml", ["limits.max_bad_fraction=0.2"])
    summary = jobs.impute(lenient, model_directory, [pattern], out)
    reasons = {"bad_image": 1, "bad_observed": 1, "no_id": 1, "not_an_example": 1}
    assert summary["records"] == {
        "read": 34,
        "imputed": 30,
        "dead": 4,
        "dead_by_reason": reasons,
        "unreadable_stretches": 0,
        "unreadable_bytes": 0,
    }
    expected = {path: digest for path, digest in hashes(result).items() if path != "summary/summary.json"}
    assert expected.items() <= hashes(out).items()


def test_the_summary_agrees_with_the_data_set(result):
    """Recomputed with tfds and numpy alone."""
    builder = tfds.builder_from_directory(os.path.join(result, "imputed"))
    examples = list(tfds.as_numpy(builder.as_dataset(split="train")))
    summary = results.read_summary(result)
    missing = np.stack([~e["observed"] for e in examples])
    mean = np.stack([e["mean"] for e in examples])[missing].astype(np.float64)
    truth = np.stack([e["truth"] > 127 for e in examples])[missing]
    assert summary["all"]["missing_fraction"]["mean"] == pytest.approx(missing.mean())
    assert summary["all"]["truth"]["brier"] == pytest.approx(np.mean((mean - truth) ** 2))
    assert summary["all"]["truth"]["nll"] == pytest.approx(-np.mean(np.log(np.where(truth, mean, 1 - mean))))
    r_hat = np.array([e["r_hat"] for e in examples])
    assert summary["all"]["diagnostics"]["r_hat"]["0.5"] == pytest.approx(
        np.nanquantile(r_hat, 0.5, method="inverted_cdf")
    )
    assert summary["all"]["converged_fraction"] == pytest.approx(np.mean([e["converged"] for e in examples]))
    sweeps = np.array([e["num_sweeps"] for e in examples])
    assert len(set(sweeps.tolist())) > 1, "records stop by themselves"
    assert summary["all"]["misfit_fraction"] == pytest.approx(np.mean([e["misfit"] for e in examples]))
    for example in examples:
        assert 1 / 200 <= example["fit_percentile"] <= 1
        assert example["misfit"] == (example["fit_percentile"] <= np.float32(0.01))
    assert summary["all"]["num_chain_sweeps"] == 2 * sweeps.sum()
    for name in ("num_gradients", "log_prob_observed", "log_prob_missing"):
        values = np.array([e[name] for e in examples], np.float64)
        assert np.isfinite(values).all()
        assert summary["all"]["diagnostics"][name]["0.5"] == np.quantile(values, 0.5, method="inverted_cdf")
    assert summary["log_likelihood"]["num_draws"] == 20 and "importance" in summary["log_likelihood"]["estimator"]
    labels = [str(e["label"]) for e in examples]
    assert {name: group["num_records"] for name, group in summary["by_label"].items()} == {
        label: labels.count(label) for label in set(labels)
    }


def test_the_manifest_says_what_was_done(config, model_directory, result):
    manifest = results.read_manifest(result)
    assert manifest["identity"]["model"] == checkpoints.fingerprint(model_directory)
    assert manifest["config"] == config.model_dump(mode="json")
    assert manifest["counts"]["written"] == 30
    assert len(manifest["inputs"]) == 3 and all(len(entry["sha256"]) == 64 for entry in manifest["inputs"])
    for path, digest in manifest["files"].items():
        with open(os.path.join(result, path), "rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == digest


def test_the_same_run_again_is_a_no_op(config, model_directory, masked, result, monkeypatch):
    monkeypatch.setattr(jobs, "_run", None)
    assert jobs.impute(config, model_directory, [masked], result) is None
    with pytest.raises(results.ResultError, match="different: seed"):
        jobs.impute(config_lib.load("test.yaml", ["seed=1"]), model_directory, [masked], result)


def test_what_is_not_there_is_a_clear_error(config, model_directory, masked, tmp_path):
    out = str(tmp_path / "out")
    with pytest.raises(SourceError, match="no file matches"):
        jobs.impute(config, model_directory, [str(tmp_path / "*.none")], out)
    with pytest.raises(checkpoints.ModelError, match="is not a model directory"):
        jobs.impute(config, str(tmp_path), [masked], out)
    other = config_lib.load("test.yaml", ["data.shape=[14, 14, 1]"])
    with pytest.raises(checkpoints.ModelError, match=r"a model of shape \[28, 28, 1\], data.shape is \[14, 14, 1\]"):
        jobs.impute(other, model_directory, [masked], out)
    grey = config_lib.load("test.yaml", GREY)
    with pytest.raises(config_lib.ConfigError, match=r"model.likelihood bernoulli needs data.binarize .*, got none$"):
        jobs.impute(grey, model_directory, [masked], out)
    rare = config_lib.load("test.yaml", ["sampler.misfit_rate=0.001"])
    with pytest.raises(config_lib.ConfigError, match="sampler.misfit_rate 0.001 is out of reach .* 199 reference"):
        jobs.impute(rare, model_directory, [masked], out)
    taken = config_lib.load("test.yaml", ["data.carry={mean: float32}"])
    with pytest.raises(config_lib.ConfigError, match="mean is a feature of the output itself"):
        jobs.impute(taken, model_directory, [masked], out)
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(jobs.BadInputError, match="the input holds no records"):
        jobs.impute(config, model_directory, [str(tmp_path / "empty")], out)


def test_grey_values(masked, tmp_path):
    """Imputations are on all levels, observed bytes are untouched, scores are those of grey values."""
    config = config_lib.load("test.yaml", GREY)
    model, out = str(tmp_path / "model"), str(tmp_path / "out")
    checkpoints.save(model, vae.build(config.model, config.data.shape, seed=1), config.model, {})
    found = jobs.impute(config, model, [masked], out)
    truth = found["all"]["truth"]
    assert truth["brier"] > 0 and truth["nll"] is None and truth["reliability"] is None
    levels = set()
    for example in tfds.as_numpy(tfds.builder_from_directory(f"{out}/imputed").as_dataset(split="train")):
        observed = np.broadcast_to(example["observed"], example["imputations"].shape)
        given = np.broadcast_to(example["truth"], observed.shape)
        np.testing.assert_array_equal(example["imputations"][observed], given[observed])
        levels |= set(np.unique(example["imputations"][~observed]).tolist())
        np.testing.assert_allclose(example["mean"][example["observed"]], given[0][observed[0]] / 255, rtol=1e-6)
    assert len(levels) > 200


def real_records(path: str, num: int) -> None:
    """Records of 6 real values, about half of them missing and NaN; of record 3 an observed one is."""
    generator = np.random.default_rng(0)
    with tf.io.TFRecordWriter(path) as writer:
        for index in range(num):
            truth = generator.normal(size=6).astype("<f4")
            observed = generator.random(6) < 0.5
            image = np.where(observed, truth, np.float32(np.nan))
            if index == 3:
                image[0], observed[0] = np.nan, True
            features = {"id": b"%d" % index, "image": image.tobytes(), "truth": truth.tobytes()}
            example = tf.train.Example()
            for name, value in (features | {"observed": observed.astype(np.uint8).tobytes()}).items():
                example.features.feature[name].bytes_list.value.append(value)
            writer.write(example.SerializeToString())


def test_real_values(tmp_path):
    """Imputations are real numbers, observed ones are untouched, and what is not finite is a dead letter."""
    config = config_lib.load("test.yaml", [*REAL, "limits.max_bad_fraction=0.5"])
    model, out = str(tmp_path / "model"), str(tmp_path / "out")
    checkpoints.save(model, vae.build(config.model, config.data.shape, seed=1), config.model, {})
    real_records(str(tmp_path / "in"), 20)
    found = jobs.impute(config, model, [str(tmp_path / "in")], out)
    assert found["records"]["dead_by_reason"] == {"bad_image": 1} and found["records"]["imputed"] == 19
    assert found["all"]["truth"]["brier"] > 0 and found["all"]["truth"]["nll"] is None
    for example in tfds.as_numpy(tfds.builder_from_directory(f"{out}/imputed").as_dataset(split="train")):
        assert example["imputations"].dtype == np.float32 and np.isfinite(example["imputations"]).all()
        observed = np.broadcast_to(example["observed"], example["imputations"].shape)
        given = np.broadcast_to(example["truth"], observed.shape)
        np.testing.assert_array_equal(example["imputations"][observed], given[observed])
        np.testing.assert_array_equal(example["mean"][example["observed"]], example["truth"][example["observed"]])
        assert (example["stddev"][~example["observed"]] > 0).all()
    report.write_report([out], str(tmp_path / "report"))


def test_a_worker_refuses_another_model(config, model_directory):
    handler = ImputationHandler(model_directory, "another fingerprint", config.sampler, 0, "threshold")
    with pytest.raises(checkpoints.ModelError, match="has changed"):
        handler.load_model()


def test_a_handler_works_with_a_model_that_another_one_loaded(config, model_directory):
    """Beam shares a loaded model between the handlers of a process."""
    fingerprint = checkpoints.fingerprint(model_directory)
    loader, worker = (ImputationHandler(model_directory, fingerprint, config.sampler, 0, "threshold") for _ in range(2))
    image = np.zeros((28, 28, 1), np.uint8)
    masks = [np.arange(784).reshape(28, 28, 1) % 2 == i for i in range(2)]
    records = [MaskedRecord(b"%d" % i, image, mask, truth) for i, (mask, truth) in enumerate(zip(masks, (None, image)))]
    imputed = list(worker.run_inference(records, loader.load_model()))
    assert [result.masked for result in imputed] == records
    assert [bool(np.isnan(result.diagnostics["log_prob_missing"])) for result in imputed] == [True, False]
    assert all(result.imputations.shape == (3, 28, 28, 1) for result in imputed)


def test_batches_have_a_fixed_size(config, model_directory, monkeypatch):
    """Many device batches, as many as some memory holds, and at least one."""
    handler = ImputationHandler(model_directory, "", config.sampler, 0, "threshold")
    places = config.sampler.slots // config.sampler.rows_per_record
    record = 784 * (3 + config.sampler.num_imputations + 8)
    for num_bytes, num_batches in ((1 << 30, 32), (3 * places * record, 3), (1, 1)):
        monkeypatch.setattr(imputation, "_BATCH_BYTES", num_bytes)
        sizes = handler.batch_elements_kwargs()
        assert sizes["min_batch_size"] == sizes["max_batch_size"] == num_batches * places
