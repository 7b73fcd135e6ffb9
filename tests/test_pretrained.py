"""Models that come with the package are what their cards say."""

import os
import re

import numpy as np
import pytest

from vaefill.model import checkpoints, datasets, model_scores, pretrained
from vaefill.model.errors import ModelError

_LARGEST = 10e6  # bytes, of all of them together


def card(name: str) -> str:
    with open(os.path.join(pretrained.resolve(f"pretrained:{name}"), "README.md")) as file:
        return file.read()


def test_they_are_found_by_name():
    assert pretrained.names() == ["mnist_conv_resnet", "mnist_mlp"]
    assert pretrained.resolve("runs/model") == "runs/model"
    with pytest.raises(ModelError, match="no pretrained model 'x'; there are mnist_conv_resnet, "):
        pretrained.resolve("pretrained:x")


def test_they_are_small():
    sizes = [
        os.path.getsize(os.path.join(root, name))
        for each in pretrained.names()
        for root, _, files in os.walk(pretrained.resolve(f"pretrained:{each}"))
        for name in files
    ]
    assert 1e6 < sum(sizes) < _LARGEST


@pytest.mark.parametrize("name", pretrained.names())
def test_none_has_seen_the_bundled_digits(name):
    """As far as can be told: they were excluded, and no calibration record is one of them."""
    model = checkpoints.load(pretrained.resolve(f"pretrained:{name}"))
    training = model.description.training
    assert training["excluded"] == "digits" and training["data"] == "tfds:mnist"
    assert not re.search("test", training["split"])
    known = {
        row.tobytes()
        for split in ("train", "validation", "test")
        for row in datasets.load_images("digits", split, (28, 28, 1))
    }
    assert not any(row.tobytes() in known for row in model.calibration.values)


@pytest.mark.slow
@pytest.mark.parametrize("name", pretrained.names())
def test_their_figures_are_those_of_their_cards(name):
    """On the first 100 of the bundled test digits, with the draws that the card's figure is of:
    within what processors differ by.
    """
    model = checkpoints.load(pretrained.resolve(f"pretrained:{name}"))
    held = model_scores.held_out(model, "digits", "test[:100]")
    scores = model_scores.model_scores(held, [100], show_progress=False)
    (stated,) = re.findall(r"`test\[:100\]`, k = 100 \| (-[\d.]+) nats", card(name))
    np.testing.assert_allclose(scores.log_prob[100][0], float(stated), atol=0.02)
