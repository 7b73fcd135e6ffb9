"""10,000 MNIST digits that come with the package, as a data set directory for tfds.

tfds.builder_from_directory(digits.directory()).as_dataset(split="train")
"""

import pathlib


def directory() -> str:
    """Returns the path of the data set directory, which is this package's own."""
    return str(pathlib.Path(__file__).parent)
