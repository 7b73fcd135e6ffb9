"""tfds data sets of images: the bundled digits, any named data set, any prepared directory."""

import math
import os

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from vaefill.model import digits
from vaefill.model.errors import DatasetError

_LARGEST_IN_MEMORY = 8 << 30  # bytes; training keeps its images in memory


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
        return tfds.builder_from_directory(place)
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


def split_info(name: str, split: str) -> tfds.core.SplitInfo:
    """The split of a data set, sub-splits such as `train[10000:]` included.

    Raises:
        DatasetError: the split is not there or empty.
    """
    splits = builder(name).info.splits
    try:
        info = splits[split]
    except (KeyError, ValueError):
        raise DatasetError(
            f"data set {name!r} has no split {split!r}; it has {', '.join(sorted(splits))}, "
            "of which a part will do, such as 'train[:10%]'"
        ) from None
    if not info.num_examples:
        raise DatasetError(f"split {split!r} of data set {name!r} is empty")
    return info


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


def load_images(
    name: str, split: str, shape: tuple[int, int, int], dtype: str = "uint8"
) -> np.ndarray:
    """All images of a split, in the data set's order.

    Args:
        name: see `builder`.
        split: a tfds split.
        shape: (H, W, C) that the images must have.
        dtype: uint8 or float32, that they must have too.

    Returns:
        [N, H W C] of that type.

    Raises:
        DatasetError: no such split, images of another shape or type, more than fit in memory, or
            values that are not finite.
    """
    check_images(name, shape, dtype)
    info = split_info(name, split)
    num_bytes = info.num_examples * math.prod(shape) * np.dtype(dtype).itemsize
    if num_bytes > _LARGEST_IN_MEMORY:
        raise DatasetError(
            f"split {split!r} of {name!r} takes {num_bytes / 2**30:.1f} GiB in memory, "
            f"more than {_LARGEST_IN_MEMORY >> 30}; train on a part of it, such as '{split}[:50%]'"
        )
    batches = (
        builder(name)
        .as_dataset(split=split, shuffle_files=False)
        .map(
            lambda example: tf.reshape(example["image"], [-1]), num_parallel_calls=tf.data.AUTOTUNE
        )
        .batch(1024)
    )
    images = np.concatenate([batch.numpy() for batch in batches])
    if not np.isfinite(images).all():
        raise DatasetError(f"split {split!r} of data set {name!r} holds values that are not finite")
    return images


def training_batches(
    images: np.ndarray, batch_size: int, seed: int, first_step: int, last_step: int
) -> tf.data.Dataset:
    """Shuffled batches, each a pure function of (seed, step), so that training resumes anywhere.

    Every epoch is a permutation of its own; what is left of it after the last whole batch is
    dropped.

    Args:
        images: [N, D], N >= batch_size.
        seed: of the permutations.
        first_step, last_step: the half-open range of steps.

    Returns:
        A data set of ([] int64 step, [batch_size, D] of the images' type).
    """
    num_images = len(images)
    steps_per_epoch = num_images // batch_size
    table = tf.constant(images)

    def batch(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        place = step % steps_per_epoch * batch_size + tf.range(batch_size, dtype=tf.int64)
        epoch_seed = tf.stack([tf.constant(seed, tf.int64), step // steps_per_epoch])
        index = tf.random.experimental.index_shuffle(place, epoch_seed, num_images - 1)
        return step, tf.gather(table, index)

    return tf.data.Dataset.range(first_step, last_step).map(batch).prefetch(4)
