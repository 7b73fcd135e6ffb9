"""Expected errors of the pipeline, each with its exit code. Imports nothing slow."""

from vaefill.model.errors import EXIT_INPUT, EXIT_USAGE, ExpectedError
from vaefill.results.documents import Outcome


class ConfigError(ExpectedError, ValueError):
    """A configuration that cannot be used."""

    exit_code = EXIT_USAGE


class ResultError(ExpectedError, ValueError):
    """A result directory that cannot be written or read."""

    exit_code = EXIT_USAGE


class SourceError(ExpectedError, ValueError):
    """Input that is not there."""

    exit_code = EXIT_INPUT


class JobError(ExpectedError, RuntimeError):
    """A job that ran and failed; nothing was published."""


class BadInputError(JobError):
    """Too much of the input was bad.

    Attributes:
        outcome: what the job came to, None where it was not counted.
    """

    exit_code = EXIT_INPUT

    def __init__(self, message: str, outcome: Outcome | None = None):
        super().__init__(message)
        self.outcome = outcome
