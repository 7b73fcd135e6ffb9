"""What training maximises, and the estimate of log p(x): bounds on the evidence, in nats."""

import math

import tensorflow as tf

from vaefill.model.vae import VAE


def elbo(vae: VAE, x: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
    """The evidence lower bound with the closed-form KL of diagonal normals.

    E_q[log p(x | z)] - KL(q(z | x) || p(z)), the expectation by one reparameterised draw
    (Kingma & Welling 2014, eq. 10).

    Args:
        x: [N, D].
        noise: [N, K] standard normal.

    Returns:
        [N], nats.
    """
    posterior = vae.encode(x)
    loc, scale = posterior.loc, posterior.stddev()
    kl = 0.5 * tf.reduce_sum(loc**2 + scale**2 - 1.0 - 2.0 * tf.math.log(scale), axis=-1)
    return vae.log_likelihood(loc + scale * noise, x) - kl


def importance_log_weights(vae: VAE, x: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
    """log p(x, z_l) - log q(z_l | x) for k draws z_l of q(z | x).

    Args:
        x: [N, D].
        noise: [k, N, K] standard normal.

    Returns:
        [k, N].
    """
    posterior = vae.encode(x)
    z = posterior.loc + posterior.stddev() * noise
    flat_z = tf.reshape(z, [-1, vae.latent_size])
    tiled_x = tf.tile(x, [tf.shape(noise)[0], 1])
    log_likelihood = tf.reshape(vae.log_likelihood(flat_z, tiled_x), tf.shape(z)[:2])
    return log_likelihood + vae.prior.log_prob(z) - posterior.log_prob(z)


def iwae(vae: VAE, x: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
    """The importance-weighted bound of k = noise.shape[0] draws (Burda et al. 2016, eq. 8).

    Args: as for `importance_log_weights`.

    Returns:
        [N], nats; at k = 1 an unbiased estimate of the ELBO, and log p(x) as k grows.
    """
    log_weights = importance_log_weights(vae, x, noise)
    return tf.reduce_logsumexp(log_weights, axis=0) - math.log(noise.shape[0])


def bound(vae: VAE, x: tf.Tensor, num_importance_samples: int, seed: tf.Tensor) -> tf.Tensor:
    """The ELBO for one importance sample (lower variance: closed-form KL), else the IWAE bound.

    Args:
        x: [N, D].
        num_importance_samples: k.
        seed: [2] integers, for the stateless generator.

    Returns:
        [N], nats.
    """
    shape = [num_importance_samples, tf.shape(x)[0], vae.latent_size]
    noise = tf.ensure_shape(
        tf.random.stateless_normal(shape, seed), [num_importance_samples, None, vae.latent_size]
    )
    return elbo(vae, x, noise[0]) if num_importance_samples == 1 else iwae(vae, x, noise)
