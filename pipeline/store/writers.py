"""What writes the shards of a data set: a protocol, and the TFRecord files that tfds reads."""

import functools
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import tensorflow as tf
import tensorflow_datasets as tfds

from vaefill.records.imputed import decode_imputed
from vaefill.records.record import ImputedRecord, Schema
from vaefill.store.layout import Layout


class StoredRecord:
    """A record of a data set as it is written: its Example, decoded once if anybody asks.

    Args:
        content_hash: of the record that it was made from, as that was read.
        example: the serialised `tf.train.Example`.
        schema: of the data set.
    """

    def __init__(self, content_hash: bytes, example: bytes, schema: Schema):
        self.content_hash = content_hash
        self.example = example
        self._schema = schema

    @functools.cached_property
    def imputed(self) -> ImputedRecord:
        """What the Example says, in a data set of imputed records.

        Raises:
            RecordError: it is not an imputed record of the schema.
        """
        return decode_imputed(self.example, self._schema)


class ShardCounts(NamedTuple):
    """What a shard holds."""

    num_records: int
    num_bytes: int  # of the records, without what the format adds
    num_repeated: int = 0  # further copies of records, that were not written


class Writer(Protocol):
    """Writes one shard of a data set; made with the path of a file that is not there yet."""

    def write(self, record: StoredRecord) -> None:
        """Writes the next record."""

    def close(self) -> ShardCounts:
        """Completes the file, also one without records, and says what it holds."""


class TFRecordWriter:
    """A `Writer` of TFRecord files of Examples.

    Args:
        path: of the file to write.
    """

    def __init__(self, path: str):
        self._writer = tf.io.TFRecordWriter(path)
        self._num_records = 0
        self._num_bytes = 0

    def write(self, record: StoredRecord) -> None:
        """Writes the next record."""
        self._writer.write(record.example)
        self._num_records += 1
        self._num_bytes += len(record.example)

    def close(self) -> ShardCounts:
        """Completes the file and says what it holds."""
        self._writer.close()
        return ShardCounts(self._num_records, self._num_bytes)


def write_dataset_info(
    layout: Layout,
    features: tfds.features.FeaturesDict,
    shards: Sequence[ShardCounts],
    description: str,
) -> None:
    """Makes staged TFRecord files a tfds data set: features.json and dataset_info.json.

    Args:
        layout: of the files.
        features: of the data set.
        shards: what each of them holds.
        description: in a sentence.
    """
    template = tfds.core.ShardedFileTemplate(
        data_dir=layout.dataset,
        dataset_name=layout.name,
        split=layout.split,
        filetype_suffix="tfrecord",
        template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    )
    split = tfds.core.SplitInfo(
        name=layout.split,
        shard_lengths=[shard.num_records for shard in shards],
        num_bytes=sum(shard.num_bytes for shard in shards),
        filename_template=template,
    )
    tfds.folder_dataset.write_metadata(
        data_dir=layout.dataset,
        features=features,
        split_infos=[split],
        filename_template=template,
        description=description,
        check_data=False,
    )
