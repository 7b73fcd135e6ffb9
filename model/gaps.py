"""What stands for a missing value among others."""

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
