"""A small convolutional classifier, by which imputed training data are judged: what is learned from
them, seen on complete records.
"""

import keras
import numpy as np
import tqdm

NUM_NETWORKS = 3  # that differ in their seeds alone
NUM_EPOCHS = 16
_BATCH = 100
_LEARNING_RATE = 2e-3  # at the start; it falls to 0 as half a cosine


def num_correct(
    drawn: np.ndarray, labels: np.ndarray, images: np.ndarray, truth: np.ndarray
) -> np.ndarray:
    """Trains `NUM_NETWORKS` networks, and says how many of them are right of each image.

    Of a record with M draws every epoch takes the next: M epochs are an epoch of all draws, each
    weighted 1 / M, in the same number of steps as for records with one.

    Args:
        drawn: [N, M, H, W, C] float32, M draws of each record to learn from.
        labels: [N] int.
        images: [T, H, W, C] float32, complete records to tell apart.
        truth: [T] int, their labels.

    Returns:
        [T] int64, 0 to `NUM_NETWORKS`.
    """
    classes = np.unique(labels)
    target = np.searchsorted(classes, labels)
    correct = np.zeros(len(images), np.int64)
    for seed in range(NUM_NETWORKS):
        num_steps = NUM_EPOCHS * -(-len(drawn) // _BATCH)
        network = _network(images.shape[1:], len(classes), num_steps, seed)
        generator = np.random.default_rng(seed)
        for epoch in tqdm.trange(NUM_EPOCHS, unit="epoch", leave=False):
            chosen = generator.permutation(len(drawn))
            draws = drawn[chosen, epoch % drawn.shape[1]]
            network.fit(draws, target[chosen], _BATCH, shuffle=False, verbose=0)
        found = network.predict(images, batch_size=1000, verbose=0).argmax(axis=1)
        correct += classes[found] == truth
    return correct


def _network(shape: tuple[int, ...], num_classes: int, num_steps: int, seed: int) -> keras.Model:
    """Two convolutions and a Dense layer, compiled; logits [N, num_classes]."""

    def convolution(channels: int, number: int) -> keras.layers.Layer:
        initial = keras.initializers.HeNormal(seed=2 * seed + number)
        return keras.layers.Conv2D(
            channels, 5, padding="same", activation="relu", kernel_initializer=initial
        )

    network = keras.Sequential(
        [
            keras.layers.Input(shape),
            convolution(16, 0),
            keras.layers.MaxPooling2D(padding="same"),
            convolution(32, 1),
            keras.layers.MaxPooling2D(padding="same"),
            keras.layers.Flatten(),
            keras.layers.Dense(num_classes, kernel_initializer="zeros"),
        ]
    )
    network.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(_LEARNING_RATE, num_steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return network
