"""Fixtures that several test modules share."""

import os
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# As the commands have it, and their worker processes: without AVX-512 the last bits of large
# products depend on how many there are.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

import hypothesis
import pytest

from vaefill import config as config_lib
from vaefill import jobs
from vaefill.model import training

# The same examples in every run, however slow the machine is.
hypothesis.settings.register_profile(
    "tests", derandomize=True, deadline=None, max_examples=60, database=None
)
hypothesis.settings.load_profile("tests")


@pytest.fixture(scope="session")
def config() -> config_lib.Config:
    """The configuration of tests: everything in seconds."""
    return config_lib.load("test.yaml")


@pytest.fixture(scope="session")
def model_directory(config, tmp_path_factory) -> str:
    """A model trained for a moment on a few bundled digits."""
    directory = str(tmp_path_factory.mktemp("model") / "model")
    settings = training.Settings(
        config.data, config.record, config.model, config.train, config.seed
    )
    training.train_and_evaluate(settings, directory, show_progress=False)
    return directory


@pytest.fixture(scope="session")
def mask_digits(config, tmp_path_factory) -> Callable[[int], str]:
    """Masks so many digits in a few files, and returns their pattern."""

    def mask(number: int) -> str:
        directory = str(tmp_path_factory.mktemp("masked") / "masked")
        jobs.mask(config, f"digits/test[:{number}]", directory)
        return os.path.join(directory, "*.tfrecord-*")

    return mask


@pytest.fixture(scope="session")
def masked(mask_digits) -> str:
    """30 masked digits in 3 files: their pattern."""
    return mask_digits(30)


@pytest.fixture(scope="session")
def masked_many(mask_digits) -> str:
    """150 of them: ten device batches."""
    return mask_digits(150)


@pytest.fixture(scope="session")
def result(config, model_directory, masked, tmp_path_factory) -> str:
    """Those digits imputed: the result directory, for reading only."""
    out = str(tmp_path_factory.mktemp("imputed") / "out")
    jobs.impute(config, model_directory, [masked], out)
    return out
