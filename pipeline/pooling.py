"""Rubin's rules: one estimate with an honest interval from an analysis of several imputations."""

import dataclasses

import numpy as np
import numpy.typing as npt
import scipy.stats


@dataclasses.dataclass(frozen=True)
class Pooled:
    """What M analyses come to; arrays of the shape [...] of one estimate.

    Attributes:
        estimate: the mean of the estimates.
        variance: its total variance, within + (1 + 1 / M) between.
        within: the mean of the variances that the analyses gave, as if nothing had been missing.
        between: the variance of the estimates over imputations.
        degrees_of_freedom: of the t distribution of (estimate - truth) / sqrt(variance).
        relative_increase: of the variance, by what is missing: (1 + 1 / M) between / within.
        missing_information: the fraction of the information on the estimate that is missing, from 0
            to 1 (Rubin 1987, eq. 3.1.10).
    """

    estimate: np.ndarray
    variance: np.ndarray
    within: np.ndarray
    between: np.ndarray
    degrees_of_freedom: np.ndarray
    relative_increase: np.ndarray
    missing_information: np.ndarray

    @property
    def standard_error(self) -> np.ndarray:
        """The root of the total variance."""
        return np.sqrt(self.variance)

    def interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper ends of the interval that holds the truth with a probability `level`."""
        if not 0 < level < 1:
            raise ValueError(f"level must be between 0 and 1, got {level}")
        half = self.standard_error * scipy.stats.t.ppf((1 + level) / 2, self.degrees_of_freedom)
        return self.estimate - half, self.estimate + half


def pool(
    estimates: npt.ArrayLike,
    variances: npt.ArrayLike,
    complete_degrees_of_freedom: npt.ArrayLike = np.inf,
) -> Pooled:
    """Combines the analyses of M imputed data sets by Rubin's rules (Rubin 1987, sec. 3.1).

    Analyse each imputation j of all records as if it were complete: an estimate, and the square of
    its standard error. What the analyses disagree about is what is missing.

    Args:
        estimates: [M, ...], M at least 2, of a quantity whose estimates would be normal.
        variances: [M, ...], the squares of their standard errors.
        complete_degrees_of_freedom: that the analysis would have without missing values, such as
            N - 1 for a mean of N records: the t distribution then has no more (Barnard & Rubin
            1999); by default those of a large sample.

    Returns:
        The pooled estimate, its variance, and what of it is due to missing values.

    Raises:
        ValueError: fewer than two imputations, shapes that differ, or a variance that is negative
            or not finite.

    Example:
        >>> import vaefill, numpy as np
        >>> images = result.imputations / 255.0  # [N, M, H, W, C]
        >>> ink = images.sum(axis=(2, 3, 4))  # of each record in each imputation: [N, M]
        >>> variances = ink.var(axis=0, ddof=1) / len(ink)
        >>> vaefill.pool(ink.mean(axis=0), variances, len(ink) - 1).interval(0.95)
    """
    found, variance = np.asarray(estimates, np.float64), np.asarray(variances, np.float64)
    if found.shape != variance.shape or found.ndim < 1 or len(found) < 2:
        raise ValueError(
            "estimates and variances must be of one shape [M, ...] with at least two imputations "
            f"M, got {found.shape} and {variance.shape}"
        )
    if not (np.isfinite(found).all() and np.isfinite(variance).all() and (variance >= 0).all()):
        raise ValueError("estimates must be finite, and variances finite and not negative")
    num = len(found)
    within, between = variance.mean(axis=0), found.var(axis=0, ddof=1)
    added = (1 + 1 / num) * between
    total = within + added
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(total > 0, added / total, 0.0)
        increase = np.where(added > 0, added / within, 0.0)
        rubin = (num - 1) / share**2  # infinite where imputations agree
        extra = np.where(np.isinf(increase), 1.0, (increase + 2 / (rubin + 3)) / (increase + 1))
    return Pooled(
        estimate=found.mean(axis=0),
        variance=total,
        within=within,
        between=between,
        degrees_of_freedom=_adjusted(rubin, share, complete_degrees_of_freedom),
        relative_increase=increase,
        missing_information=extra,
    )


def _adjusted(rubin: np.ndarray, share: np.ndarray, complete: npt.ArrayLike) -> np.ndarray:
    """Degrees of freedom by Barnard & Rubin (1999), sec. 3.

    Args:
        rubin: those of a large sample (Rubin 1987, eq. 3.1.6).
        share: of the total variance, due to missing values.
        complete: those of the analysis without missing values.

    Raises:
        ValueError: these are not positive.
    """
    freedom = np.asarray(complete, np.float64)
    if not (freedom > 0).all():
        raise ValueError(f"complete_degrees_of_freedom must be positive, got {freedom}")
    with np.errstate(divide="ignore", invalid="ignore"):
        observed = (freedom + 1) / (freedom + 3) * freedom * (1 - share)
        return 1 / (1 / rubin + np.where(np.isinf(freedom), 0.0, 1 / observed))
