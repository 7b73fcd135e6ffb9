"""What the terminal and a scheduler see: lines, exit codes, signals; full disks included."""

import json
import os
import resource
import signal
import sys
import time

import pytest
import tensorflow as tf

from tests import kill
from tests.test_metrics import read
from vaefill import cli, console, jobs
from vaefill.errors import BadInputError, ConfigError, JobError, ResultError, SourceError
from vaefill.model.engine.slots import Slots
from vaefill.model.errors import EXIT_JOB
from vaefill.results import integrity

pytestmark = pytest.mark.slow

SLOW = ("--set", "sampler.target_ess=1e9", "--set", "sampler.max_sweeps=20000")  # minutes


def command(arguments, log: str, largest_file: int | None = None) -> None:
    """The command line in a process of its own, its errors in a file."""
    with open(log, "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 2)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    if largest_file is not None:  # the nearest to a full disk that needs no privileges
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    cli.main(arguments)


def start(*arguments: str, log, largest_file: int | None = None):
    process = kill.CONTEXT.Process(target=command, args=(arguments, str(log), largest_file))
    process.start()
    return process


def impute(model_directory, masked, out, *more: str) -> tuple[str, ...]:
    where = ("--model", model_directory, "--input", masked, "--output", str(out))
    return ("impute", "--config", "test.yaml", *where, *more)


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_end_a_job_in_seconds_and_publish_nothing(
    model_directory, masked, tmp_path, number, code
):
    metrics = tmp_path / "metrics"
    arguments = impute(
        model_directory, masked, tmp_path / "out", *SLOW, "--log-json", "--metrics", str(metrics)
    )
    process = start(*arguments, log=tmp_path / "log")
    deadline = time.monotonic() + 120
    while not (tmp_path / "out.staging" / "computed" / "hashes.npy").exists():
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(1)
    began = time.monotonic()
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == code and time.monotonic() - began < 10
    assert not (tmp_path / "out").exists()
    last = json.loads((tmp_path / "log").read_text().splitlines()[-1])
    assert last["exit_code"] == code and last["message"] == f"ended by {number.name}"
    assert last["level"] == "ERROR" and last["time"]
    assert read(metrics)["vaefill_exit_code", "impute"] == code


def test_a_full_disk_is_one_line_and_the_old_result_stays(
    model_directory, masked, config, tmp_path
):
    out = tmp_path / "out"
    jobs.mask(config, "digits/test[:3]", str(out))
    before = integrity.verify(str(out))
    arguments = impute(model_directory, masked, out, "--replace", "--set", "output.num_shards=1")
    process = start(*arguments, log=tmp_path / "log", largest_file=20_000)
    process.join(120)
    assert process.exitcode == EXIT_JOB
    last = (tmp_path / "log").read_text().splitlines()[-1]
    assert last.startswith("vaefill: ") and "File too large" in last
    assert integrity.verify(str(out)) == before


def test_where_nothing_can_be_written_is_one_line(model_directory, masked, tmp_path):
    process = start(*impute(model_directory, masked, "/proc/vaefill/out"), log=tmp_path / "log")
    process.join(120)
    assert process.exitcode == EXIT_JOB
    assert (
        (tmp_path / "log")
        .read_text()
        .splitlines()[-1]
        .startswith("vaefill: [Errno 2] No such file or directory")
    )


def stuck(arguments, log: str) -> None:
    """The command line where the device answers once, and then no more."""

    def run(slots, records, waiting):
        yield []
        tf.function(lambda: tf.py_function(lambda: time.sleep(1000), [], tf.float32))()

    Slots.run = run
    command(arguments, log)


def test_a_stuck_device_call_ends_the_job_and_the_process(model_directory, masked, tmp_path):
    arguments = impute(
        model_directory, masked, tmp_path / "out", "--set", "limits.device_call_seconds=3"
    )
    process = kill.CONTEXT.Process(target=stuck, args=(arguments, str(tmp_path / "log")))
    process.start()
    process.join(100)
    assert process.exitcode == EXIT_JOB
    last = (tmp_path / "log").read_text().splitlines()[-1]
    assert (
        "a call of the device has given no answer for 3 s" in last
        and "limits.device_call_seconds" in last
    )


@pytest.mark.parametrize(
    "error, code",
    [
        (ConfigError(), 2),
        (ResultError(), 2),
        (SourceError(), 3),
        (BadInputError("", {}), 3),
        (JobError(), 4),
        (OSError(), 4),
        (KeyError(), None),
    ],
)
def test_whose_an_error_is(error, code):
    assert console.exit_code(error) == code
