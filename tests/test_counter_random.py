"""Threefry-2x32-20 against Random123's known answers, and the laws of what is made from it."""

import math

import numpy as np
import pytest
import tensorflow as tf

from vaefill.model import counter_random
from vaefill.model.counter_random import Purpose, Streams

FALSE_ALARM = 1e-6


def streams(num_rows: int, seed: int = 0) -> Streams:
    keys = np.stack([counter_random.record_key(seed, b"%d" % row) for row in range(num_rows)])
    return Streams(tf.constant(keys), tf.zeros([num_rows], tf.uint32))


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_known_answers_of_random123(counter, key, expected):
    words = [tf.constant([word], tf.uint32) for word in (*key, *counter)]
    assert tuple(int(word[0]) for word in counter_random.threefry_2x32(*words)) == expected


def test_a_number_depends_on_its_place_alone():
    alone = counter_random.uniform(streams(1), tf.constant(3), Purpose.VALUES, 7)
    among = counter_random.uniform(streams(50), tf.constant(3), Purpose.VALUES, 7)
    compiled = tf.function(counter_random.uniform, jit_compile=True)(
        streams(50), tf.constant(3), Purpose.VALUES, 7
    )
    np.testing.assert_array_equal(alone[0], among[0])
    np.testing.assert_array_equal(among, compiled)


def test_every_part_of_the_place_matters():
    def draw(seed=0, record=b"a", chain=0, sweep=0, purpose=Purpose.VALUES):
        key = tf.constant(counter_random.record_key(seed, record)[None])
        place = Streams(key, tf.constant([chain], tf.uint32))
        return tuple(counter_random.uniform(place, tf.constant(sweep), purpose, 8)[0].numpy())

    places = [
        {},
        {"seed": 1},
        {"record": b"b"},
        {"chain": 1},
        {"sweep": 1},
        {"purpose": Purpose.LATENT},
    ]
    rows = [draw(**place) for place in places]
    assert len(set(rows)) == len(places)
    assert len({number for row in rows for number in row}) == 8 * len(places)


def test_derived_keys_depend_on_key_and_purpose_alone():
    """Of 1,000 records the same alone, and no key twice."""
    keys = np.stack([counter_random.record_key(0, b"%d" % row) for row in range(1000)])
    first, second = (
        counter_random.derived_keys(keys, purpose) for purpose in (b"first", b"second")
    )
    assert first.dtype == np.uint32 and first.shape == keys.shape
    np.testing.assert_array_equal(counter_random.derived_keys(keys[5:6], b"first"), first[5:6])
    assert len({key.tobytes() for key in (*keys, *first, *second)}) == 3000
    assert counter_random.derived_keys(keys[:0], b"first").shape == (0, 2)


def test_fields_of_the_counter_do_not_overlap():
    """The largest chain, sweep, draw and block each stay within their bits."""
    assert counter_random.MAX_CHAINS * counter_random.MAX_SWEEPS == 1 << 32
    assert counter_random.MAX_ELEMENTS // 2 * 1024 == 1 << 32
    assert max(Purpose) < 1024


def test_uniform_law():
    """Kolmogorov-Smirnov by the DKWM inequality; sees a shift of the distribution function of
    0.009.
    """
    numbers = np.sort(
        counter_random.uniform(streams(500), tf.constant(1), Purpose.VALUES, 801).numpy().ravel()
    )
    bound = math.sqrt(math.log(2 / FALSE_ALARM) / (2 * len(numbers)))
    assert np.abs(numbers - np.arange(1, len(numbers) + 1) / len(numbers)).max() < bound
    assert 0 < numbers[0] and numbers[-1] < 1


def test_normal_law():
    """As for uniforms, through the normal distribution function; both words of a block are
    covered.
    """
    numbers = counter_random.normal(streams(500), tf.constant(1), Purpose.LATENT, 801).numpy()
    for part in (numbers[:, :401], numbers[:, 401:]):
        values = np.sort(0.5 * (1 + np.vectorize(math.erf)(part.ravel() / math.sqrt(2))))
        bound = math.sqrt(math.log(2 / FALSE_ALARM) / (2 * len(values)))
        assert np.abs(values - np.arange(1, len(values) + 1) / len(values)).max() < bound


def test_extreme_bits_stay_inside_the_open_interval():
    words = tf.constant([0, 0xFFFFFFFF], tf.uint32)
    low, high = counter_random._to_unit_interval(words).numpy()
    assert 0 < low and high < 1


@pytest.mark.parametrize("size", [0, counter_random.MAX_ELEMENTS + 1])
def test_impossible_sizes_are_refused(size):
    with pytest.raises(ValueError, match="size must be from 1"):
        counter_random.uniform(streams(1), tf.constant(0), Purpose.VALUES, size)
