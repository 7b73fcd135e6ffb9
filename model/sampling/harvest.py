"""What is taken from finished chains: imputations and log-likelihoods, for many records at one shape."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from model.config import SamplerConfig
from model.counter_random import Draw, Streams, bits, uniform
from model.sampling.base import draw_values, everywhere, rows_of_records
from model.sampling.evidence import log_evidence
from model.sampling.slots import Finished, Records, pad
from model.sampling.stopping import Trace
from model.vae import VAE

_PRIOR_DRAWS = 5.0  # the prior's weight in the covariance of the latents, in draws


class Harvest(NamedTuple):
    """Of n records."""

    values: np.ndarray  # [n, num_imputations, D] float32 on the model's scale
    num_latents: np.ndarray  # [n] int64, different latents that the values were drawn from
    log_prob_observed: np.ndarray  # [n] float32 estimate of log p(x_obs), nats
    log_prob_missing: np.ndarray  # [n] float32 estimate of log p(x_mis | x_obs) of the truth, NaN without one


class Harvester:
    """Draws x_mis ~ p(x_mis | z) at latents chosen from the kept sweeps, and estimates log-likelihoods."""

    def __init__(self, vae: VAE, config: SamplerConfig):
        self._vae, self._config = vae, config
        self._num_places = config.slots // config.rows_per_record
        self._places, self._values = tf.function(self._draw_places), tf.function(self._draw_values)
        self._evidence = tf.function(self._log_prob_observed)
        self._complete = tf.function(self._log_prob_complete)

    def __call__(self, records: Records, finished: Sequence[Finished], truth: np.ndarray | None) -> Harvest:
        """Takes n records, at most as many as the slots hold.

        Args:
            records: what the chains read of the n records.
            finished: what their chains left, in the same order.
            truth: [n, D] complete records on the model's scale, NaN in those without.
        """
        num = len(finished)
        shares = [_shares(each.trace) for each in finished]
        keys, x, observed = (tf.constant(pad(field, self._num_places)) for field in records)
        chance = (part[:num].numpy() for part in self._places(keys))
        chosen = np.stack([self._choose(*each) for each in zip(finished, shares, *chance)])
        num_latents = np.array([len({z.tobytes() for z in each}) for each in chosen])
        values = self._values(keys, x, observed, tf.constant(pad(chosen, self._num_places)))[:num].numpy()
        log_prob_observed = log_prob_missing = np.full(num, np.nan, np.float32)
        if self._config.num_evidence_draws:
            fits = [_normal_fit(each.trace, share) for each, share in zip(finished, shares)]
            fits += [(np.zeros_like(fits[0][0]), np.eye(self._vae.latent_size))] * (self._num_places - num)
            loc, factor = (tf.constant(np.stack(part).astype(np.float32)) for part in zip(*fits))
            log_prob_observed = self._evidence(keys, x, observed, loc, factor)[:num].numpy()
            log_prob_observed[~records.observed.any(axis=1)] = 0.0  # nothing is certain
            if truth is not None:
                complete = self._complete(keys, tf.constant(pad(truth, self._num_places)))[:num].numpy()
                known = ~np.isnan(truth).any(axis=1)
                log_prob_missing = np.where(known, complete - log_prob_observed, np.float32(np.nan))
        return Harvest(values, num_latents, log_prob_observed, log_prob_missing)

    def _draw_places(self, keys):
        """What chance has in the choice of latents: a uniform number [R] and words [R, J]."""
        streams = Streams(keys, tf.zeros([self._num_places], tf.uint32))
        first = uniform(streams, tf.constant(0), Draw.KEEP_LATENT, 1)[:, 0]
        return first, bits(streams, tf.constant(0), Draw.KEEP_ORDER, self._config.num_imputations)

    def _draw_values(self, keys, x, observed, z):
        """x_mis ~ p(x_mis | z) for z [R, J, K]: [R, J, D], the latents of a record over its rows a pass."""
        per_record = self._config.rows_per_record
        rows = rows_of_records(keys, x, observed, per_record)
        parts = []
        for first in range(0, z.shape[1], per_record):
            part = z[:, first : first + per_record]
            part = tf.pad(part, [(0, 0), (0, per_record - part.shape[1]), (0, 0)])
            outputs = self._vae.decoder(tf.reshape(part, [-1, self._vae.latent_size]))
            streams = rows.streams._replace(chains=rows.streams.chains + tf.constant(first, tf.uint32))
            drawn = draw_values(
                self._vae, rows._replace(streams=streams), everywhere(rows, 0), Draw.KEEP_VALUES, outputs
            )
            parts.append(tf.reshape(drawn, [-1, per_record, drawn.shape[1]]))
        return tf.concat(parts, axis=1)[:, : z.shape[1]]

    def _log_prob_observed(self, keys, x, observed, loc, factor):
        """log p(x_obs): [R]; the proposal is the normal approximation of the kept draws."""
        loc, factor = (tf.repeat(tensor, self._config.rows_per_record, axis=0) for tensor in (loc, factor))
        return self._log_evidence(
            rows_of_records(keys, x, observed, self._config.rows_per_record),
            loc,
            factor,
            (Draw.EVIDENCE_LATENT, Draw.EVIDENCE_DEFENSIVE),
        )

    def _log_prob_complete(self, keys, x):
        """log p(x) of complete records: [R]; the proposal is the encoder's."""
        rows = rows_of_records(keys, x, tf.ones_like(x, tf.bool), self._config.rows_per_record)
        posterior = self._vae.encode(rows.x_observed)  # of all rows: at few, a network's bits depend on their order
        return self._log_evidence(
            rows,
            posterior.loc,
            tf.linalg.diag(posterior.stddev()),
            (Draw.COMPLETE_LATENT, Draw.COMPLETE_DEFENSIVE),
        )

    def _log_evidence(self, rows, loc, factor, purposes):
        return log_evidence(
            self._vae, rows, self._config.rows_per_record, loc, factor, self._config.num_evidence_draws, purposes
        )

    def _choose(
        self, finished: Finished, shares: np.ndarray | None, first: np.float32, words: np.ndarray
    ) -> np.ndarray:
        """The latents [J, K] that imputations are drawn from, in an order by chance: none is unlike the others.

        Args:
            shares: weights of all draws, None if they are all the same.
            first: uniform number, where weights are gone through.
            words: [J] random ones, whose order is that of the latents.
        """
        z, draw = finished.trace.z, np.argsort(words, kind="stable")
        if shares is None:  # evenly over chains and sweeps, the last ones after the last sweep
            num_rows, num_kept = z.shape[:2]
            per_chain = -(-len(draw) // num_rows)  # at most `num_kept`, before which nothing has finished
            return z[draw % num_rows, (draw // num_rows + 1) * num_kept // per_chain - 1]
        cumulative = np.cumsum(shares)
        places = np.searchsorted(cumulative, (draw + first) / len(draw) * cumulative[-1])
        return z.reshape(-1, z.shape[2])[np.minimum(places, len(shares) - 1)]


def _shares(trace: Trace) -> np.ndarray | None:
    """Weights of all draws [P T], which sum to 1; None if they are all the same."""
    log_weight = trace.log_weight.ravel().astype(np.float64)
    largest = log_weight.max()
    if not np.isfinite(largest) or (log_weight == largest).all():
        return None
    weights = np.exp(log_weight - largest)
    return weights / weights.sum()


def _normal_fit(trace: Trace, shares: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Mean [K] and lower factor [K, K] of the latents' covariance, shrunk towards the prior's."""
    z = trace.z.reshape(-1, trace.z.shape[2]).astype(np.float64)
    shares = np.full(len(z), 1.0 / len(z)) if shares is None else shares
    size = 1.0 / np.square(shares).sum()
    mean = shares @ z
    with np.errstate(invalid="ignore"):  # of chains that are not numbers
        centred = z - mean
        covariance = (centred * shares[:, np.newaxis]).T @ centred
    identity = np.eye(len(mean))
    return mean, np.linalg.cholesky((size * covariance + _PRIOR_DRAWS * identity) / (size + _PRIOR_DRAWS))
