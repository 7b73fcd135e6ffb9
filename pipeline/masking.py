"""Images -> masked records: where they come from and which values are hidden."""

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np

from vaefill.config import MaskConfig
from vaefill.errors import ConfigError, SourceError
from vaefill.model import datasets, missingness
from vaefill.model.errors import DatasetError
from vaefill.model.gaps import gaps_in, without
from vaefill.model.preprocessing import Preprocessor
from vaefill.records import signs
from vaefill.records.masked import decode_observed, encode_masked
from vaefill.records.record import (
    CarriedFeature,
    MaskedRecord,
    Reason,
    RecordError,
    Scalar,
    Schema,
    with_content_hash,
    with_truth,
)
from vaefill.records.text import printable
from vaefill.store import tally
from vaefill.store.dead_letters import DEAD
from vaefill.store.items import Item
from vaefill.store.sources import expand
from vaefill.store.tfrecord import DeadLetter, Frame, read_frames

_LOGGER = logging.getLogger("vaefill.mask")
_IMAGES_PER_SLICE = 1000
_SCALARS: dict[str, tuple[type[np.generic], ...]] = {  # that a carried feature may have
    "int64": (np.integer,),
    "float32": (np.floating,),
    "bytes": (np.object_, np.character),
}
_PROGRESS_EVERY = 5000  # records between two lines of progress


def split_source(name: str) -> tuple[str, str]:
    """`tfds:mnist/test` or `digits/test` -> (data set, split).

    Raises:
        SourceError: no split is named.
    """
    dataset, slash, split = name.rpartition("/")
    if not slash or not dataset:
        raise SourceError(
            f"input {name!r}: expected DATASET/SPLIT, such as tfds:mnist/test or digits/test"
        )
    return dataset, split


def slices(name: str, schema: Schema) -> list[str]:
    """Sub-splits of a tfds split that are read independently, after a check of its images."""
    dataset, split = split_source(name)
    datasets.check_images(dataset, schema.shape, schema.dtype.name)
    _check_carried(dataset, schema)
    num_images = datasets.split_info(dataset, split).num_examples
    if split not in datasets.builder(dataset).info.splits.keys():
        return [split]  # already a part of a split, or several
    starts = range(0, num_images, _IMAGES_PER_SLICE)
    return [f"{split}[{first}:{min(first + _IMAGES_PER_SLICE, num_images)}]" for first in starts]


def _check_carried(dataset: str, schema: Schema) -> None:
    """Checks that what is to be carried is a scalar of the declared kind.

    Raises:
        DatasetError: it is not.
    """
    features = datasets.builder(dataset).info.features
    for name, carried in schema.carried.items():
        if name not in features:
            continue
        feature = features[name]
        scalar_type = np.dtype(feature.np_dtype).type
        if feature.shape != () or not issubclass(scalar_type, _SCALARS[carried.kind]):
            raise DatasetError(
                f"feature {name!r} of data set {dataset!r} is "
                f"{feature.np_dtype} of shape {feature.shape}, "
                f"record.carry declares one {carried.kind}"
            )


def identity(name: str) -> dict[str, Any]:
    """What tells the images of a tfds split from others of the same name."""
    dataset, split = split_source(name)
    info = datasets.builder(dataset).info
    sizes = {key: [part.num_examples, part.num_bytes] for key, part in sorted(info.splits.items())}
    return {"name": info.full_name, "split": split, "sizes": sizes}


class ReadDataset(tally.Tallying):
    """Sub-split -> (frame, record) of images, and how many under `TALLY`; tfds's own
    example ids name them.
    """

    def __init__(self, dataset: str, schema: Schema):
        self._dataset, self._schema = dataset, schema

    def process(self, split: str) -> Iterator[Any]:
        examples = datasets.examples(self._dataset, split)
        for index, (record_id, example) in enumerate(examples):
            gaps = gaps_in(example["image"], self._schema.missing)
            record = MaskedRecord(
                id=record_id,
                image=without(example["image"], gaps),
                observed=~gaps,
                carried=_carried(example, self._schema.carried),
            )
            frame = Frame(b"", f"{self._dataset}/{split}", index)
            self.tally[tally.READ] += 1
            tally.add(self.tally, signs.of_record(record))
            yield frame, with_content_hash(record, self._schema)


def _carried(
    example: Mapping[str, Any], carried: Mapping[str, CarriedFeature]
) -> dict[str, Scalar]:
    return {
        name: example[name] if kind.kind == "bytes" else example[name].item()
        for name, kind in carried.items()
        if name in example
    }


class Masks:
    """The mask of a record, by a mechanism or from files.

    Args:
        config: the mechanism and its parameters.
        preprocessor: with the run's seed; a mask depends on it, the record's id and, for `mar` and
            `mnar`, its image: as the model will see it, but for units of real values.
    """

    def __init__(self, config: MaskConfig, preprocessor: Preprocessor):
        self._config, self._preprocessor = config, preprocessor
        self._by_id: dict[bytes, bytes] = {}

    def load(self, schema: Schema) -> None:
        """Reads the masks of mechanism `file`."""
        if self._config.mechanism == "file":
            self._by_id = _masks_by_id(self._config.parameters["masks"], schema)

    def __call__(self, record: MaskedRecord) -> np.ndarray:
        """The observed values of a record: [H, W, C] bool.

        Raises:
            RecordError: the files hold no mask for it.
        """
        if self._config.mechanism == "file":
            content = self._by_id.get(record.id, self._by_id.get(b""))
            if content is None:
                files = self._config.parameters["masks"]
                raise RecordError(Reason.BAD_OBSERVED, f"no mask for it in {files}", record.id)
            bits = np.unpackbits(np.frombuffer(content, np.uint8), count=record.image.size)
            return bits.reshape(record.image.shape).astype(np.bool_)
        generator = missingness.record_generator(self._preprocessor.seed, record.id)
        return missingness.generate(
            self._config.mechanism, self._seen(record), generator, self._config.parameters
        )

    def _seen(self, record: MaskedRecord) -> np.ndarray:
        """What a mechanism looks at, [H, W, C]: what the model will see, or its law is another one
        for the model; real values in their own units.
        """
        if record.image.dtype != np.uint8:
            if self._config.mechanism in missingness.SEE_VALUES:
                return record.image
            return np.zeros(record.image.shape, np.uint8)
        if self._preprocessor.binarize == "none":
            return record.image
        values = self._preprocessor.to_model(
            self._preprocessor.keys([record.id]), record.image[np.newaxis]
        )
        return (255 * values).astype(np.uint8).reshape(record.image.shape)


def check(masks: Masks, config: MaskConfig, schema: Schema) -> None:
    """Finds a mistake in the mechanism before a job starts.

    Raises:
        ConfigError: parameters that do not fit the shape of the data.
        SourceError: masks that cannot be read.
    """
    masks.load(schema)
    blank = np.zeros(schema.shape, schema.dtype)
    if config.mechanism == "file":
        return
    try:
        masks(MaskedRecord(b"blank", blank, blank == 0))
    except ValueError as error:
        raise ConfigError(f"mask.mechanism {config.mechanism}: {error}") from None


def _masks_by_id(pattern: str, schema: Schema) -> dict[bytes, bytes]:
    """The masks of files by id.

    Raises:
        SourceError: a mask cannot be read, or two that differ have one id.
    """
    found: dict[bytes, bytes] = {}
    for record_id, content in _read_masks(pattern, schema):
        if found.setdefault(record_id, content) != content:
            whose = f"have the id {printable(record_id)}" if record_id else "have no id"
            raise SourceError(f"{pattern}: two masks that differ {whose}; leave one of them out")
    return found


def _read_masks(pattern: str, schema: Schema) -> Iterator[tuple[bytes, bytes]]:
    """(id, packed bits) of every mask; an empty id stands for every record that has none of its
    own.
    """
    for file in expand((pattern,)):
        for frame in read_frames(file.path, 1 << 24):
            if isinstance(frame, DeadLetter):
                raise SourceError(f"{file.path}, offset {frame.frame.offset}: {frame.message}")
            try:
                record_id, observed = decode_observed(frame.payload, schema)
            except RecordError as error:
                raise SourceError(f"{file.path}, offset {frame.offset}: {error}") from None
            yield record_id, np.packbits(observed).tobytes()


def complete(record: MaskedRecord) -> MaskedRecord:
    """A record as if nothing of it had been hidden: its truth where that is known.

    What nobody knows is missing from it, and from the truth of what is made of it.

    Returns:
        The record without a truth; `observed` is what is known.

    Raises:
        RecordError: values that are known are not finite.
    """
    image, known = record.image, record.observed
    if record.truth is not None:
        image = np.where(record.truth_known, record.truth, image)
        known = known | record.truth_known
    if not np.isfinite(image[known]).all():
        raise RecordError(Reason.BAD_IMAGE, "values that are not finite", record.id)
    return dataclasses.replace(
        record, image=without(image, ~known), observed=known, truth=None, truth_observed=None
    )


class MaskRecords(beam.DoFn):
    """(frame, record) -> the item of a masked record, whose truth is what was known of it; dead
    letters under `DEAD`.
    """

    def __init__(self, masks: Masks, schema: Schema):
        self._masks, self._schema, self._done = masks, schema, 0

    def setup(self) -> None:
        self._masks.load(self._schema)

    def process(self, frame_and_record: tuple[Frame, MaskedRecord]) -> Iterator[Any]:
        frame, record = frame_and_record
        try:
            record = complete(record)
            observed = self._masks(record) & record.observed
        except RecordError as error:
            yield beam.pvalue.TaggedOutput(
                DEAD, DeadLetter(frame, error.reason, str(error), error.record_id, 0)
            )
            return
        # What is hidden is left out of the image itself, so that nobody can look at it by accident.
        hidden = np.where(observed, record.image, 0).astype(record.image.dtype)
        masked = with_truth(
            dataclasses.replace(record, image=hidden, observed=observed),
            record.image,
            record.observed,
        )
        example = encode_masked(masked, self._schema)
        yield Item(record.id, record.content_hash, frame.source, example)
        self._done += 1
        if self._done % _PROGRESS_EVERY == 0:
            _LOGGER.info("masked %s records", f"{self._done:,}")
