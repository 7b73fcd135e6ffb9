"""Records that lack values, and what stands for a missing value."""

import dataclasses

import numpy as np


def gaps_in(values: np.ndarray, missing: str | float) -> np.ndarray:
    """Where values say that there are none: bool, of their shape.

    Args:
        values: of the type that they were written in, of which the number is rounded to its own.
        missing: `nan`; a number that stands for a missing value, as NaN does beside it; or `none`,
            where nothing does.
    """
    is_float = values.dtype.kind == "f"
    gaps = np.isnan(values) if is_float and missing != "none" else np.zeros(values.shape, np.bool_)
    if isinstance(missing, str):
        return gaps
    with np.errstate(over="ignore"):
        number = values.dtype.type(missing) if is_float else missing
    return gaps | (values == number) & np.isfinite(number)


def without(values: np.ndarray, gaps: np.ndarray, filler: float = 0) -> np.ndarray:
    """Values with a filler in the gaps."""
    return np.where(gaps, values.dtype.type(filler), values) if gaps.any() else values


@dataclasses.dataclass(frozen=True)
class Split:
    """Records to train on or to score, in memory.

    Attributes:
        values: [N, D] uint8 or float32, D = H W C; any finite value where one is missing.
        observed: [N, D] bool, True = observed; None if no record lacks a value.
    """

    values: np.ndarray
    observed: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, chosen: slice | np.ndarray) -> "Split":
        """Some of the records."""
        observed = None if self.observed is None else self.observed[chosen]
        return Split(self.values[chosen], observed)


def with_gaps(values: np.ndarray, observed: np.ndarray) -> Split:
    """A split of records of which some values may be missing: zero there.

    Args:
        values: [N, D], anything where they are missing.
        observed: [N, D] bool.
    """
    if observed.all():
        return Split(values)
    return Split(without(values, ~observed), observed)
