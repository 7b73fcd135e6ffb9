"""Runs that leave out what earlier results hold already."""

import os
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from vaefill.errors import ResultError
from vaefill.model import files
from vaefill.records.record import HASH_SIZE
from vaefill.results import integrity
from vaefill.results.documents import RecordIdentity
from vaefill.results.reading import identity_of_imputation

_TABLE = os.path.join("summary", "records.parquet")
_ALIKE = ("model", "seed", "sampler", "record")  # what else differs leaves data sets of one kind


def check(directories: Sequence[str], identity: RecordIdentity, output: str) -> list[str]:
    """Checks earlier results that a run is to go on from.

    Args:
        directories: of results of imputation.
        identity: what the records of the run depend on.
        output: where its own records go.

    Returns:
        The digests of their manifests, which stand for what they hold, sorted.

    Raises:
        ResultError: one is the output itself, or no result of imputation, or altered, or of another
            model, seed, sampler or kind of record.
    """
    if os.path.realpath(output) in map(os.path.realpath, directories):
        raise ResultError(
            f"{output} is an earlier result itself; new records go to a directory of their own",
        )
    digests = []
    for directory in directories:
        manifest = integrity.check_files(directory, [_TABLE])
        theirs = identity_of_imputation(directory, manifest)
        different = [name for name in _ALIKE if getattr(theirs, name) != getattr(identity, name)]
        if different:
            raise ResultError(
                f"{directory} was made with another {', '.join(different)}: "
                "its records and new ones would not be alike",
            )
        digests.append(manifest.manifest_sha256)
    return sorted(digests)


def content_hashes(directories: Sequence[str]) -> bytes:
    """The hashes of all records of earlier results, one after another: without surplus features,
    or, in results that do not have them, with these.

    Raises:
        ResultError: one of them has no readable table of its records.
    """
    found = bytearray()
    for directory in directories:
        path = os.path.join(directory, _TABLE)
        try:
            with files.local_copy(path) as place, pq.ParquetFile(place) as table:
                has_input_hash = "input_hash" in table.schema_arrow.names
                column = "input_hash" if has_input_hash else "content_hash"
                for batch in table.iter_batches(columns=[column]):
                    found += b"".join(map(_hash_of, batch[column].to_pylist()))
        except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
            raise ResultError(f"cannot read {path}: {error}") from None
    return bytes(found)


def _hash_of(text: str) -> bytes:
    """A content hash from its hexadecimal digits.

    Raises:
        TypeError, ValueError: it is none.
    """
    content_hash = bytes.fromhex(text)
    if len(content_hash) != HASH_SIZE:
        raise ValueError(f"content_hash {text[:64]!r} is not of {HASH_SIZE} bytes")
    return content_hash
