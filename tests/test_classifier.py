"""The classifier of imputed records: it learns, from all draws, and the same every time."""

import numpy as np
import pytest

from vaefill.experiments import classifier

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def a_short_training(monkeypatch):
    monkeypatch.setattr(classifier, "NUM_NETWORKS", 1)
    monkeypatch.setattr(classifier, "NUM_EPOCHS", 12)


def bars(num: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy images [N, 5, 7, 1] with a bright column, of one of three places, and labels 3, 5, 9 of
    it.
    """
    generator = np.random.default_rng(0)
    place = generator.integers(0, 3, num)
    images = generator.normal(0, 0.1, (num, 5, 7, 1)).astype(np.float32)
    images[np.arange(num), :, 1 + 2 * place] += 1
    return images, np.array([3, 5, 9])[place]


def test_it_learns_what_there_is_to_learn():
    images, labels = bars(300)
    correct = classifier.num_correct(images[:200, np.newaxis], labels[:200], images, labels)
    assert correct.shape == (300,) and correct.mean() > 0.98


@pytest.mark.parametrize("telling", [0, 1])
def test_it_learns_from_every_draw(telling):
    """Of two, one of which tells nothing; by chance it would be right of a third."""
    images, labels = bars(200)
    drawn = np.zeros((200, 2, *images.shape[1:]), np.float32)
    drawn[:, telling] = images
    assert classifier.num_correct(drawn, labels, images, labels).mean() > 0.9


def test_it_is_the_same_every_time_and_networks_differ(monkeypatch):
    images, labels = bars(60)
    noisy = images + np.random.default_rng(1).normal(0, 0.7, images.shape).astype(np.float32)
    counts = []
    for num in (1, 2):
        monkeypatch.setattr(classifier, "NUM_NETWORKS", num)
        counts.append(classifier.num_correct(noisy[:30, np.newaxis], labels[:30], noisy, labels))
    first, both = counts
    second = both - first  # the second network, if the first was the same again
    assert set(first) == set(second) == {0, 1} and not np.array_equal(first, second)


def test_a_label_that_it_has_never_seen_is_never_right():
    images, labels = bars(60)
    correct = classifier.num_correct(images[:, np.newaxis], labels, images, np.full(60, 7))
    assert not correct.any()
