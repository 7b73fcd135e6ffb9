"""A job from start to finish: check everything, stage, run the pipeline, seal, publish."""

import contextlib
import datetime
import glob
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow_datasets as tfds
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from vaefill.model import checkpoints
from vaefill.model.config import check_likelihood
from vaefill.model.errors import ModelError
from vaefill.model.likelihoods import LIKELIHOODS, Likelihood
from vaefill.model.misfit import check_rate
from vaefill.model.preprocessing import Preprocessor
from vaefill.pipeline import counters, graph, masking
from vaefill.pipeline.config import Config, LimitsConfig
from vaefill.pipeline.errors import BadInputError, ConfigError, JobError
from vaefill.pipeline.graph import Reading
from vaefill.pipeline.imputation import ImputationHandler
from vaefill.pipeline.records.record import OWN_FEATURES, CarriedFeature, Schema, imputed_features, masked_features
from vaefill.pipeline.results import incremental, integrity, provenance, staging
from vaefill.pipeline.store import sinks, writers
from vaefill.pipeline.store.dead_letters import DeadLetterCounts
from vaefill.pipeline.store.layout import Layout, prepare
from vaefill.pipeline.store.resume import HashIndex, ResumeCache
from vaefill.pipeline.store.sources import InputFile, expand
from vaefill.pipeline.summary import summarizer

_LOGGER = logging.getLogger("vaefill")


def schema_of(config: Config) -> Schema:
    """What the records of a configuration look like.

    Raises:
        ConfigError: a carried feature would overwrite one of the record's own.
    """
    carried = {name: CarriedFeature(kind) for name, kind in config.record.carry.items()}
    for name in carried:
        if name in OWN_FEATURES:
            raise ConfigError(f"record.carry: {name} is a feature of the output itself; rename it in the input")
    return Schema(tuple(config.record.shape), carried, config.sampler.num_imputations, np.dtype(config.record.dtype))


def preprocessor_of(config: Config, likelihood: Likelihood | None = None) -> Preprocessor:
    """What a model of a likelihood, by default the configured one, sees of the records."""
    likelihood = likelihood or LIKELIHOODS[config.model.likelihood]()
    return Preprocessor(likelihood, config.record.binarize, config.seed)


def _run(build: Callable[[beam.Pipeline], None], beam_options: Sequence[str]) -> Mapping[str, int]:
    """Runs a pipeline to its end, and returns our counters; on this machine in this process unless a runner is named.

    Beam's own default may pick a runner that downloads a program, so the in-memory runner is named here.
    """
    options = PipelineOptions(list(beam_options))
    runner = options.get_all_options()["runner"]
    try:
        pipeline = beam.Pipeline(runner=FnApiRunner() if runner in (None, "DirectRunner") else runner, options=options)
    except ValueError as error:
        raise ConfigError(f"options for Beam: {error}") from None
    build(pipeline)
    try:
        with _environment(_worker_environment(options)):
            ran = pipeline.run()
            ran.wait_until_finish()
    except Exception as error:
        _LOGGER.debug("the pipeline failed", exc_info=True)
        raise JobError(f"the pipeline failed: {_root_cause(error)}") from error
    return counters.totals(ran)


def _worker_environment(options: PipelineOptions) -> dict[str, str]:
    """What worker processes on this machine inherit, so that together they take its cores once."""
    direct = options.view_as(DirectOptions)
    if direct.direct_running_mode != "multi_processing":
        return {}
    cores = os.cpu_count() or 1
    return {"TF_NUM_INTRAOP_THREADS": str(max(1, cores // (direct.direct_num_workers or cores)))}


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Environment variables, those that the user has set left as they are, for processes that start meanwhile."""
    ours = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]


def _root_cause(error: BaseException) -> str:
    """The innermost error in a line; a worker process hands its own on as the text of a traceback."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()] or [""]
    return lines[-1] if lines[0].startswith("Traceback") else f"{type(error).__name__}: {lines[0]}"


def _check_counts(counts: dict[str, Any], skipped: int, limits: LimitsConfig, layout: Layout) -> None:
    """Fails a job before it publishes a data set of no records, or where too much of its input was bad.

    A stretch in which no record can be found counts as one bad record, at least so many it held.
    """
    bad = counts["dead"] + counts["unreadable_stretches"]
    read = counts["written"] + bad + skipped
    reasons = [f"{reason}: {count}" for reason, count in counts["dead_by_reason"].items()]
    if counts["unreadable_stretches"]:
        reasons.append(f"unreadable stretches: {counts['unreadable_stretches']}, {counts['unreadable_bytes']} bytes")
    said = f"{bad} of {read} records are bad ({', '.join(reasons)})"
    outcome = {"records": counts}
    if not read:
        raise BadInputError(
            "the input holds no records; a data set of none cannot be read, so none is written", outcome
        )
    allowed = {"max_bad_fraction": limits.max_bad_fraction * read, "max_bad_records": limits.max_bad_records}
    for name, most in allowed.items():
        if most is not None and bad > most:
            raise BadInputError(
                f"{said}, more than limits.{name} = {getattr(limits, name)} allows; nothing was published, "
                f"the dead letters are in {layout.dead_letters}",
                outcome,
            )
    if not counts["written"] + skipped:
        raise BadInputError(f"{said}; tfds cannot read a data set of none", outcome)


def _complete(
    layout: Layout, features: tfds.features.FeaturesDict, description: str, config: Config, skipped: int = 0
) -> tuple[dict[str, Any], DeadLetterCounts]:
    """Makes the files of a pipeline that has run a data set, unless too much of its input was bad or all is known."""
    shards, dead = sinks.finish(layout)
    counts = {"written": sum(shard.num_records for shard in shards), **dead.as_dict()}
    _check_counts(counts, skipped, config.limits, layout)
    if counts["written"]:
        writers.write_dataset_info(layout, features, shards, description)
    return counts, dead


class _Clock:
    """When a job started, and how long it took."""

    def __init__(self):
        self._started, self._seconds = datetime.datetime.now(datetime.UTC), time.monotonic()

    def times(self) -> dict[str, Any]:
        return {"started": self._started.isoformat(), "seconds": round(time.monotonic() - self._seconds, 3)}


def _load_model(directory: str, config: Config) -> checkpoints.LoadedModel:
    """Loads a model that is for the data of a configuration, and can tell misfits at its rate if at all.

    Raises:
        ConfigError: it is not.
        ModelError: it is not usable.
    """
    loaded = checkpoints.load(directory)
    description, shape = loaded.description, tuple(config.record.shape)
    if description.data_shape != shape:
        raise ModelError(
            f"{directory} is a model of shape {list(description.data_shape)}, record.shape is {list(shape)}"
        )
    try:
        check_likelihood(description.model.likelihood, config.record)
        if loaded.calibration is not None:
            check_rate(config.sampler.misfit_rate, len(loaded.calibration))
    except ValueError as error:
        raise ConfigError(f"{directory}: {error}") from None
    trained = description.training.get("binarize", "sample")  # as all models were before they said so
    if config.record.binarize != "none" and trained != config.record.binarize:
        _LOGGER.warning(
            "%s was trained with record.binarize %s, these records have %s: imputations will be %s than they should",
            directory,
            trained,
            config.record.binarize,
            "less sure" if trained == "sample" else "surer",
        )
    return loaded


@contextlib.contextmanager
def _unchanged(inputs: Sequence[InputFile]) -> Iterator[None]:
    """Fails a job whose input was written to while it was read, whatever else it failed of.

    The manifest would say what is not so.
    """
    failed = None
    try:
        yield
    except JobError as error:
        failed = error
    for before, now in zip(inputs, expand(tuple(glob.escape(file.path) for file in inputs))):
        if before != now:
            raise BadInputError(f"{before.path} has changed while it was read; nothing was published", {})
    if failed:
        raise failed


def _of_records(config: Config, model: checkpoints.LoadedModel) -> dict[str, Any]:
    """What the result of a record depends on, beside the record."""
    effective = config.model_dump(mode="json")
    return {
        "model": model.fingerprint,
        **{section: effective[section] for section in ("seed", "sampler")},
        "record": effective["record"],
        "software": provenance.software(),
        "device": provenance.device(),
    }


def _handler(
    config: Config, directory: str, model: checkpoints.LoadedModel, schema: Schema, computed: str
) -> ImputationHandler:
    """The handler of a run, which goes on from what earlier attempts computed."""
    num_reused = ResumeCache(computed).take_over()
    if num_reused:
        _LOGGER.info("an earlier attempt has computed %s records, which are reused", f"{num_reused:,}")
    return ImputationHandler(
        directory,
        model.fingerprint,
        config.sampler,
        preprocessor_of(config, model.vae.likelihood),
        schema,
        computed,
        config.limits.device_call_seconds,
    )


def impute(
    config: Config,
    model: str,
    patterns: Sequence[str],
    output: str,
    beam_options: Sequence[str] = (),
    replace: bool = False,
    since: Sequence[str] = (),
) -> dict[str, Any] | None:
    """Imputes the masked records of TFRecord files into a result directory.

    Args:
        config: the configuration; its `data` section must fit the model.
        model: the model directory.
        patterns: globs of the input.
        output: the result directory, published whole or not at all.
        beam_options: for Beam's PipelineOptions.
        replace: whether the result of a different run may be replaced.
        since: earlier results of the same model and sampler; records that they hold are left out.

    Returns:
        The summary, and `work`, what this run had to do for it; None where the output already is the result of
        the same run. Where earlier results hold every record, nothing is published and `imputed` is 0.

    Raises:
        ConfigError, ModelError, SourceError, ResultError: what was named is not usable.
        BadInputError, JobError: the job ran and failed.
    """
    clock, schema = _Clock(), schema_of(config)
    loaded = _load_model(model, config)
    files = expand(tuple(patterns))
    inputs = provenance.describe_inputs(files)
    effective, of_records = config.model_dump(mode="json"), _of_records(config, loaded)
    identity = {
        "kind": "impute",
        **of_records,
        "output": effective["output"],
        "max_record_bytes": config.limits.max_record_bytes,
        "inputs": sorted(entry["sha256"] for entry in inputs),
        "since": incremental.check(since, of_records, output),
    }
    with staging.stage(output, identity, replace, of_records) as staged:
        if staged is None:
            return None
        layout = Layout(staged.root, "imputed", "imputed", config.output.split, config.output.num_shards)
        prepare(layout)
        reading = Reading([entry["path"] for entry in inputs], schema, config.limits.max_record_bytes)
        known = _known(since, layout)
        handler = _handler(config, model, loaded, schema, staged.computed)
        observe = _summarizer(config, loaded, schema, layout)
        with _unchanged(files):
            counted = _run(
                lambda p: graph.impute(p, reading, known, handler, layout, observe),
                beam_options,
            )
        work = {name: counted[name] for name in ("records_reused", "records_skipped", "chain_sweeps", "gradients")}
        work = {name.removeprefix("records_"): number for name, number in work.items()}
        features, text = imputed_features(schema), "Records imputed by vaefill"
        counts, dead = _complete(layout, features, text, config, work["skipped"])
        if not counts["written"]:
            staging.discard(staged)
            return {"records": {"read": dead.total, "imputed": 0, **dead.as_dict()}, "work": work}
        binary = loaded.vae.likelihood.binary
        found = summarizer.combine(layout, schema, config.sampler, binary, counts["written"], dead)
        content = {"identity": identity, "config": effective, "inputs": inputs, "counts": counts, "work": work}
        description = loaded.description.model_dump(mode="json")
        integrity.seal(staged.root, {**content, "model": description, "times": clock.times()})
        staging.publish(staged)
    return {**found, "work": work}


def _summarizer(
    config: Config, model: checkpoints.LoadedModel, schema: Schema, layout: Layout
) -> summarizer.Summarizer:
    preprocessor = preprocessor_of(config, model.vae.likelihood)
    return summarizer.Summarizer(layout, schema, config.sampler.num_chains, preprocessor)


def _known(since: Sequence[str], layout: Layout) -> HashIndex | None:
    """An index of what earlier results hold; None if there are none."""
    if not since:
        return None
    path = layout.part("known.npy")
    HashIndex.write(path, incremental.content_hashes(since))
    return HashIndex(path)


def mask(
    config: Config, source: str, output: str, beam_options: Sequence[str] = (), replace: bool = False
) -> dict[str, Any] | None:
    """Hides values of complete images: a tfds data set or TFRecord files -> a data set of masked records.

    Args:
        config: the mechanism, the seed and the shape of the data.
        source: `tfds:NAME/SPLIT`, `digits/SPLIT`, or a glob of TFRecord files of Examples with `id` and `image`.
        output: the data set directory, published whole or not at all.
        beam_options, replace: as for `impute`.

    Returns:
        The counts under `records`, or None where the output already is the result of the same run.

    Raises: as `impute`, and `DatasetError`.
    """
    clock, schema = _Clock(), schema_of(config)
    masks = masking.Masks(config.mask, preprocessor_of(config))
    masking.check(masks, config.mask, schema)
    is_dataset = source.startswith(("tfds:", "digits/"))
    splits = masking.slices(source, schema) if is_dataset else []
    files = [] if is_dataset else expand((source,))
    inputs = provenance.describe_inputs(files)
    effective = config.model_dump(mode="json")
    identity = {
        "kind": "mask",
        **{section: effective[section] for section in ("seed", "mask", "output")},
        "record": effective["record"],
        "max_record_bytes": config.limits.max_record_bytes,
        "inputs": masking.identity(source) if is_dataset else sorted(entry["sha256"] for entry in inputs),
        "software": provenance.software(),
    }
    if config.mask.masks:
        identity["masks"] = [integrity.sha256(file.path) for file in expand((config.mask.masks,))]
    with staging.stage(output, identity, replace) as staged:
        if staged is None:
            return None
        layout = Layout(staged.root, "masked", "", config.output.split, config.output.num_shards)
        prepare(layout)
        if is_dataset:
            name, _ = masking.split_source(source)
            _run(lambda p: graph.mask_dataset(p, name, splits, schema, masks, layout), beam_options)
        else:
            reading = Reading([entry["path"] for entry in inputs], schema, config.limits.max_record_bytes)
            with _unchanged(files):
                _run(lambda p: graph.mask_files(p, reading, masks, layout), beam_options)
        counts, _ = _complete(layout, masked_features(schema), "Records with hidden values, for vaefill", config)
        content = {"identity": identity, "config": effective, "inputs": inputs, "counts": counts}
        integrity.seal(staged.root, {**content, "times": clock.times()})
        staging.publish(staged)
    return {"records": counts}
