"""Every likelihood: its log_prob, moments and draws agree with its distribution."""

import numpy as np
import pytest
import tensorflow as tf

from tests.oracles import hoeffding
from vaefill.model.likelihoods import LIKELIHOODS, DiscretizedLogisticMixture

NAMES = sorted(LIKELIHOODS)
LEVELS = np.arange(256, dtype=np.float32)[:, None] / np.float32(255)


def make_outputs(likelihood, num_records=4, num_values=10, spread=3.0) -> tf.Tensor:
    size = likelihood.num_outputs(num_values)
    return tf.constant(
        spread * np.random.default_rng(0).normal(size=(num_records, size)), tf.float32
    )


def log_masses(likelihood, outputs) -> np.ndarray:
    """log p of each level of one value [1, P] in float64: [256]."""
    rows = tf.repeat(outputs, 256, axis=0)
    return (
        likelihood.log_prob(rows, tf.constant(LEVELS), tf.ones([256, 1], tf.bool))
        .numpy()
        .astype(np.float64)
    )


@pytest.mark.parametrize("name", NAMES)
def test_log_prob_of_everything_is_the_distributions(name):
    likelihood = LIKELIHOODS[name]()
    outputs = make_outputs(likelihood)
    x = likelihood.sample(outputs, tf.fill([4, 10], 0.3))
    distribution = likelihood.distribution(outputs)
    assert distribution.batch_shape == [4] and distribution.event_shape == [10]
    found = likelihood.log_prob(outputs, x, tf.ones([4, 10], tf.bool))
    np.testing.assert_allclose(found, distribution.log_prob(x), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_distribution_draws_and_has_moments(name):
    likelihood = LIKELIHOODS[name]()
    outputs = make_outputs(likelihood)
    distribution = likelihood.distribution(outputs)
    assert distribution.sample(5, seed=1).shape == [5, 4, 10]
    np.testing.assert_allclose(distribution.mean(), likelihood.moments(outputs)[0], rtol=1e-5)
    np.testing.assert_allclose(
        distribution.variance(), likelihood.moments(outputs)[1], rtol=1e-3, atol=1e-7
    )


@pytest.mark.parametrize("name", NAMES)
def test_log_prob_adds_up_over_parts_and_ignores_the_rest(name):
    likelihood = LIKELIHOODS[name]()
    outputs = make_outputs(likelihood)
    x = likelihood.sample(outputs, tf.fill([4, 10], 0.3))
    chosen = tf.constant(np.arange(40).reshape(4, 10) % 3 == 0)
    parts = likelihood.log_prob(outputs, x, chosen) + likelihood.log_prob(outputs, x, ~chosen)
    np.testing.assert_allclose(
        parts, likelihood.log_prob(outputs, x, tf.ones([4, 10], tf.bool)), rtol=1e-5
    )
    poisoned = tf.where(chosen, x, np.nan)
    assert np.isfinite(likelihood.log_prob(outputs, poisoned, chosen)).all()


@pytest.mark.parametrize("name", NAMES)
def test_moments_are_those_of_the_draws(name):
    """Inversion on a grid of uniforms is a quadrature of the draws' law: no noise in this test."""
    likelihood = LIKELIHOODS[name]()
    outputs = make_outputs(likelihood)
    grid = np.tile((np.arange(1000, dtype=np.float32)[:, None, None] + 0.5) / 1000, (1, 4, 10))
    draws = (
        likelihood.sample(tf.tile(outputs, [1000, 1]), tf.reshape(grid, [4000, 10]))
        .numpy()
        .reshape(grid.shape)
    )
    mean, variance = likelihood.moments(outputs)
    np.testing.assert_allclose(draws.mean(axis=0), mean, atol=2e-3)
    # a grid cuts the tails of a normal
    np.testing.assert_allclose(draws.var(axis=0), variance, atol=2e-3, rtol=1e-2)


@pytest.mark.parametrize("name", NAMES)
def test_xla_computes_the_same(name):
    likelihood = LIKELIHOODS[name]()
    outputs = make_outputs(likelihood)
    uniform = tf.constant(np.random.default_rng(1).random((4, 10)), tf.float32)

    def everything(outputs):
        x = likelihood.sample(outputs, uniform)
        return x, likelihood.log_prob(outputs, x, uniform < 0.7), *likelihood.moments(outputs)

    for eager, compiled in zip(
        everything(outputs), tf.function(everything, jit_compile=True)(outputs)
    ):
        np.testing.assert_allclose(eager, compiled, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "xla"])
@pytest.mark.parametrize("name", NAMES)
def test_extreme_outputs_have_finite_log_probs_and_gradients(name, jit):
    likelihood = LIKELIHOODS[name]()
    size = likelihood.num_outputs(1)
    extremes = np.stack(np.meshgrid(*[[-1e4, 0.0, 1e4]] * min(size, 3)), axis=-1).reshape(
        -1, min(size, 3)
    )
    outputs = tf.constant(np.tile(extremes, (1, size // min(size, 3))), tf.float32)
    num = len(extremes)

    @tf.function(jit_compile=jit)
    def value_and_gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            value = likelihood.log_prob(outputs, x, tf.ones_like(x, tf.bool))
        return value, tape.gradient(value, outputs)

    for level in (0.0, 1.0) if likelihood.binary else (0.0, 100 / 255, 1.0):
        value, gradient = value_and_gradient(tf.fill([num, 1], np.float32(level)))
        assert np.isfinite(value).all() and np.isfinite(gradient).all()
    for uniform in (2**-24, 0.5, 1 - 2**-24):
        assert np.isfinite(likelihood.sample(outputs, tf.fill([num, 1], np.float32(uniform)))).all()
    mean, variance = likelihood.moments(outputs)
    assert np.isfinite(mean).all() and (variance.numpy() >= 0).all() and np.isfinite(variance).all()


def test_bernoulli_gradients_are_those_of_its_distribution():
    """At 0, too, where the absolute value of an output has none of its own."""
    outputs = tf.constant([[-30.0, -1.0, 0.0, 0.0, 2.0, 30.0]])
    x = tf.constant([[0.0, 1.0, 0.0, 1.0, 0.0, 1.0]])
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        value = LIKELIHOODS["bernoulli"]().log_prob(outputs, x, tf.ones_like(x, tf.bool))
    np.testing.assert_allclose(
        tape.gradient(value, outputs), x - tf.sigmoid(outputs), rtol=1e-6, atol=1e-12
    )


@pytest.mark.parametrize("name", NAMES)
def test_data_have_their_own_scale_and_type(name):
    likelihood = LIKELIHOODS[name]()
    values = np.arange(256).astype(likelihood.dtype)
    x = likelihood.from_data(values)
    assert x.dtype == np.float32
    back = likelihood.to_data(tf.constant(x)).numpy()
    assert back.dtype == likelihood.dtype
    np.testing.assert_array_equal(back, 255 * (values > 127) if likelihood.binary else values)
    if not likelihood.binary:
        np.testing.assert_array_equal(x, values / np.float32(likelihood.unit))


def test_bernoulli_binarises():
    bernoulli = LIKELIHOODS["bernoulli"]()
    image = np.array([[0, 127, 128, 255]], np.uint8)
    np.testing.assert_array_equal(bernoulli.from_data(image), [[0, 0, 1, 1]])
    np.testing.assert_array_equal(
        bernoulli.from_data(image, np.full((1, 4), 0.499)), [[0, 0, 1, 1]]
    )
    np.testing.assert_array_equal(
        bernoulli.from_data(image, np.full((1, 4), 0.001)), [[0, 1, 1, 1]]
    )
    np.testing.assert_array_equal(bernoulli.to_data(tf.constant([0.0, 1.0])), [0, 255])


# Logits, locations and raw scales of three components: broad, sharp between and at levels, beyond
# both ends.
MIXTURES = {
    "untrained": [0, 0, 0, 0, 0, 0, 0, 0, 0],
    "broad": [1, -1, 0, 2, -3, 0.5, 30, 9, 4],
    "sharp": [0, 0.5, -2, 0.101, -0.302, 0.17, -9, -9, -9],
    "sharp at one level": [9, -9, -9, 100 / 255 - 0.25, 0, 0, -30, -30, -30],
    "black and white": [0.3, 0, -5, -3, 0.0, 3, -4, -4, -4],
    "far away": [0, 0, 0, -40, -40, -40, -2, -1, -2],
}


@pytest.fixture(params=MIXTURES)
def mixture(request) -> tf.Tensor:
    """The outputs of one value: [1, 9]."""
    return tf.constant([MIXTURES[request.param]], tf.float32)


def reference_masses(outputs) -> np.ndarray:
    """Differences of distribution functions in float64: [256]."""
    logits, locs, raw = np.asarray(outputs, np.float64).reshape(3, 3)
    weights = np.exp(logits) / np.exp(logits).sum()
    scales = np.logaddexp(0, raw) / 8 + np.exp(-7) / 2
    bounds = (np.arange(255) + 0.5) / 255
    below = 0.5 + 0.5 * np.tanh((bounds[:, None] - (locs + [0.25, 0.5, 0.75])) / scales / 2)
    return np.diff(below @ weights, prepend=0, append=1)


def test_the_levels_of_a_mixture_have_the_masses_of_their_bins(mixture):
    masses = np.exp(log_masses(DiscretizedLogisticMixture(), mixture))
    assert masses.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(masses, reference_masses(mixture), rtol=1e-3, atol=1e-6)


def test_a_mixture_is_sampled_by_inversion(mixture):
    """Everywhere but within float32's rounding of a jump of the distribution function."""
    distribution_function = np.cumsum(reference_masses(mixture))
    uniform = (np.arange(4096) + 0.5) / 4096
    draws = DiscretizedLogisticMixture().sample(
        tf.repeat(mixture, 4096, axis=0), tf.constant(uniform[:, None], tf.float32)
    )
    level = np.rint(255 * draws.numpy()[:, 0]).astype(int)
    assert (uniform <= distribution_function[level] + 1e-6).all()
    assert (uniform >= np.append(0, distribution_function)[level] - 1e-6).all()


def test_draws_of_a_mixture_have_the_right_frequencies(mixture):
    """The empirical distribution function, within the bound of Dvoretzky, Kiefer, Wolfowitz and
    Massart.

    False alarms: one in a million.
    """
    num = 100_000
    uniform = tf.constant(np.random.default_rng(2).random((num, 1)), tf.float32)
    draws = DiscretizedLogisticMixture().sample(tf.repeat(mixture, num, axis=0), uniform).numpy()
    frequency = np.bincount(np.rint(255 * draws[:, 0]).astype(int), minlength=256) / num
    distance = np.abs(np.cumsum(frequency) - np.cumsum(reference_masses(mixture))).max()
    assert distance < hoeffding(num, 1, 1e-6)


def test_moments_of_a_mixture_are_sums_over_levels(mixture):
    mean, variance = (
        float(moment[0, 0]) for moment in DiscretizedLogisticMixture().moments(mixture)
    )
    masses, levels = reference_masses(mixture), np.arange(256) / 255
    expected = masses @ levels
    assert mean == pytest.approx(expected, abs=2e-6)
    assert variance == pytest.approx(masses @ (levels - expected) ** 2, rel=1e-4, abs=1e-10)


@pytest.mark.parametrize("num_components", [1, 2, 5])
def test_any_number_of_components(num_components):
    likelihood = DiscretizedLogisticMixture(num_components)
    outputs = make_outputs(likelihood, 1, 1)
    assert outputs.shape[1] == 3 * num_components
    masses = np.exp(log_masses(likelihood, outputs))
    assert masses.sum() == pytest.approx(1, abs=1e-5)
    assert float(likelihood.moments(outputs)[0][0, 0]) == pytest.approx(
        masses @ LEVELS[:, 0], abs=1e-5
    )


def test_outputs_lie_parameter_by_parameter():
    loc, raw_scale = [1.0, 2.0, 3.0], [0.0, -1.0, -2.0]
    outputs = tf.constant([loc + raw_scale])
    mean, variance = LIKELIHOODS["gaussian"]().moments(outputs)
    np.testing.assert_array_equal(mean, [loc])
    np.testing.assert_allclose(variance, [(np.log1p(np.exp(raw_scale)) + 1e-3) ** 2], rtol=1e-5)
    each = [MIXTURES["untrained"], MIXTURES["broad"]]
    both = DiscretizedLogisticMixture().moments(
        tf.constant([np.transpose(each).ravel()], tf.float32)
    )[0]
    alone = [
        DiscretizedLogisticMixture().moments(tf.constant([one], tf.float32))[0][0, 0]
        for one in each
    ]
    np.testing.assert_allclose(both[0], alone, rtol=1e-6)
