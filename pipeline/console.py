"""What all commands share with the terminal: logs, errors in one line, exit codes, signals."""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator

import click

from vaefill.pipeline import logs
from vaefill.pipeline.config import ConfigError

EXIT_USAGE, EXIT_INPUT, EXIT_JOB = 2, 3, 4
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_LOGGER = logging.getLogger("vaefill")


def start() -> None:
    """Logging, and TensorFlow without the notes of its start-up.

    TensorFlow writes those notes before its log level applies, to the file descriptor itself.
    """
    logs.start()
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


def fail(error: Exception | str, code: int) -> None:
    """Says what went wrong in one line, and ends the process."""
    message = " ".join(str(error).split())
    if logs.is_json():
        logs.start()
        _LOGGER.error(message, extra={"exit_code": code})
    else:
        click.echo(f"vaefill: {message}", err=True)
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)


def exit_code(error: Exception) -> int | None:
    """The code that says whose an expected error is; None for one that is a bug."""
    if isinstance(error, ConfigError):  # those of before the slow libraries
        return EXIT_USAGE
    import tensorflow as tf

    from vaefill.model.checkpoints import ModelError
    from vaefill.model.datasets import DatasetError
    from vaefill.model.training import TrainingError
    from vaefill.pipeline.jobs import BadInputError, JobError
    from vaefill.pipeline.report.report import ReportError
    from vaefill.pipeline.results.results import ResultError
    from vaefill.pipeline.store.sources import SourceError

    codes = {
        (ResultError, ReportError, ModelError): EXIT_USAGE,
        (SourceError, DatasetError, BadInputError): EXIT_INPUT,
        (JobError, TrainingError, OSError, tf.errors.OpError): EXIT_JOB,
    }
    return next((code for errors, code in codes.items() if isinstance(error, errors)), None)


@contextlib.contextmanager
def errors_in_one_line(tell: Callable[[int], None] = lambda code: None) -> Iterator[None]:
    """Expected errors -> one line on stderr and the exit code that says whose they are; signals likewise.

    Args:
        tell: called with the exit code before a signal ends the process.
    """
    try:
        with _ends_at_signals(tell):
            yield
    except Exception as error:
        code = exit_code(error)
        if code is None:
            raise
        fail(error, code)


@contextlib.contextmanager
def _ends_at_signals(tell: Callable[[int], None]) -> Iterator[None]:
    """SIGTERM and SIGINT end the process at once, and its workers, with exit code 128 and their number.

    Nothing is tidied up: what a killed run leaves must be harmless anyway, and waiting for a device could take long.
    """

    def end(number: int, frame) -> None:
        import psutil

        code = 128 + number
        try:
            tell(code)
            fail(f"ended by {signal.Signals(number).name}", code)
        finally:
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            os._exit(code)

    former = {number: signal.signal(number, end) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
