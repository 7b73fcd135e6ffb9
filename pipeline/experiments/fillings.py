"""What people use to fill in missing values: constants, and the imputers of scikit-learn, which
comes with the extra `peers`.
"""

import importlib.util
import time
import warnings
from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np
import tqdm

from vaefill.errors import ConfigError
from vaefill.experiments.comparison import Task

KNN = {"n_neighbors": 10, "weights": "distance"}
ITERATIVE = {"n_nearest_features": 100}  # all 783 of a digit take far longer
OF_SCIKIT = ("knn", "iterative")
_AT_ONCE = 500  # records between two steps of a progress bar


class Filled(NamedTuple):
    """What a method makes of N records."""

    values: np.ndarray  # [N, M, D] float32 on the model's scale: M draws, or one filling
    mean: np.ndarray  # [N, D] as the output has it: bytes / 255, real values in their own units
    is_probability: bool  # whether `mean` is a probability where values are binary
    seconds: float  # what it took, fitting included, without compilation


def _zeros(gaps: np.ndarray, complete: np.ndarray) -> np.ndarray:
    """On the model's scale, where 0 is the mean of real values."""
    del complete
    return np.zeros_like(gaps)


def _mean(gaps: np.ndarray, complete: np.ndarray) -> np.ndarray:
    return np.broadcast_to(complete.mean(axis=0), gaps.shape)


def _knn(gaps: np.ndarray, complete: np.ndarray) -> np.ndarray:
    from sklearn.impute import KNNImputer

    fitted = KNNImputer(**KNN).fit(complete)
    parts = range(0, len(gaps), _AT_ONCE)
    bar = tqdm.tqdm(parts, unit_scale=_AT_ONCE, unit="record", leave=False)
    return np.concatenate([fitted.transform(gaps[first : first + _AT_ONCE]) for first in bar])


def _iterative(gaps: np.ndarray, complete: np.ndarray) -> np.ndarray:
    """Of one table, the complete rows first: fitted on these alone it would learn from no gap, and
    stop after one round.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    bounds = {"min_value": complete.min(), "max_value": complete.max()}
    imputer = IterativeImputer(**ITERATIVE, **bounds, random_state=0)
    # Thousands of small fits, which more threads slow down
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # max_iter is meant
        return imputer.fit_transform(np.concatenate([complete, gaps]))[len(complete) :]


# Records [N, D] with NaN where a value is missing, complete ones [F, D] -> [N, D]
FILLINGS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "zeros": _zeros,
    "mean": _mean,
    "knn": _knn,
    "iterative": _iterative,
}


def check_installed(methods: Collection[str]) -> None:
    """Checks that there is what some methods need.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    missing = [name for name in methods if name in OF_SCIKIT]
    if missing and importlib.util.find_spec("sklearn") is None:
        raise ConfigError(
            f"{' and '.join(missing)} need scikit-learn, which is not installed: "
            "pip install 'vaefill[peers]', or choose others with --method"
        )


def fill(method: str, records: Task, observed: np.ndarray, complete: np.ndarray) -> Filled:
    """Fills in records by a method that needs no model.

    Args:
        method: one of `FILLINGS`.
        records: N records.
        observed: [N, H, W, C] bool.
        complete: [F, D] float32, complete records to learn from, on the model's scale.
    """
    see, known = records.preprocessor, observed.reshape(len(observed), -1)
    x = see.to_model(see.keys(records.ids), records.images)
    began = time.perf_counter()
    filling = FILLINGS[method](np.where(known, x, np.float32(np.nan)), complete)
    seconds = time.perf_counter() - began
    filled = np.where(known, x, filling).astype(np.float32)
    units = see.likelihood.standardization
    mean = filled if units is None else units.to_data(filled)
    return Filled(filled[:, np.newaxis], mean, False, seconds)
