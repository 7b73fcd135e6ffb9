"""What is taken from finished chains: from which latents imputations are drawn, and what the
estimates are worth.
"""

from typing import NamedTuple

import numpy as np
import pytest
import scipy.stats

from tests import oracles
from vaefill.model import samplers
from vaefill.model.engine.collection import CollectedDraws, DrawCollector
from vaefill.model.engine.rows import even_slots
from vaefill.model.engine.slots import Finished, Records
from vaefill.model.engine.stopping import Trace, Verdict

pytestmark = pytest.mark.slow

ORACLE = oracles.LinearGaussian()
CONFIG = samplers.sampler_config(
    name="pseudo_gibbs",
    num_chains=4,
    num_start=0,
    num_warmup=0,
    num_imputations=10,
    num_evidence_draws=400,
    slots=even_slots(ORACLE.vae, 32, 32),  # as many as a sampler has on this machine
)
NUM_KEPT = 30
LIMIT = 5.5  # standard errors: one score in 2.6e7 is as large by chance
X = np.array([0.5, -1.0, 1.2, -0.3, 2.0, 0.8])
OBSERVED = np.array([True, False, True, False, False, True])
# Of 4 chains of NUM_KEPT sweeps
SPREAD = [(chain, sweep) for sweep in (9, 19, 29) for chain in range(4)][:10]
INF = float("inf")


def make_records(num: int) -> Records:
    rng = np.random.default_rng(0)
    observed = rng.random((num, 6)) < 0.5
    observed[0] = False
    keys = np.stack([np.arange(num), np.full(num, 7)], axis=1).astype(np.uint32)
    return Records(
        keys, np.where(observed, rng.normal(size=(num, 6)), 0).astype(np.float32), observed
    )


def finished(z: np.ndarray, log_weight: np.ndarray | None = None) -> Finished:
    """Chains that left the latents z [P, T, 2]."""
    log_weight = np.zeros(z.shape[:2]) if log_weight is None else log_weight
    nowhere = np.zeros(z.shape[:2], np.float32)
    trace = Trace(z.astype(np.float32), nowhere, nowhere, log_weight.astype(np.float32))
    nothing = np.zeros(6, np.float32)
    return Finished(0, trace, Verdict(True, True, 1.0, 99.0, 99.0), nothing, nothing, 1.0, 0)


def far_apart() -> np.ndarray:
    """Latents that their values tell: z_1 is 100 times the chain, z_2 100 times the sweep."""
    chain, sweep = np.meshgrid(np.arange(4), np.arange(NUM_KEPT), indexing="ij")
    return 100.0 * np.stack([chain, sweep], axis=-1)


def three_weights() -> np.ndarray:
    """All weight on three draws, in the ratio 5 : 3 : 2."""
    log_weight = np.full((4, NUM_KEPT), -INF)
    log_weight[0, 3], log_weight[2, 17], log_weight[3, 29] = np.log([5, 3, 2]) - 4000.0
    return log_weight


def origins(values: np.ndarray) -> list[tuple[int, int]]:
    """Chain and sweep of imputations [J, 6] of which nothing is observed."""
    # E[z | x]: shrunk by a tenth or so
    z = (ORACLE.vae.encode(values.astype(np.float32)).mean().numpy()) / 100
    weight = np.array([ORACLE.vae.encode(ORACLE.vae.decoder(np.eye(2, dtype=np.float32))).mean()])[
        0
    ]
    offset = (
        ORACLE.vae.encode(ORACLE.vae.decoder(np.zeros([1, 2], np.float32))).mean().numpy() / 100
    )
    return [
        tuple(each)
        for each in np.rint((z - offset) @ np.linalg.inv(weight - 100 * offset)).astype(int)
    ]


@pytest.fixture(scope="module")
def collect():
    return DrawCollector(ORACLE.vae, CONFIG)


@pytest.fixture(scope="module")
def exact() -> list[Finished]:
    """Of 8 records: independent draws of p(z | x_obs)."""
    rng, records = np.random.default_rng(1), make_records(8)
    posteriors = [ORACLE.latent_posterior(x, observed) for _, x, observed in zip(*records)]
    return [
        finished(rng.multivariate_normal(each.mean, each.covariance, (4, NUM_KEPT)))
        for each in posteriors
    ]


def test_imputations_are_spread_evenly_over_chains_and_sweeps(collect):
    """Three each of two chains, two each of two, the last ones after the last sweep."""
    found = collect(make_records(1), [finished(far_apart())], None)
    assert set(origins(found.values[0])) == set(SPREAD) and found.num_latents.tolist() == [10]


def test_where_there_are_as_many_draws_as_imputations_each_is_used_once(collect):
    # Of 12 all but the two that are in excess
    found = collect(make_records(1), [finished(far_apart()[:, 3:6])], None)
    assert len(set(origins(found.values[0]))) == found.num_latents[0] == 10


def test_imputations_follow_the_weights(collect):
    """The scale of the weights is of no consequence."""
    found = collect(make_records(1), [finished(far_apart(), three_weights())], None)
    assert sorted(origins(found.values[0])) == [(0, 3)] * 5 + [(2, 17)] * 3 + [(3, 29)] * 2
    assert found.num_latents.tolist() == [3]


def test_a_chain_that_stuck_gives_fewer_latents(collect):
    stuck = far_apart()
    stuck[2] = stuck[2, :1]  # it gives two of the ten
    assert collect(make_records(1), [finished(stuck)], None).num_latents.tolist() == [9]


@pytest.mark.parametrize("log_weight", [None, three_weights()], ids=["chains", "weights"])
def test_no_imputation_is_unlike_the_others(log_weight):
    """Imputation j of 400 records that differ in their keys: each place as often as its weight
    says, for every j.

    Ten chi-square tests of independent counts, at a rate of false alarms of 1e-6 together.
    """
    places = (
        {place: 0.1 for place in SPREAD}
        if log_weight is None
        else {(0, 3): 0.5, (2, 17): 0.3, (3, 29): 0.2}
    )
    without_evidence = DrawCollector(
        ORACLE.vae, CONFIG.model_copy(update={"num_evidence_draws": 0})
    )
    values = []
    for first in range(0, 400, 8):
        keys = np.stack([np.arange(first, first + 8), np.full(8, 7)], axis=1).astype(np.uint32)
        records = Records(keys, np.zeros((8, 6), np.float32), np.zeros((8, 6), bool))
        values.append(
            without_evidence(records, [finished(far_apart(), log_weight)] * 8, None).values
        )
    found = origins(np.concatenate(values).reshape(-1, 6))
    for j in range(10):
        counts = [found[j::10].count(place) for place in places]
        assert sum(counts) == 400
        assert (
            scipy.stats.chisquare(counts, 400 * np.array(list(places.values()))).pvalue > 1e-6 / 10
        )


def test_imputations_of_weights_that_are_all_zero_are_spread_evenly(collect):
    log_weight = np.full((4, NUM_KEPT), -INF)
    found = origins(collect(make_records(1), [finished(far_apart(), log_weight)], None).values[0])
    assert len(set(found)) == 10


def test_values_are_draws_given_the_latents_and_what_is_observed_stays(collect):
    """Of one latent: every imputation has noise of its own, of the likelihood's standard
    deviation.
    """
    records = make_records(8)
    values = collect(records, [finished(np.ones((4, NUM_KEPT, 2)))] * 8, None).values
    mean = ORACLE.vae.decoder(np.ones([1, 2], np.float32)).numpy()
    observed = np.broadcast_to(records.observed[:, None], values.shape)
    np.testing.assert_array_equal(
        values[observed], np.broadcast_to(records.x[:, None], values.shape)[observed]
    )
    noise = (values - mean)[~observed]
    assert len(set(noise.tolist())) == noise.size
    assert abs(noise.mean()) < 5.5 * 0.5 / np.sqrt(noise.size)
    assert abs(noise.std() / 0.5 - 1) < 5.5 / np.sqrt(2 * noise.size)


def test_log_probabilities_against_the_closed_form(collect, exact):
    """From 400 draws: within 0.1 nats, the proposal being near the target.

    Not a number where there is no truth.
    """
    records = make_records(8)
    truth = np.random.default_rng(2).normal(size=(8, 6)).astype(np.float32)
    truth = np.where(records.observed, records.x, truth)
    without = truth.copy()
    without[3] = np.nan
    found = collect(records, exact, without)
    expected = [
        ORACLE.log_prob_observed(x, observed) if observed.any() else 0.0
        for _, x, observed in zip(*records)
    ]
    np.testing.assert_allclose(found.log_prob_observed, expected, atol=0.1)
    assert np.isnan(found.log_prob_missing).tolist() == [i == 3 for i in range(8)]
    chosen = [i for i in range(8) if i != 3 and not records.observed[i].all()]
    missing = [ORACLE.log_prob_missing(truth[i], records.observed[i]) for i in chosen]
    np.testing.assert_allclose(found.log_prob_missing[chosen], missing, atol=0.2)
    assert np.isnan(collect(records, exact, None).log_prob_missing).all()


class Estimated(NamedTuple):
    """Of R records with truths of the model's own, half of them missing."""

    found: CollectedDraws
    observed: np.ndarray  # [R] closed form or quadrature of log p(x_obs)
    missing: np.ndarray  # [R] and of log p(x_mis | x_obs)


# Of missing, where a value is 0 and where it is 1
RATES = [[0.1, 0.5, 0.2, 0.3, 0.1, 0.8, 0.2, 0.6], [0.6, 0.5, 0.7, 0.1, 0.4, 0.3, 0.9, 0.5]]
ORACLES = {
    "exact encoder": (oracles.LinearGaussian, 256),
    "mediocre encoder": (lambda: oracles.LinearGaussian(shift=1.5, width=0.5), 256),
    "plane": (oracles.PlaneBernoulli.easy, 64),  # whose quadrature takes its time
    "masked": (lambda: oracles.PlaneBernoulli.easy().self_masking(RATES), 64),
}


@pytest.fixture(scope="module", params=ORACLES)
def estimated(request) -> Estimated:
    make, num = ORACLES[request.param]
    oracle, rng = make(), np.random.default_rng(4)
    z = rng.normal(size=(num, 2)).astype(np.float32)
    uniform = rng.uniform(1e-6, 1 - 1e-6, (num, oracle.num_values)).astype(np.float32)
    truth = oracle.vae.likelihood.sample(oracle.vae.decoder(z), uniform).numpy().astype(np.float32)
    observed = rng.permuted(np.tile(np.arange(oracle.num_values) % 2 == 0, (num, 1)), axis=1)
    keys = np.stack([np.arange(num), np.full(num, 9)], axis=1).astype(np.uint32)
    chains = [finished(exact_latents(oracle, *each, rng)) for each in zip(truth, observed)]
    harvester = DrawCollector(oracle.vae, CONFIG.model_copy(update={"slots": 4 * num}))
    found = harvester(Records(keys, np.where(observed, truth, 0), observed), chains, truth)
    pairs = list(zip(truth, observed))
    return Estimated(
        found,
        *(
            np.array([each(*p) for p in pairs])
            for each in (oracle.log_prob_observed, oracle.log_prob_missing)
        ),
    )


def exact_latents(oracle, x, observed, rng) -> np.ndarray:
    """As 4 chains: [4, NUM_KEPT, 2]."""
    if isinstance(oracle, oracles.PlaneBernoulli):
        return oracle.draw_latents(x, observed, 4 * NUM_KEPT, rng).reshape(4, NUM_KEPT, 2)
    posterior = oracle.latent_posterior(x, observed)
    return rng.multivariate_normal(posterior.mean, posterior.covariance, (4, NUM_KEPT))


def test_log_probabilities_lean_nowhere_whatever_the_encoder(estimated):
    """The mean over all records, in standard errors; what is left of the bias, 1e-4 or so, is a
    tenth of one.

    And in nats, .05 being over eight standard errors: where some weights are huge a standard error
    says little. From a mediocre encoder itself log p(x_mis | x_obs) is .23 too low, 5.2 of its own
    standard errors.
    """
    for name in ("observed", "missing"):
        difference = getattr(estimated.found, f"log_prob_{name}") - getattr(estimated, name)
        assert abs(difference.mean()) < min(
            0.05, LIMIT * difference.std() / np.sqrt(len(difference))
        ), name


def test_standard_errors_are_what_estimates_are_off_by(estimated):
    """Differences over their errors have a mean square of 1, within 5.5 times the standard
    deviation of the mean.
    """
    for name in ("observed", "missing"):
        error = getattr(estimated.found, f"log_prob_{name}_error")
        scores = (getattr(estimated.found, f"log_prob_{name}") - getattr(estimated, name)) / error
        assert abs(np.square(scores).mean() - 1) < LIMIT * np.sqrt(2 / len(scores)), name
    assert (estimated.found.log_prob_missing_error > estimated.found.log_prob_observed_error).all()
    assert np.median(estimated.found.log_prob_missing_error) < 0.05


@pytest.mark.parametrize("estimated", ["exact encoder", "mediocre encoder"], indirect=True)
def test_weights_of_a_proposal_that_fits_have_light_tails(estimated):
    """Where p(z | x_obs) is normal.

    That of the plane is not: 14 of 256 of its records had k above 0.7.
    """
    assert (estimated.found.pareto_k < 0.7).mean() > 0.95


def test_errors_and_shapes_where_there_is_nothing_to_estimate(collect, exact):
    """Of the first record nothing is observed: certain. Of no truth nothing is known."""
    records = make_records(8)
    found = collect(records, exact, None)
    assert found.log_prob_observed[0] == found.log_prob_observed_error[0] == 0 and np.isnan(
        found.pareto_k[0]
    )
    assert (found.log_prob_observed_error[1:] > 0).all() and np.isfinite(found.pareto_k[1:]).all()
    assert np.isnan(found.log_prob_missing_error).all()
    with_truth = collect(records, exact, np.ones((8, 6), np.float32))
    assert (with_truth.pareto_k[1:] >= found.pareto_k[1:]).all() and np.isfinite(
        with_truth.pareto_k
    ).all()
    assert (with_truth.pareto_k > found.pareto_k).any()


def test_log_probabilities_from_weighted_draws(collect):
    """The proposal is fitted to the weighted draws: of the prior, weighted by the likelihood."""
    z = np.random.default_rng(3).normal(size=(4, 1000, 2))
    means = ORACLE.vae.decoder(z.reshape(-1, 2).astype(np.float32)).numpy()
    log_weight = -0.5 * (((means - X)[:, OBSERVED] / ORACLE.stddev) ** 2).sum(axis=1)
    records = Records(
        np.ones((1, 2), np.uint32),
        np.where(OBSERVED, X, 0)[None].astype(np.float32),
        OBSERVED[None],
    )
    found = collect(records, [finished(z, log_weight.reshape(4, 1000))], None)
    np.testing.assert_allclose(
        found.log_prob_observed, ORACLE.log_prob_observed(X, OBSERVED), atol=0.1
    )


def test_the_same_bits_alone_and_in_any_company(collect, exact):
    records, truth = make_records(8), np.ones((8, 6), np.float32)
    together = collect(records, exact, truth)
    for chosen in ([0], [7], [3, 1, 6], list(range(7, -1, -1))):
        part = collect(
            Records(*(field[chosen] for field in records)),
            [exact[i] for i in chosen],
            truth[chosen],
        )
        for a, b in zip(part, together):
            assert a.tobytes() == b[chosen].tobytes()
