"""A job from start to finish: check everything, stage, run the pipeline, seal, publish."""

import contextlib
import datetime
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import apache_beam as beam
import numpy as np
import tensorflow_datasets as tfds
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from vaefill import counters, graph, masking
from vaefill.config import Config
from vaefill.errors import BadInputError, ConfigError, JobError
from vaefill.graph import Reading
from vaefill.imputation import ImputationHandler
from vaefill.model import ensembles, parallel
from vaefill.model.config import check_likelihood
from vaefill.model.ensemble_imputer import draws_of_members
from vaefill.model.ensembles import AnyModel, LoadedEnsemble
from vaefill.model.errors import ModelError
from vaefill.model.files import FileInfo, describe
from vaefill.model.likelihoods import LIKELIHOODS, Likelihood
from vaefill.model.misfit import with_rate_in_reach
from vaefill.model.preprocessing import Preprocessor
from vaefill.records.features import imputed_features, masked_features
from vaefill.records.record import OWN_FEATURES, CarriedFeature, Schema
from vaefill.results import acceptance, findings, incremental, integrity, provenance, staging
from vaefill.results.documents import Counts, Manifest, Outcome, RunWarning, Times, Work
from vaefill.store import dead_letters, sinks, tally, writers
from vaefill.store.layout import Layout, prepare
from vaefill.store.resume import HashIndex, ResumeCache
from vaefill.store.sources import expand
from vaefill.summary import summarizer

_LOGGER = logging.getLogger("vaefill")


def schema_of(config: Config) -> Schema:
    """What the records of a configuration look like.

    Raises:
        ConfigError: a carried feature would overwrite one of the record's own.
    """
    carried = {name: CarriedFeature(kind) for name, kind in config.record.carry.items()}
    for name in carried:
        if name in OWN_FEATURES:
            raise ConfigError(
                f"record.carry: {name} is a feature of the output itself; rename it in the input"
            )
    return Schema(
        config.record.shape,
        carried,
        config.sampler.num_imputations,
        np.dtype(config.record.dtype),
        config.record.mask_means,
        config.record.missing,
    )


def preprocessor_of(config: Config, likelihood: Likelihood | None = None) -> Preprocessor:
    """What a model of a likelihood, by default the configured one, sees of the records."""
    if likelihood is None:
        likelihood = LIKELIHOODS[config.model.likelihood]()
    return Preprocessor(likelihood, config.record.binarize, config.seed)


def _run(build: Callable[[beam.Pipeline], None], beam_options: Sequence[str]) -> Mapping[str, int]:
    """Runs a pipeline to its end, and returns our counters; on this machine in this process unless
    a runner is named.

    Beam's own default may pick a runner that downloads a program, so the in-memory runner is named
    here.
    """
    options = PipelineOptions(list(beam_options))
    runner = options.get_all_options()["runner"]
    try:
        pipeline = beam.Pipeline(
            runner=FnApiRunner() if runner in (None, "DirectRunner") else runner, options=options
        )
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
    cores = parallel.cores()
    # By itself Beam would take those of the machine for 0, whether they may be used or not.
    direct.direct_num_workers = direct.direct_num_workers or cores
    return {"TF_NUM_INTRAOP_THREADS": str(max(1, cores // direct.direct_num_workers))}


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Environment variables, those that the user has set left as they are, for processes that start
    meanwhile.
    """
    ours = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]


def _root_cause(error: BaseException) -> str:
    """The innermost error in a line; a worker process hands its own on as the text of a
    traceback.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()] or [""]
    return lines[-1] if lines[0].startswith("Traceback") else f"{type(error).__name__}: {lines[0]}"


def _complete(
    layout: Layout,
    features: tfds.features.FeaturesDict,
    description: str,
    config: Config,
    tallied: Mapping[str, int],
) -> Counts:
    """Makes the files of a pipeline that has run a data set, unless records were lost, too much of
    its input was bad, or all is known.
    """
    shards, dead = sinks.finish(layout)
    written, skipped = sum(shard.num_records for shard in shards), tallied[tally.SKIPPED]
    counts = Counts(
        read=tallied[tally.READ] - skipped,
        written=written,
        repeated=sum(shard.num_repeated for shard in shards),
        dead=dead.total,
        dead_by_reason=dict(sorted(dead.by_reason.items())),
        unreadable_stretches=dead.unreadable_stretches,
        unreadable_bytes=dead.unreadable_bytes,
    )
    acceptance.reconcile(counts, skipped)
    staged = os.path.dirname(layout.root)  # which outlives this attempt
    acceptance.check(counts, skipped, config.limits, staged, dead.first)
    if counts.written:
        writers.write_dataset_info(layout, features, shards, description)
    return counts


class _Clock:
    """When a job started, and how long it took."""

    def __init__(self) -> None:
        self._started, self._seconds = datetime.datetime.now(datetime.UTC), time.monotonic()

    def times(self) -> Times:
        """So far."""
        seconds = round(time.monotonic() - self._seconds, 3)
        return Times(started=self._started.isoformat(), seconds=seconds)


def _load_model(directory: str, config: Config) -> tuple[AnyModel, Config]:
    """Loads a model, or an ensemble, that is for the data of a configuration.

    Returns:
        The model, and the configuration with the rate at which it can tell misfits, if at all.

    Raises:
        ConfigError: it is not, the rate that was chosen is out of reach, or there are fewer
            imputations than members.
        ModelError: it is not usable.
    """
    loaded = ensembles.load(directory)
    description, shape = loaded.description, tuple(config.record.shape)
    if description.data_shape != shape:
        raise ModelError(
            f"{directory} is a model of shape {list(description.data_shape)}, "
            f"record.shape is {list(shape)}"
        )
    try:
        check_likelihood(description.model.likelihood, config.record)
        if isinstance(loaded, LoadedEnsemble):
            draws_of_members(config.sampler.num_imputations, len(loaded.members))
        if loaded.num_calibration:
            sampler = with_rate_in_reach(config.sampler, loaded.num_calibration)
            config = config.model_copy(update={"sampler": sampler})
    except ValueError as error:
        raise ConfigError(f"{directory}: {error}") from None
    # As all models were before they said so
    trained = description.training.get("binarize", "sample")
    if config.record.binarize != "none" and trained != config.record.binarize:
        _LOGGER.warning(
            "%s was trained with record.binarize %s, these records have %s: "
            "imputations will be %s than they should",
            directory,
            trained,
            config.record.binarize,
            "less sure" if trained == "sample" else "surer",
        )
    return loaded, config


@contextlib.contextmanager
def _unchanged(inputs: Sequence[FileInfo]) -> Iterator[None]:
    """Fails a job whose input was written to while it was read, whatever else it failed of.

    The manifest would say what is not so.
    """
    failed = None
    try:
        yield
    except JobError as error:
        failed = error
    for file in inputs:
        if not _is_as_it_was(file):
            raise BadInputError(f"{file.path} has changed while it was read; nothing was published")
    if failed:
        raise failed


def _reading(config: Config, files: Sequence[FileInfo], schema: Schema) -> Reading:
    limits = config.limits
    paths = [file.path for file in files]
    return Reading(paths, schema, limits.max_record_bytes, limits.max_bad_bytes)


def _is_as_it_was(file: FileInfo) -> bool:
    try:
        return describe(file.path) == file
    except OSError:
        return False


def _work(counted: Mapping[str, int], tallied: Mapping[str, int]) -> Work:
    """What a run had to do, by its counters and its tally."""
    return Work(
        reused=counted["records_reused"],
        skipped=tallied[tally.SKIPPED],
        chain_sweeps=counted["chain_sweeps"],
        network_passes=counted["gradients"],
    )


def _handler(
    config: Config, directory: str, model: AnyModel, schema: Schema, computed: str
) -> ImputationHandler:
    """The handler of a run, which goes on from what earlier attempts computed."""
    num_reused = ResumeCache(computed).take_over()
    if num_reused:
        _LOGGER.info(
            "an earlier attempt has computed %s records, which are reused", f"{num_reused:,}"
        )
    return ImputationHandler(
        directory,
        model.fingerprint,
        config.sampler,
        preprocessor_of(config, model.likelihood),
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
) -> Outcome | None:
    """Imputes the masked records of TFRecord files into a result directory.

    Args:
        config: the configuration; its `data` section must fit the model.
        model: the directory of a model or an ensemble.
        patterns: globs of the input.
        output: the result directory, published whole or not at all.
        beam_options: for Beam's PipelineOptions.
        replace: whether the result of a different run may be replaced.
        since: earlier results of the same model and sampler; records that they hold are left out.

    Returns:
        What the job came to; None where the output already is the result of the same run. Where
        earlier results hold every record, nothing is published and there is no summary.

    Raises:
        ConfigError, ModelError, SourceError, ResultError: what was named is not usable.
        BadInputError, JobError: the job ran and failed.
    """
    clock, schema, asked = _Clock(), schema_of(config), config.sampler
    loaded, config = _load_model(model, config)
    files = expand(patterns, config.limits.allow_missing_shards)
    inputs = provenance.describe_inputs(files)
    of_records = provenance.record_identity(config, loaded.fingerprint)
    earlier = incremental.check(since, of_records, output)
    identity = provenance.impute_identity(config, of_records, inputs, earlier)
    with staging.stage(output, identity, replace, of_records) as staged:
        if staged is None:
            return None
        layout = Layout(
            staged.root, "imputed", "imputed", config.output.split, config.output.num_shards
        )
        prepare(layout)
        reading = _reading(config, files, schema)
        known = _known(since, layout)
        handler = _handler(config, model, loaded, schema, staged.computed)
        observe = _summarizer(config, loaded, schema, layout)
        with _unchanged(files), dead_letters.blamed(layout):
            counted = _run(
                lambda p: graph.impute(p, reading, known, handler, layout, observe),
                beam_options,
            )
        tallied = tally.read(layout)
        work = _work(counted, tallied)
        features, text = imputed_features(schema), "Records imputed by vaefill"
        counts = _complete(layout, features, text, config, tallied)
        warnings = _logged(
            findings.of_tally(tallied, config.record.binarize)
            + findings.of_misfits(asked, config.sampler, loaded.num_calibration)
        )
        if not counts.written:
            staging.discard(staged)
            return Outcome(counts=counts, work=work, warnings=warnings)
        binary = loaded.likelihood.binary
        summary = summarizer.combine(layout, schema, config.sampler, binary, counts, warnings)
        work = work.model_copy(update={"complete": summarizer.num_complete(layout)})
        manifest = Manifest(
            identity=identity,
            config=config.model_dump(mode="json"),
            inputs=inputs,
            counts=counts,
            work=work,
            warnings=warnings,
            model=loaded.description.model_dump(mode="json"),
            times=clock.times(),
        )
        integrity.seal(staged.root, manifest)
        staging.publish(staged)
    return Outcome(counts=counts, work=work, summary=summary, warnings=warnings)


def _logged(warnings: tuple[RunWarning, ...]) -> tuple[RunWarning, ...]:
    """The warnings at the end of a run, which go to its log, too."""
    for warning in warnings:
        _LOGGER.warning("%s", warning.text)
    return warnings


def _summarizer(
    config: Config, model: AnyModel, schema: Schema, layout: Layout
) -> summarizer.Summarizer:
    preprocessor = preprocessor_of(config, model.likelihood)
    return summarizer.Summarizer(layout, schema, config.sampler.num_chains, preprocessor)


def _known(since: Sequence[str], layout: Layout) -> HashIndex | None:
    """An index of what earlier results hold; None if there are none."""
    if not since:
        return None
    path = layout.part("known.npy")
    HashIndex.write(path, incremental.content_hashes(since))
    return HashIndex(path)


def mask(
    config: Config,
    source: str,
    output: str,
    beam_options: Sequence[str] = (),
    replace: bool = False,
) -> Outcome | None:
    """Hides values of images, or more of those that lack some already: a tfds data set or TFRecord
    files -> a data set of masked records, with what was known of them as truth.

    Args:
        config: the mechanism, the seed and the shape of the data.
        source: `tfds:NAME/SPLIT`, `digits/SPLIT`, or a glob of TFRecord files of Examples with `id`
            and `image`, and `observed` where they are not complete.
        output: the data set directory, published whole or not at all.
        beam_options, replace: as for `impute`.

    Returns:
        What the job came to; None where the output already is the result of the same run.

    Raises: as `impute`, and `DatasetError`.
    """
    clock, schema = _Clock(), schema_of(config)
    masks = masking.Masks(config.mask, preprocessor_of(config))
    masking.check(masks, config.mask, schema)
    is_dataset = source.startswith(("tfds:", "digits/"))
    splits = masking.slices(source, schema) if is_dataset else []
    files = [] if is_dataset else expand((source,), config.limits.allow_missing_shards)
    inputs = provenance.describe_inputs(files)
    of_source = masking.identity(source) if is_dataset else provenance.digests(inputs)
    identity = provenance.mask_identity(config, of_source)
    with staging.stage(output, identity, replace) as staged:
        if staged is None:
            return None
        layout = Layout(staged.root, "masked", "", config.output.split, config.output.num_shards)
        prepare(layout)
        if is_dataset:
            name, _ = masking.split_source(source)
            most = config.limits.max_bad_bytes
            _run(
                lambda p: graph.mask_dataset(p, name, splits, schema, most, masks, layout),
                beam_options,
            )
        else:
            reading = _reading(config, files, schema)
            with _unchanged(files), dead_letters.blamed(layout):
                _run(lambda p: graph.mask_files(p, reading, masks, layout), beam_options)
        tallied, text = tally.read(layout), "Records with hidden values, for vaefill"
        counts = _complete(layout, masked_features(schema), text, config, tallied)
        warnings = _logged(findings.of_complete(tallied, config.record.binarize))
        manifest = Manifest(
            identity=identity,
            config=config.model_dump(mode="json"),
            inputs=inputs,
            counts=counts,
            warnings=warnings,
            times=clock.times(),
        )
        integrity.seal(staged.root, manifest)
        staging.publish(staged)
    return Outcome(counts=counts, warnings=warnings)
