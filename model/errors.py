"""Expected errors of the model layer, each with the exit code that says whose it is.

Imports nothing slow.

An expected error's message is one line that names the value and the fix. Any other exception is a
bug.
"""

EXIT_USAGE = 2  # usage, configuration, model or result directory
EXIT_INPUT = 3  # bad input
EXIT_JOB = 4  # the job failed: disk, device, workers


class ExpectedError(Exception):
    """Something that a user can mend.

    Attributes:
        exit_code: what the command ends with.
    """

    exit_code = EXIT_JOB


class ModelError(ExpectedError, ValueError):
    """A model directory that cannot be used."""

    exit_code = EXIT_USAGE


class DatasetError(ExpectedError, ValueError):
    """A data set that is not there or is not what was declared."""

    exit_code = EXIT_INPUT


class StoreError(ExpectedError, OSError):
    """A path of a file system that is not within reach."""

    exit_code = EXIT_USAGE


class TooLargeError(ExpectedError, ValueError):
    """A file that is larger than any honest one."""

    exit_code = EXIT_INPUT


class TrainingError(ExpectedError, RuntimeError):
    """Training that cannot go on."""
