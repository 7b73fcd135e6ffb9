"""Records fill the slots, leave them one by one, and others take their places."""

from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from tests import oracles
from vaefill.model import samplers
from vaefill.model.counter_random import Purpose, Streams
from vaefill.model.engine import stopping
from vaefill.model.engine.slots import Finished, Records, Slots, Waiting
from vaefill.model.samplers import base

pytestmark = pytest.mark.slow

ORACLE = oracles.LinearGaussian()
CONFIG = samplers.sampler_config(
    name="pseudo_gibbs", num_chains=2, num_start=0, num_warmup=0, max_sweeps=95, target_ess=40,
    target_r_hat=1.2, num_imputations=1, slots=32,
)  # fmt: skip
NUM_PLACES = 16


class State(NamedTuple):
    z: tf.Tensor
    outputs: tf.Tensor


class Sampler:
    """Independent draws; where the first value is 1 each chain has its own mean, and never
    converges.
    """

    def __init__(self):
        self.num_traced = 0
        self.kernel = base.Kernel(
            lambda rows, sweep, z: State(z, ORACLE.vae.decoder(z)), self._step
        )

    def _step(self, rows, sweep, state):
        self.num_traced += 1
        chains = tf.cast(rows.streams.chains, tf.float32)[:, tf.newaxis]
        loc = tf.where(rows.x_observed[:, :1] == 1.0, 4.0 * chains, 0.0) + tf.zeros_like(state.z)
        z = base.draw_latent(rows, sweep, Purpose.LATENT, loc, tf.ones_like(loc))
        return State(z, ORACLE.vae.decoder(z)), base.Info.of_chain(tf.fill([z.shape[0]], 0.5))


def make_records(num: int) -> Records:
    """Every third never converges."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(num, 6)).astype(np.float32)
    x[:, 0] = np.arange(num) % 3 == 0
    observed = np.tile([True, True, False, True, False, True], (num, 1))
    keys = np.stack([np.arange(num), np.full(num, 5)], axis=1).astype(np.uint32)
    return Records(keys, np.where(observed, x, np.float32(0)), observed)


def take(records: Records, chosen) -> Records:
    return Records(*(field[chosen] for field in records))


def finish(slots: Slots, records: Records) -> list[Finished]:
    return [each for call in slots.run(records) for each in call]


@pytest.fixture(scope="module")
def sampler():
    return Sampler()


@pytest.fixture(scope="module")
def slots(sampler):
    return Slots(ORACLE.vae, sampler.kernel, CONFIG)


@pytest.fixture(scope="module")
def together(slots) -> dict[int, Finished]:
    finished = finish(slots, make_records(53))
    assert sorted(each.index for each in finished) == list(range(53))  # every record exactly once
    return {each.index: each for each in finished}


def assert_same_bits(first: Finished, second: Finished):
    flat = [
        np.asarray(part)
        for each in (first, second)
        for part in tf.nest.flatten(each._replace(index=0))
    ]
    for a, b in zip(flat[: len(flat) // 2], flat[len(flat) // 2 :]):
        assert a.dtype == b.dtype and a.tobytes() == b.tobytes()


def test_each_runs_until_it_has_converged_or_to_the_end(together):
    points = stopping.check_points(CONFIG, base.SampleKind.CHAIN, 95)
    for index, each in together.items():
        assert each.verdict.finished and each.verdict.converged == (index % 3 != 0)
        assert (
            each.trace.z.shape == (2, each.trace.z.shape[1], 2) and each.trace.z.shape[1] in points
        )
        assert (each.trace.z.shape[1] == 95) == (index % 3 == 0)


def test_what_others_have_begun_is_let_in_from_any_of_their_batches(slots, together):
    """Runs side by side share what is waiting: 9 records of one batch and 7 of another fill the
    places.
    """
    records, halves = make_records(53), (Waiting(range(16)), Waiting(range(16, 32)))
    for half in halves:
        assert next(slots.run(records, half)) == []
    shared = Waiting([])
    shared.begun.extend([*list(halves[0].begun)[7:], *list(halves[1].begun)[:7]])
    finished = [each for call in slots.run(records, shared) for each in call]
    assert sorted(each.index for each in finished) == list(range(7, 23))
    for each in finished:
        assert_same_bits(each, together[each.index])


def test_places_are_refilled_as_soon_as_they_are_free(together):
    """One after another, four rounds of 16 places would take 4 * 10 blocks; few of the places are
    ever empty.
    """
    slots = Slots(ORACLE.vae, Sampler().kernel, CONFIG)
    finished = finish(slots, make_records(53))
    blocks = sum(-(-each.trace.z.shape[1] // stopping.BLOCK) for each in finished)
    assert slots.occupied == blocks
    assert slots.passed < 0.75 * 4 * 10 * NUM_PLACES
    order = [each.index for each in finished]
    assert order.index(17) < order.index(0)  # one that came later has left before one of the first


def test_what_a_record_leaves_is_its_own(together):
    """Its trace is that of its rows, from the first kept sweep on; its moments are those of its
    trace.
    """
    records = make_records(53)
    for index in (0, 1, 37, 52):
        found, num_kept = together[index], together[index].trace.z.shape[1]
        streams = Streams(
            tf.constant(np.repeat(records.keys[index : index + 1], 2, axis=0)),
            tf.constant([0, 1], tf.uint32),
        )
        rows = base.Rows(streams, tf.zeros([2, 6]), tf.zeros([2, 6], tf.bool))
        loc = np.array([[0.0], [4.0]], np.float32) * (index % 3 == 0) + np.zeros([2, 2], np.float32)
        for sweep in (0, 9, 10, num_kept - 1):
            expected = base.draw_latent(
                rows, base.everywhere(rows, 2 + sweep), Purpose.LATENT, loc, tf.ones([2, 2])
            )
            np.testing.assert_allclose(found.trace.z[:, sweep], expected, rtol=1e-5, atol=1e-6)
        outputs = ORACLE.vae.decoder(tf.constant(found.trace.z.reshape(-1, 2))).numpy()
        np.testing.assert_allclose(found.mean, outputs.mean(axis=0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.variance, outputs.var(axis=0) + 0.25, rtol=1e-3)
        chosen = [outputs, records.x[index], records.observed[index]]
        log_likelihood = ORACLE.vae.likelihood.log_prob(*(tf.constant(each) for each in chosen))
        np.testing.assert_allclose(
            found.trace.log_likelihood.ravel(), log_likelihood, rtol=1e-4, atol=1e-4
        )
        assert found.acceptance == 0.5 and found.num_non_finite == 0


def test_uneven_numbers_of_records_compile_nothing_new(slots, sampler, together):
    before = sampler.num_traced
    for num in (1, 3, NUM_PLACES, NUM_PLACES + 1):
        assert len(finish(slots, make_records(num))) == num
    assert sampler.num_traced == before > 0


@pytest.mark.parametrize(
    "chosen", [[0], [44], list(range(52, -1, -1)), [5, 0, 3, 9, 6, 12, 17, 50]]
)
def test_a_result_does_not_depend_on_when_a_record_is_let_in(slots, together, chosen):
    for found in finish(slots, take(make_records(53), chosen)):
        assert_same_bits(found, together[chosen[found.index]])


def test_no_records(slots):
    assert not finish(slots, make_records(0))


def test_rows_of_a_chain_stay_together():
    """A kernel of 4 rows a chain that stops at the end: every row has the record's key and a number
    of its own.
    """

    def step(rows, sweep, state):
        key, row = (
            tf.cast(rows.streams.keys[:, 0], tf.float32),
            tf.cast(rows.streams.chains, tf.float32),
        )
        return State(tf.stack([key, row], axis=1), state.outputs), base.Info.of_weights(row)

    init = lambda rows, sweep, z: State(z, ORACLE.vae.decoder(z))  # noqa: E731
    kernel = base.Kernel(init, step, draws=base.SampleKind.WEIGHTED)
    settings = CONFIG.model_dump() | {"name": "lair", "num_particles": 4}
    config = samplers.sampler_config(**settings | {"max_sweeps": 12, "target_ess": 1e9})
    slots = Slots(ORACLE.vae, kernel, config)
    finished = finish(slots, make_records(9))
    assert [each.index for each in finished] == list(range(9)) and slots.num_places == 4
    for each in finished:
        np.testing.assert_array_equal(each.trace.z[:, :, 0], each.index)
        np.testing.assert_array_equal(each.trace.z[:, 5, 1], np.arange(8))
        np.testing.assert_array_equal(each.trace.log_weight[:, 11], np.arange(8))
        assert np.isnan(each.acceptance)
