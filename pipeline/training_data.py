"""Training on masked records in TFRecord files, as `vaefill impute` reads them, beside the data
sets of tfds.
"""

import hashlib
import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from vaefill.config import Config
from vaefill.errors import BadInputError, SourceError
from vaefill.model import datasets, training
from vaefill.model.config import Settings
from vaefill.model.errors import DatasetError
from vaefill.model.gaps import Split, with_gaps
from vaefill.records.record import MaskedRecord, Schema
from vaefill.store.sources import decode, expand
from vaefill.store.tfrecord import DeadLetter, read_frames

_LOGGER = logging.getLogger("vaefill.training")
_SPLIT = "train"  # the one that files have, of which others are parts
_CHECK_EVERY = 1000  # records, whether all of them fit in memory


def train(config: Config, directory: str, show_progress: bool = True) -> dict[str, Any]:
    """Trains a model as `training.train_and_evaluate` does, on whatever `data.name` is.

    Raises:
        SourceError: it is neither a data set nor files that are there.
        BadInputError: too many records of the files cannot be read.
    """
    settings = Settings(config.data, config.record, config.model, config.train, config.seed)
    source = MaskedFiles(config) if config.data.is_files else None
    return training.train_and_evaluate(settings, directory, show_progress, source)


class MaskedFiles:
    """The records of TFRecord files, in an order by the hashes of their contents: the same however
    they are spread over files, and parts of them, such as `train[:80%]`, are drawn by chance.

    A record that is there twice, byte for byte, is taken once.

    Attributes:
        content_hash: of all records, whatever files they are in.

    Raises:
        SourceError: no such files.
        BadInputError: more records than `limits` allows cannot be read; the first is told.
        DatasetError: more than fit in memory.
    """

    def __init__(self, config: Config):
        record = config.record
        self._name, self._shape, self._dtype = config.data.name, record.shape, record.dtype
        schema = Schema(
            record.shape,
            {},
            dtype=np.dtype(record.dtype),
            mask_means=record.mask_means,
            missing=record.missing,
        )
        found = self._read(schema, config)
        ordered = sorted(found)
        self.content_hash = hashlib.sha256(b"".join(ordered)).hexdigest()
        self._records = with_gaps(
            np.stack([found[key].image.ravel() for key in ordered]),
            np.stack([found[key].observed.ravel() for key in ordered]),
        )

    def _read(self, schema: Schema, config: Config) -> dict[bytes, MaskedRecord]:
        """All records by their content hashes."""
        found: dict[bytes, MaskedRecord] = {}
        bad: list[DeadLetter] = []
        for path in self._paths(config.limits.allow_missing_shards):
            for frame in read_frames(path, config.limits.max_record_bytes):
                read = frame if isinstance(frame, DeadLetter) else decode(frame, schema)
                if isinstance(read, DeadLetter):
                    bad.append(read)
                    continue
                found[read[1].content_hash] = read[1]
                if not len(found) % _CHECK_EVERY:
                    datasets.check_memory(self._name, len(found), schema.shape, schema.dtype)
        self._judge(bad, len(found), config)
        return found

    def _paths(self, allow_missing_shards: bool) -> list[str]:
        try:
            return [file.path for file in expand([self._name], allow_missing_shards)]
        except SourceError as error:
            raise SourceError(
                f"data.name: {error}; expected digits, tfds:NAME, tfds:PATH, or TFRecord files of "
                "masked records"
            ) from None

    def _judge(self, bad: list[DeadLetter], num_good: int, config: Config) -> None:
        """Raises BadInputError if more records are bad than `limits` allows, or all are."""
        if not bad and num_good:
            return
        if not num_good and not bad:
            raise SourceError(f"no record is in {self._name}")
        first = bad[0]
        text = (
            f"{len(bad):,} of {num_good + len(bad):,} records cannot be read; the first, at "
            f"{first.frame.file}, offset {first.frame.offset}: {first.message}"
        )
        limits = config.limits
        most = limits.max_bad_fraction * (num_good + len(bad))
        if limits.max_bad_records is not None:
            most = min(most, limits.max_bad_records)
        if not num_good or len(bad) > most:
            raise BadInputError(text)
        _LOGGER.warning("%s", text)

    def load(self, split: str) -> Split:
        """The records of a part of the files' one split, such as `train[80%:90%]`.

        Raises:
            DatasetError: another split, or an empty one.
        """
        whole = {_SPLIT: SimpleNamespace(num_examples=len(self._records))}
        try:
            parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(whole)
        except (ValueError, AssertionError):
            raise DatasetError(
                f"{self._name} has no split {split!r}: the split of files is {_SPLIT}, of which a "
                f"part will do, such as '{_SPLIT}[:80%]'"
            ) from None
        places = np.concatenate(
            [np.arange(len(self._records))[part.from_ : part.to] for part in parts]
        )
        if not len(places):
            raise DatasetError(f"split {split!r} of {self._name} is empty")
        return self._records[places]
