"""The commands. Each checks what it was given before it starts the slow libraries."""

import contextlib
import json
import logging
import os
import sys
from typing import Any

import click

from pipeline.config import Config, ConfigError, MaskConfig, load

EXIT_USAGE, EXIT_INPUT, EXIT_JOB = 2, 3, 4

_CONTEXT = {"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100}


def _start() -> None:
    """Logging for a person to read, and TensorFlow without the notes of its start-up.

    TensorFlow writes those notes before its log level applies, to the file descriptor itself.
    """
    logging.basicConfig(level=logging.ERROR, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("vaefill").setLevel(logging.INFO)
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)  # what fails is reported once, by us
    logging.getLogger("apache_beam.options.pipeline_options").setLevel(logging.WARNING)  # options it does not know
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # several worker processes may share a GPU
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices()
        finally:
            os.dup2(kept, 2)
            os.close(kept)


@contextlib.contextmanager
def _errors_in_one_line():
    """Expected errors -> one line on stderr and the exit code that says whose they are."""
    import tensorflow as tf

    from model.checkpoints import ModelError
    from model.datasets import DatasetError
    from model.training import TrainingError
    from pipeline.jobs import BadInputError, JobError
    from pipeline.report import ReportError
    from pipeline.results import ResultError
    from pipeline.sources import SourceError

    codes = {
        (ConfigError, ResultError, ReportError, ModelError): EXIT_USAGE,
        (SourceError, DatasetError, BadInputError): EXIT_INPUT,
        (JobError, TrainingError, OSError, tf.errors.OpError): EXIT_JOB,
    }
    try:
        yield
    except tuple(error for errors in codes for error in errors) as error:
        code = next(code for errors, code in codes.items() if isinstance(error, errors))
        click.echo(f"vaefill: {' '.join(str(error).split())}", err=True)
        sys.exit(code)


def _load(path: str | None, settings: tuple[str, ...], more: dict[str, Any] | None = None) -> Config:
    """The configuration, with options of a command as further settings."""
    settings = settings + tuple(
        f"{key}={json.dumps(value)}" for key, value in (more or {}).items() if value is not None
    )
    try:
        config = load(path, settings)
    except ConfigError as error:
        click.echo(f"vaefill: {error}", err=True)
        sys.exit(EXIT_USAGE)
    _start()
    return config


def _config_options(command):
    for option in (
        click.option(
            "--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="Override one value; repeatable."
        ),
        click.option("--config", "path", metavar="FILE.yaml", help="Configuration: a file, or mnist.yaml, demo.yaml."),
    ):
        command = option(command)
    return command


def _check_beam_options(context, parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Refuses what is no option: most likely files, from a pattern that the shell has expanded."""
    if values and not values[0].startswith("-"):
        raise click.BadParameter(f"unexpected {values[0]!r}; put the pattern of --input in quotes")
    return values


def _job_options(command):
    for option in (
        click.argument("beam_options", nargs=-1, type=click.UNPROCESSED, callback=_check_beam_options),
        click.option("--replace", is_flag=True, help="Replace the result of another run in the same directory."),
    ):
        command = option(command)
    return command


@click.group(context_settings=_CONTEXT)
@click.version_option(package_name="vaefill")
def main() -> None:
    """Fills in missing data with a variational autoencoder.

    \b
    vaefill demo --output runs/demo    the whole story in a few minutes
    """


@main.command()
@_config_options
@click.option("--model", "directory", required=True, metavar="DIR", help="Model directory to write.")
@click.option("--data", metavar="NAME", help="digits, tfds:NAME or tfds:PATH; instead of data.name.")
def train(path, settings, directory, data) -> None:
    """Trains a VAE. Killed and started again, it goes on where it was.

    \b
    vaefill train --model runs/model
    vaefill train --config mnist.yaml --model runs/mnist
    """
    config = _load(path, settings, {"data.name": data})
    with _errors_in_one_line():
        from model.training import Settings, train_and_evaluate

        summary = train_and_evaluate(Settings(config.data, config.model, config.train, config.seed), directory)
    click.echo(
        f"test bound {summary['test_bound']:.2f} nats, log p(x) {summary['test_log_prob']:.2f} "
        f"± {summary['test_log_prob_standard_error']:.2f} nats "
        f"(k = {summary['test_log_prob_num_importance_samples']}, {summary['num_test_images']} images)"
    )
    click.echo(f"model in {directory}")


def _mask_options(command):
    for name in reversed(list(MaskConfig.model_fields)):
        field = MaskConfig.model_fields[name]
        kind = {"rate": float, "slope": float, "mechanism": str, "side": str, "masks": str}.get(name, int)
        text = field.description or "mcar, rows, top_three_quarters, block, half, mar or file."
        command = click.option(f"--{name}", type=kind, help=text)(command)
    return command


@main.command()
@_config_options
@click.option("--input", "source", required=True, help="tfds:NAME/SPLIT, digits/SPLIT, or a glob of TFRecord files.")
@click.option("--output", required=True, metavar="DIR", help="Data set directory to write.")
@_mask_options
@_job_options
def mask(path, settings, source, output, replace, beam_options, **parameters) -> None:
    """Hides values of complete images: writes a data set of masked records with their truth.

    \b
    vaefill mask --input digits/test --mechanism mcar --rate 0.5 --output runs/masked
    vaefill mask --input tfds:mnist/test --mechanism top_three_quarters --output runs/masked
    """
    given = {f"mask.{name}": value for name, value in parameters.items() if value is not None}
    if parameters["mechanism"]:  # its parameters come with it, not from the configuration
        whole = {name.removeprefix("mask."): value for name, value in given.items()}
        given = {"mask": whole}
    config = _load(path, settings, given)
    with _errors_in_one_line():
        from pipeline import jobs

        counts = jobs.mask(config, source, output, beam_options, replace)
    if counts is None:
        click.echo(f"{output} already holds this result")
    else:
        click.echo(f"{counts['written']:,} masked records in {output}, {counts['dead']:,} dead letters")


@main.command()
@_config_options
@click.option("--model", required=True, metavar="DIR", help="Model directory.")
@click.option(
    "--input", "patterns", required=True, multiple=True, metavar="GLOB", help="Masked records, TFRecords; repeatable."
)
@click.option("--output", required=True, metavar="DIR", help="Result directory to write.")
@_job_options
def impute(path, settings, model, patterns, output, replace, beam_options) -> None:
    """Imputes masked records: a data set of samples, statistics and diagnostics.

    What stands after -- goes to Beam.

    \b
    vaefill impute --model runs/model --input 'runs/masked/*.tfrecord-*' --output runs/imputed
    vaefill impute --model M --input I --output O --set sampler.max_sweeps=500 -- --direct_num_workers=2
    """
    config = _load(path, settings)
    with _errors_in_one_line():
        from pipeline import jobs

        summary = jobs.impute(config, model, patterns, output, beam_options, replace)
    if summary is None:
        click.echo(f"{output} already holds this result")
        return
    records = summary["records"]
    click.echo(
        f"{records['imputed']:,} of {records['read']:,} records imputed in {output}, {records['dead']:,} dead letters"
    )
    for reason, count in records["dead_by_reason"].items():
        click.echo(f"  {reason}: {count:,}")
    if records["unreadable_stretches"]:
        click.echo(f"  {records['unreadable_stretches']:,} unreadable stretches, {records['unreadable_bytes']:,} bytes")


@main.command()
@click.option("--model", "directory", required=True, metavar="DIR", help="Model directory.")
@click.option("--data", default="tfds:mnist", help="tfds:NAME, tfds:PATH or digits: complete images.")
@click.option("--split", default="test", help="Its split.")
@click.option("--num-records", type=click.IntRange(2), default=1000, help="Records that run until they converge.")
@click.option("--num-distance-records", type=click.IntRange(2), default=100, help="Records set beside long chains.")
@click.option("--sampler", "samplers", multiple=True, help="Only this sampler; repeatable.  [default: all]")
@click.option("--mask", "masks", multiple=True, help="Only this mask; repeatable.  [default: all]")
@click.option("--max-sweeps", type=click.IntRange(100), default=2000, help="Sweeps of a chain at most.")
@click.option("--output", required=True, metavar="DIR", help="Where tables, figures and a file for each cell go.")
def compare(directory, data, split, num_records, num_distance_records, samplers, masks, max_sweeps, output) -> None:
    """Compares the samplers on one model: scores, convergence, and distance to the model's own conditional.

    Stopped and started again, it goes on with what is not there yet.

    \b
    vaefill compare --model runs/mnist --output runs/comparison
    """
    _start()
    with _errors_in_one_line():
        from model import checkpoints
        from model.sampling import SAMPLERS
        from pipeline import comparison

        for kind, chosen, known in (("sampler", samplers, SAMPLERS), ("mask", masks, comparison.MASKS)):
            for name in chosen:
                if name not in known:
                    raise ConfigError(f"unknown {kind} {name!r}; known: {', '.join(known)}")
        model = checkpoints.load(directory)
        records = comparison.task(model, data, split, num_records)
        runner = comparison.Comparison(model, records, output, masks or tuple(comparison.MASKS))
        for name in samplers or SAMPLERS:
            runner.convergence(name, max_sweeps)
            runner.distances(name, num_distance_records)
        comparison.write_tables(output)
    click.echo(f"tables in {os.path.join(output, 'tables.md')}")


@main.command()
@click.option("--output", default="runs/bench", metavar="DIR", help="Where bench.json and bench.md go.")
@click.option("--model", metavar="DIR", help="A model trained on MNIST; without one `converged` is left out.")
@click.option("--only", "sections", multiple=True, metavar="SECTION", help="Only this section; repeatable.")
def bench(output, model, sections) -> None:
    """Measures how fast it all is here: sweeps, training, converged, job, scaling.

    \b
    vaefill bench --model runs/mnist
    vaefill bench --only sweeps --only job
    """
    _start()
    with _errors_in_one_line():
        from pipeline import benchmark

        for name in sections:
            if name not in benchmark.SECTIONS:
                raise ConfigError(f"unknown section {name!r}; known: {', '.join(benchmark.SECTIONS)}")
        every = tuple(name for name in benchmark.SECTIONS if model or name != "converged")
        click.echo(benchmark.run(output, sections or every, model, click.echo))


@main.command()
@click.argument("result", metavar="OUT")
def evaluate(result) -> None:
    """Prints how far the chains of a result came, and its scores against the truth, overall and by label.

    \b
    vaefill evaluate runs/imputed
    """
    _start()
    with _errors_in_one_line():
        from pipeline.results import read_summary

        summary = read_summary(result)
    groups = {"all": summary["all"], **{f"label {label}": group for label, group in summary["by_label"].items()}}
    _print_diagnostics(summary["all"])
    if summary["all"]["truth"] is None:
        click.echo(f"\n{result} has no records with truth and missing values: nothing to score")
        return
    _print_scores(groups)
    if summary["all"]["truth"]["reliability"]:  # else values are not binary
        _print_reliability(summary["all"]["truth"]["reliability"])


def _print_diagnostics(group: dict[str, Any]) -> None:
    """What the chains of all records came to."""
    from pipeline.text import DIAGNOSED, number, percent

    shares = (("converged", group["converged_fraction"]), ("misfits", group["misfit_fraction"]))
    said = ", ".join(f"{percent(share)} {name}" for name, share in shares if share is not None)
    click.echo(f"{group['num_records']:,} records, {said}\n")
    quantiles = ("0.05", "0.5", "0.95")
    click.echo(f"{'':42}" + "".join(f"{percent(float(q)):>12}" for q in quantiles))
    for key, (name, spec) in DIAGNOSED.items():
        values = group["diagnostics"].get(key) or {}
        click.echo(f"{name:42}" + "".join(f"{number(values.get(q), spec):>12}" for q in quantiles))


def _print_scores(groups: dict[str, Any]) -> None:
    """Scores of groups against the truth, a line each."""
    error = "Brier" if groups["all"]["truth"]["reliability"] else "sq. error"
    click.echo(f"\n{'':12}{'records':>9}{'values':>12}{'nll':>9}{error:>11}{'F1':>9}")
    for name, group in groups.items():
        truth = group["truth"]
        if truth:
            scores = "".join(
                f"{'-' if truth[key] is None else format(truth[key], '.4f'):>{width}}"
                for key, width in (("nll", 9), ("brier", 11), ("f1", 9))
            )
            click.echo(f"{name:12}{group['num_records']:>9,}{truth['num_values']:>12,}{scores}")


def _print_reliability(table: dict[str, Any]) -> None:
    """How often what was predicted came true."""
    click.echo("\nreliability: of the missing values predicted to be 1 with probability p, the fraction that is 1")
    click.echo(f"{'p':>12}{'values':>12}{'predicted':>12}{'fraction':>12}")
    for index, count in enumerate(table["counts"]):
        if count:
            low, high = table["edges"][index : index + 2]
            click.echo(
                f"{f'{low:.1f}-{high:.1f}':>12}{count:>12,}{table['predicted'][index]:>12.3f}"
                f"{table['frequency'][index]:>12.3f}"
            )


@main.command()
@click.argument("outputs", nargs=-1, required=True, metavar="OUT...")
@click.option("--output", metavar="DIR", help="Where to write index.html.  [default: OUT/report]")
def report(outputs, output) -> None:
    """Writes a page of pictures and tables for one or several results.

    \b
    vaefill report runs/imputed
    """
    _start()
    with _errors_in_one_line():
        from pipeline.report import write_report

        page = write_report(outputs, output or os.path.join(outputs[0], "report"))
    click.echo(f"report in {page}")


@main.command()
@_config_options
@click.option("--output", default="runs/demo", metavar="DIR", help="Where everything goes.")
@click.pass_context
def demo(context, path, settings, output) -> None:
    """The whole story on bundled digits: train, mask, impute, evaluate, report.

    \b
    vaefill demo --output runs/demo
    """
    config = {"path": path or "demo.yaml", "settings": settings}
    model, common = os.path.join(output, "model"), {"replace": True, "beam_options": ()}
    hidden = {"mcar": {"mechanism": "mcar", "rate": 0.5}, "top_three_quarters": {"mechanism": "top_three_quarters"}}
    masked, imputed = ({name: os.path.join(output, kind, name) for name in hidden} for kind in ("masked", "imputed"))
    click.echo("1. train a VAE on the bundled digits")
    context.invoke(train, **config, directory=model)
    for name, mechanism in hidden.items():
        click.echo(f"\n2. mask other digits: {name}")
        context.invoke(mask, **config, **common, source="digits/test[:300]", output=masked[name], **mechanism)
    for name in hidden:
        click.echo(f"\n3. impute what is missing: {name}")
        pattern = os.path.join(masked[name], "*.tfrecord-*")
        context.invoke(impute, **config, **common, model=model, patterns=(pattern,), output=imputed[name])
    for name in hidden:
        click.echo(f"\n4. evaluate against the truth: {name}")
        context.invoke(evaluate, result=imputed[name])
    click.echo("\n5. report")
    context.invoke(report, outputs=tuple(imputed.values()), output=os.path.join(output, "report"))
    click.echo(f"\nOpen {os.path.join(output, 'report', 'index.html')} in a browser.")
    click.echo(f"The imputed data sets are in {os.path.join(output, 'imputed')}.")


if __name__ == "__main__":
    main()
