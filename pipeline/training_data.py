"""Training on masked records in TFRecord files, as `vaefill impute` reads them, on arrays, and on
data sets of tfds.
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
from vaefill.model.config import RecordConfig, Settings
from vaefill.model.datasets import Source
from vaefill.model.errors import DatasetError
from vaefill.model.gaps import Split, gaps_in, with_gaps
from vaefill.records.record import MaskedRecord, Schema
from vaefill.store.sources import decode, expand
from vaefill.store.tfrecord import DeadLetter, read_frames

_LOGGER = logging.getLogger("vaefill.training")
_SPLIT = "train"  # the one that files have, of which others are parts
_CHECK_EVERY = 1000  # records, whether all of them fit in memory


def train(
    config: Config,
    directory: str,
    show_progress: bool = True,
    arrays: tuple[np.ndarray, np.ndarray | None] | None = None,
) -> dict[str, Any]:
    """Trains a model as `training.train_and_evaluate` does, on whatever `data.name` is.

    Args:
        config: of everything.
        directory: of the model.
        show_progress: whether to show bars.
        arrays: values [N, H, W, C] and what is observed of them, or None; then `data.name` names
            them alone.

    Raises:
        SourceError: the name is neither that of a data set nor of files that are there.
        BadInputError: too many records of the files cannot be read.
        DatasetError: the arrays are not as `record` says.
    """
    settings = Settings(config.data, config.record, config.model, config.train, config.seed)
    source: Source | None = None
    if arrays is not None:
        source = of_arrays(config.record, *arrays)
    elif config.data.has_one_split:
        source = MaskedFiles(config)
    return training.train_and_evaluate(settings, directory, show_progress, source)


class OneSplit:
    """Records that are one split, `train`, of which the others are parts, such as `train[:80%]`.

    Args:
        name: of the records, for messages.
        records: in an order by chance.
        content_hash: of all of them.
    """

    def __init__(self, name: str, records: Split, content_hash: str):
        self._name, self._records, self.content_hash = name, records, content_hash

    def load(self, split: str) -> Split:
        """The records of a part.

        Raises:
            DatasetError: another split, or an empty one.
        """
        whole = {_SPLIT: SimpleNamespace(num_examples=len(self._records))}
        try:
            parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(whole)
        except (ValueError, AssertionError):
            raise DatasetError(
                f"{self._name} has no split {split!r}: it has {_SPLIT} alone, of which a part will "
                f"do, such as '{_SPLIT}[:80%]'"
            ) from None
        places = np.concatenate(
            [np.arange(len(self._records))[part.from_ : part.to] for part in parts]
        )
        if not len(places):
            raise DatasetError(f"split {split!r} of {self._name} is empty")
        return self._records[places]


def of_arrays(
    record: RecordConfig, values: np.ndarray, observed: np.ndarray | None = None
) -> OneSplit:
    """Arrays as training data, in an order by chance that is always the same.

    Args:
        record: their shape and type, and what stands for a missing value.
        values: [N, H, W, C]; anything where missing.
        observed: [N, H, W, C] bool; None: everything that is no gap by `record.missing`.

    Raises:
        DatasetError: shapes or types differ, or values are infinite.
    """
    expected = (len(values), *record.shape)
    if values.shape != expected or values.dtype != record.dtype:
        raise DatasetError(
            f"data must be {record.dtype} {expected}, got {values.dtype} {values.shape}"
        )
    known = ~gaps_in(values, record.missing)
    if observed is not None:
        if observed.shape != expected or observed.dtype != np.bool_:
            raise DatasetError(
                f"observed must be bool {expected}, got {observed.dtype} {observed.shape}"
            )
        known &= observed
    if not np.isfinite(values, where=known, out=np.ones(values.shape, bool)).all():
        raise DatasetError("data holds values that are not finite")
    order = np.random.default_rng(0).permutation(len(values))
    flat = (array.reshape(len(values), -1)[order] for array in (values, known))
    records = with_gaps(*flat)
    digest = hashlib.sha256(np.ascontiguousarray(records.values).tobytes())
    digest.update(b"" if records.observed is None else np.packbits(records.observed).tobytes())
    return OneSplit("data", records, digest.hexdigest())


class MaskedFiles(OneSplit):
    """The records of TFRecord files, in an order by the hashes of their contents: the same however
    they are spread over files.

    A record that is there twice, byte for byte, is taken once.

    Args:
        config: `data.name`, the files; `record`; and of `limits` what may be bad.

    Raises:
        SourceError: no such files.
        BadInputError: more records than `limits` allows cannot be read; the first is told.
        DatasetError: more than fit in memory.
    """

    def __init__(self, config: Config):
        record, self._name = config.record, config.data.name
        schema = Schema(
            record.shape,
            {},
            dtype=np.dtype(record.dtype),
            mask_means=record.mask_means,
            missing=record.missing,
        )
        found = self._read(schema, config)
        ordered = sorted(found)
        records = with_gaps(
            np.stack([found[key].image.ravel() for key in ordered]),
            np.stack([found[key].observed.ravel() for key in ordered]),
        )
        content_hash = hashlib.sha256(b"".join(ordered)).hexdigest()
        super().__init__(self._name, records, content_hash)

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
        num_found = num_good + len(bad)
        if not num_found:
            raise SourceError(f"no record is in {self._name}")
        if not bad:
            return
        text = (
            f"{len(bad):,} of {num_found:,} records cannot be read; the first, at "
            f"{bad[0].frame.file}, offset {bad[0].frame.offset}: {bad[0].message}"
        )
        exceeded = config.limits.exceeded_by(len(bad), num_found)
        if exceeded:
            raise BadInputError(f"{text}; more than {exceeded} allows")
        if not num_good:
            raise BadInputError(text)
        _LOGGER.warning("%s", text)
