"""Fixtures that several test modules share."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest

from model import training
from pipeline import config as config_lib


@pytest.fixture(scope="session")
def config() -> config_lib.Config:
    """The configuration of tests: everything in seconds."""
    return config_lib.load("test.yaml")


@pytest.fixture(scope="session")
def model_directory(config, tmp_path_factory) -> str:
    """A model trained for a moment on a few bundled digits."""
    directory = str(tmp_path_factory.mktemp("model") / "model")
    settings = training.Settings(config.data, config.model, config.train, config.seed)
    training.train_and_evaluate(settings, directory, show_progress=False)
    return directory
