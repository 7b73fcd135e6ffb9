"""Decoder outputs -> the distribution of the values, given z.

A likelihood is factorised over values, p(x | z) = prod_d p(x_d | z), so that the missing values are
independent of the observed ones given z: p(x_mis | x_obs, z) = p(x_mis | z).

How decoder outputs are laid out is known by the likelihood alone. Those here are of values that are
all of one kind (`HomogeneousLikelihood`), with P outputs a value that lie parameter by parameter.
"""

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import distributions as tfd

from vaefill.model.standardization import Standardization

_NUM_LEVELS = 256
_HALF_BIN = 0.5 / 255  # half of what lies between two levels of a byte, on the model's scale
# Of the 255 levels in a sum over them: a longer kernel takes XLA longer to compile
_LEVELS_PER_PASS = 5
# An eighth of a level; sharper than that the float32 gradients explode
_SMALLEST_MIXTURE_SCALE = math.exp(-7) / 2
_MIXTURE_SCALE_UNIT = 1 / 8  # makes the scale of an untrained network about a tenth of the range
_SMALLEST_GAUSSIAN_SCALE = 1e-3
_FACTORS = 7  # of a product of numbers from 1 to 2; it divides 28 x 28


class MaskModel(Protocol):
    """p(s | x), the distribution of masks: see `vaefill.model.self_masking`."""

    def log_prob(self, x: tf.Tensor, observed: tf.Tensor) -> tf.Tensor:
        """log p(s | x) of complete x [N, D], of which `observed` [N, D] is not s: [N], nats."""


class Likelihood(Protocol):
    """What a VAE and the samplers ask of a likelihood.

    Decoder outputs are [..., num_outputs(D)]; values are [..., D] float32 on the model's scale,
    which is the data's own divided by `unit`, byte / 255, and of real values standardised.

    Attributes:
        name: the key in `LIKELIHOODS`.
        dtype: the type of the data, np.uint8 or np.float32.
        unit: what is 1 on the model's scale, in the data's own units.
        binary: whether values are 0 or 1, so that grey data are binarised first; see
            `record.binarize`.
        standardization: of real values, between the data's own units and the model's scale; None:
            they are the same but for `unit`. Densities here are those on the model's scale.
        missingness: the model of masks s; None: they are ignorable. With one, that values are
            missing says something of z and of themselves.
    """

    name: str
    dtype: type[np.generic]
    unit: float
    binary: bool
    standardization: Standardization | None

    @property
    def missingness(self) -> MaskModel | None:
        """See above."""

    def num_outputs(self, num_values: int) -> int:
        """Decoder outputs of a record of D = `num_values` values."""

    def restrict(self, values: np.ndarray, num_values: int) -> tuple["Likelihood", np.ndarray]:
        """The likelihood of some values alone, and which outputs it reads.

        Args:
            values: [S] indices of the values, ascending.
            num_values: D, the values of a record.

        Returns:
            The likelihood p(x_S | z), and the indices of its outputs among the `num_outputs(D)`,
            in the order that it takes them.
        """

    def distribution(self, outputs: tf.Tensor) -> tfd.Distribution:
        """p(x | z), event shape [D]."""

    def log_prob(self, outputs: tf.Tensor, x: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
        """log p of the chosen entries of x: [...], in nats. `chosen` is bool, [..., D]."""

    def log_prob_observed(self, outputs: tf.Tensor, x: tf.Tensor, observed: tf.Tensor) -> tf.Tensor:
        """log p(x_obs | z), or with a model of masks log p(x_obs, s | z): [...], in nats.

        `observed` is bool, [..., D]: not s.
        """

    def sample(self, outputs: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        """Draws missing values by inversion from uniform numbers in (0, 1): [..., D]."""

    def moments(self, outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean and variance of each value given z, if it is missing, on the model's scale: two
        tensors [..., D].
        """

    def from_data(self, values: np.ndarray, uniform: np.ndarray | None = None) -> np.ndarray:
        """Values of `dtype` on the data's own scale -> a new float32 array on the model's.

        `uniform`, of their shape, binarises at random.
        """

    def to_data(self, x: tf.Tensor) -> tf.Tensor:
        """Draws on the model's scale -> `dtype` on the data's own."""


class HomogeneousLikelihood:
    """What likelihoods of values that are all of one kind have in common: how their outputs lie.

    With P outputs a value, the first D outputs are the first parameter of every value, the next D
    the second: each parameter is one contiguous tensor [..., D].

    Attributes:
        outputs_per_value: P.
    """

    name: str
    dtype: type[np.generic]
    unit: float
    binary: bool
    standardization: Standardization | None = None
    missingness: MaskModel | None = None
    outputs_per_value: int

    def log_prob(self, outputs: tf.Tensor, x: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
        """See `Likelihood`."""
        raise NotImplementedError

    def log_prob_observed(self, outputs: tf.Tensor, x: tf.Tensor, observed: tf.Tensor) -> tf.Tensor:
        """log p(x_obs | z), as masks are ignorable: [...], in nats."""
        return self.log_prob(outputs, x, observed)

    def num_outputs(self, num_values: int) -> int:
        """Decoder outputs of a record of `num_values` values: P each."""
        return self.outputs_per_value * num_values

    def restrict(self, values: np.ndarray, num_values: int) -> tuple[Self, np.ndarray]:
        """The same likelihood, as its law does not depend on D, and the outputs [P S] of some
        values.

        Args:
            values: [S] indices of the values, ascending.
            num_values: D, the values of a record.
        """
        parameters = np.arange(self.outputs_per_value)[:, np.newaxis]
        likelihood = self
        if self.standardization is not None:
            likelihood = copy.copy(self)
            likelihood.standardization = self.standardization.of(values)
        return likelihood, (parameters * num_values + values).ravel()


def _sigmoid(values: tf.Tensor) -> tf.Tensor:
    """As `tf.sigmoid`, in two thirds of its time in a fused cluster on a CPU; the gradient is NaN
    below about -88.
    """
    return 1.0 / (1.0 + tf.exp(-values))


def _in_parts(values: tf.Tensor, filling: float) -> tf.Tensor:
    """[..., D] -> [..., _FACTORS, D / _FACTORS], of D rounded up."""
    size = values.shape[-1]
    rest = -size % _FACTORS
    if rest:
        values = tf.pad(
            values, [(0, 0)] * (values.shape.rank - 1) + [(0, rest)], constant_values=filling
        )
    return tf.reshape(
        values, tf.concat([tf.shape(values)[:-1], [_FACTORS, (size + rest) // _FACTORS]], axis=0)
    )


class Bernoulli(HomogeneousLikelihood):
    """Binary values: p(x_d = 1 | z) = sigmoid(output_d)."""

    name = "bernoulli"
    outputs_per_value = 1
    dtype: type[np.generic] = np.uint8
    unit = 255.0
    binary = True

    def distribution(self, outputs: tf.Tensor) -> tfd.Distribution:
        return tfd.Independent(tfd.Bernoulli(logits=outputs), reinterpreted_batch_ndims=1)

    def log_prob(self, outputs: tf.Tensor, x: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
        """As the protocol says; the gradient is one by the outputs alone."""

        @tf.custom_gradient
        def of_outputs(outputs: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
            # log p(x_d) is x o - max(o, 0) - log(1 + exp(-|o|)). Logarithms are what costs most:
            # one for several values, of a product that float32 holds as well as it would hold their
            # sum.
            linear = tf.where(chosen, x * outputs - tf.maximum(outputs, 0.0), 0.0)
            factors = tf.where(chosen, 1.0 + tf.exp(-tf.abs(outputs)), 1.0)
            logs = tf.math.log(tf.reduce_prod(_in_parts(factors, 1.0), axis=-2))
            value = tf.reduce_sum(tf.reduce_sum(_in_parts(linear, 0.0), axis=-2) - logs, axis=-1)
            return (
                value,
                lambda upstream: (
                    upstream[..., tf.newaxis] * tf.where(chosen, x - _sigmoid(outputs), 0.0)
                ),
            )

        return of_outputs(outputs)

    def sample(self, outputs: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        return tf.cast(uniform < _sigmoid(outputs), tf.float32)

    def moments(self, outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        probability = _sigmoid(outputs)
        return probability, probability * (1.0 - probability)

    def from_data(self, values: np.ndarray, uniform: np.ndarray | None = None) -> np.ndarray:
        """Binarises at 1/2, or where `uniform` [..., D] is given at random: P(1) = value / 255."""
        scaled = values.astype(np.float32) / 255.0
        return (scaled > (0.5 if uniform is None else uniform)).astype(np.float32)

    def to_data(self, x: tf.Tensor) -> tf.Tensor:
        return tf.cast(x, tf.uint8) * tf.constant(255, tf.uint8)


class _Components(NamedTuple):
    """The logistic components of every value: a list entry a component, each [..., D]."""

    log_weights: list[tf.Tensor]
    locs: list[tf.Tensor]
    scales: list[tf.Tensor]


class DiscretizedLogisticMixture(HomogeneousLikelihood):
    """Grey values, 256 levels: a mixture of logistics, the mass of each level's bin (Salimans et
    al. 2017).

    Level k is the value k / 255 and stands for the bin (k - 1/2, k + 1/2) / 255; levels 0 and 255
    take the tails. Channels are independent given z: this is the PixelCNN++ likelihood without its
    autoregression.

    Outputs, with K components: K logits of the weights, K locations, K raw scales. Locations start
    spread evenly over [0, 1], so that the components of an untrained network differ; scales are a
    softplus with a floor.

    Args:
        num_components: K.
    """

    name = "discretized_logistic_mixture"
    dtype: type[np.generic] = np.uint8
    unit = 255.0
    binary = False

    def __init__(self, num_components: int = 3):
        self.outputs_per_value = 3 * num_components
        self._num_components = num_components
        # The locations where the outputs are 0
        self._start = np.linspace(0, 1, num_components + 2)[1:-1]

    def _components(self, outputs: tf.Tensor) -> _Components:
        num = self._num_components
        parts = tf.split(outputs, self.outputs_per_value, axis=-1)
        logits, locs, raw_scales = parts[:num], parts[num : 2 * num], parts[2 * num :]
        return _Components(
            tf.unstack(tf.nn.log_softmax(tf.stack(logits), axis=0))
            if num > 1
            else [tf.zeros_like(logits[0])],
            [loc + start for loc, start in zip(locs, self._start)],
            [
                _MIXTURE_SCALE_UNIT * tf.nn.softplus(raw) + _SMALLEST_MIXTURE_SCALE
                for raw in raw_scales
            ],
        )

    def distribution(self, outputs: tf.Tensor) -> tfd.Distribution:
        return _ValueWise(self, outputs)

    def log_prob(self, outputs: tf.Tensor, x: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
        x = tf.where(chosen, x, 0.0)  # what is not chosen may be NaN, and must not reach a gradient
        return tf.reduce_sum(tf.where(chosen, self._log_masses(outputs, x), 0.0), axis=-1)

    def _log_masses(self, outputs: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """log p(x_d | z): [..., D].

        With a and b the standardised bounds of a bin, sigmoid(b) - sigmoid(a) is the product
        sigmoid(b) sigmoid(-a) (1 - exp(a - b)), and a - b does not depend on x: no cancellation
        anywhere.
        """
        terms = []
        for log_weight, loc, scale in zip(*self._components(outputs)):
            # log P(X > lower bound)
            log_above_lower = -tf.nn.softplus((x - _HALF_BIN - loc) / scale)
            log_below_upper = -tf.nn.softplus(-(x + _HALF_BIN - loc) / scale)
            interior = (
                log_above_lower
                + log_below_upper
                + tf.math.log(-tf.math.expm1(-2.0 * _HALF_BIN / scale))
            )
            mass = tf.where(x > 1.0 - _HALF_BIN, log_above_lower, interior)
            terms.append(log_weight + tf.where(x < _HALF_BIN, log_below_upper, mass))
        return tf.reduce_logsumexp(tf.stack(terms), axis=0)

    def sample(self, outputs: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        """The smallest level whose distribution function exceeds `uniform`: 8 evaluations, by
        bisection.
        """
        components = self._components(outputs)
        level = tf.zeros_like(uniform)
        for step in (128.0, 64.0, 32.0, 16.0, 8.0, 4.0, 2.0, 1.0):
            below = _tail(components, level + (step - 1.0), -1.0)
            level = tf.where(uniform < below, level, level + step)
        return level / 255.0

    def moments(self, outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Of the levels, up to the rounding of float32, by 255 evaluations of the distribution
        function.

        With c a level near the mean, T(k) = P(level > k) for k >= c and P(level <= k) below, both
        accurate in the far tail, give E[level - c] and E[(level - c)^2] as sums over k without
        cancellation: sum of +-T(k), and of |2 (k - c) + 1| T(k).
        """
        components = self._components(outputs)
        weights = [tf.exp(log_weight) for log_weight in components.log_weights]
        # Of the odds from level to level
        growth = [tf.exp(1.0 / (255.0 * scale)) for scale in components.scales]
        weighted = [
            weight * tf.clip_by_value(loc, 0.0, 1.0)
            for weight, loc in zip(weights, components.locs)
        ]
        middle = tf.round(255.0 * tf.add_n(weighted))

        def add_levels(
            first: tf.Tensor, mean: tf.Tensor, square: tf.Tensor
        ) -> tuple[tf.Tensor, ...]:
            odds = _odds(components, tf.cast(first, tf.float32))
            for offset in range(_LEVELS_PER_PASS):
                level = tf.cast(first + offset, tf.float32)
                above = level >= middle
                tail = tf.add_n(
                    [w * tf.where(above, 1.0, o) / (1.0 + o) for w, o in zip(weights, odds)]
                )
                mean += tf.where(above, tail, -tail)
                square += tf.abs(2.0 * (level - middle) + 1.0) * tail
                odds = [o * by for o, by in zip(odds, growth)]  # cheaper than an exponential each
            return first + _LEVELS_PER_PASS, mean, square

        start = (tf.constant(0), tf.zeros_like(middle), tf.zeros_like(middle))
        num_passes = (_NUM_LEVELS - 1) // _LEVELS_PER_PASS
        _, mean, square = tf.while_loop(
            lambda *_: True, add_levels, start, maximum_iterations=num_passes
        )
        return (middle + mean) / 255.0, tf.maximum(square - mean**2, 0.0) / 255.0**2

    def from_data(self, values: np.ndarray, uniform: np.ndarray | None = None) -> np.ndarray:
        return values.astype(np.float32) / 255.0

    def to_data(self, x: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.round(x * 255.0), tf.uint8)


def _tail(components: _Components, level: tf.Tensor, sign: tf.Tensor | float) -> tf.Tensor:
    """P(the value's level > `level`) where sign is 1, P(level <= `level`) where it is -1:
    [..., D].
    """
    bound = level / 255.0 + _HALF_BIN
    return tf.add_n(
        [
            tf.exp(log_weight) * tf.sigmoid(sign * (loc - bound) / scale)
            for log_weight, loc, scale in zip(*components)
        ]
    )


def _odds(components: _Components, level: tf.Tensor) -> list[tf.Tensor]:
    """P(the value's level <= `level`) / P(level > `level`) of every component: each [..., D].

    Kept within e^-87 and e^50, so that float32 holds them, and what some steps of growth make of
    them.
    """
    bound = level / 255.0 + _HALF_BIN
    _, locs, scales = components
    return [
        tf.exp(tf.clip_by_value((bound - loc) / scale, -87.0, 50.0))
        for loc, scale in zip(locs, scales)
    ]


class Gaussian(HomogeneousLikelihood):
    """Real values: normal given z.

    Outputs: the location and the raw scale of each value. The scale is a softplus with a floor of
    0.001, without which the likelihood of a decoder is unbounded (Mattei & Frellsen 2018); with a
    `standardization` that is a thousandth of the value's standard deviation in the training split.
    """

    name = "gaussian"
    outputs_per_value = 2
    dtype: type[np.generic] = np.float32
    unit = 1.0
    binary = False

    def _loc_scale(self, outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        loc, raw_scale = tf.split(outputs, 2, axis=-1)
        return loc, tf.nn.softplus(raw_scale) + _SMALLEST_GAUSSIAN_SCALE

    def distribution(self, outputs: tf.Tensor) -> tfd.Distribution:
        return tfd.Independent(tfd.Normal(*self._loc_scale(outputs)), reinterpreted_batch_ndims=1)

    def log_prob(self, outputs: tf.Tensor, x: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
        loc, scale = self._loc_scale(outputs)
        x = tf.where(chosen, x, 0.0)  # what is not chosen may be NaN, and must not reach a gradient
        each = (
            -0.5 * tf.square((x - loc) / scale) - tf.math.log(scale) - 0.5 * math.log(2 * math.pi)
        )
        return tf.reduce_sum(tf.where(chosen, each, 0.0), axis=-1)

    def sample(self, outputs: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        """With uniform numbers of resolution 2**-23 draws are at most 5.3 scales from the
        location.
        """
        loc, scale = self._loc_scale(outputs)
        return loc + scale * tf.math.ndtri(uniform)

    def moments(self, outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        loc, scale = self._loc_scale(outputs)
        return loc, tf.square(scale)

    def from_data(self, values: np.ndarray, uniform: np.ndarray | None = None) -> np.ndarray:
        if self.standardization is None:
            return values.astype(np.float32)
        return self.standardization.to_model(values)

    def to_data(self, x: tf.Tensor) -> tf.Tensor:
        if self.standardization is None:
            return x
        return tf.constant(self.standardization.to_data(x.numpy()))


class _ValueWise(tfd.Distribution):
    """The tfp distribution of a `DiscretizedLogisticMixture`; tfp's own quantised ones live on the
    integers.
    """

    def __init__(self, likelihood: DiscretizedLogisticMixture, outputs: tf.Tensor):
        self._likelihood, self._outputs = likelihood, tf.convert_to_tensor(outputs)
        super().__init__(
            dtype=tf.float32,
            reparameterization_type=tfd.NOT_REPARAMETERIZED,
            validate_args=False,
            allow_nan_stats=False,
            parameters={"likelihood": likelihood, "outputs": outputs},
            name="DiscretizedLogisticMixture",
        )

    def _batch_shape(self) -> tf.TensorShape:
        return self._outputs.shape[:-1]

    def _batch_shape_tensor(self) -> tf.Tensor:
        return tf.shape(self._outputs)[:-1]

    def _event_shape(self) -> tf.TensorShape:
        num_outputs = self._outputs.shape[-1]
        return tf.TensorShape([num_outputs and num_outputs // self._likelihood.outputs_per_value])

    def _event_shape_tensor(self) -> tf.Tensor:
        return tf.shape(self._outputs)[-1:] // self._likelihood.outputs_per_value

    def _log_prob(self, x: tf.Tensor) -> tf.Tensor:
        return self._likelihood.log_prob(self._outputs, x, tf.fill(tf.shape(x), True))

    def _sample_n(self, n: int | tf.Tensor, seed: Any = None) -> tf.Tensor:
        shape = tf.concat([[n], self._batch_shape_tensor(), self._event_shape_tensor()], axis=0)
        uniform = tf.random.stateless_uniform(shape, tfp.random.sanitize_seed(seed))
        return self._likelihood.sample(self._outputs, uniform)

    def _mean(self) -> tf.Tensor:
        return self._likelihood.moments(self._outputs)[0]

    def _variance(self) -> tf.Tensor:
        return self._likelihood.moments(self._outputs)[1]


LIKELIHOODS: dict[str, type[Likelihood]] = {
    Bernoulli.name: Bernoulli,
    DiscretizedLogisticMixture.name: DiscretizedLogisticMixture,
    Gaussian.name: Gaussian,
}
