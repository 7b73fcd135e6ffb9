"""vaefill.model.diagnostics against ArviZ, and what it promises beyond ArviZ: NaN, shapes, bits."""

import functools

import numpy as np
import pytest
from arviz_stats.base import array_stats
from scipy import stats

from vaefill.model import diagnostics

TAIL = (0.05, 0.95)
FUNCTIONS = {
    "r_hat": diagnostics.r_hat,
    "ess_bulk": lambda draws: diagnostics.of_quantities(draws).ess_bulk,
    "ess_tail": lambda draws: diagnostics.of_quantities(draws).ess_tail,
}


# Draws [T, N, C, Q]


def normal(rng, shape):
    return rng.normal(size=shape)


def autoregressive(coefficient):
    def draw(rng, shape):
        x = rng.normal(size=shape)
        for t in range(1, shape[0]):
            x[t] = coefficient * x[t - 1] + np.sqrt(1 - coefficient**2) * x[t]
        return x

    return draw


def sticking(rng, shape):
    x = rng.normal(size=shape)
    for t in range(1, shape[0]):
        x[t] = np.where(rng.random(shape[1:]) < 0.8, x[t - 1], x[t])
    return x


CASES = {
    "independent": normal,
    "correlated": autoregressive(0.95),
    "anticorrelated": autoregressive(-0.9),
    "shifted_chains": lambda rng, shape: (
        rng.normal(size=shape) + np.arange(shape[2])[:, np.newaxis]
    ),
    "scaled_chains": lambda rng, shape: (
        rng.normal(size=shape) * 4.0 ** np.arange(shape[2])[:, np.newaxis]
    ),
    "drifting": lambda rng, shape: (
        rng.normal(size=shape) + np.linspace(0, 3, shape[0])[:, None, None, None]
    ),
    "far_from_zero": lambda rng, shape: 1e4 + rng.normal(size=shape),
    "sticking": sticking,
    "counts": lambda rng, shape: rng.integers(0, 4, size=shape),
    "mostly_at_maximum": lambda rng, shape: (
        -rng.exponential(size=shape) * (rng.random(shape) < 0.2)
    ),
    "cauchy": lambda rng, shape: rng.standard_cauchy(size=shape),
}


def make(case, shape, seed=0, dtype=np.float32):
    return CASES[case](np.random.default_rng(seed), shape).astype(dtype)


def arviz(name, draws):
    """[T, N, C, Q] to [N, Q]."""
    chains = np.transpose(draws, [1, 3, 2, 0]).astype(np.float64)
    if name == "r_hat":
        return array_stats.rhat(chains, method="rank")
    if name == "ess_bulk":
        return array_stats.ess(chains, method="bulk")
    return array_stats.ess(chains, method="tail", prob=TAIL)


def bits(result):
    return [value.view(np.int32) for value in result]


# Against ArviZ


@pytest.mark.parametrize("num_draws", [100, 101])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_equals_arviz(name, case, num_draws):
    draws, values = of_all_cases(name, num_draws)
    np.testing.assert_allclose(values[case], arviz(name, draws[case]), rtol=1e-9)


@functools.cache
def of_all_cases(name, num_draws):
    """Draws and values by case, all cases in one batch."""
    draws = [make(case, (num_draws, 2, 4, 2), seed=num_draws) for case in CASES]
    values = np.split(FUNCTIONS[name](np.concatenate(draws, axis=1)), len(CASES))
    return dict(zip(CASES, draws)), dict(zip(CASES, values))


@pytest.mark.parametrize("num_draws", [4, 5, 6, 7, 8, 11, 13])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_equals_arviz_with_few_draws(name, num_draws):
    draws = make("independent", (num_draws, 10, 3, 2), seed=num_draws)
    np.testing.assert_allclose(FUNCTIONS[name](draws), arviz(name, draws), rtol=1e-9)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_equals_arviz_where_a_quantile_is_a_draw(name):
    draws = make("independent", (67, 20, 3, 1))  # 0.05 (3 * 67 - 1) = 10
    np.testing.assert_allclose(FUNCTIONS[name](draws), arviz(name, draws), rtol=1e-9)


@pytest.mark.parametrize("case", ["independent", "sticking", "cauchy"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_equals_arviz_in_float64(name, case):
    draws = make(case, (50, 2, 4, 2), dtype=np.float64)
    np.testing.assert_allclose(FUNCTIONS[name](draws), arviz(name, draws), rtol=1e-9)


@pytest.mark.parametrize("name", ["ess_bulk", "ess_tail"])
def test_ess_of_one_chain_equals_arviz(name):
    draws = make("correlated", (201, 3, 1, 2))
    np.testing.assert_allclose(FUNCTIONS[name](draws), arviz(name, draws), rtol=1e-9)


def test_r_hat_of_one_chain_compares_its_halves():
    """ArviZ refuses one chain; the same formula over its two halves, ranked by SciPy."""
    draws = make("drifting", (60, 1, 1, 1))
    halves = draws.reshape(2, 30).astype(np.float64)

    def of_ranks(values):
        ranks = stats.rankdata(values).reshape(values.shape)
        return array_stats.rhat(
            stats.norm.ppf((ranks - 3 / 8) / (values.size + 1 / 4)), method="identity"
        )

    expected = max(of_ranks(halves), of_ranks(abs(halves - np.median(halves))))
    assert expected > 1.5
    np.testing.assert_allclose(diagnostics.r_hat(draws), [[expected]], rtol=1e-9)


@pytest.mark.parametrize("num_draws", [50, 51])
@pytest.mark.parametrize("case", CASES)
def test_plain_r_hat_equals_arviz(case, num_draws):
    draws = make(case, (num_draws, 3, 4, 2), dtype=np.float64)
    ends = np.concatenate([draws[: num_draws // 2], draws[-(num_draws // 2) :]])
    distances = np.abs(ends - ends.mean(axis=(0, 2), keepdims=True))
    for folded, values in ((False, draws), (True, distances)):
        expected = array_stats.rhat(np.transpose(values, [1, 3, 2, 0]), method="split")
        np.testing.assert_allclose(diagnostics.plain_r_hat(draws, folded), expected, rtol=1e-9)


@pytest.mark.parametrize("num_draws", [50, 51])
def test_r_hat_alone_is_that_of_all_three(num_draws):
    draws = np.concatenate([make(case, (num_draws, 3, 4, 2)) for case in CASES], axis=-1)
    np.testing.assert_array_equal(diagnostics.r_hat(draws), diagnostics.of_quantities(draws).r_hat)


# The worst over quantities


@pytest.mark.parametrize("num_draws", [50, 51])
def test_diagnose_is_the_worst_over_quantities(num_draws):
    draws = np.concatenate([make(case, (num_draws, 3, 4, 2)) for case in CASES], axis=-1)
    result = diagnostics.diagnose(draws)
    for name, worst in zip(result._fields, (np.max, np.min, np.min)):
        value = getattr(result, name)
        assert value.dtype == np.float32 and value.shape == (3,)
        np.testing.assert_allclose(value, worst(arviz(name, draws), axis=1), rtol=1e-6)


# Draws that are not as they should be


def test_constant_is_nan():
    draws = make("independent", (50, 4, 4, 2))
    draws[:, 1:, :, 1] = np.array([0.0, 0.1, -1e30])[:, np.newaxis]
    expected = np.array([[False, False], [False, True], [False, True], [False, True]])
    for function in FUNCTIONS.values():
        np.testing.assert_array_equal(np.isnan(function(draws)), expected)
    for worst in diagnostics.diagnose(draws):
        np.testing.assert_array_equal(np.isnan(worst), expected[:, 1])


@pytest.mark.parametrize("num_draws", [50, 51])
def test_non_finite_is_nan_and_stays_with_its_quantity(num_draws):
    clean = make("independent", (num_draws, 4, 4, 2))
    draws = clean.copy()
    draws[num_draws // 2, 1:, 2, 0] = [np.nan, np.inf, -np.inf]  # the middle one of an odd T
    for function in FUNCTIONS.values():
        expected = function(clean)
        expected[1:, 0] = np.nan
        np.testing.assert_array_equal(function(draws), expected)
    for worst in diagnostics.diagnose(draws):
        np.testing.assert_array_equal(np.isnan(worst), [False, True, True, True])


def test_everything_nan_is_nan():
    for worst in diagnostics.diagnose(np.full((20, 2, 4, 3), np.nan, np.float32)):
        assert np.isnan(worst).all()


@pytest.mark.parametrize("num_chains", [2, 3, 4])
def test_chains_stuck_apart_have_infinite_r_hat(num_chains):
    places = np.random.default_rng(0).normal(size=(1, 5, num_chains, 2)).astype(np.float32)
    draws = np.repeat(places, 50, axis=0)
    np.testing.assert_array_equal(diagnostics.r_hat(draws), np.full((5, 2), np.inf))
    assert (diagnostics.of_quantities(draws).ess_bulk < 5 * num_chains).all()


def test_one_chain_stuck_among_others_is_seen():
    draws = make("independent", (100, 3, 4, 2))
    draws[:, :, 0] = draws[0, :, 0]
    assert (diagnostics.r_hat(draws) > 1.1).all()


# A record's result depends on the record alone

SHAPE = (100, 64, 4, 33)


@pytest.mark.parametrize("shape", [SHAPE, (51, 7, 3, 5)], ids=["usual", "odd"])
def test_bits_do_not_depend_on_position(shape):
    rng = np.random.default_rng(1)
    draws = np.where(
        rng.random(shape[1])[:, None, None] < 0.5,
        make("sticking", shape),
        make("correlated", shape),
    )
    expected = bits(diagnostics.diagnose(draws))
    for _ in range(2):
        order = rng.permutation(shape[1])
        for value, other in zip(expected, bits(diagnostics.diagnose(draws[:, order]))):
            np.testing.assert_array_equal(value[order], other)


def test_bits_do_not_depend_on_neighbours():
    draws = make("independent", SHAPE)
    others = make("cauchy", SHAPE)
    others[:, 3] = np.nan
    others[:, 4] = 1.0
    others[:, 9] = draws[:, 9]
    for value, other in zip(bits(diagnostics.diagnose(draws)), bits(diagnostics.diagnose(others))):
        assert value[9] == other[9]


def test_batch_of_one_has_the_bits_of_many():
    draws = make("correlated", (60, 3, 4, 5))
    for function in FUNCTIONS.values():
        many = function(draws)
        for record in range(3):
            np.testing.assert_array_equal(function(draws[:, record : record + 1])[0], many[record])


# Calling it


def test_half_precision_is_computed_in_full():
    draws = make("independent", (40, 2, 4, 3)).astype(np.float16)
    for half, full in zip(
        diagnostics.diagnose(draws), diagnostics.diagnose(draws.astype(np.float32))
    ):
        np.testing.assert_allclose(half, full, rtol=1e-6)


@pytest.mark.parametrize(
    "shape, message",
    [
        ((3, 2, 4, 5), "at least 4 draws per chain, got T = 3"),
        ((20, 2, 4), r"must be \[T, N, C, Q\], got shape \(20, 2, 4\)"),
        ((20, 0, 4, 5), "empty"),
        ((20, 2, 0, 5), "empty"),
        ((20, 2, 4, 0), "empty"),
    ],
    ids=["too_few_draws", "no_quantities_axis", "no_records", "no_chains", "no_quantities"],
)
def test_wrong_shape_is_an_error(shape, message):
    for function in (diagnostics.diagnose, *FUNCTIONS.values()):
        with pytest.raises(ValueError, match=message):
            function(np.zeros(shape))
