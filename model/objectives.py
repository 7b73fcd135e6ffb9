"""What training maximises, and the estimate of log p(x): bounds on the evidence, in nats.

Of a record that lacks values the evidence is log p(x_obs), and the likelihood is that of the
observed values alone, as p(x | z) is a product over values. The encoder then sees zeros where
values are missing (Mattei & Frellsen 2019, MIWAE), and beside each value whether it is observed:
`vae.gap_encoder` has made it for that. With a model of masks s the evidence is log p(x_obs, s), and
the likelihood p(x_obs, s | z) (Ipsen, Mattei & Frellsen 2021, not-MIWAE).
"""

import math

import tensorflow as tf

from vaefill.model.priors import STANDARD_NORMAL
from vaefill.model.vae import VAE


def elbo(vae: VAE, x: tf.Tensor, noise: tf.Tensor, observed: tf.Tensor | None = None) -> tf.Tensor:
    """The evidence lower bound, E_q[log p(x | z) + log p(z)] + H(q), by one reparameterised draw.

    What is known in closed form is not drawn: the entropy H(q), and with a standard normal prior
    KL(q(z | x) || p(z)) (Kingma & Welling 2014, eq. 10).

    Args:
        x: [N, D].
        noise: [N, K] standard normal.
        observed: [N, D] bool, of records that lack values; the encoder is one for such.

    Returns:
        [N], nats.
    """
    posterior = vae.encode(encoder_inputs(x, observed))
    loc, scale = posterior.loc, posterior.stddev()
    z = loc + scale * noise
    if vae.prior is STANDARD_NORMAL:
        kl = 0.5 * tf.reduce_sum(loc**2 + scale**2 - 1.0 - 2.0 * tf.math.log(scale), axis=-1)
    else:
        entropy = tf.reduce_sum(tf.math.log(scale) + 0.5, axis=-1)
        kl = -entropy - vae.prior.log_prob(z)
    return vae.log_likelihood(z, x, observed) - kl


def encoder_inputs(x: tf.Tensor, observed: tf.Tensor | None) -> tf.Tensor:
    """What the encoder sees: x [N, D], or of records that lack values [N, 2 D], every value, zero
    where missing, and beside it whether it is observed: channels 2 C of an image.
    """
    if observed is None:
        return x
    beside = tf.stack([tf.where(observed, x, 0.0), tf.cast(observed, x.dtype)], axis=-1)
    return tf.reshape(beside, [-1, 2 * x.shape[1]])


def importance_log_weights(
    vae: VAE, x: tf.Tensor, noise: tf.Tensor, observed: tf.Tensor | None = None
) -> tf.Tensor:
    """log p(x, z_l) - log q(z_l | x) for k draws z_l of q(z | x).

    Args:
        x: [N, D].
        noise: [k, N, K] standard normal.
        observed: as for `elbo`.

    Returns:
        [k, N].
    """
    return _weighted_draws(vae, x, noise, observed)[1]


def _weighted_draws(
    vae: VAE, x: tf.Tensor, noise: tf.Tensor, observed: tf.Tensor | None
) -> tuple[tf.Tensor, tf.Tensor]:
    """The draws z_l [k, N, K], and the logarithms of their weights [k, N]."""
    posterior = vae.encode(encoder_inputs(x, observed))
    scale = posterior.stddev()
    z = posterior.loc + scale * noise
    flat_z = tf.reshape(z, [-1, vae.latent_size])
    copies = [tf.shape(noise)[0], 1]
    chosen = None if observed is None else tf.tile(observed, copies)
    log_likelihood = tf.reshape(
        vae.log_likelihood(flat_z, tf.tile(x, copies), chosen), tf.shape(z)[:2]
    )
    log_q = STANDARD_NORMAL.log_prob(noise) - tf.reduce_sum(tf.math.log(scale), axis=-1)
    return z, log_likelihood + vae.prior.log_prob(z) - log_q


def resampled(
    vae: VAE, x: tf.Tensor, num_draws: int, seed: tf.Tensor, observed: tf.Tensor | None = None
) -> tf.Tensor:
    """A draw of p(z | x_obs) for each record, by importance resampling: one of k draws of the
    encoder, chosen by its weight; exact as k grows.

    Args:
        x: [N, D].
        num_draws: k.
        seed: [2] integers, for the stateless generator.
        observed: as for `elbo`.

    Returns:
        [N, K].
    """
    of_noise, of_choice = tf.unstack(tf.random.split(seed))
    noise = tf.random.stateless_normal([num_draws, tf.shape(x)[0], vae.latent_size], of_noise)
    z, log_weights = _weighted_draws(vae, x, noise, observed)
    chosen = tf.random.stateless_categorical(tf.transpose(log_weights), 1, of_choice)
    return tf.gather(tf.transpose(z, [1, 0, 2]), chosen[:, 0], batch_dims=1)


def iwae(vae: VAE, x: tf.Tensor, noise: tf.Tensor, observed: tf.Tensor | None = None) -> tf.Tensor:
    """The importance-weighted bound of k = noise.shape[0] draws (Burda et al. 2016, eq. 8; where
    values are missing Mattei & Frellsen 2019, eq. 4).

    Args: as for `importance_log_weights`.

    Returns:
        [N], nats; at k = 1 an unbiased estimate of the ELBO, and log p(x) as k grows.
    """
    log_weights = importance_log_weights(vae, x, noise, observed)
    return tf.reduce_logsumexp(log_weights, axis=0) - math.log(noise.shape[0])


def bound(
    vae: VAE,
    x: tf.Tensor,
    num_importance_samples: int,
    seed: tf.Tensor,
    observed: tf.Tensor | None = None,
) -> tf.Tensor:
    """The ELBO for one importance sample (lower variance: closed-form KL), else the IWAE bound.

    Args:
        x: [N, D].
        num_importance_samples: k.
        seed: [2] integers, for the stateless generator.
        observed: as for `elbo`.

    Returns:
        [N], nats.
    """
    shape = [num_importance_samples, tf.shape(x)[0], vae.latent_size]
    noise = tf.ensure_shape(
        tf.random.stateless_normal(shape, seed), [num_importance_samples, None, vae.latent_size]
    )
    if num_importance_samples == 1:
        return elbo(vae, x, noise[0], observed)
    return iwae(vae, x, noise, observed)
