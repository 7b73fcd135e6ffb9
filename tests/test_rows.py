"""A device call has as many rows as are all treated alike, whatever blocks a library goes by."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from vaefill.model import vae
from vaefill.model.compiled import compile_vae
from vaefill.model.config import ModelConfig
from vaefill.model.engine.rows import (
    even_slots,
    lanes_in_memory,
    slots_in_memory,
    treats_rows_alike,
)


def model() -> vae.VAE:
    return vae.build(ModelConfig(latent_size=5, hidden=(96,)), (6, 5, 1), seed=1)


def elementwise() -> vae.VAE:
    """Networks that make the same of every row: they multiply no matrices."""
    return dataclasses.replace(
        model(), encoder=lambda x: 2.0 * x[:, :10], decoder=lambda z: tf.repeat(z, 6, 1)
    )


def in_blocks(size: int, network):
    """The network where what is left over after blocks of rows has other last bits."""

    def apart(values: tf.Tensor) -> tf.Tensor:
        num_rows = values.shape[0]
        is_left = np.arange(num_rows) >= num_rows - num_rows % size
        return network(values) * np.where(is_left, 1 + 2e-7, 1).astype(np.float32)[:, None]

    return apart


@pytest.mark.parametrize(
    "size, slots, unit, expected", [(3, 32, 4, 36), (3, 32, 2, 36), (32, 32, 4, 32), (7, 64, 4, 84)]
)
@pytest.mark.parametrize("which", ["encoder", "decoder"])
def test_no_row_is_left_over(which, size, slots, unit, expected):
    whole = elementwise()
    apart = dataclasses.replace(whole, **{which: in_blocks(size, getattr(whole, which))})
    assert treats_rows_alike(whole, slots)
    assert even_slots(apart, slots, unit) == expected


def test_a_gradient_that_is_left_over_is_seen():
    @tf.custom_gradient
    def decoder(z):
        is_last = tf.one_hot(z.shape[0] - 1, z.shape[0])[:, tf.newaxis]
        return tf.repeat(z, 6, 1), lambda upstream: upstream[:, :5] * (1 + 1e-6 * is_last)

    assert not treats_rows_alike(dataclasses.replace(elementwise(), decoder=decoder), 36)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("slots", [32, 128, 256])
def test_there_are_such_rows_on_this_device(precision, slots):
    found = even_slots(compile_vae(model(), precision), slots, 4)
    assert slots <= found < slots + 32 * 4 and found % 4 == 0
    assert treats_rows_alike(compile_vae(model(), precision), found)


def test_where_there_are_none_a_warning_says_so(caplog):
    whole = elementwise()
    never = dataclasses.replace(whole, decoder=lambda z: z * tf.range(1.0, len(z) + 1)[:, None])
    assert even_slots(never, 64, 32) == 64
    assert "do not treat all of 64 rows alike" in caplog.text


@pytest.mark.parametrize(
    "shape, slots, found, lanes",
    [
        ((28, 28, 1), 1024, 1024, 8),  # as they were asked for
        ((64, 64, 3), 512, 384, 4),
        ((256, 256, 3), 256, 32, 3),
        ((512, 512, 3), 256, 32, 1),  # no fewer than one unit, and one lane
    ],
)
def test_of_large_images_there_are_fewer_rows_and_lanes(shape, slots, found, lanes):
    large = dataclasses.replace(elementwise(), data_shape=shape)
    assert slots_in_memory(large, slots, 32) == found
    assert lanes_in_memory(large, found, 8) == lanes
