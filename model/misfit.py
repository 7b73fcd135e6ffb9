"""How well a model fits records: log p(x_obs) of each against that of validation records under the
same mask.

A chain can converge on a record of which the model has never seen the like. A statistic T of the
record and its mask is therefore ranked among the T of M calibration records, which the model was
not fitted to, under that mask. If the record is exchangeable with them and the mask does not depend
on its values, the p-value (1 + #{T_ref <= T}) / (M + 1) is at most a with probability at most a,
for every a and whatever T is: a conformal p-value (Vovk, Gammerman & Shafer 2005, "Algorithmic
Learning in a Random World"). T decides which other records are found out. The probability is over
the calibration set too: the share of a <= 1 that a given one calls misfits under a mask has the
distribution Beta(k, M + 1 - k), k = floor(a (M + 1)).

Calibration records may lack values. Then a record is compared with each of them by what is observed
of both, and the same p-value is at most a with probability at most 2 a, if masks do not depend on
values and are those of the calibration records: of M + 1 records that are compared in pairs, fewer
than 2 a (M + 1) win against so few others (as for the jackknife+, Barber, Candes, Ramdas &
Tibshirani 2021, theorem 1). In practice it is close to a.

Where masks depend on values, none of that holds. A model of masks says what mask goes with a
record: T is then of both, log p(x_obs, s), and each calibration record has its own mask. If the
record and its mask are exchangeable with those, whatever the mask depends on, the p-value is at
most a with probability at most a.
"""

import decimal
import functools
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from vaefill.model.config import SamplerConfig
from vaefill.model.likelihoods import Likelihood
from vaefill.model.samplers.base import log_likelihood
from vaefill.model.vae import VAE

# Of encoding what is filled in; more find out more where much is observed, less where little is
_ROUNDS = 3
_MASKS_KEPT = 1000  # of which the calibration set's statistics are remembered, the last ones used


def approximate_log_evidence(vae: VAE, x: tf.Tensor, observed: tf.Tensor) -> tf.Tensor:
    """A cheap approximation of log p(x_obs), with a model of masks log p(x_obs, s), in nats up to a
    constant.

    log p(x_obs | z) + log p(z) + log |S| / 2 at the mean z of q(z | x), with S the covariance of q:
    Laplace's approximation, where the encoder says what the mode and the curvature are. What is
    missing is filled in with the decoder's medians, at z = 0 to begin with and then at the z found
    last.

    Args:
        x: [N, D] on the model's scale; values where missing are ignored.
        observed: [N, D] bool.

    Returns:
        [N].
    """
    outputs = vae.decoder(tf.zeros([1, vae.latent_size]))
    outputs = tf.broadcast_to(outputs, [x.shape[0], outputs.shape[1]])
    for _ in range(_ROUNDS):
        posterior = vae.encode(_fill_in(vae.likelihood, outputs, x, observed))
        outputs = vae.decoder(posterior.loc)
    log_joint = log_likelihood(vae.likelihood, outputs, x, observed)
    log_joint += vae.prior.log_prob(posterior.loc)
    return log_joint + tf.reduce_sum(tf.math.log(posterior.stddev()), axis=1)


@tf.function(jit_compile=True, autograph=False)
def _fill_in(
    likelihood: Likelihood, outputs: tf.Tensor, x: tf.Tensor, observed: tf.Tensor
) -> tf.Tensor:
    return tf.where(observed, x, likelihood.sample(outputs, tf.fill(x.shape, 0.5)))


def smallest_rate(num_calibration: int) -> float:
    """The smallest rate of misfits that M calibration records allow for, as no p-value is smaller:
    1 / (M + 1), rounded up to three digits, so that whoever sets what a message says gets it.

    Example:
        >>> smallest_rate(98)
        0.0102
    """
    exact = decimal.Decimal(1 / (num_calibration + 1))
    return float(decimal.Context(prec=3, rounding=decimal.ROUND_CEILING).create_decimal(exact))


def with_rate_in_reach(config: SamplerConfig, num_calibration: int) -> SamplerConfig:
    """The configuration with a rate of misfits that so many calibration records allow for: where
    the default is out of reach, the smallest that is not.

    Args:
        config: of a sampler.
        num_calibration: at least 1.

    Raises:
        ValueError: the rate is out of reach and no default: somebody has chosen it.
    """
    if is_misfit(p_value(-np.inf, np.zeros(num_calibration)), config.misfit_rate):
        return config
    smallest = smallest_rate(num_calibration)
    if "misfit_rate" in config.model_fields_set:
        raise ValueError(
            f"sampler.misfit_rate {config.misfit_rate:g} is out of reach of a model with "
            f"{num_calibration} calibration records; the smallest rate is {smallest:g}"
        )
    return config.model_copy(update={"misfit_rate": smallest})


def p_value(value: float | np.ndarray, calibration: np.ndarray) -> np.float32:
    """(1 + #{calibration <= value}) / (M + 1), from 1 / (M + 1) to 1; float32, as it is published.

    Args:
        value: T of a record, or [M], as it is compared with each.
        calibration: T of the M calibration records [M].
    """
    return np.float32((1 + np.count_nonzero(calibration <= value)) / (len(calibration) + 1))


def is_misfit(p_values: np.ndarray | np.float32, rate: float) -> np.ndarray:
    """Whether p_values are at most the rate [...] bool; NaN is not.

    Both are rounded to float32 first: who compares what is published comes to the same, and a
    p-value that equals the rate still does so rounded.
    """
    return np.asarray(p_values, np.float32) <= np.float32(rate)


class FitTest:
    """p-values of records among calibration records.

    Every device call has the shape [slots, ...], so that a p-value has the same bits in any
    company. The calibration's statistics under a mask depend on the mask alone; those of the last
    masks are remembered.

    Args:
        vae: the model.
        calibration: [M, D] float32, validation records on the model's scale.
        slots: rows of a device call.
        known: [M, D] bool, what is observed of them; None: everything.
    """

    def __init__(
        self, vae: VAE, calibration: np.ndarray, slots: int, known: np.ndarray | None = None
    ):
        self._calibration, self._slots, self._known = calibration, slots, known
        self._masks_are_modelled = vae.likelihood.missingness is not None
        self._statistic = tf.function(
            lambda x, observed: approximate_log_evidence(vae, x, observed), autograph=False
        )
        # Mask -> statistics of the calibration [M]
        self._remembered: dict[bytes, np.ndarray] = {}

    def __call__(self, x: np.ndarray, observed: np.ndarray) -> np.ndarray:
        """p-values of N records: [N] float32; see `p-value`.

        Args:
            x: [N, D] float32 on the model's scale; values where missing are ignored.
            observed: [N, D] bool.
        """
        if self._masks_are_modelled:
            values = self._statistics(len(x), lambda rows: (x[rows], observed[rows]))
            return np.array([p_value(value, self._under_own_masks) for value in values], np.float32)
        own = self._own(x, observed)
        masks = [np.packbits(mask).tobytes() for mask in observed]
        calibration = self._of_calibration(dict(zip(masks, observed)))
        return np.array(
            [p_value(value, calibration[mask]) for mask, value in zip(masks, own)], np.float32
        )

    @functools.cached_property
    def _under_own_masks(self) -> np.ndarray:
        """T of the calibration records, each with its own mask: [M]."""
        x = self._calibration
        known = np.ones(x.shape, bool) if self._known is None else self._known
        return self._statistics(len(x), lambda rows: (x[rows], known[rows]))

    def _own(self, x: np.ndarray, observed: np.ndarray) -> np.ndarray:
        """T of N records [N], or beside calibration records that lack values, by what is observed
        of both: [N, M].
        """
        if self._known is None:
            return self._statistics(len(x), lambda rows: (x[rows], observed[rows]))
        size, known = len(self._calibration), self._known
        values = self._statistics(
            len(x) * size,
            lambda rows: (x[rows // size], observed[rows // size] & known[rows % size]),
        )
        return values.reshape(len(x), size)

    def _of_calibration(self, masks: Mapping[bytes, np.ndarray]) -> dict[bytes, np.ndarray]:
        """The calibration set's statistics under each mask."""
        size = len(self._calibration)
        found = {key: self._remembered[key] for key in masks if key in self._remembered}
        new = [key for key in masks if key not in found]
        observed = np.array([masks[key] for key in new])

        def rows_of(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            seen = observed[rows // size]
            return self._calibration[rows % size], (
                seen if self._known is None else seen & self._known[rows % size]
            )

        values = self._statistics(len(new) * size, rows_of)
        found |= zip(new, values.reshape(len(new), size))
        others = {key: value for key, value in self._remembered.items() if key not in found}
        self._remembered = dict(list((others | found).items())[-_MASKS_KEPT:])
        return found

    def _statistics(
        self, num: int, rows_of: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    ) -> np.ndarray:
        """T of `num` rows [num]; the smallest there is where it is not a number."""
        values = np.empty(num, np.float32)
        for first in range(0, num, self._slots):
            rows = np.arange(first, min(first + self._slots, num))
            padding = [(0, self._slots - len(rows)), (0, 0)]
            x, observed = (tf.constant(np.pad(part, padding)) for part in rows_of(rows))
            values[rows] = self._statistic(x, observed)[: len(rows)]
        return np.where(np.isnan(values), np.float32(-np.inf), values)
