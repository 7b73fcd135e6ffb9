"""`vaefill bench`: how fast it all is on this machine, each figure with its limit measured in the
same run.

Sections, each of which can be run by itself:

- sweeps: chain-sweeps and gradients a second, beside the matrix products that they are made of.
- training: images a second, likewise.
- converged: records that converge a second with the default sampler; needs a trained model.
- adaptive: records that each stop when they have converged, beside the same ones as long as the
  last of those takes.
- job: the whole `impute` command beside the bare sampler on the same records, and how long it takes
  to start.
- scaling: time and peak memory of the command for growing numbers of records, at a short chain.
"""

import concurrent.futures
import logging
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from vaefill import console
from vaefill.errors import ConfigError, JobError
from vaefill.experiments import comparison, throughput
from vaefill.model import checkpoints, datasets, files, samplers
from vaefill.model import vae as vae_lib
from vaefill.model.config import ModelConfig
from vaefill.model.imputer import Imputed, Imputer
from vaefill.model.parallel import cores, share_cores
from vaefill.records.masked import encode_masked
from vaefill.records.record import CarriedFeature, MaskedRecord, Schema
from vaefill.report.text import markdown_table

_LOGGER = logging.getLogger("vaefill.bench")
_SHAPE = (28, 28, 1)
_DATA = "tfds:mnist"
_JOB = {"name": "pseudo_gibbs", "num_start": 0, "num_warmup": 0, "max_sweeps": 200}
_SHORT = {"name": "pseudo_gibbs", "num_start": 4, "num_warmup": 4, "max_sweeps": 20}
# Nothing stops early
_FIXED: dict[str, Any] = {"target_ess": 1e9, "target_r_hat": 1.0 + 1e-9, "num_evidence_draws": 0}
_SIZES = (1_000, 10_000, 100_000)
_FEW = 1_000  # records, which take less time than the start

Row = dict[str, Any]


def sweeps(model: str | None) -> Iterator[Row]:
    """Of samplers."""
    del model  # any weights are as fast
    for rates in (throughput.gibbs_rates, throughput.gradient_rates):
        yield from (rate._asdict() for rate in rates())


def training(model: str | None) -> Iterator[Row]:
    """Of the model of `mnist.yaml`."""
    del model
    yield from (rate._asdict() for rate in throughput.training_rate())


def converged(model: str | None, num_records: int = 4000) -> Iterator[Row]:
    """Of MNIST test digits, at both precisions.

    Raises:
        ConfigError: there is no model.
    """
    runs = _Runs(model, num_records)
    for precision in ("float32", "bfloat16"):
        for mask in ("mcar_50", "top_three_quarters"):
            found, seconds, occupancy = runs({"precision": precision}, mask)
            yield {
                "missing": mask,
                "precision": precision,
                "converged": float(found.converged.mean()),
                "converged_per_second": float(found.converged.sum() / seconds),
                "gradients_per_second": float(found.num_network_passes.sum() / seconds),
                "gradients_of_a_record": float(found.num_network_passes.mean()),
                "occupancy": occupancy,
            }


def adaptive(model: str | None, num_records: int = 512) -> Iterator[Row]:
    """Of MNIST test digits, half of their pixels missing, each until it has converged and all
    equally long.

    Raises:
        ConfigError: there is no model, or no record converges.
    """
    runs, targets = _Runs(model, num_records), samplers.sampler_config()

    def row(length: str, found: Imputed, seconds: float, occupancy: float) -> Row:
        enough = np.minimum(found.ess_bulk, found.ess_tail) >= targets.target_ess
        return {
            "length": length,
            "converged": float(np.mean(enough & (found.r_hat < targets.target_r_hat))),
            "records_per_second": num_records / seconds,
            "gradients_of_a_record": float(found.num_network_passes.mean()),
            "occupancy": occupancy,
        }

    adaptive_run = runs({}, "mcar_50")
    found = adaptive_run[0]
    if not found.converged.any():
        raise ConfigError(
            f"of {num_records} records none converged with this model: nothing to compare with"
        )
    yield row("adaptive", *adaptive_run)
    longest = int(found.num_sweeps[found.converged].max())
    yield row("fixed", *runs(_FIXED | {"max_sweeps": longest}, "mcar_50"))


class _Runs:
    """Runs of the default sampler over MNIST test digits."""

    def __init__(self, model: str | None, num_records: int):
        if model is None:
            raise ConfigError("this section needs a model trained on MNIST: --model runs/mnist")
        self._loaded = checkpoints.load(model)
        self._records = comparison.task(self._loaded, _DATA, "test", num_records)

    def __call__(self, settings: Row, mask: str) -> tuple[Imputed, float, float]:
        """Results, seconds without compilation, and the occupancy of the slots."""
        config = comparison.sampler_config("latent_hmc", len(self._records.ids), settings)
        imputer = Imputer(self._loaded.vae, config)
        few = self._records.first(2)
        comparison.run(imputer, few, few.observed(mask))  # compiles
        imputer.reset_occupancy()
        return *comparison.run(
            imputer, self._records, self._records.observed(mask)
        ), imputer.occupancy


def job(
    model: str | None, num_records: int = 10_000, num_rounds: int = 3, num_starts: int = 5
) -> Iterator[Row]:
    """Of pseudo-Gibbs, 4 chains of 200 sweeps: medians of rounds of command and sampler, and of the
    rounds' ratios.
    """
    del model
    with tempfile.TemporaryDirectory() as directory:
        trained = _untrained_model(directory)
        masked = _masked_records(directory, num_records)
        start = _start_seconds(directory, trained, _JOB | {"max_sweeps": 10}, num_starts)
        sampler_seconds = _sampler_alone(trained, num_records, _JOB)
        rounds = np.array(
            [
                (*_impute(directory, trained, masked, _JOB), sampler_seconds())
                for _ in range(num_rounds)
            ]
        )
    seconds, peak, alone = rounds.T
    yield {
        "records": num_records,
        "start_seconds": start,
        "job_seconds": float(np.median(seconds)),
        "sampler_seconds": float(np.median(alone)),
        "of_sampler": float(np.median(alone / (seconds - start))),
        "peak_gib": float(peak.max()),
    }


def scaling(model: str | None, sizes: Sequence[int] = _SIZES, num_starts: int = 5) -> Iterator[Row]:
    """Of pseudo-Gibbs, 4 chains of 20 sweeps; of few records, beside whose time the start's varies,
    a median.
    """
    del model
    with tempfile.TemporaryDirectory() as directory:
        trained = _untrained_model(directory)
        start = _start_seconds(directory, trained, _SHORT, num_starts)
        for size in sizes:
            masked = _masked_records(directory, size)
            num_runs = num_starts if size <= _FEW else 1
            seconds, peak = np.median(
                [_impute(directory, trained, masked, _SHORT) for _ in range(num_runs)], axis=0
            )
            rate = size / (seconds - start)
            yield {
                "records": size,
                "seconds": seconds,
                "records_per_second": rate,
                "peak_gib": peak,
            }


SECTIONS: dict[str, Callable[[str | None], Iterable[Row]]] = {
    section.__name__: section for section in (sweeps, training, converged, adaptive, job, scaling)
}
_IN_LANES = {"sweeps", "converged", "adaptive", "job"}


def _untrained_model(directory: str) -> str:
    """A model directory with the architecture of `mnist.yaml`: chains of fixed length are as fast
    with any weights.
    """
    config, path = ModelConfig(), os.path.join(directory, "model")
    checkpoints.save(path, vae_lib.build(config, _SHAPE), config, {}, None)
    return path


def _masked_records(directory: str, num_records: int) -> str:
    """A TFRecord file of bundled digits, half of their pixels missing, again and again under new
    ids.
    """
    path = os.path.join(directory, f"masked-{num_records}.tfrecord")
    schema = Schema(_SHAPE, {"label": CarriedFeature("int64")}, 1, np.dtype(np.uint8))
    images, observed = _digits(num_records)
    with tf.io.TFRecordWriter(path) as writer:
        for index in range(num_records):
            record = MaskedRecord(
                b"%08d" % index, images[index % len(images)], observed[index % len(images)]
            )
            writer.write(encode_masked(record, schema))
    return path


def _digits(num_records: int) -> tuple[np.ndarray, np.ndarray]:
    images = datasets.load_images("digits", "train", _SHAPE)[:num_records].reshape(-1, *_SHAPE)
    return images, np.random.default_rng(0).random(images.shape) < 0.5


def _impute(directory: str, model: str, masked: str, sampler: Row) -> tuple[float, float]:
    """Seconds and peak memory, GiB, of the command in a process of its own."""
    settings = [f"--set=sampler.{name}={value}" for name, value in (_FIXED | sampler).items()]
    command = [
        sys.executable,
        "-m",
        "vaefill.cli",
        "impute",
        *settings,
        f"--model={model}",
        f"--input={masked}",
    ]
    # Beside a result of the same run nothing would be done
    with tempfile.TemporaryDirectory(dir=directory) as fresh:
        began = time.perf_counter()
        process = subprocess.Popen(
            [*command, f"--output={os.path.join(fresh, 'imputed')}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        with process.stderr:
            errors = process.stderr.read().splitlines()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise JobError(
            f"impute ended with {process.returncode}: {errors[-1] if errors else 'it said nothing'}"
        )
    return seconds, usage.ru_maxrss / (1 << 20)


def _start_seconds(directory: str, model: str, sampler: Row, num_starts: int) -> float:
    """Seconds that the command takes for one record, which is next to nothing beside its start: the
    median.
    """
    masked = _masked_records(directory, 1)
    return float(
        np.median([_impute(directory, model, masked, sampler)[0] for _ in range(num_starts)])
    )


def _sampler_alone(model: str, num_records: int, sampler: Row) -> Callable[[], float]:
    """Takes the same records from arrays to arrays in this process, compiled before; returns the
    seconds.
    """
    imputer = Imputer(checkpoints.load(model).vae, samplers.sampler_config(**_FIXED | sampler))
    images, observed = _digits(num_records)
    chosen = np.arange(num_records) % len(images)
    ids = [b"%08d" % index for index in range(num_records)]
    imputer(images[:1], observed[:1], ids[:1])

    def seconds() -> float:
        began = time.perf_counter()
        imputer(images[chosen], observed[chosen], ids)
        return time.perf_counter() - began

    return seconds


def run(
    directory: str, sections: Sequence[str], model: str | None, report: Callable[[str], None]
) -> str:
    """Runs sections, leaves `bench.json` and `bench.md` in a directory, and returns the tables.

    What an earlier run left of other sections stays.
    """
    files.make_directory(directory)
    path = os.path.join(directory, "bench.json")
    found: dict[str, Any] = {}
    if files.exists(path):
        found = files.read_json(path)
    for name in sections:
        report(name)
        found[name] = {"machine": machine(), "rows": _in_a_process(name, model)}
        files.write_json(path, found)
    text = "\n\n".join(_table(name, section) for name, section in found.items())
    files.write_whole(os.path.join(directory, "bench.md"), text + "\n")
    return text


def _in_a_process(name: str, model: str | None) -> list[Row]:
    """A section's rows; what runs records to their end does it in lanes, which a process must begin
    with.
    """
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        1, mp_context=context, initializer=console.start
    ) as pool:
        return pool.submit(_rows, SECTIONS[name], model, name in _IN_LANES).result()


def _rows(
    section: Callable[[str | None], Iterable[Row]], model: str | None, in_lanes: bool
) -> list[Row]:
    """A section's rows, each told as soon as it is there."""
    if in_lanes:
        share_cores()
    rows = []
    for row in section(model):
        _LOGGER.info(
            ", ".join(f"{title.replace('_', ' ')} {_cell(value)}" for title, value in row.items())
        )
        rows.append(row)
    return rows


def machine() -> str:
    """Processor, its cores, and accelerators if any."""
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):  # of the kernel, not a file of ours
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [
                line.partition(":")[2].strip() for line in file if line.startswith("model name")
            ]
        name = names[0] if names else name
    devices = [
        tf.config.experimental.get_device_details(gpu)["device_name"]
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    return ", ".join([f"{name}, {cores()} cores", *devices])


def _table(name: str, section: Row) -> str:
    titles = list(section["rows"][0])
    cells = [[_cell(row[title]) for title in titles] for row in section["rows"]]
    return "\n".join(
        [
            f"{name}: {section['machine']}",
            "",
            *markdown_table([t.replace("_", " ") for t in titles], cells),
        ]
    )


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
