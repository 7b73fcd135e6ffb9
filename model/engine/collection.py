"""What is taken from finished chains: imputations and log-likelihoods, for many records at one
shape.

log p(x_mis | x_obs) of a truth is log p(x) - log p(x_obs), and importance sampling leans low by
what its proposal lacks. So that the difference leans nowhere, both proposals are made alike: a
normal distribution fitted to draws of chains, those of the record for x_obs, and for x those of
`latent_hmc` on the complete record.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from vaefill.model import samplers
from vaefill.model.config import SamplerConfig
from vaefill.model.counter_random import Purpose, Streams, bits, derived_keys, uniform
from vaefill.model.engine import evidence
from vaefill.model.engine.evidence import CERTAIN, Estimate
from vaefill.model.engine.slots import Finished, Records, Slots, pad
from vaefill.model.engine.stopping import Trace
from vaefill.model.samplers.base import draw_values, everywhere, rows_of_records
from vaefill.model.vae import VAE

_PRIOR_DRAWS = 5.0  # the prior's weight in the covariance of the latents, in draws
# The chains of a complete record. A sweep of pseudo-Gibbs draws from the encoder there, one as well
# as many. Fewer kept sweeps do not tell the covariance of 32 latents, and log p(x) leans low again;
# docs/method.md has the measurement.
_COMPLETE_CHAINS, _COMPLETE_START, _COMPLETE_WARMUP, _COMPLETE_KEPT = 4, 1, 85, 180
# Under which its chains have their chance, which the record's own chains had before
_COMPLETE_KEYS = b"complete"
# What the normal and the uniform numbers behind log p(x_obs) and log p(x) are for
_OBSERVED = (Purpose.EVIDENCE_LATENT, Purpose.EVIDENCE_DEFENSIVE)
_COMPLETE = (Purpose.COMPLETE_LATENT, Purpose.COMPLETE_DEFENSIVE)
_UNKNOWN = Estimate(*[float("nan")] * 3)


class CollectedDraws(NamedTuple):
    """Of n records."""

    values: np.ndarray  # [n, num_imputations, D] in the data's own type and units
    num_latents: np.ndarray  # [n] int64, different latents that the values were drawn from
    log_prob_observed: np.ndarray  # [n] float32 estimate of log p(x_obs), nats
    log_prob_observed_error: np.ndarray  # [n] float32, its standard error
    # [n] float32 estimate of log p(x_mis | x_obs) of the truth, NaN without one
    log_prob_missing: np.ndarray
    log_prob_missing_error: np.ndarray  # [n] float32, its standard error
    # [n] float32, of the weights behind the former; with a truth the larger of the two
    pareto_k: np.ndarray


class DrawCollector:
    """Draws x_mis ~ p(x_mis | z) at latents chosen from the kept sweeps, and estimates
    log-likelihoods.
    """

    def __init__(self, vae: VAE, config: SamplerConfig):
        self._vae, self._config = vae, config
        self._num_places = config.slots // config.rows_per_record
        self._places, self._part, self._evidence = (
            tf.function(each, autograph=False)
            for each in (self._draw_places, self._draw_part, self._log_weights)
        )
        self._complete_chains = _slots_of_complete(vae, config)

    def __call__(
        self, records: Records, finished: Sequence[Finished], truth: np.ndarray | None
    ) -> CollectedDraws:
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
        values = self._values_at(keys, x, observed, chosen)
        of_observed = of_missing = [_UNKNOWN] * num
        if self._config.num_evidence_draws:
            of_observed = self._of_observed(records, finished, shares)
            if truth is not None:
                of_missing = self._of_missing(records, truth, of_observed)
        pareto_k = [
            np.fmax(first.pareto_k, second.pareto_k)
            for first, second in zip(of_observed, of_missing)
        ]
        columns = (
            *zip(*(each[:2] for each in of_observed)),
            *zip(*(each[:2] for each in of_missing)),
            pareto_k,
        )
        return CollectedDraws(
            values, num_latents, *(np.array(column, np.float32) for column in columns)
        )

    def _of_observed(
        self, records: Records, finished: Sequence[Finished], shares: Sequence[np.ndarray | None]
    ) -> list[Estimate]:
        """log p(x_obs) of n records, by the kept draws of their own chains."""
        found = self._estimates(_OBSERVED, records, [each.trace for each in finished], shares)
        if self._vae.likelihood.missingness is not None:  # a mask that hides all says something too
            return found
        return [each if known.any() else CERTAIN for each, known in zip(found, records.observed)]

    def _of_missing(
        self, records: Records, truth: np.ndarray, observed: Sequence[Estimate]
    ) -> list[Estimate]:
        """log p(x_mis | x_obs) of those of n records that have a truth, by chains on the complete
        record.
        """
        known = np.flatnonzero(~np.isnan(truth).any(axis=1))
        complete = Records(
            records.keys[known], truth[known], np.ones((len(known), truth.shape[1]), bool)
        )
        chains = complete._replace(keys=derived_keys(complete.keys, _COMPLETE_KEYS))
        finished = sorted(
            (each for call in self._complete_chains.run(chains) for each in call),
            key=lambda f: f.index,
        )
        found = [_UNKNOWN] * len(observed)
        traces = [each.trace for each in finished]
        of_complete = self._estimates(_COMPLETE, complete, traces, [None] * len(known))
        log_odds = self._log_odds_of_masks(complete, records.observed[known])
        for index, each, log_odd in zip(known.tolist(), of_complete, log_odds):
            each = each._replace(log_mean=each.log_mean + log_odd)
            found[index] = evidence.difference(each, observed[index])
        return found

    def _log_odds_of_masks(self, complete: Records, observed: np.ndarray) -> np.ndarray:
        """By how much the masks [n, D] of complete records are likelier than that all is observed:
        [n] nats, 0 if masks are not modelled.

        What the evidence of a record of which nothing is missing lacks to that of the same with its
        own mask, as all of the rest depends on its values alone.
        """
        missingness = self._vae.likelihood.missingness
        if missingness is None:
            return np.zeros(len(observed))
        own, none = (
            missingness.log_prob(complete.x, each) for each in (observed, complete.observed)
        )
        return (own - none).numpy().astype(np.float64)

    def _estimates(
        self,
        purposes: tuple[Purpose, Purpose],
        records: Records,
        traces: Sequence[Trace],
        shares: Sequence[np.ndarray | None],
    ) -> list[Estimate]:
        """Of the weights of records, by normal proposals fitted to draws z of theirs and their
        shares; of densities in the data's own units.
        """
        fits = [_normal_fit(*each) for each in zip(traces, shares)]
        size = self._vae.latent_size
        fits += [(np.zeros(size), np.eye(size))] * (self._num_places - len(fits))
        loc, factor = (tf.constant(np.stack(part).astype(np.float32)) for part in zip(*fits))
        log_weight = self._evidence(
            *(tf.constant(pad(field, self._num_places)) for field in records),
            loc,
            factor,
            tf.constant(purposes),
        ).numpy()
        found = [evidence.estimate(each) for each in log_weight[: len(traces)]]
        standardization = self._vae.likelihood.standardization
        if standardization is None:
            return found
        volumes = standardization.log_volume(records.observed)
        return [
            each._replace(log_mean=each.log_mean - volume) for each, volume in zip(found, volumes)
        ]

    def _draw_places(self, keys: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """What chance has in the choice of latents: a uniform number [R] and words [R, J]."""
        streams = Streams(keys, tf.zeros([self._num_places], tf.uint32))
        first = uniform(streams, tf.constant(0), Purpose.KEEP_LATENT, 1)[:, 0]
        return first, bits(
            streams, tf.constant(0), Purpose.KEEP_ORDER, self._config.num_imputations
        )

    def _values_at(
        self, keys: tf.Tensor, x: tf.Tensor, observed: tf.Tensor, z: np.ndarray
    ) -> np.ndarray:
        """x_mis ~ p(x_mis | z) for z [n, J, K], the latents of a record over its rows a pass:
        [n, J, D] as the data are, which take a quarter of what they do on the model's scale.
        """
        num, num_latents, _ = z.shape
        per_record, likelihood = self._config.rows_per_record, self._vae.likelihood
        values = np.empty((num, num_latents, x.shape[1]), likelihood.dtype)
        for first in range(0, num_latents, per_record):
            part = z[:, first : first + per_record]
            room = [(0, self._num_places - num), (0, per_record - part.shape[1]), (0, 0)]
            drawn = self._part(
                keys, x, observed, tf.constant(np.pad(part, room)), tf.constant(first, tf.uint32)
            )
            part_of = values[:, first : first + per_record]
            part_of[:] = likelihood.to_data(drawn[:num, : part.shape[1]]).numpy()
        return values

    def _draw_part(
        self, keys: tf.Tensor, x: tf.Tensor, observed: tf.Tensor, z: tf.Tensor, first: tf.Tensor
    ) -> tf.Tensor:
        """x_mis ~ p(x_mis | z) for z [R, P, K], the latents from `first` on, for the P rows of each
        record: [R, P, D].
        """
        per_record = self._config.rows_per_record
        rows = rows_of_records(keys, x, observed, per_record)
        streams = rows.streams._replace(chains=rows.streams.chains + first)
        outputs = self._vae.decoder(tf.reshape(z, [-1, self._vae.latent_size]))
        drawn = draw_values(
            self._vae,
            rows._replace(streams=streams),
            everywhere(rows, 0),
            Purpose.KEEP_VALUES,
            outputs,
        )
        return tf.reshape(drawn, [-1, per_record, drawn.shape[1]])

    def _log_weights(
        self,
        keys: tf.Tensor,
        x: tf.Tensor,
        observed: tf.Tensor,
        loc: tf.Tensor,
        factor: tf.Tensor,
        purposes: tf.Tensor,
    ) -> tf.Tensor:
        """Of R records with a proposal N(loc, factor factor') each: [R, S]."""
        per_record = self._config.rows_per_record
        loc, factor = (tf.repeat(tensor, per_record, axis=0) for tensor in (loc, factor))
        rows = rows_of_records(keys, x, observed, per_record)
        return evidence.log_weights(
            self._vae, rows, per_record, loc, factor, self._config.num_evidence_draws, purposes
        )

    def _choose(
        self, finished: Finished, shares: np.ndarray | None, first: np.float32, words: np.ndarray
    ) -> np.ndarray:
        """The latents [J, K] that imputations are drawn from, in an order by chance: none is unlike
        the others.

        Args:
            shares: weights of all draws, None if they are all the same.
            first: uniform number, where weights are gone through.
            words: [J] random ones, whose order is that of the latents.
        """
        z, draw = finished.trace.z, np.argsort(words, kind="stable")
        if shares is None:  # evenly over chains and sweeps, the last ones after the last sweep
            num_rows, num_kept = z.shape[:2]
            # At most `num_kept`, before which nothing has finished
            per_chain = -(-len(draw) // num_rows)
            return z[draw % num_rows, (draw // num_rows + 1) * num_kept // per_chain - 1]
        cumulative = np.cumsum(shares)
        places = np.searchsorted(cumulative, (draw + first) / len(draw) * cumulative[-1])
        return z.reshape(-1, z.shape[2])[np.minimum(places, len(shares) - 1)]


def _slots_of_complete(vae: VAE, config: SamplerConfig) -> Slots:
    """Slots for chains on complete records: the same whatever the sampler, all of one length."""
    own = samplers.sampler_config(
        "latent_hmc",
        num_chains=_COMPLETE_CHAINS,
        num_start=_COMPLETE_START,
        num_warmup=_COMPLETE_WARMUP,
        max_sweeps=_COMPLETE_START + _COMPLETE_WARMUP + _COMPLETE_KEPT,
        num_imputations=1,
        num_scouts=0,
    ).model_copy(update={"slots": config.slots})
    return Slots(vae, samplers.build(vae, own), own)


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
    return mean, np.linalg.cholesky(
        (size * covariance + _PRIOR_DRAWS * identity) / (size + _PRIOR_DRAWS)
    )
