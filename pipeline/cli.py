"""The commands. Each checks what it was given before it starts the slow libraries."""

import contextlib
import json
import os
import typing
from collections.abc import Callable, Collection, Iterator
from typing import Any, TypeVar

import click

from vaefill import logs
from vaefill.config import Config, MaskConfig, load
from vaefill.console import echo_lines, errors_in_one_line, exit_code, start
from vaefill.errors import ConfigError
from vaefill.metrics import RunMetrics
from vaefill.model import pretrained
from vaefill.model.errors import ModelError
from vaefill.results.documents import DOCUMENTS, json_schema

_Command = TypeVar("_Command", bound=Callable[..., Any])
_MODEL = "Model directory, or pretrained:NAME of a model that comes with the package."
_CONTEXT = {"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100}


def _load(
    path: str | None, settings: tuple[str, ...], more: dict[str, Any] | None = None
) -> Config:
    """The configuration, with options of a command as further settings, and the start of the slow
    libraries.

    Raises:
        ConfigError: see `config.load`.
    """
    settings = settings + tuple(
        f"{key}={json.dumps(value)}" for key, value in (more or {}).items() if value is not None
    )
    config = load(path, settings)
    start()
    return config


def _resolved(context: click.Context, parameter: click.Parameter, model: str | None) -> str | None:
    """The directory of a model, which may be one that comes with the package."""
    try:
        return model if model is None else pretrained.resolve(model)
    except ModelError as error:
        raise click.BadParameter(str(error)) from None


def _of_model_and_images(command: _Command) -> _Command:
    """The options of a study of a model on complete images."""
    data = click.option(
        "--data", default="tfds:mnist", help="tfds:NAME, tfds:PATH or digits: complete images."
    )
    model = click.option(
        "--model", "directory", required=True, metavar="DIR", callback=_resolved, help=_MODEL
    )
    return model(data(command))


def _set_log_json(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        logs.choose_json()


def _config_options(command: _Command) -> _Command:
    for option in (
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="SECTION.KEY=VALUE",
            help="Override one value; repeatable.",
        ),
        click.option(
            "--config",
            "path",
            metavar="FILE.yaml",
            help="Configuration: a file, or mnist.yaml, demo.yaml, gaps.yaml.",
        ),
        click.option(
            "--log-json",
            is_flag=True,
            expose_value=False,
            callback=_set_log_json,
            help="Logs as JSON, a line each.",
        ),
    ):
        command = option(command)
    return command


def _check_beam_options(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    """Refuses what is no option: most likely files, from a pattern that the shell has expanded."""
    if values and not values[0].startswith("-"):
        raise click.BadParameter(f"unexpected {values[0]!r}; put the pattern of --input in quotes")
    return values


def _job_options(command: _Command) -> _Command:
    for option in (
        click.argument(
            "beam_options", nargs=-1, type=click.UNPROCESSED, callback=_check_beam_options
        ),
        click.option(
            "--replace",
            is_flag=True,
            help="Replace the result of another run in the same directory.",
        ),
        click.option(
            "--metrics",
            metavar="FILE",
            help="Where to leave the figures of the run, as OpenMetrics text.",
        ),
    ):
        command = option(command)
    return command


@contextlib.contextmanager
def _job(command: str, path: str | None) -> Iterator[RunMetrics]:
    """What surrounds a job: its errors in one line, its figures in a file, its end at a signal."""
    metrics = RunMetrics(path, command)
    with errors_in_one_line(metrics.write), metrics.written(exit_code):
        yield metrics


@click.group(context_settings=_CONTEXT)
@click.version_option(package_name="vaefill")
def main() -> None:
    """Fills in missing data with a variational autoencoder.

    \b
    vaefill demo --output runs/demo    the whole story in a few minutes
    """


@main.command()
@_config_options
@click.option(
    "--model", "directory", required=True, metavar="DIR", help="Model directory to write."
)
@click.option(
    "--data",
    metavar="NAME",
    help="digits, tfds:NAME, tfds:PATH, or TFRecord files of masked records in quotes; instead of "
    "data.name.",
)
def train(path: str | None, settings: tuple[str, ...], directory: str, data: str | None) -> None:
    """Trains a VAE. Killed and started again, it goes on where it was.

    \b
    vaefill train --model runs/model
    vaefill train --config mnist.yaml --model runs/mnist
    vaefill train --data 'masked/*.tfrecord*' --model runs/model

    Records may lack values, those of any split: training takes what is observed.
    """
    with errors_in_one_line():
        config = _load(path, settings, {"data.name": data})
        from vaefill import training_data

        summary = training_data.train(config, directory, show_progress=not logs.is_json())
    rates = summary.get("missing_rates")
    density = "log p(x)"
    if summary.get("test_observed_fraction", 1) != 1:
        density = "log p(x_obs)" if rates is None else "log p(x_obs, mask)"
    click.echo(
        f"test bound {summary['test_bound']:.2f} nats, {density} {summary['test_log_prob']:.2f} "
        f"± {summary['test_log_prob_standard_error']:.2f} nats "
        f"(k = {summary['test_log_prob_num_importance_samples']}, "
        f"{summary['num_test_images']} images)"
    )
    if rates is not None:
        click.echo(f"missing: {rates[0]:.1%} of the values that are 0, {rates[1]:.1%} of those 1")
    click.echo(f"model in {directory}")


def _is_made_of(annotation: Any, kind: type) -> bool:
    """Whether a type stands in an annotation, such as `float` in `Annotated[float, ...] | None`."""
    return annotation is kind or any(_is_made_of(x, kind) for x in typing.get_args(annotation))


def _mask_options(command: _Command) -> _Command:
    for name, field in reversed(MaskConfig.model_fields.items()):
        numbers = [kind for kind in (float, int) if _is_made_of(field.annotation, kind)]
        kind = numbers[0] if numbers else str
        command = click.option(f"--{name}", type=kind, help=field.description)(command)
    return command


@main.command()
@_config_options
@click.option(
    "--input",
    "source",
    required=True,
    help="tfds:NAME/SPLIT, digits/SPLIT, or a glob of TFRecord files.",
)
@click.option("--output", required=True, metavar="DIR", help="Data set directory to write.")
@_mask_options
@_job_options
def mask(
    path: str | None,
    settings: tuple[str, ...],
    source: str,
    output: str,
    replace: bool,
    metrics: str | None,
    beam_options: tuple[str, ...],
    **parameters: Any,
) -> None:
    """Hides values of images, or more of those that lack some already: writes a data set of masked
    records with what was known of them as truth.

    \b
    vaefill mask --input digits/test --mechanism mcar --rate 0.5 --output runs/masked
    vaefill mask --input tfds:mnist/test --mechanism top_three_quarters --output runs/masked
    """
    given = {f"mask.{name}": value for name, value in parameters.items() if value is not None}
    if parameters["mechanism"]:  # its parameters come with it, not from the configuration
        whole = {name.removeprefix("mask."): value for name, value in given.items()}
        given = {"mask": whole}
    with _job("mask", metrics) as run:
        config = _load(path, settings, given)
        from vaefill import jobs

        outcome = jobs.mask(config, source, output, beam_options, replace)
        run.outcome = outcome
    if outcome is None:
        click.echo(f"{output} already holds this result")
    else:
        counts = outcome.counts
        click.echo(f"{counts.written:,} masked records in {output}, {counts.dead:,} dead letters")
        _echo_copies(counts.repeated)


@main.command()
@_config_options
@click.option("--model", required=True, metavar="DIR", callback=_resolved, help=_MODEL)
@click.option(
    "--input",
    "patterns",
    required=True,
    multiple=True,
    metavar="GLOB",
    help="Masked records, TFRecords; repeatable.",
)
@click.option("--output", required=True, metavar="DIR", help="Result directory to write.")
@click.option(
    "--since",
    multiple=True,
    metavar="OUT",
    help="Leave out records that this earlier result holds; repeatable.",
)
@_job_options
def impute(
    path: str | None,
    settings: tuple[str, ...],
    model: str,
    patterns: tuple[str, ...],
    output: str,
    since: tuple[str, ...],
    replace: bool,
    metrics: str | None,
    beam_options: tuple[str, ...],
) -> None:
    """Imputes masked records: a data set of samples, statistics and diagnostics.

    Killed and started again, it goes on where it was.

    What stands after -- goes to Beam.

    \b
    vaefill impute --model runs/model --input 'runs/masked/*.tfrecord-*' --output runs/imputed
    vaefill impute --model M --input I --output O --set sampler.max_sweeps=500 \\
      -- --direct_num_workers=2
    vaefill impute --model M --input I --output runs/tuesday --since runs/monday \\
      --metrics runs/vaefill.prom
    """
    with _job("impute", metrics) as run:
        config = _load(path, settings)
        from vaefill import jobs
        from vaefill.model import parallel

        parallel.share_cores()
        outcome = jobs.impute(config, model, patterns, output, beam_options, replace, since)
        run.outcome = outcome
    if outcome is None:
        click.echo(f"{output} already holds this result")
        return
    counts, work = outcome.counts, outcome.work
    assert work is not None  # `impute` always says
    if not counts.written:
        click.echo(f"nothing new, {output} was not written, {counts.dead:,} dead letters")
    else:
        done = f"{counts.written:,} of {counts.read:,} records imputed"
        if work.complete:
            done = f"{counts.written:,} records, {work.complete:,} of them complete already,"
        click.echo(f"{done} in {output}, {counts.dead:,} dead letters")
    if work.reused:
        click.echo(f"  by an earlier attempt: {work.reused:,}")
    if work.skipped:
        click.echo(f"  in earlier results, and left out: {work.skipped:,}")
    _echo_copies(counts.repeated)
    for reason, count in counts.dead_by_reason.items():
        click.echo(f"  {reason}: {count:,}")
    if counts.unreadable_stretches:
        stretches = f"{counts.unreadable_stretches:,} unreadable stretches"
        click.echo(f"  {stretches}, {counts.unreadable_bytes:,} bytes")
    for warning in outcome.warnings:
        click.echo(f"  warning: {warning.text}")


def _echo_copies(num: int) -> None:
    """Says how many copies of records were left out, if any."""
    if num:
        click.echo(f"  copies of the same record, left out: {num:,}")


@main.command()
@_of_model_and_images
@click.option("--split", default="test", help="Its split.")
@click.option(
    "--num-records",
    type=click.IntRange(2),
    default=1000,
    help="Records that run until they converge.",
)
@click.option(
    "--num-distance-records",
    type=click.IntRange(2),
    default=100,
    help="Records set beside long chains.",
)
@click.option(
    "--sampler", "samplers", multiple=True, help="Only this sampler; repeatable.  [default: all]"
)
@click.option("--mask", "masks", multiple=True, help="Only this mask; repeatable.  [default: all]")
@click.option(
    "--max-sweeps", type=click.IntRange(100), default=2000, help="Sweeps of a chain at most."
)
@click.option(
    "--output",
    required=True,
    metavar="DIR",
    help="Where tables, figures and a file for each cell go.",
)
def compare(
    directory: str,
    data: str,
    split: str,
    num_records: int,
    num_distance_records: int,
    samplers: tuple[str, ...],
    masks: tuple[str, ...],
    max_sweeps: int,
    output: str,
) -> None:
    """Compares the samplers on one model: scores, convergence, and distance to the model's own
    conditional.

    Says too how many of the records are misfits, and how many are when they are inverted, rotated
    and blurred.

    Stopped and started again, it goes on with what is not there yet.

    \b
    vaefill compare --model runs/mnist --output runs/comparison
    """
    with errors_in_one_line():
        start()
        from vaefill.experiments import comparison
        from vaefill.model import checkpoints, parallel
        from vaefill.model.samplers import SAMPLERS

        parallel.share_cores()
        _check_names("sampler", samplers, SAMPLERS)
        _check_names("mask", masks, comparison.MASKS)
        model = checkpoints.load(directory)
        records = comparison.task(model, data, split, num_records)
        runner = comparison.Comparison(model, records, output, masks or tuple(comparison.MASKS))
        runner.fits()
        for name in samplers or SAMPLERS:
            runner.convergence(name, max_sweeps)
            runner.distances(name, num_distance_records)
        comparison.write_tables(output)
    click.echo(f"tables in {os.path.join(output, 'tables.md')}")


@main.command("compare-peers")
@_of_model_and_images
@click.option(
    "--split", default="test", help="Its split to score on, which the classifier is judged by."
)
@click.option(
    "--num-records",
    type=click.IntRange(2),
    default=2000,
    help="Records that are scored, the first of the split.",
)
@click.option(
    "--classifier-split",
    default="train[:5000]",
    help="Records that the classifier learns from, imputed: none that the model was trained on.",
)
@click.option(
    "--fit-split",
    default="train[5000:]",
    help="Complete records that scikit-learn's imputers are fitted on: none of the others.",
)
@click.option(
    "--num-fitted", type=click.IntRange(1), default=5000, help="The first so many of them."
)
@click.option(
    "--method", "methods", multiple=True, help="Only this method; repeatable.  [default: all]"
)
@click.option(
    "--mask",
    "masks",
    multiple=True,
    help="Only this mask of vaefill compare; repeatable.  [default: mcar_50, top_three_quarters]",
)
@click.option(
    "--max-sweeps", type=click.IntRange(150), default=2000, help="Sweeps of a chain at most."
)
@click.option(
    "--output", required=True, metavar="DIR", help="Where tables and a file for each cell go."
)
def compare_peers(
    directory: str,
    methods: tuple[str, ...],
    masks: tuple[str, ...],
    output: str,
    **settings: Any,
) -> None:
    """Compares what people use to fill in missing values with the samplers: scores, seconds, and
    what a classifier learns from records that were so imputed.

    Constant filling and scikit-learn's KNNImputer and IterativeImputer (pip install
    'vaefill[peers]'), MIWAE's importance resampling, pseudo-Gibbs and latent_hmc, all on the same
    records and masks.

    Stopped and started again, it goes on with what is not there yet.

    \b
    vaefill compare-peers --model runs/mnist --output runs/peers
    vaefill compare-peers --model M --data digits --classifier-split validation --output runs/peers
    """
    with errors_in_one_line():
        start()
        from vaefill.experiments import comparison, fillings, peers
        from vaefill.model import checkpoints, parallel

        _check_names("method", methods, peers.METHODS)
        _check_names("mask", masks, comparison.MASKS)
        fillings.check_installed(methods or tuple(peers.METHODS))
        parallel.share_cores()
        runner = peers.Peers(checkpoints.load(directory), peers.Settings(**settings), output)
        runner.run(methods or tuple(peers.METHODS), masks or peers.MASKS)
        click.echo(peers.write_tables(output))


def _check_names(kind: str, chosen: Collection[str], known: Collection[str]) -> None:
    """Checks that what was chosen is there.

    Raises:
        ConfigError: it is not.
    """
    for name in chosen:
        if name not in known:
            raise ConfigError(f"unknown {kind} {name!r}; known: {', '.join(known)}")


@main.command()
@click.option(
    "--output", default="runs/bench", metavar="DIR", help="Where bench.json and bench.md go."
)
@click.option(
    "--model",
    metavar="DIR",
    callback=_resolved,
    help="A model trained on MNIST; without one `converged` and `adaptive` are left out.",
)
@click.option(
    "--only", "sections", multiple=True, metavar="SECTION", help="Only this section; repeatable."
)
def bench(output: str, model: str | None, sections: tuple[str, ...]) -> None:
    """Measures how fast it all is here: sweeps, training, converged, adaptive, job, scaling.

    \b
    vaefill bench --model runs/mnist
    vaefill bench --only sweeps --only job
    """
    with errors_in_one_line():
        start()
        from vaefill.experiments import benchmark

        _check_names("section", sections, benchmark.SECTIONS)
        every = tuple(
            name for name in benchmark.SECTIONS if model or name not in ("converged", "adaptive")
        )
        click.echo(benchmark.run(output, sections or every, model, click.echo))


@main.command()
@click.argument("result", metavar="[OUT]", required=False)
@click.option(
    "--model",
    metavar="DIR",
    callback=_resolved,
    help="A model to score instead, on complete records.",
)
@click.option("--data", metavar="NAME", help="Of the model: digits, tfds:NAME or tfds:PATH.")
@click.option("--split", default="test", metavar="SPLIT", help="Of the data.")
@click.option(
    "--k",
    "ks",
    type=click.IntRange(min=1),
    multiple=True,
    default=(1, 1000),
    help="Importance samples behind log p(x), 1 for the ELBO; repeatable.",
)
@click.option(
    "--output",
    metavar="DIR",
    help="Of a model: where to write a page of pictures, index.html, and scores.json.",
)
def evaluate(
    result: str | None,
    model: str | None,
    data: str | None,
    split: str,
    ks: tuple[int, ...],
    output: str | None,
) -> None:
    """Prints how far the chains of a result came, and its scores against the truth, overall and by
    label. Or how probable a model finds complete records.

    \b
    vaefill evaluate runs/imputed
    vaefill evaluate --model runs/mnist --data tfds:mnist --split test --k 1 --k 5000
    vaefill evaluate --model runs/mnist --data tfds:mnist --output runs/model_page
    """
    if (result is None) == (model is None) or (model is None) != (data is None):
        raise click.UsageError("expected a result, or --model and --data")
    if model is not None and data is not None:
        _evaluate_model(model, data, split, ks, output)
        return
    if output is not None:
        raise click.UsageError(
            "--output is of a model; `vaefill report` writes the page of a result"
        )
    with errors_in_one_line():
        start()
        from vaefill.report import evaluate
        from vaefill.results.reading import read_summary

        summary = read_summary(str(result))
    click.echo(evaluate.of_result(str(result), summary))


def _evaluate_model(
    directory: str, data: str, split: str, ks: tuple[int, ...], output: str | None
) -> None:
    with errors_in_one_line():
        start()
        from vaefill.model import checkpoints, ensembles, model_scores
        from vaefill.report import evaluate, model_page

        if output is None and ensembles.is_ensemble(directory):
            ensemble = ensembles.load_ensemble(directory)
            found = model_scores.ensemble_scores(ensemble, data, split, ks)
            click.echo(evaluate.of_ensemble(found))
            return
        held = model_scores.held_out(checkpoints.load(directory), data, split)
        scores = model_scores.model_scores(held, ks)
        click.echo(evaluate.of_model(scores))
        if output is not None:
            page = model_page.write_model_page(held, scores, directory, output)
            click.echo(f"page in {page}")


@main.command()
@click.argument("result", metavar="OUT")
def verify(result: str) -> None:
    """Checks that a result, or a data set of masked records, is whole and as it was written.

    \b
    vaefill verify runs/imputed
    """
    with errors_in_one_line():
        start()
        from vaefill.results.integrity import verify as verify_files

        files = verify_files(result).files
    click.echo(f"{result} is whole: {len(files)} files as they were written")


@main.command("dead-letters")
@click.argument("place", metavar="OUT")
@click.option(
    "--reason", "reasons", multiple=True, metavar="REASON", help="Only of this reason; repeatable."
)
@click.option(
    "--output", metavar="FILE.tfrecord", help="Where to write their payloads, for a second try."
)
def dead_letters(place: str, reasons: tuple[str, ...], output: str | None) -> None:
    """Prints the records that a run could not use: of a result, or of a run that failed.

    \b
    vaefill dead-letters runs/imputed
    vaefill dead-letters runs/imputed.staging --reason bad_image --output bad.tfrecord
    """
    with errors_in_one_line():
        start()
        from vaefill.report import dead_letters as letters
        from vaefill.results.staging import dead_letters_of
        from vaefill.store.dead_letters import read

        letters.check_reasons(reasons)
        path = dead_letters_of(place)
        echo_lines(letters.table(read(path, reasons)))
        if output is not None:
            click.echo(letters.save(path, reasons, output))


@main.command()
@click.argument("document", type=click.Choice(tuple(DOCUMENTS)))
def schema(document: str) -> None:
    """Prints the JSON schema of a document: its keys, their types and meanings.

    \b
    vaefill schema manifest
    """
    click.echo(json.dumps(json_schema(document), indent=2))


@main.command()
@click.argument("outputs", nargs=-1, required=True, metavar="OUT...")
@click.option("--output", metavar="DIR", help="Where to write index.html.  [default: OUT/report]")
def report(outputs: tuple[str, ...], output: str | None) -> None:
    """Writes a page of pictures and tables for one or several results.

    \b
    vaefill report runs/imputed
    """
    with errors_in_one_line():
        start()
        from vaefill.report.page import write_report

        page = write_report(outputs, output or os.path.join(outputs[0], "report"))
    click.echo(f"report in {page}")


_PRETRAINED, _PRETRAINED_BINARIZE = "pretrained:mnist_mlp", "sample"
_DIGITS, _PRETRAINED_DIGITS = 300, 60


@main.command()
@_config_options
@click.option("--output", default="runs/demo", metavar="DIR", help="Where everything goes.")
@click.option(
    "--pretrained",
    "is_pretrained",
    is_flag=True,
    help="Instead of training, take a model that comes with the package; fewer digits too.",
)
@click.pass_context
def demo(
    context: click.Context,
    path: str | None,
    settings: tuple[str, ...],
    output: str,
    is_pretrained: bool,
) -> None:
    """The whole story on bundled digits: train, mask, impute, evaluate, report.

    \b
    vaefill demo --output runs/demo
    vaefill demo --output runs/demo --pretrained
    """
    if is_pretrained:
        settings = (f"record.binarize={_PRETRAINED_BINARIZE}", *settings)
    config: dict[str, Any] = {"path": path or "demo.yaml", "settings": settings}
    common: dict[str, Any] = {"replace": True, "metrics": None, "beam_options": ()}
    model = pretrained.resolve(_PRETRAINED) if is_pretrained else os.path.join(output, "model")
    digits = f"digits/test[:{_PRETRAINED_DIGITS if is_pretrained else _DIGITS}]"
    hidden: dict[str, dict[str, Any]] = {
        "mcar": {"mechanism": "mcar", "rate": 0.5},
        "top_three_quarters": {"mechanism": "top_three_quarters"},
    }
    masked = {name: os.path.join(output, "masked", name) for name in hidden}
    imputed = {name: os.path.join(output, "imputed", name) for name in hidden}
    if is_pretrained:
        click.echo("1. take a VAE that has learnt from MNIST, but not from these digits")
    else:
        click.echo("1. train a VAE on the bundled digits")
        context.invoke(train, **config, directory=model)
    for name, mechanism in hidden.items():
        click.echo(f"\n2. mask other digits: {name}")
        context.invoke(mask, **config, **common, source=digits, output=masked[name], **mechanism)
    for name in hidden:
        click.echo(f"\n3. impute what is missing: {name}")
        pattern = os.path.join(masked[name], "*.tfrecord-*")
        context.invoke(
            impute,
            **config,
            **common,
            model=model,
            patterns=(pattern,),
            since=(),
            output=imputed[name],
        )
    for name in hidden:
        click.echo(f"\n4. evaluate against the truth: {name}")
        context.invoke(evaluate, result=imputed[name])
    click.echo("\n5. report")
    context.invoke(report, outputs=tuple(imputed.values()), output=os.path.join(output, "report"))
    click.echo(f"\nOpen {os.path.join(output, 'report', 'index.html')} in a browser.")
    click.echo(f"The imputed data sets are in {os.path.join(output, 'imputed')}.")


if __name__ == "__main__":
    main()
