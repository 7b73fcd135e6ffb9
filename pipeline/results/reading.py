"""Readers of the documents of a result, which anybody may have altered. Knows no Beam."""

import os
from typing import TypeVar

import pydantic
import pydantic_core

from vaefill.errors import ResultError
from vaefill.model import files
from vaefill.model.errors import TooLargeError
from vaefill.results.documents import (
    FORMAT_VERSION,
    Document,
    ImputeIdentity,
    Manifest,
    Summary,
)

MANIFEST = "manifest.json"
SUMMARY = os.path.join("summary", "summary.json")
_LARGEST = 256 << 20  # bytes of a document
_REMEDY = "run `vaefill impute` or `vaefill mask` again"

_Document = TypeVar("_Document", bound=Document)


class FormatError(ResultError):
    """A document of another format version."""


def read_manifest(directory: str) -> Manifest:
    """Reads the manifest of a finished result.

    Raises:
        FormatError: the result is of another format version.
        ResultError: the directory is no finished result, or its manifest is broken.
    """
    path = os.path.join(directory, MANIFEST)
    if not files.exists(path):
        raise ResultError(
            f"{directory} is not a finished result: it has no {MANIFEST}; {_REMEDY}",
        )
    return _read(path, Manifest)


def read_summary(directory: str) -> Summary:
    """Reads the summary of a finished result of imputation.

    Raises:
        FormatError: the result is of another format version.
        ResultError: the directory is no finished result of imputation, or its summary is broken.
    """
    identity_of_imputation(directory, read_manifest(directory))
    path = os.path.join(directory, SUMMARY)
    if not files.exists(path):
        raise ResultError(f"{path} is missing; run `vaefill impute` again")
    return _read(path, Summary)


def identity_of_imputation(directory: str, manifest: Manifest) -> ImputeIdentity:
    """The identity of a result of `vaefill impute`.

    Args:
        directory: where the result lies.
        manifest: what it says of itself.

    Raises:
        ResultError: it is a result of `vaefill mask`.
    """
    if not isinstance(manifest.identity, ImputeIdentity):
        raise ResultError(f"{directory} holds masked records; name a result of `vaefill impute`")
    return manifest.identity


def _read(path: str, kind: type[_Document]) -> _Document:
    """Reads a document.

    Raises:
        FormatError: it is of another format version.
        ResultError: it cannot be read, or is not what it should be.
    """
    try:
        content = files.read_at_most(path, _LARGEST)
        version = _version(pydantic_core.from_json(content))
        if version == FORMAT_VERSION:
            return kind.model_validate_json(content)
    except TooLargeError as error:
        raise ResultError(f"{error}; {_REMEDY}") from None
    except (OSError, ValueError) as error:
        raise ResultError(f"cannot read {path}: {_reason(error)}; {_REMEDY}") from None
    if version is None:
        raise ResultError(f"{path} is not of vaefill: it has no format_version")
    raise FormatError(
        f"{path} has format version {version}, this program reads {FORMAT_VERSION}; {_REMEDY}",
    )


def _version(content: object) -> int | None:
    """The format version of what a document holds, None where it is none of ours.

    The manifest of version 1 did not say so, but had an identity.

    Raises:
        ValueError: not an object.
    """
    if not isinstance(content, dict):
        raise ValueError(f"expected an object, got {type(content).__name__}")
    version = content.get("format_version")
    if version is None and isinstance(content.get("identity"), dict):
        return 1
    return version if type(version) is int and 0 < version < 1000 else None


def _reason(error: OSError | ValueError) -> str:
    """What is wrong, in one line without control codes, whatever the document holds."""
    text = str(error)
    if isinstance(error, pydantic.ValidationError):
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        text = ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror
    return "".join(letter if letter.isprintable() else "?" for letter in text[:200])
