"""Runs that leave out what earlier results hold already."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vaefill.pipeline.errors import ResultError
from vaefill.pipeline.results import integrity

_TABLE = os.path.join("summary", "records.parquet")
_ALIKE = ("model", "seed", "sampler", "record")  # of the identity; what else differs leaves a data set of one kind


def check(directories: Sequence[str], identity: Mapping[str, Any], output: str) -> list[str]:
    """Checks earlier results; returns the digests of their manifests, which stand for what they hold, sorted.

    Args:
        directories: of results of imputation.
        identity: of the run that is to go on from them.
        output: where its own records go.

    Raises:
        ResultError: one is the output itself, or no result, or altered, or of another model, seed, sampler or kind
            of data.
    """
    if os.path.realpath(output) in map(os.path.realpath, directories):
        raise ResultError(f"{output} is an earlier result itself; new records go to a directory of their own")
    digests = []
    for directory in directories:
        manifest = integrity.check_files(directory, [_TABLE])
        theirs = manifest.get("identity")
        theirs = theirs if isinstance(theirs, dict) else {}
        different = [name for name in _ALIKE if theirs.get(name) != identity[name]]
        if different:
            raise ResultError(
                f"{directory} was made with another {', '.join(different)}: its records and new ones would not be alike"
            )
        digests.append(manifest[integrity.DIGEST])
    return sorted(digests)


def content_hashes(directories: Sequence[str]) -> bytes:
    """The content hashes of all records of earlier results, one after another.

    Raises:
        ResultError: one of them has no readable table of its records.
    """
    found = bytearray()
    for directory in directories:
        path = os.path.join(directory, _TABLE)
        try:
            with pq.ParquetFile(path) as table:
                for batch in table.iter_batches(columns=["content_hash"]):
                    found += b"".join(batch["content_hash"].to_pylist())
        except (OSError, KeyError, pa.ArrowException) as error:
            raise ResultError(f"cannot read {path}: {error}") from None
    return bytes(found)
