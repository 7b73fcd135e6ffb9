"""How many rows a device call has: as many as leave no row apart, and as memory has room for.

Libraries multiply matrices in blocks of rows, and what is left over at the end goes another way, in
which sums are taken in another order. A record in those rows would get other bits than anywhere
else. How large the blocks are depends on the library and the processor (3 rows, in each thread,
where TensorFlow finds no AVX-512), so it is tried out.

Which rows there are does not show in a record's bits; so of large images there are fewer, and fewer
lanes.
"""

import logging
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from vaefill.model.compiled import FrozenMLP, Network
from vaefill.model.priors import STANDARD_NORMAL
from vaefill.model.vae import VAE

_LOGGER = logging.getLogger("vaefill")
# Inputs that are tried. A sum in another order shows in nearly every one where there are hundreds
# of values, in few where there are six; so the fewer there are, the more are tried.
_LEAST_TRIALS, _MOST_TRIALS, _TRIED_PAIRS = 3, 64, 4096
_MOST_ATTEMPTS = 32
# While chains run: what each row has of every value and of every output of the decoder, in float32
# (the record, a sweep's state and averages before and after it, and what has begun and waits)
_COPIES_OF_VALUE, _COPIES_OF_OUTPUT = 8, 6
_LANE_BYTES = 256 << 20  # of the rows of a lane
_ALL_BYTES = 1 << 30  # of those of all lanes


def slots_in_memory(vae: VAE, slots: int, unit: int) -> int:
    """As many rows of the slots as a lane has room for, in steps of `unit` and at least as many.

    On a GPU all of them, for its memory is its own: who has set too many is told.

    Args:
        vae: the model.
        slots: rows of a device call at most, a multiple of the unit.
        unit: what the rows are a multiple of.
    """
    if tf.config.list_physical_devices("GPU"):
        return slots
    return max(unit, min(slots, _LANE_BYTES // _bytes_of_row(vae) // unit * unit))


def lanes_in_memory(vae: VAE, slots: int, num_lanes: int) -> int:
    """As many of the lanes as there is room for, at least one.

    Args:
        vae: the model.
        slots: rows of a lane.
        num_lanes: at most.
    """
    return max(1, min(num_lanes, _ALL_BYTES // (slots * _bytes_of_row(vae))))


def _bytes_of_row(vae: VAE) -> int:
    num_outputs = vae.likelihood.num_outputs(vae.num_values)
    return 4 * (_COPIES_OF_VALUE * vae.num_values + _COPIES_OF_OUTPUT * num_outputs)


def even_slots(vae: VAE, slots: int, unit: int) -> int:
    """The least number of rows from `slots` on, in steps of `unit`, that are all treated alike.

    Where there is none near it is `slots` itself, and a warning says so.

    Args:
        vae: the model, as it is compiled for sampling.
        slots: rows of a device call at least, a multiple of the unit.
        unit: what the rows are a multiple of: those of a record, and 32, for element-wise programs
            go by vectors, of which the last one must be whole.
    """
    for num_rows in range(slots, slots + _MOST_ATTEMPTS * unit, unit):
        if treats_rows_alike(vae, num_rows):
            return num_rows
    _LOGGER.warning(
        "the networks do not treat all of %d rows alike on this device, nor of some more: "
        "the last bits of a record may depend on the records beside it",
        slots,
    )
    return slots


def treats_rows_alike(vae: VAE, num_rows: int) -> bool:
    """Whether equal inputs [num_rows, ...] have equal outputs and gradients, bit for bit."""
    generator = np.random.default_rng(0)
    trials = _TRIED_PAIRS // (vae.num_values * vae.latent_size)
    networks = [(vae.encoder, vae.num_values, True), (vae.decoder, vae.latent_size, False)]
    if vae.prior is not STANDARD_NORMAL:
        networks.append((_score(vae), vae.latent_size, False))
    return all(
        _are_alike(result)
        for _ in range(min(max(trials, _LEAST_TRIALS), _MOST_TRIALS))
        for network, num_inputs, is_data in networks
        for result in _results(network, num_rows, num_inputs, is_data, generator)
    )


def _score(vae: VAE) -> Network:
    """The gradient of a learnt prior, a fused cluster as samplers have it."""
    return tf.function(vae.prior.score, jit_compile=True, autograph=False)


def _are_alike(result: tf.Tensor) -> bool:
    rows = tf.cast(result, tf.float32).numpy()
    return bool((rows.view(np.uint32) == rows[:1].view(np.uint32)).all())


def _results(
    network: Network, num_rows: int, num_inputs: int, is_data: bool, generator: np.random.Generator
) -> Iterator[tf.Tensor]:
    """What is made of equal rows, forward and backward: tensors [num_rows, ...].

    Data are 0 and 1, which a network of any likelihood takes.
    """

    def equal_rows(size: int, dtype: tf.DType = tf.float32) -> tf.Tensor:
        row = generator.normal(size=(1, size)).astype(np.float32)
        return tf.cast(tf.repeat(row, num_rows, axis=0), dtype)

    if isinstance(network, FrozenMLP):  # of which products alone go by blocks of rows
        for kernel in network.kernels:
            yield tf.matmul(equal_rows(kernel.shape[0], kernel.dtype), kernel)
            yield tf.matmul(equal_rows(kernel.shape[1], kernel.dtype), tf.transpose(kernel))
        return
    inputs = tf.cast(equal_rows(num_inputs) > 0, tf.float32) if is_data else equal_rows(num_inputs)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = network(inputs)
    yield outputs
    gradient = tape.gradient(outputs, inputs, equal_rows(outputs.shape[1], outputs.dtype))
    if gradient is not None:  # of a function that has one
        yield gradient
