"""`EnsembleImputer`: imputations from several models that count equally, as of their mixture.

A record is imputed by each member, by chains of its own, and what comes out is that of
(1 / M) sum_m p_m(x_mis | x_obs).

The weights are not p_m(x_obs), as a Bayesian mixture for a single new record would have them: the
members are draws of what the training records leave open about one set of weights, which is the
same for all records, and networks differ by chance by nats enough for one of them to take all the
weight of a record, another that of the next.

So imputation j of every record is of member j mod M. The j-th imputed data set then is of one
fit, as Rubin's rules have it: what differs from fit to fit is in the variance between data sets,
where a member drawn for each record anew would leave it out of any mean over records.
"""

import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from vaefill.model import imputer as imputer_lib
from vaefill.model.checkpoints import LoadedModel
from vaefill.model.config import SamplerConfig
from vaefill.model.ensembles import AnyModel
from vaefill.model.fields import FIELDS, OverMembers
from vaefill.model.imputer import Imputed, Imputer, Weights
from vaefill.model.preprocessing import Preprocessor
from vaefill.model.standardization import nearest_float32

# Times as many records as the slots hold go through all members before the next ones: a kill loses
# these, and at the end of each member's some slots are idle
_FILLS_AT_ONCE = 8


def draws_of_members(num_imputations: int, num_members: int) -> list[int]:
    """How many imputations of a record are of each member, if imputation j is of member j mod M.

    Raises:
        ValueError: none of some.

    Example:
        >>> draws_of_members(8, 5)
        [2, 2, 2, 1, 1]
    """
    if num_imputations < num_members:
        raise ValueError(
            f"sampler.num_imputations {num_imputations} leaves out some of {num_members} members; "
            f"set it to {num_members} or a multiple of it"
        )
    return [len(range(number, num_imputations, num_members)) for number in range(num_members)]


class EnsembleImputer:
    """The samplers of several models, as one `Imputer`.

    A record's result has the same bits in any company, as each member's has.
    """

    def __init__(
        self,
        models: Sequence[LoadedModel],
        config: SamplerConfig,
        binarize: str = "threshold",
        seed: int = 0,
        keep_chains: bool = False,
    ):
        """Compiles nothing yet.

        Args:
            models: the members, of one shape and type of data.
            config: the sampler's configuration, the same for all but for `num_imputations`, which
                they share.
            binarize: see `Preprocessor`.
            seed: of the run.
            keep_chains: see `Imputer`.

        Raises:
            ValueError: there are fewer imputations than members.
        """
        shares = draws_of_members(config.num_imputations, len(models))
        self._members = [
            Imputer(
                model.vae,
                config.model_copy(update={"num_imputations": share}),
                Preprocessor(model.likelihood, binarize, seed),
                model.calibration,
                keep_chains=keep_chains,
                member=number,
            )
            for number, (model, share) in enumerate(zip(models, shares))
        ]

    @property
    def num_places(self) -> int:
        """Records whose chains the slots hold at once."""
        return min(member.num_places for member in self._members)

    def __call__(
        self,
        images: np.ndarray,
        observed: np.ndarray,
        ids: Sequence[bytes],
        truths: Sequence[np.ndarray | None] = (),
        report: Callable[[np.ndarray], None] = lambda converged: None,
    ) -> Imputed:
        """Imputes records; see `Imputer`."""
        parts = [self._nothing(images)]
        for places, part in self.stream(images, observed, ids, truths):
            if len(places):
                parts.append(part)
                report(part.converged)
        return _concatenated(parts)

    def stream(
        self,
        images: np.ndarray,
        observed: np.ndarray,
        ids: Sequence[bytes],
        truths: Sequence[np.ndarray | None] = (),
    ) -> Iterator[tuple[np.ndarray, Imputed]]:
        """Imputes records, and hands their results over as they come: see `Imputer.stream`.

        Some records go through all members, one after another, and then the next ones; they come in
        their order.
        """
        for member in self._members:
            member.check(images, observed, ids)
        nothing = self._nothing(images)
        size = _FILLS_AT_ONCE * self.num_places
        for first in range(0, len(ids), size):
            chosen = slice(first, first + size)
            found = []
            for member in self._members:
                parts = []
                for places, part in member.stream(
                    images[chosen], observed[chosen], ids[chosen], truths[chosen]
                ):
                    parts.append((places, part))
                    yield np.arange(0), nothing
                found.append(_in_order(parts))
            yield np.arange(first, min(first + size, len(ids))), mixture(found)

    def _nothing(self, images: np.ndarray) -> Imputed:
        """The results of no records."""
        none = images[:0]
        return mixture([member(none, none.astype(bool), []) for member in self._members])


def _in_order(parts: Sequence[tuple[np.ndarray, Imputed]]) -> Imputed:
    """Results in the order of their records, of places [n] and results, all of them together."""
    places, results = zip(*parts)
    order = np.argsort(np.concatenate(places))
    return Imputed(*(field[order] for field in _concatenated(results)))


def _concatenated(results: Sequence[Imputed]) -> Imputed:
    return Imputed(*(np.concatenate(field) for field in zip(*results)))


def mixture(members: Sequence[Imputed]) -> Imputed:
    """What the results of M members for the same N records come to.

    Mean and standard deviation are those of the mixture, by the law of total variance. What each
    diagnostic is stands in `vaefill.model.fields`. Two of them, beside what they say:

    - The ESS is the smallest and not the sum: a member whose chains have not mixed is not made good
      by the others. The standard error of the mean is at most stddev / sqrt(M ess_bulk).
    - A misfit is one to all members. The largest of p-values that are at most a with probability
      at most a each is so too, whatever the others are.
    """
    mean, stddev = _moments([each.mean for each in members], [each.stddev for each in members])
    diagnostics = {
        field.name: _over_members(field.name, field.over_members, members).astype(field.dtype)
        for field in FIELDS
    }
    return Imputed(
        imputations=_in_turn([each.imputations for each in members]),
        mean=mean,
        stddev=stddev,
        **diagnostics,
        chains=_chains([each.chains for each in members]),
    )


def _in_turn(imputations: Sequence[np.ndarray]) -> np.ndarray:
    """Imputations [N, J_m, ...] of M members, J in all: [N, J, ...], the j-th of member j mod M."""
    first, num = imputations[0], sum(part.shape[1] for part in imputations)
    whole = np.empty((len(first), num, *first.shape[2:]), first.dtype)
    for number, part in enumerate(imputations):
        whole[:, number :: len(imputations)] = part
    return whole


def _moments(
    means: Sequence[np.ndarray], stddevs: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [N, ...] float32 of an equal mixture, by those of M members."""
    mean_of, stddev_of = (np.asarray(each, np.float64) for each in (means, stddevs))
    mean = mean_of.mean(axis=0)
    with np.errstate(invalid="ignore"):  # of means that are infinite
        variance = (stddev_of**2).mean(axis=0) + ((mean_of - mean) ** 2).mean(axis=0)
    return nearest_float32(mean), nearest_float32(np.sqrt(variance))


def _over_members(name: str, rule: OverMembers, members: Sequence[Imputed]) -> np.ndarray:
    """A diagnostic [N] of an ensemble."""
    values = np.stack([getattr(each, name) for each in members])
    if rule is OverMembers.LOG_MEAN:
        return _log_mean(values)
    if rule is OverMembers.ERROR:
        estimate = name.removesuffix("_error")
        return _error_of_log_mean(np.stack([getattr(each, estimate) for each in members]), values)
    return _RULES[rule](values)


_RULES: dict[OverMembers, Callable[[np.ndarray], np.ndarray]] = {
    OverMembers.LARGEST: np.maximum.reduce,
    OverMembers.SMALLEST: np.minimum.reduce,
    OverMembers.MEAN: lambda values: values.mean(axis=0, dtype=np.float64),
    OverMembers.SUM: np.add.reduce,
    OverMembers.ALL: np.logical_and.reduce,
}


def _log_mean(log_prob: np.ndarray) -> np.ndarray:
    """log((1 / M) sum exp) of [M, N]: [N] float64."""
    share, largest = _relative(log_prob)
    with np.errstate(divide="ignore"):
        return np.log(share.mean(axis=0)) + largest


def _error_of_log_mean(log_prob: np.ndarray, error: np.ndarray) -> np.ndarray:
    """The standard error [N] of `_log_mean`, by the delta method, from those of the members [M, N],
    which are independent.
    """
    share, _ = _relative(log_prob)
    with np.errstate(invalid="ignore"):
        return np.sqrt(((share / share.sum(axis=0) * error) ** 2).sum(axis=0))


def _relative(log_prob: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [M, N] in terms of the largest over M, and the log of that [N], 0 if it is not
    finite.
    """
    largest = log_prob.astype(np.float64).max(axis=0)
    largest = np.where(np.isfinite(largest), largest, 0.0)
    return np.exp(log_prob - largest), largest


def _chains(members: Sequence[np.ndarray]) -> np.ndarray:
    """Of [N] traces of each member tuples of M, [N]; None where there are none."""
    whole = np.empty(len(members[0]), object)
    for index, traces in enumerate(zip(*members)):
        whole[index] = None if traces[0] is None else traces
    return whole


def imputer_for(
    model: AnyModel,
    config: SamplerConfig,
    binarize: str = "threshold",
    seed: int = 0,
    keep_chains: bool = False,
) -> Imputer | EnsembleImputer:
    """The imputer of a model or an ensemble, kept; see `vaefill.model.imputer.imputer_for`.

    Raises:
        ValueError: there are fewer imputations than members.
    """
    if isinstance(model, LoadedModel):
        return imputer_lib.imputer_for(model, config, binarize, seed, keep_chains)
    weights = tuple(map(Weights.of, model.members))
    return _kept(weights, config, binarize, seed, keep_chains)


@functools.lru_cache(maxsize=4)
def _kept(
    weights: tuple[Weights, ...], config: SamplerConfig, binarize: str, seed: int, keep_chains: bool
) -> EnsembleImputer:
    models = [each.model for each in weights]
    return EnsembleImputer(models, config, binarize, seed, keep_chains)
