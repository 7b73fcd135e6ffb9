"""Expected errors of the pipeline, each with its exit code. Imports nothing slow."""

from collections.abc import Mapping
from typing import Any

from vaefill.model.errors import EXIT_INPUT, EXIT_USAGE, ExpectedError


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
        outcome: what the job came to, as `impute` and `mask` return it.
    """

    exit_code = EXIT_INPUT

    def __init__(self, message: str, outcome: Mapping[str, Any]):
        super().__init__(message)
        self.outcome = outcome
