"""The diagnostics of a record: one table that all who hold, write or show them follow.

A new diagnostic is a row here, a field of `vaefill.model.imputer.Imputed` and what computes it.
From the table follow the features of the imputed data set and their documentation, the columns of
records.parquet, the quantiles in summary.json, what `vaefill evaluate` and the report show, what
an ensemble makes of its members' (`vaefill.model.ensemble_imputer`), and the rows that the
documentation must have.
"""

import dataclasses
import enum
import math

import numpy as np


class Worse(enum.Enum):
    """Which values of a diagnostic are worse."""

    LARGER = "larger is worse"
    SMALLER = "smaller is worse"
    NEITHER = ""


class OverMembers(enum.Enum):
    """What a diagnostic of an ensemble is of those of its members, which count equally."""

    LARGEST = "the largest"
    SMALLEST = "the smallest"
    MEAN = "the mean"
    SUM = "the sum"
    ALL = "whether all are"
    LOG_MEAN = "that of the mixture: the log of the mean of the probabilities"
    ERROR = "that of the mixture's, by the delta method"


@dataclasses.dataclass(frozen=True)
class Field:
    """A diagnostic of a record."""

    name: str  # in every file
    dtype: type[np.generic]  # float32, int64 or bool
    title: str  # for people
    format: str  # for people, a format specification
    meaning: str  # a sentence, without its full stop
    complete: float  # the value for a record of which nothing is missing
    over_members: OverMembers
    worse: Worse = Worse.NEITHER
    has_quantiles: bool = True  # in summary.json, `vaefill evaluate` and the report
    is_listed: bool = False  # for each of the report's records to trust least

    @property
    def description(self) -> str:
        """The meaning, and which values are worse."""
        return "; ".join(filter(None, (self.meaning, self.worse.value)))


FIELDS = (
    Field(
        "r_hat",
        np.float32,
        "R-hat",
        ",.3f",
        "R-hat of split chains and ranks, the largest over latent dimensions and log p(x_obs | z); "
        "NaN of weighted draws",
        math.nan,
        OverMembers.LARGEST,
        Worse.LARGER,
        is_listed=True,
    ),
    Field(
        "ess_bulk",
        np.float32,
        "ESS, bulk",
        ",.0f",
        "effective sample size, the smallest over the same; of weighted draws that of the weights",
        math.nan,
        OverMembers.SMALLEST,
        Worse.SMALLER,
        is_listed=True,
    ),
    Field(
        "ess_tail",
        np.float32,
        "ESS, tail",
        ",.0f",
        "effective sample size in the tails, the smallest; of weighted draws that of the weights",
        math.nan,
        OverMembers.SMALLEST,
        Worse.SMALLER,
        is_listed=True,
    ),
    Field(
        "acceptance_rate",
        np.float32,
        "acceptance rate",
        ".3f",
        "accepted share of proposals, mean over chains and kept sweeps",
        math.nan,
        OverMembers.MEAN,
    ),
    Field(
        "num_sweeps",
        np.int64,
        "sweeps of a chain",
        ",.0f",
        "sweeps of a chain until the record stopped, start and warm-up included",
        0,
        OverMembers.SUM,
    ),
    Field(
        "num_network_passes",
        np.int64,
        "network passes of a record",
        ",.0f",
        "network passes summed over the chains: the cost",
        0,
        OverMembers.SUM,
    ),
    Field(
        "num_non_finite",
        np.int64,
        "not finite",
        ",.0f",
        "acceptance ratios and weights that were not finite: rejected, or of weight 0",
        0,
        OverMembers.SUM,
        Worse.LARGER,
        has_quantiles=False,
    ),
    Field(
        "num_unvisited",
        np.int64,
        "peaks not visited",
        ",.0f",
        "of `sampler.num_scouts` climbs from draws of the prior, those that ended at a peak of "
        "p(z | x_obs) that matters and that no chain has been near",
        0,
        OverMembers.SUM,
        Worse.LARGER,
        is_listed=True,
    ),
    Field(
        "num_latents",
        np.int64,
        "latents that imputations come from",
        ",.0f",
        "different latents that the imputations were drawn from: fewer than `num_imputations` "
        "where chains stuck or few draws had the weight; 0 where nothing is missing",
        0,
        OverMembers.SUM,
        Worse.SMALLER,
    ),
    Field(
        "converged",
        np.bool_,
        "converged",
        "",
        "`r_hat` < 1.01 and both ESS ≥ 400, as configured, no peak is left unvisited, and all "
        "numbers are finite; a record stops when it has, or at `sampler.max_sweeps`",
        True,
        OverMembers.ALL,
        Worse.SMALLER,
        has_quantiles=False,
    ),
    Field(
        "fit_p_value",
        np.float32,
        "p-value of fit",
        ".3f",
        "rank of an approximate log p(x_obs) among those of validation records under the same "
        "mask, from 1 / (M + 1) to 1; NaN where the model has none",
        math.nan,
        OverMembers.LARGEST,
        Worse.SMALLER,
        is_listed=True,
    ),
    Field(
        "misfit",
        np.bool_,
        "misfit",
        "",
        "whether `fit_p_value` is at most `sampler.misfit_rate`",
        False,
        OverMembers.ALL,
        Worse.LARGER,
        has_quantiles=False,
    ),
    Field(
        "log_prob_observed",
        np.float32,
        "log p(x_obs), nats",
        ",.1f",
        "estimate of log p(x_obs) in nats, by importance sampling; of real data a density; NaN "
        "where nothing is missing",
        math.nan,
        OverMembers.LOG_MEAN,
    ),
    Field(
        "log_prob_observed_error",
        np.float32,
        "standard error of log p(x_obs), nats",
        ",.3f",
        "standard error of `log_prob_observed` in nats; 0 where nothing is observed",
        math.nan,
        OverMembers.ERROR,
        Worse.LARGER,
    ),
    Field(
        "log_prob_missing",
        np.float32,
        "log p(x_mis | x_obs) of the truth, nats",
        ",.1f",
        "estimate of log p(x_mis | x_obs) of the `truth` in nats; NaN unless all of it is known",
        math.nan,
        OverMembers.LOG_MEAN,
    ),
    Field(
        "log_prob_missing_error",
        np.float32,
        "standard error of log p(x_mis | x_obs)",
        ",.3f",
        "standard error of `log_prob_missing` in nats",
        math.nan,
        OverMembers.ERROR,
        Worse.LARGER,
    ),
    Field(
        "pareto_k",
        np.float32,
        "Pareto k of the weights behind them",
        ".2f",
        "of the weights behind these estimates, the larger: above 0.7 neither they nor their "
        "errors are to be relied on; NaN where there are too few draws",
        math.nan,
        OverMembers.LARGEST,
        Worse.LARGER,
    ),
)
