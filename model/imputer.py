"""`Imputer`: the one entry to the samplers, for the pipeline and a notebook alike."""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from vaefill.model import samplers
from vaefill.model.checkpoints import LoadedModel
from vaefill.model.compiled import compile_vae
from vaefill.model.config import SamplerConfig
from vaefill.model.counter_random import derived_keys
from vaefill.model.engine import chain
from vaefill.model.engine.bands import WHOLE, Bands
from vaefill.model.engine.collection import DrawCollector
from vaefill.model.engine.rows import even_slots, lanes_in_memory, slots_in_memory
from vaefill.model.engine.slots import Finished, Records, Slots, Waiting
from vaefill.model.fields import FIELDS
from vaefill.model.gaps import Split
from vaefill.model.likelihoods import Likelihood
from vaefill.model.misfit import FitTest, is_misfit
from vaefill.model.parallel import available, side_by_side
from vaefill.model.preprocessing import Preprocessor
from vaefill.model.vae import VAE, keras_networks

# Device calls, of many seconds together, that a finished record waits for others at most
_PATIENCE = 100
_VALUES_AT_ONCE = 1 << 20  # that are brought to the model's scale


class Imputed(NamedTuple):
    """The results of N records, as the output has them; see docs/formats.md."""

    # [N, num_imputations, H, W, C] of the data's type, observed values untouched
    imputations: np.ndarray
    # [N, H, W, C] float32, E[x | x_obs], 255 (real data: 1) is 1; the value where observed
    mean: np.ndarray
    stddev: np.ndarray  # [N, H, W, C] float32, of the same; 0 where observed
    # [N] each; what they mean, and their types, stands in `vaefill.model.fields`.
    r_hat: np.ndarray
    ess_bulk: np.ndarray
    ess_tail: np.ndarray
    acceptance_rate: np.ndarray
    num_sweeps: np.ndarray
    num_network_passes: np.ndarray
    num_non_finite: np.ndarray
    num_unvisited: np.ndarray
    num_latents: np.ndarray
    converged: np.ndarray
    fit_p_value: np.ndarray
    misfit: np.ndarray
    log_prob_observed: np.ndarray
    log_prob_observed_error: np.ndarray
    log_prob_missing: np.ndarray
    log_prob_missing_error: np.ndarray
    pareto_k: np.ndarray
    # [N] of `engine.stopping.Trace` where they were to be kept and there were any, else None; of an
    # ensemble tuples of its members'
    chains: np.ndarray


class Imputer:
    """A sampler compiled for one model and one configuration, at one fixed shape.

    Every call of a device program has the shape [slots, ...], however many records there are, so
    that a record's result has the same bits in any company.
    """

    def __init__(
        self,
        vae: VAE,
        config: SamplerConfig,
        preprocessor: Preprocessor | None = None,
        calibration: Split | None = None,
        num_lanes: int | None = None,
        keep_chains: bool = False,
        member: int | None = None,
    ):
        """Compiles nothing yet.

        Args:
            vae: the model.
            config: the sampler's configuration.
            preprocessor: of the model's likelihood, with the run's seed; by default one that
                thresholds, and seed 0.
            calibration: M records that misfits are told by, if any.
            keep_chains: whether results have the draws of every kept sweep in `chains`.
            num_lanes: device programs side by side, by default as many as `lanes.share_cores` has
                made room for; fewer of large images.
            member: the model's number in an ensemble, if it is of one: its chains share no random
                numbers with those of the others.
        """
        vae = compile_vae(vae, config.precision)
        slots = slots_in_memory(vae, config.slots, config.slots_unit)
        slots = even_slots(vae, slots, config.slots_unit)
        config = config.model_copy(update={"slots": slots})
        self._vae, self._config = vae, config
        self._keep_chains, self._member = keep_chains, member
        self._preprocessor = preprocessor or Preprocessor(vae.likelihood)
        self._num_lanes = lanes_in_memory(vae, slots, num_lanes or available())
        self._fit_test = None
        if calibration is not None:
            seen = self._preprocessor.calibration(calibration.values)
            self._fit_test = FitTest(vae, seen, config.slots, calibration.observed)
        self._kernel = samplers.build(vae, config)
        self._bands = Bands(vae.data_shape)
        self._slots = {WHOLE: Slots(vae, self._kernel, config)}
        self._collector = DrawCollector(vae, config)

    @property
    def occupancy(self) -> float:
        """The fraction of slots that had a record in them, over all kept sweeps so far; NaN before
        any.
        """
        occupied, passed = (
            sum(getattr(slots, name) for slots in self._slots.values())
            for name in ("occupied", "passed")
        )
        return occupied / passed if passed else math.nan

    def reset_occupancy(self) -> None:
        """Begins to measure `occupancy` anew."""
        for slots in self._slots.values():
            slots.occupied = slots.passed = 0

    @property
    def num_places(self) -> int:
        """Records whose chains the slots hold at once."""
        return self._slots[WHOLE].num_places

    def compile(self, observed: np.ndarray) -> None:
        """Compiles what the chains of records [N, H, W, C] need before a call does, for those who
        time it.
        """
        for band in np.unique(self._bands_of(observed.reshape(len(observed), -1))):
            self._slots_of(band).compile(self._vae.num_values)

    def __call__(
        self,
        images: np.ndarray,
        observed: np.ndarray,
        ids: Sequence[bytes],
        truths: Sequence[np.ndarray | None] = (),
        report: Callable[[np.ndarray], None] = lambda converged: None,
    ) -> Imputed:
        """Imputes records.

        Args:
            images, observed, ids, truths: see `stream`.
            report: called with `converged` [n] of records whenever n of them are done.

        Raises:
            ValueError: see `stream`.
        """
        self.check(images, observed, ids)
        unknown = np.full(len(ids), np.nan)
        results = self._blank(images, unknown)
        for places, part in self.stream(images, observed, ids, truths):
            if len(places):
                for whole, rows in zip(results, part):
                    whole[places] = rows
                report(part.converged)
        return results

    def stream(
        self,
        images: np.ndarray,
        observed: np.ndarray,
        ids: Sequence[bytes],
        truths: Sequence[np.ndarray | None] = (),
    ) -> Iterator[tuple[np.ndarray, Imputed]]:
        """Imputes records, and hands their results over as they come.

        Args:
            images: [N, H, W, C] of the likelihood's data type; values where missing are ignored.
            observed: [N, H, W, C] bool, True = observed.
            ids: the N ids; a record's result depends on its id, its values and the seed alone.
            truths: of each record the complete one [H, W, C], or None; only `log_prob_missing` asks
                for it.

        Yields:
            After every device call the places [n] of records among the N, and their results: most
            often of none, so that who waits sees the device at work. Every record comes once.

        Raises:
            ValueError: shapes that do not fit each other or the model.
        """
        self.check(images, observed, ids)
        if not len(ids):
            return
        records = self._records(images, observed, ids)
        complete = records.observed.all(axis=1)
        whole = np.flatnonzero(complete)
        for first in range(0, len(whole), self.num_places):
            chosen = whole[first : first + self.num_places]
            yield chosen, self._blank(images[chosen], self._fit(records, chosen))
        for batch in self._in_batches(self._run(records, np.flatnonzero(~complete))):
            chosen = np.array([each.index for each in batch], np.int64)
            results = self._blank(images[chosen], self._fit(records, chosen))
            if batch:
                truth = self._truth(
                    [ids[i] for i in chosen], [truths[i] for i in chosen] if len(truths) else []
                )
                for name, rows in self._result(
                    records, batch, images[chosen], observed[chosen], truth
                ).items():
                    getattr(results, name)[:] = rows
            yield chosen, results

    def _fit(self, records: Records, chosen: np.ndarray) -> np.ndarray:
        """p-values of fit [n] of some records, NaN where nothing tells."""
        if self._fit_test is None or not len(chosen):
            return np.full(len(chosen), np.nan)
        return self._fit_test(records.x[chosen], records.observed[chosen])

    def _blank(self, images: np.ndarray, fit: np.ndarray) -> Imputed:
        return _untouched(images, self._config, self._vae.likelihood.unit, fit)

    def check(self, images: np.ndarray, observed: np.ndarray, ids: Sequence[bytes]) -> None:
        """Checks that arrays are what `stream` takes.

        Raises:
            ValueError: shapes or types that do not fit each other or the model.
        """
        shape, dtype = (len(ids), *self._vae.data_shape), self._vae.likelihood.dtype
        for name, array, expected in (("images", images, dtype), ("observed", observed, np.bool_)):
            if array.shape != shape or array.dtype != expected:
                raise ValueError(
                    f"{name} must be {expected.__name__} {shape}, got {array.dtype} {array.shape}"
                )

    def _records(self, images: np.ndarray, observed: np.ndarray, ids: Sequence[bytes]) -> Records:
        keys = self._preprocessor.keys(ids)
        known = observed.reshape(len(ids), -1)
        x = np.empty(known.shape, np.float32)
        # On the way there are many copies in float32
        size = max(1, min(self.num_places, _VALUES_AT_ONCE // self._vae.num_values))
        for first in range(0, len(ids), size):
            part = slice(first, first + size)
            x[part] = self._preprocessor.to_model(keys[part], images[part])
        x[~known] = 0
        return Records(self._of_chains(keys), x, known)

    def _of_chains(self, keys: np.ndarray) -> np.ndarray:
        """The keys of records' chains. What is binarised by chance is the same for all members."""
        return keys if self._member is None else derived_keys(keys, b"member %d" % self._member)

    def _truth(
        self, ids: Sequence[bytes], truths: Sequence[np.ndarray | None]
    ) -> np.ndarray | None:
        """Complete records on the model's scale [n, D], NaN for those without; None if no record
        has one.
        """
        known = {i: truth for i, truth in enumerate(truths) if truth is not None}
        if not known:
            return None
        places, keys = list(known), self._preprocessor.keys([ids[i] for i in known])
        values = np.full((len(ids), self._vae.num_values), np.nan, np.float32)
        values[places] = self._preprocessor.to_model(keys, np.stack(list(known.values())))
        return values

    def _bands_of(self, observed: np.ndarray) -> np.ndarray:
        """The band of every record [N], as far as model and sampler can make use of it."""
        if self._kernel.uses_restricted_decoder and self._vae.supports_restriction:
            return self._bands.find(observed)
        return np.full(len(observed), WHOLE)

    def _slots_of(self, band: int) -> Slots:
        """The slots of a band, made when it is first met."""
        if band not in self._slots:
            vae = self._vae.restrict_to(self._bands.values(band))
            self._slots[band] = Slots(vae, samplers.build(vae, self._config), self._config)
        return self._slots[band]

    def _run(self, records: Records, chosen: np.ndarray) -> Iterator[list[Finished]]:
        """Runs some records, band by band; yields as `Slots.run`."""
        band_of = self._bands_of(records.observed[chosen])
        for band in np.unique(band_of):
            slots, waiting = self._slots_of(band), Waiting(chosen[band_of == band].tolist())
            yield from side_by_side([slots.run(records, waiting) for _ in range(self._num_lanes)])

    def _in_batches(self, calls: Iterable[list[Finished]]) -> Iterator[list[Finished]]:
        """Finished records, as many at once as the slots hold or fewer after a while, and none
        after most calls.
        """
        waiting: list[Finished] = []
        num_calls = 0
        for finished in calls:
            waiting += finished
            num_calls = num_calls + 1 if waiting else 0
            is_time = len(waiting) >= self.num_places or num_calls >= _PATIENCE
            batch = waiting[: self.num_places] if is_time else []
            if is_time:
                num_calls = 0
            waiting = waiting[len(batch) :]
            yield batch
        yield waiting

    def _result(
        self,
        records: Records,
        batch: Sequence[Finished],
        images: np.ndarray,
        observed: np.ndarray,
        truth: np.ndarray | None,
    ) -> dict[str, np.ndarray]:
        """The fields of `Imputed` that the chains of a batch have to say something about."""
        likelihood, num, shape = self._vae.likelihood, len(batch), images.shape[1:]
        collected = self._collector(
            Records(*(field[[each.index for each in batch]] for field in records)), batch, truth
        )
        drawn = collected.values.reshape(num, -1, *shape)
        mean, stddev = (
            each.reshape(images.shape)
            for each in _moments(
                likelihood,
                np.stack([each.mean for each in batch]),
                np.stack([each.variance for each in batch]),
            )
        )
        kept = np.array([each.trace.z.shape[1] for each in batch])
        known = collected.log_prob_observed if self._config.num_evidence_draws else np.zeros(num)
        # Chains that agree may do so on what overflows
        finite = _all_finite(mean, stddev, drawn, known)
        passes = chain.num_passes(self._kernel, self._slots[WHOLE].schedule, kept)
        return dict(
            imputations=np.where(observed[:, None], images[:, None], drawn),
            mean=np.where(observed, images.astype(np.float32) / likelihood.unit, mean),
            stddev=np.where(observed, np.float32(0), stddev),
            r_hat=np.array([each.verdict.r_hat for each in batch]),
            ess_bulk=np.array([each.verdict.ess_bulk for each in batch]),
            ess_tail=np.array([each.verdict.ess_tail for each in batch]),
            acceptance_rate=np.array([each.acceptance for each in batch]),
            num_sweeps=self._config.num_start + self._config.num_warmup + kept,
            num_network_passes=self._config.rows_per_record * passes,
            num_non_finite=np.array([each.num_non_finite for each in batch]),
            num_latents=collected.num_latents,
            num_unvisited=np.array([each.verdict.num_unvisited for each in batch]),
            converged=np.array([each.verdict.converged for each in batch]) & finite,
            log_prob_observed=collected.log_prob_observed,
            log_prob_observed_error=collected.log_prob_observed_error,
            log_prob_missing=collected.log_prob_missing,
            log_prob_missing_error=collected.log_prob_missing_error,
            pareto_k=collected.pareto_k,
            chains=_objects([each.trace if self._keep_chains else None for each in batch]),
        )


def _moments(
    likelihood: Likelihood, mean: np.ndarray, variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations [n, D] float32 as the output has them, of those on the model's
    scale.
    """
    stddev, standardization = np.sqrt(np.maximum(variance, 0)), likelihood.standardization
    if standardization is None:
        return mean, stddev
    return standardization.to_data(mean), standardization.stddev_to_data(stddev)


def _all_finite(*arrays: np.ndarray) -> np.ndarray:
    """Of which of n records all values in arrays [n, ...] are finite: [n] bool."""
    return np.all(
        [np.isfinite(array).reshape(len(array), -1).all(axis=1) for array in arrays], axis=0
    )


def _objects(values: Sequence[Any]) -> np.ndarray:
    """[n] of any objects, which NumPy would otherwise take apart."""
    array = np.empty(len(values), object)
    for index, value in enumerate(values):
        array[index] = value
    return array


def _untouched(images: np.ndarray, config: SamplerConfig, unit: float, fit: np.ndarray) -> Imputed:
    """The results of records of which nothing is missing: themselves, without a sweep."""
    num = len(images)
    diagnostics = {field.name: np.full(num, field.complete, field.dtype) for field in FIELDS}
    diagnostics["fit_p_value"] = fit.astype(np.float32)
    diagnostics["misfit"] = is_misfit(fit, config.misfit_rate)
    return Imputed(
        imputations=np.repeat(images[:, None], config.num_imputations, axis=1),
        mean=images.astype(np.float32) / unit,
        stddev=np.zeros(images.shape, np.float32),
        **diagnostics,
        chains=_objects([None] * num),
    )


@dataclasses.dataclass(frozen=True)
class Weights:
    """A model as a key: equal to another where files, weights and functions are the same."""

    model: LoadedModel = dataclasses.field(compare=False)
    identity: tuple[Any, ...]

    @classmethod
    def of(cls, model: LoadedModel) -> "Weights":
        """Those that the model has now, which may no longer be those of its files."""
        digest = hashlib.blake2b()
        for network in keras_networks(model.vae):
            for weight in network.get_weights():
                digest.update(weight.tobytes())
        standardization = model.vae.likelihood.standardization
        if standardization is not None:
            digest.update(standardization.location.tobytes() + standardization.scale.tobytes())
        networks = (model.vae.encoder, model.vae.decoder)
        functions = [each for each in networks if not isinstance(each, keras.Layer)]
        return cls(model, (model.fingerprint, digest.digest(), *functions))


def imputer_for(
    model: LoadedModel,
    config: SamplerConfig,
    binarize: str = "threshold",
    seed: int = 0,
    keep_chains: bool = False,
) -> Imputer:
    """The `Imputer` of a loaded model, kept: who asks for the same again does not compile again.

    Args:
        model: one whose weights have changed since is another.
        config: the sampler's configuration.
        binarize: see `Preprocessor`.
        seed: of the run.
        keep_chains: see `Imputer`.
    """
    return _kept(Weights.of(model), config, binarize, seed, keep_chains)


@functools.lru_cache(maxsize=4)
def _kept(
    weights: Weights, config: SamplerConfig, binarize: str, seed: int, keep_chains: bool
) -> Imputer:
    model = weights.model
    preprocessor = Preprocessor(model.vae.likelihood, binarize, seed)
    return Imputer(model.vae, config, preprocessor, model.calibration, keep_chains=keep_chains)
