"""tfds data sets of images: the bundled digits, any named data set, any prepared directory."""

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from vaefill.model import digits
from vaefill.model.config import RecordConfig
from vaefill.model.errors import DatasetError
from vaefill.model.gaps import Split, gaps_in, with_gaps

_LARGEST_IN_MEMORY = 8 << 30  # bytes; training keeps its images in memory
_LONGEST_REASON = 200  # characters of an error of tfds


def builder(name: str) -> tfds.core.DatasetBuilder:
    """The builder of a data set, prepared and ready to read.

    Args:
        name: `digits` (bundled), `tfds:NAME[:VERSION]` (downloaded by tfds if need be), or
            `tfds:PATH` of a prepared directory.

    Raises:
        DatasetError: no such data set, or it can neither be found nor downloaded.
    """
    if name == "digits":
        return tfds.builder_from_directory(digits.directory())
    kind, _, place = name.partition(":")
    if kind != "tfds" or not place:
        raise DatasetError(f"data set {name!r}: expected digits, tfds:NAME or tfds:PATH")
    if os.path.isfile(os.path.join(place, "dataset_info.json")):
        return _prepared(name, place)
    try:
        prepared = tfds.builder(place, try_gcs=False)
        prepared.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    except tfds.core.DatasetNotFoundError:
        raise DatasetError(
            f"data set {name!r}: neither a tfds data set nor a directory of one"
        ) from None
    except Exception as error:  # tfds raises whatever its download stack does
        raise DatasetError(
            f"data set {name!r} is not prepared and could not be downloaded: {error}"
        ) from error
    return prepared


def _prepared(name: str, directory: str) -> tfds.core.DatasetBuilder:
    """The builder of a data set in a directory.

    Raises:
        DatasetError: the installed tfds cannot read its description.
    """
    try:
        return tfds.builder_from_directory(directory)
    except Exception as error:  # of a field or class that it does not know, whatever that raises
        reason = " ".join(str(error).split(". ")[0].split()) or type(error).__name__
        raise DatasetError(
            f"data set {name!r} cannot be read by tensorflow-datasets {tfds.__version__}; if a "
            "newer one has written it, pip install -U tensorflow-datasets, or write it again: "
            f"{reason[:_LONGEST_REASON]}"
        ) from None


def examples(name: str, split: str) -> Iterator[tuple[bytes, Mapping[str, Any]]]:
    """The examples of a split in the data set's order, each with the id that tfds gives it.

    Args:
        name: see `builder`; TFRecord files or ArrayRecord files.
        split: a tfds split or a part of one.

    Yields:
        (id, feature -> value as NumPy has it); an id is FILE__NUMBER.

    Raises:
        DatasetError: nothing that is installed reads the files.
    """
    prepared = builder(name)
    if not _is_random_access(prepared):
        read_config = tfds.ReadConfig(add_tfds_id=True, interleave_cycle_length=1)
        found = prepared.as_dataset(split=split, shuffle_files=False, read_config=read_config)
        for example in tfds.as_numpy(found):
            yield example["tfds_id"], example
        return
    source = _source(name, prepared, split)
    places = (
        (os.path.basename(file.filename), number)
        for file in prepared.info.splits[split].file_instructions
        for number in range(file.skip, file.skip + file.take)
    )
    for index, (file, number) in enumerate(places):
        yield f"{file}__{number}".encode(), source[index]


def _is_random_access(prepared: tfds.core.DatasetBuilder) -> bool:
    """Whether tfds reads a data set as a sequence, not as a `tf.data.Dataset`."""
    return prepared.info.file_format is tfds.core.FileFormat.ARRAY_RECORD


def _source(name: str, prepared: tfds.core.DatasetBuilder, split: str) -> Sequence[Any]:
    try:
        return prepared.as_data_source(split=split)
    except ImportError:
        raise DatasetError(
            f"data set {name!r} has ArrayRecord files, for which a package is not installed; "
            "pip install 'vaefill[arrayrecord]'"
        ) from None


def split_info(name: str, split: str) -> tfds.core.SplitInfo:
    """The split of a data set, sub-splits such as `train[10000:]` included.

    Raises:
        DatasetError: the split is not there or empty.
    """
    splits = builder(name).info.splits
    try:
        info = splits[split]
    except (KeyError, ValueError):
        found = ", ".join(f"{key} ({splits[key].num_examples:,} records)" for key in sorted(splits))
        raise DatasetError(
            f"data set {name!r} has no split {split!r}; it has {found}, "
            "of which a part will do, such as 'train[:10%]'"
        ) from None
    if not info.num_examples:
        raise DatasetError(f"split {split!r} of data set {name!r} is empty")
    return info


def overlap(name: str, split: str, other: str) -> bool:
    """Whether two splits of a data set have records in common.

    Raises:
        DatasetError: see `split_info`.
    """
    parts, others = (split_info(name, each).file_instructions for each in (split, other))
    return any(
        one.filename == two.filename
        and max(one.skip, two.skip) < min(one.skip + one.take, two.skip + two.take)
        for one in parts
        for two in others
    )


def check_images(name: str, shape: tuple[int, int, int], dtype: str = "uint8") -> None:
    """Checks that a data set has an `image` feature of the declared shape and type.

    Raises:
        DatasetError: it has not.
    """
    features = builder(name).info.features
    image = features["image"] if "image" in features else None
    if not isinstance(
        image, tfds.features.Image | tfds.features.Tensor
    ) or image.np_dtype != np.dtype(dtype):
        found = ", ".join(f"{key} ({_kind(feature)})" for key, feature in features.items())
        raise DatasetError(
            f"data set {name!r} has no {dtype} feature `image`; it has {found}: "
            "rename the one that is meant, or set record.dtype to its type"
        )
    if tuple(image.shape) != tuple(shape):
        raise DatasetError(
            f"data set {name!r} has images of shape {image.shape}, record.shape is {tuple(shape)}"
        )


def _kind(feature: tfds.features.FeatureConnector) -> str:
    """The type and shape of a feature, for a message; the class of one that has others in it."""
    if isinstance(feature, tfds.features.Tensor):  # which images and labels are too
        return f"{np.dtype(feature.np_dtype).name} {list(feature.shape)}"
    return type(feature).__name__


def load_split(name: str, split: str, record: RecordConfig) -> Split:
    """All records of a split, in the data set's order.

    Missing is what the feature `observed` says, of a data set that has one, such as `vaefill mask`
    writes, and what `record.missing` stands for.

    Args:
        name: see `builder`.
        split: a tfds split.
        record: shape and type that the images must have, and what says that values are missing.

    Raises:
        DatasetError: no such split, images of another shape or type, masks of another shape, more
            than fit in memory, or values that are infinite, or NaN where that does not mean
            missing.
    """
    check_images(name, record.shape, record.dtype)
    features = builder(name).info.features
    has_masks = "observed" in features
    if has_masks and math.prod(features["observed"].shape) != math.prod(record.shape):
        raise DatasetError(
            f"data set {name!r} has masks `observed` of shape {features['observed'].shape}, "
            f"record.shape is {tuple(record.shape)}"
        )
    images = _load(name, split, "image", record.shape, np.dtype(record.dtype))
    observed = ~gaps_in(images, record.missing)
    if has_masks:
        masks = _load(name, split, "observed", record.shape, np.dtype(bool))
        observed &= masks if record.mask_means == "observed" else ~masks
    if not np.isfinite(images, where=observed, out=np.ones(images.shape, bool)).all():
        raise DatasetError(f"split {split!r} of data set {name!r} holds values that are not finite")
    return with_gaps(images, observed)


def excluding(split: Split, name: str, record: RecordConfig) -> Split:
    """The records of a split whose values no record of a data set has.

    Args:
        split: of complete records, or of such as have zeros where values are missing.
        name: of the data set; see `builder`. All of its splits count.
        record: as for `load_split`.

    Raises:
        DatasetError: see `load_split`.
    """
    known = {
        row.tobytes()
        for part in sorted(builder(name).info.splits)
        for row in load_split(name, part, record).values
    }
    new = [index for index, row in enumerate(split.values) if row.tobytes() not in known]
    return split[np.array(new, np.int64)]


class Source(Protocol):
    """Where the records of a training come from."""

    @property
    def content_hash(self) -> str | None:
        """Changes with the records; None if their name says which they are."""

    def load(self, split: str) -> Split:
        """The records of a split.

        Raises:
            DatasetError: there is no such split, or it does not fit.
        """


@dataclasses.dataclass(frozen=True)
class DatasetSource:
    """A data set of tfds; see `load_split`."""

    name: str
    record: RecordConfig
    content_hash: None = None

    def load(self, split: str) -> Split:
        return load_split(self.name, split, self.record)


def load_images(
    name: str,
    split: str,
    shape: tuple[int, int, int],
    dtype: str = "uint8",
) -> np.ndarray:
    """All images of a split of complete ones, in the data set's order.

    Args:
        name: see `builder`.
        split: a tfds split.
        shape: (H, W, C) that the images must have.
        dtype: uint8 or float32, that they must have too.

    Returns:
        [N, H W C] of that type.

    Raises:
        DatasetError: see `load_split`; or values are missing.
    """
    record = RecordConfig.model_validate({"shape": shape, "dtype": dtype, "missing": "none"})
    loaded = load_split(name, split, record)
    if loaded.observed is not None:
        raise DatasetError(f"split {split!r} of data set {name!r} lacks values: complete ones only")
    return loaded.values


def load_labels(name: str, split: str) -> np.ndarray | None:
    """The feature `label` of all records of a split, in the data set's order: [N] int64; None where
    there is none, or it is not a single integer.

    Args:
        name: see `builder`.
        split: a tfds split.

    Raises:
        DatasetError: no such split.
    """
    features = builder(name).info.features
    label = features["label"] if "label" in features else None
    if not isinstance(label, tfds.features.Tensor) or label.shape != ():
        return None
    if not np.issubdtype(label.np_dtype, np.integer):
        return None
    return _load(name, split, "label", (), np.dtype(np.int64))[:, 0]


def _load(
    name: str, split: str, feature: str, shape: tuple[int, ...], dtype: np.dtype
) -> np.ndarray:
    """A feature of all records: [N, H W C]."""
    info = split_info(name, split)
    check_memory(f"split {split!r} of {name!r}", info.num_examples, shape, dtype)
    prepared = builder(name)
    if _is_random_access(prepared):
        source = _source(name, prepared, split)
        values = np.empty((len(source), math.prod(shape)), dtype)
        for index in range(len(source)):
            values[index] = source[index][feature].ravel()
        return values
    batches = (
        prepared.as_dataset(split=split, shuffle_files=False)
        .map(
            lambda example: tf.reshape(example[feature], [-1]),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        .batch(1024)
    )
    return np.concatenate([batch.numpy() for batch in batches]).astype(dtype, copy=False)


def check_memory(what: str, num: int, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Checks that so many records fit in memory.

    Raises:
        DatasetError: they do not; training keeps its records there.
    """
    num_bytes = num * math.prod(shape) * dtype.itemsize
    if num_bytes > _LARGEST_IN_MEMORY:
        raise DatasetError(
            f"{what} takes {num_bytes / 2**30:.1f} GiB in memory, more than "
            f"{_LARGEST_IN_MEMORY >> 30}; train on a part of it, such as 'train[:50%]'"
        )


def training_batches(
    data: Split, batch_size: int, seed: int, first_step: int, last_step: int
) -> tf.data.Dataset:
    """Shuffled batches, each a pure function of (seed, step), so that training resumes anywhere.

    Every epoch is a permutation of its own; what is left of it after the last whole batch is
    dropped.

    Args:
        data: N records, N >= batch_size.
        seed: of the permutations.
        first_step, last_step: the half-open range of steps.

    Returns:
        A data set of ([] int64 step, [batch_size, D] of the records' type), and where records are
        incomplete of [batch_size, D] bool, what is observed.
    """
    num_records = len(data)
    steps_per_epoch = num_records // batch_size
    tables = [tf.constant(table) for table in (data.values, data.observed) if table is not None]

    def batch(step: tf.Tensor) -> tuple[tf.Tensor, ...]:
        place = step % steps_per_epoch * batch_size + tf.range(batch_size, dtype=tf.int64)
        epoch_seed = tf.stack([tf.constant(seed, tf.int64), step // steps_per_epoch])
        index = tf.random.experimental.index_shuffle(place, epoch_seed, num_records - 1)
        return step, *(tf.gather(table, index) for table in tables)

    return tf.data.Dataset.range(first_step, last_step).map(batch).prefetch(4)
