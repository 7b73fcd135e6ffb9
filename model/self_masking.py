"""Values that are missing because of what they are: a model of masks, learnt with the VAE.

With s the mask, each value hides itself by what it is alone,

    p(s | x) = prod_d p(s_d | x_d),

which is the self-masking of not-MIWAE (Ipsen, Mattei & Frellsen 2021, arXiv:2006.12871). Of binary
values it is two probabilities, P(missing | 0) and P(missing | 1), and what is missing has two
states, over which one can sum where not-MIWAE has to draw:

    log p(x_obs, s | z) = sum over observed d of log p(x_d | z) + log P(observed | x_d)
                          + sum over missing d of log sum_v p(x_d = v | z) P(missing | v)
    p(x_mis | z, s)     = prod over missing d of p(x_d | z) P(missing | x_d) / its sum over x_d

Bounds and samplers that ask a likelihood for these two are as exact as they are without a mask's
model: all that is new to them is that what is missing says something of z.
"""

from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf

from vaefill.model.likelihoods import Bernoulli


class SelfMasking(keras.layers.Layer):
    """p(s | x) of binary values x.

    Args:
        num_rates: 1 if all values share the two probabilities, D if each has its own.

    Attributes:
        logits: [2, num_rates], of P(missing | 0) and P(missing | 1); 0 to begin with.
    """

    def __init__(self, num_rates: int):
        super().__init__(name="missingness")
        self.logits = self.add_weight(shape=(2, num_rates), initializer="zeros", name="logits")

    @classmethod
    def of_logits(cls, logits: np.ndarray) -> "SelfMasking":
        """The model of these logits [2, num_rates]."""
        made = cls(logits.shape[1])
        made.set_weights([logits])
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """By its logits alone: Keras would pickle what is registered with it, to workers too."""
        return SelfMasking.of_logits, (self.logits.numpy(),)

    def copy(self, values: np.ndarray | slice = slice(None)) -> "SelfMasking":
        """The same with weights of its own, of all values or of some, given their indices [S]."""
        logits = self.logits.numpy()
        return SelfMasking.of_logits(logits if logits.shape[1] == 1 else logits[:, values])

    @property
    def rates(self) -> np.ndarray:
        """P(missing | 0) and P(missing | 1): [2, num_rates]."""
        return tf.sigmoid(tf.convert_to_tensor(self.logits)).numpy()

    def log_missing(self) -> tf.Tensor:
        """log P(missing | 0) and log P(missing | 1): [2, num_rates]."""
        return -tf.nn.softplus(-tf.convert_to_tensor(self.logits))

    def log_observed(self) -> tf.Tensor:
        """log P(observed | 0) and log P(observed | 1): [2, num_rates]."""
        return -tf.nn.softplus(tf.convert_to_tensor(self.logits))

    def tilt(self) -> tf.Tensor:
        """By how much a value's logit is larger if it is known to be missing: [num_rates]."""
        log_missing = self.log_missing()
        return log_missing[1] - log_missing[0]

    def log_prob(self, x: tf.Tensor, observed: tf.Tensor) -> tf.Tensor:
        """log p(s | x) of complete x [N, D], of which `observed` [N, D] is not s: [N], nats."""
        each = tf.where(observed, _at(x, self.log_observed()), _at(x, self.log_missing()))
        return tf.reduce_sum(each, axis=-1)


def _at(x: tf.Tensor, of_both: tf.Tensor) -> tf.Tensor:
    """The first of two [2, 1 or D] where values x [..., D] are 0, the second where 1: [..., D]."""
    return tf.where(x > 0.5, of_both[1], of_both[0])


class SelfMaskingBernoulli(Bernoulli):
    """Binary values, and a model of what is missing of them.

    `distribution` and `log_prob` are of p(x | z), as without one. What is asked of missing values
    alone, `sample` and `moments`, is of p(x_d | z, x_d is missing).

    Args:
        missingness: the model of masks.
    """

    missingness: SelfMasking

    def __init__(self, missingness: SelfMasking):
        self.missingness = missingness

    def frozen(self) -> Self:
        """The same with the mask's probabilities as they are now, whatever becomes of them."""
        return type(self)(self.missingness.copy())

    def restrict(self, values: np.ndarray, num_values: int) -> tuple[Self, np.ndarray]:
        """As the protocol says: of some values, and of the mask of these."""
        _, outputs = super().restrict(values, num_values)
        return type(self)(self.missingness.copy(values)), outputs

    def log_prob_observed(self, outputs: tf.Tensor, x: tf.Tensor, observed: tf.Tensor) -> tf.Tensor:
        """log p(x_obs, s | z): [...], in nats."""
        # log sum_v p(v | z) P(missing | v), of which p(v | z) has the logits `outputs`
        of_missing = (
            self.missingness.log_missing()[0]
            + tf.nn.softplus(outputs + self.missingness.tilt())
            - tf.nn.softplus(outputs)
        )
        of_mask = tf.where(observed, _at(x, self.missingness.log_observed()), of_missing)
        return self.log_prob(outputs, x, observed) + tf.reduce_sum(of_mask, axis=-1)

    def sample(self, outputs: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        """Draws missing values by inversion: [..., D]."""
        return super().sample(outputs + self.missingness.tilt(), uniform)

    def moments(self, outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean and variance of each value if it is missing: two tensors [..., D]."""
        return super().moments(outputs + self.missingness.tilt())
