"""What all commands share with the terminal: logs, errors in one line, exit codes, signals."""

import contextlib
import logging
import os
import signal
import sys
import types
from collections.abc import Callable, Iterable, Iterator

import click

from vaefill import logs
from vaefill.model.errors import EXIT_JOB, ExpectedError

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_LOGGER = logging.getLogger("vaefill")


def start() -> None:
    """Logging, and TensorFlow without the notes of its start-up.

    TensorFlow writes those notes before its log level applies, to the file descriptor itself.
    """
    logs.start()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Several worker processes may share a GPU
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
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


def echo_lines(lines: Iterable[str]) -> None:
    """Prints lines, until nobody reads them any more, as after `| head`."""
    try:
        for line in lines:
            click.echo(line)
    except BrokenPipeError:
        # Or Python would try to write the rest as it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
    if isinstance(error, ExpectedError):
        return error.exit_code
    tensorflow = sys.modules.get("tensorflow")  # what has not been imported raises nothing
    of_machine = (OSError,) if tensorflow is None else (OSError, tensorflow.errors.OpError)
    return EXIT_JOB if isinstance(error, of_machine) else None


@contextlib.contextmanager
def errors_in_one_line(on_exit: Callable[[int], None] = lambda code: None) -> Iterator[None]:
    """Expected errors -> one line on stderr and the exit code that says whose they are; signals
    likewise.

    Args:
        on_exit: called with the exit code before a signal ends the process.
    """
    try:
        with _ends_at_signals(on_exit):
            yield
    except Exception as error:
        code = exit_code(error)
        if code is None:
            raise
        fail(error, code)


@contextlib.contextmanager
def _ends_at_signals(on_exit: Callable[[int], None]) -> Iterator[None]:
    """SIGTERM and SIGINT end the process at once, and its workers, with exit code 128 and their
    number.

    Nothing is tidied up: what a killed run leaves must be harmless anyway, and waiting for a device
    could take long.
    """

    def end(number: int, frame: types.FrameType | None) -> None:
        import psutil

        code = 128 + number
        try:
            on_exit(code)
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
