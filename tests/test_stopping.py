"""When a record is looked at, and what is found, on traces that are known."""

import math
import threading

import numpy as np
import pytest

from vaefill.model import diagnostics, parallel, samplers
from vaefill.model.engine import stopping
from vaefill.model.engine.stopping import Scouted, StoppingRule, Trace, Verdict
from vaefill.model.samplers.base import SampleKind

CONFIG = samplers.sampler_config(
    name="pseudo_gibbs", num_chains=4, target_ess=200, target_r_hat=1.05
)
MAX_KEPT, NUM_KEPT = 400, 100
INF = float("inf")


def trace(
    seed: int,
    num_kept: int = NUM_KEPT,
    offset: float = 0.0,
    correlation: float = 0.0,
    latent_size: int = 2,
) -> Trace:
    """4 chains of autoregressive draws; the first chain's first latent is off by `offset`."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(4, num_kept, latent_size + 1))
    for sweep in range(1, num_kept):
        noise[:, sweep] = (
            correlation * noise[:, sweep - 1] + math.sqrt(1 - correlation**2) * noise[:, sweep]
        )
    noise[0, :, 0] += offset
    values = noise.astype(np.float32)
    return traced(values[..., :-1].copy(), values[..., -1].copy())


def traced(
    z: np.ndarray, log_likelihood: np.ndarray, log_weight: np.ndarray | None = None
) -> Trace:
    """Draws under a standard normal prior."""
    log_prior = -0.5 * np.square(z).sum(axis=-1)
    log_weight = np.zeros_like(log_prior) if log_weight is None else log_weight
    return Trace(z, log_likelihood, log_prior, log_weight)


def no_scouts(traces) -> list[Scouted]:
    return [
        Scouted(np.zeros((0, trace.z.shape[2]), np.float32), np.zeros(0, np.float32))
        for trace in traces
    ]


@pytest.fixture(scope="module")
def examine():
    """Verdicts on records that sent no scouts."""
    examiner = StoppingRule(CONFIG, SampleKind.CHAIN, MAX_KEPT)
    return lambda traces: examiner(traces, no_scouts(traces))


# When


@pytest.mark.parametrize("draws", [SampleKind.CHAIN, SampleKind.POPULATION])
@pytest.mark.parametrize(
    "num_chains, target_ess, max_kept",
    [(4, 400, 1920), (4, 400, 1917), (64, 100, 300), (2, 9000, 77)],
)
def test_check_points(draws, num_chains, target_ess, max_kept):
    config = samplers.sampler_config(num_chains=num_chains, target_ess=target_ess)
    points = stopping.check_points(config, draws, max_kept)
    assert points == sorted(set(points)) and points[-1] == max_kept
    assert all(point % stopping.BLOCK == 0 for point in points[:-1])
    if draws is SampleKind.CHAIN:
        assert points[0] * num_chains >= min(target_ess, max_kept * num_chains)
    assert all(
        second <= 1.1 * first + stopping.BLOCK for first, second in zip(points, points[1:-1])
    )
    assert len(points) <= 2 + math.log(max_kept / points[0]) / math.log(1.1)  # geometric: few looks


def test_a_record_that_nothing_can_finish_early_is_looked_at_once():
    config = samplers.sampler_config(num_chains=2, target_ess=1e9)
    assert stopping.check_points(config, SampleKind.CHAIN, 1000) == [1000]


@pytest.mark.parametrize("draws", [SampleKind.CHAIN, SampleKind.POPULATION])
@pytest.mark.parametrize(
    "name, num_imputations, first", [("latent_hmc", 321, 90), ("lair", 321, 20), ("lair", 4, 10)]
)
def test_no_record_is_looked_at_before_it_has_a_draw_for_every_imputation(
    draws, name, num_imputations, first
):
    """Of 4 rows 81 sweeps, of 4 chains of 8 particles 11; in blocks of 10."""
    config = samplers.sampler_config(name, num_imputations=num_imputations, target_ess=40)
    assert stopping.check_points(config, draws, 300)[0] == first
    assert stopping.check_points(config, draws, first - 1) == [first - 1]


# What


def test_independent_draws_have_converged(examine):
    (found,) = examine([trace(0)])
    assert found.finished and found.converged
    assert found.r_hat < 1.05 and found.ess_bulk > 200 and found.ess_tail > 200


@pytest.mark.parametrize(
    "settings", [{"offset": 1.0}, {"offset": 9.0}, {"correlation": 0.9}, {"correlation": 0.99}]
)
def test_others_have_not(examine, settings):
    (found,) = examine([trace(1, **settings)])
    assert not found.finished and not found.converged


@pytest.mark.parametrize("offset, converged", [(0.0, True), (9.0, False)])
def test_at_the_end_all_have_finished_and_figures_are_given(examine, offset, converged):
    (found,) = examine([trace(2, MAX_KEPT, offset)])
    assert found.finished and found.converged == converged
    assert np.isfinite([found.r_hat, found.ess_bulk, found.ess_tail]).all()


@pytest.mark.parametrize("num_kept", [NUM_KEPT, MAX_KEPT])
def test_what_never_moved_has_not_converged(examine, num_kept):
    still = trace(3, num_kept)
    still.z[..., 1] = 0.7
    (found,) = examine([still])
    assert np.isnan([found.r_hat, found.ess_bulk, found.ess_tail]).all()
    assert not found.converged and found.finished == (num_kept == MAX_KEPT)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_has_not_converged(examine, value):
    broken = trace(4)
    broken.log_likelihood[2, 50] = value
    assert not examine([broken])[0].converged


def test_with_nothing_observed_the_latents_alone_are_looked_at(examine):
    blind = trace(5)
    blind.log_likelihood[:] = 0
    (found,) = examine([blind])
    assert found.converged and np.isfinite(found.r_hat)
    unlike = blind._replace(z=blind.z + np.array([9.0, 0, 0, 0], np.float32)[:, None, None])
    assert not examine([unlike])[0].converged


def test_the_same_bits_alone_and_in_any_company(examine):
    """40 records, more than are examined at once, some of them hopeless."""
    traces = [trace(10 + i, offset=9.0 * (i % 7 == 3), correlation=0.02 * i) for i in range(40)]
    together = examine(traces)
    assert {found.converged for found in together} == {True, False}
    for chosen in ([0], [3], [17], [39], list(range(39, -1, -1)), list(range(5, 25))):
        for index, found in zip(chosen, examine([traces[i] for i in chosen])):
            assert np.asarray(found).tobytes() == np.asarray(together[index]).tobytes()


def test_looking_at_the_worst_first_changes_no_verdict(examine):
    """Of chains a little apart, or a little slow, those pass whose diagnostics are within the
    targets.
    """
    traces = [
        trace(100 + i, offset=0.02 * i, correlation=0.015 * (i % 20), latent_size=9)
        for i in range(40)
    ]
    found = examine(traces)
    for each, verdict in zip(traces, found):
        draws = np.concatenate([each.z, each.log_likelihood[..., None]], axis=-1).swapaxes(0, 1)[
            :, None
        ]
        r_hat, ess_bulk, ess_tail = (worst.item() for worst in diagnostics.diagnose(draws))
        assert verdict.converged == (r_hat < 1.05 and min(ess_bulk, ess_tail) >= 200)
        if verdict.converged:
            assert verdict[2:] == (r_hat, ess_bulk, ess_tail, 0)
    assert 5 < sum(verdict.converged for verdict in found) < 35


def test_rules_leave_no_threads_behind_but_a_few_for_all():
    rules = [StoppingRule(CONFIG, SampleKind.CHAIN, MAX_KEPT) for _ in range(20)]
    traces = [trace(seed) for seed in range(3)]
    found = [rule(traces, no_scouts(traces)) for rule in rules]
    assert all(each == found[0] for each in found)
    examiners = [each for each in threading.enumerate() if each.name.startswith("examine")]
    assert 1 <= len(examiners) <= parallel.cores()


# Peaks


def two_modes(share: float, height: float) -> tuple[Trace, Scouted]:
    """Chains that are in a standard normal mode, and for a share of all sweeps, here and there, in
    one 8 away.

    Scouts stand at both peaks; the other is `height` nats higher than a standard normal peak.
    """
    found = trace(7)
    chosen = np.random.default_rng(8).random(found.log_likelihood.shape) < share
    found.z[..., 0] += 8.0 * chosen
    # log p(z) p(x_obs | z) is that of the mode where a draw is.
    inner = found.z[..., 0] - 8.0 * chosen
    log_target = -0.5 * (inner**2 + found.z[..., 1] ** 2)
    found.log_prior[:] = -0.5 * np.square(found.z).sum(axis=-1)
    found.log_likelihood[:] = log_target - found.log_prior
    return found, Scouted(np.array([[0, 0], [8, 0]], np.float32), np.array([0, height], np.float32))


@pytest.mark.parametrize(
    "share, height, converged, num_unvisited",
    [
        (0.0, 0.0, False, 1),
        (0.0, -3.0, False, 1),
        (0.0, -6.0, True, 0),
        (0.3, 0.0, True, 0),
        (0.0, np.nan, True, 0),
    ],
    ids=["unvisited", "and small", "and negligible", "visited", "not a number"],
)
def test_a_peak_that_no_chain_has_been_near_keeps_a_record_from_converging(
    share, height, converged, num_unvisited
):
    found, scouts = two_modes(share, height)
    (verdict,) = StoppingRule(CONFIG, SampleKind.CHAIN, MAX_KEPT)([found], [scouts])
    assert verdict.converged == converged and verdict.num_unvisited == num_unvisited, verdict
    assert (verdict.ess_bulk == 0) == (num_unvisited > 0)


def test_one_visit_to_a_peak_is_not_enough():
    """A stay of ten sweeps of one chain: what is worth a few draws passes for none of the
    targets.
    """
    found, scouts = two_modes(0.0, 0.0)
    found.z[0, 40:50, 0] += 8.0
    (verdict,) = StoppingRule(CONFIG, SampleKind.CHAIN, NUM_KEPT)([found], [scouts])
    assert not verdict.converged and verdict.num_unvisited == 0 and 0 < verdict.ess_bulk < 60


# Weights


def weighted(log_weight: np.ndarray) -> Trace:
    return traced(
        np.zeros((*log_weight.shape, 2), np.float32), np.zeros_like(log_weight), log_weight
    )


def verdict(draws: SampleKind, log_weight: np.ndarray, max_kept: int = MAX_KEPT) -> Verdict:
    traces = [weighted(log_weight.astype(np.float32))]
    return StoppingRule(CONFIG, draws, max_kept)(traces, no_scouts(traces))[0]


def test_ess_of_weights_over_rows_and_sweeps():
    """Equal weights count as draws, at any scale; of two that differ by a factor of 3,
    (1 + 3)^2 / (1 + 9) = 1.6.
    """
    equal = verdict(SampleKind.WEIGHTED, np.full((8, 30), -5000.0), max_kept=30)
    assert equal.ess_bulk == equal.ess_tail == 240 and equal.converged and np.isnan(equal.r_hat)
    unequal = verdict(
        SampleKind.WEIGHTED, np.array([[0.0, math.log(3), -INF, -INF]] * 4), max_kept=4
    )
    assert unequal.ess_bulk == pytest.approx(6.4) and not unequal.converged and unequal.finished


def test_weighted_draws_are_looked_at_once_at_the_end():
    """An ESS looks best before a heavy weight has come: one that stops when it looks good is never
    right.
    """
    assert stopping.check_points(CONFIG, SampleKind.WEIGHTED, MAX_KEPT) == [MAX_KEPT]
    assert not verdict(SampleKind.WEIGHTED, np.zeros((4, 300))).finished


def test_heavy_tails_of_weights_have_not_converged():
    """Pareto weights of shape 0.4 and 0.8, whose variance is finite and is not, and both look good
    by their ESS.
    """
    exponential = np.random.default_rng(0).exponential(size=(4, 4000))
    light, heavy = (verdict(SampleKind.WEIGHTED, shape * exponential, 4000) for shape in (0.4, 0.8))
    assert light.converged and light.ess_bulk > 400
    assert not heavy.converged and heavy.ess_bulk > 200


def test_of_weights_that_are_all_zero_nothing_is_known():
    for found in (
        verdict(SampleKind.WEIGHTED, np.full((8, 50), -INF)),
        population(128, np.full(256, -INF)),
    ):
        assert found.ess_bulk == 0 and not found.converged and not found.finished


def population(num_distinct: int, log_weight: np.ndarray) -> Verdict:
    """Of two groups of 128 particles, of which so many are different, copies side by side."""
    z = (
        np.random.default_rng(10)
        .normal(size=(2, num_distinct, 3))
        .repeat(128 // num_distinct, axis=1)
    )
    rows = z.reshape(256, 1, 3).astype(np.float32)
    found = traced(rows[..., :2], rows[..., 2], log_weight[:, np.newaxis].astype(np.float32))
    examiner = StoppingRule(
        CONFIG.model_copy(update={"num_chains": 2, "target_ess": 150}),
        SampleKind.POPULATION,
        MAX_KEPT,
    )
    return examiner([found], no_scouts([found]))[0]


def test_particles_count_once_copies_do_not_and_all_finish_when_they_have_arrived():
    found = population(128, np.full(256, -3.0))
    assert found.finished and found.converged and 200 < found.ess_bulk < 300
    copies = population(8, np.full(256, -3.0))
    assert copies.finished and not copies.converged and copies.ess_bulk < 40
    half = np.repeat([-9.0, -3.0], 128)  # of two groups one has nearly all of the weight
    assert population(128, half).ess_bulk == pytest.approx(found.ess_bulk / 2, rel=0.01)
    assert not population(128, np.repeat([-INF, -3.0], 128)).finished
