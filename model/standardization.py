"""Location and scale of real values: the model sees them standardised, users see their own units.

Every value of a record has its own, not every channel: the columns of a table may be in units of
their own whichever axis they lie along, and only so does data in any units, a x + b, come to the
same numbers before the model.
"""

import dataclasses

import numpy as np

_CHUNK_VALUES = 1 << 20  # that are held as float64 at once


@dataclasses.dataclass(frozen=True, eq=False)
class Standardization:
    """x = location + scale y, with x in the data's own units and y on the model's scale.

    All of it is computed in float64, as float32 does not hold what is left of 1e38 or 1e6 after a
    difference, and by NumPy, as TensorFlow takes subnormal numbers for 0.

    Attributes:
        location: [D] float64, finite.
        scale: [D] float64, finite and positive.
    """

    location: np.ndarray
    scale: np.ndarray

    def to_model(self, values: np.ndarray) -> np.ndarray:
        """y of x [N, D] float32: [N, D] float32, infinite where it does not hold it."""
        scaled = np.empty(values.shape, np.float32)
        rows = max(1, _CHUNK_VALUES // len(self.scale))
        with np.errstate(over="ignore"):
            for first in range(0, len(values), rows):
                part = values[first : first + rows].astype(np.float64)
                scaled[first : first + rows] = (part - self.location) / self.scale
        return scaled

    def to_data(self, values: np.ndarray) -> np.ndarray:
        """x of y [..., D]: float32, see `nearest_float32`."""
        return nearest_float32(values.astype(np.float64) * self.scale + self.location)

    def stddev_to_data(self, values: np.ndarray) -> np.ndarray:
        """The standard deviation of x, of that of y [..., D]: float32, see `nearest_float32`."""
        return nearest_float32(values.astype(np.float64) * self.scale)

    def log_volume(self, chosen: np.ndarray | None = None) -> np.ndarray:
        """What is taken from a log density of y for that of x: the sum of log scales, in nats.

        Args:
            chosen: [..., D] bool, the values that the density is of; None: all.

        Returns:
            [...] float64, or [] for all.
        """
        log_scale = np.log(self.scale)
        return np.sum(log_scale if chosen is None else np.where(chosen, log_scale, 0.0), axis=-1)

    def of(self, values: np.ndarray) -> "Standardization":
        """That of some values alone, given their indices [S]."""
        return Standardization(self.location[values], self.scale[values])


def nearest_float32(values: np.ndarray) -> np.ndarray:
    """Rounds float64 numbers [...]: what is larger than any float32 becomes the largest, with its
    sign; what is infinite or no number stays so, as it says that something went wrong.
    """
    with np.errstate(over="ignore"):
        nearest = values.astype(np.float32)
    too_large = np.isinf(nearest) & np.isfinite(values)
    nearest[too_large] = np.copysign(np.finfo(np.float32).max, values[too_large])
    return nearest


def estimate(values: np.ndarray) -> Standardization:
    """Mean and standard deviation of each value over records; what is not finite is left out.

    Sums of squares about the mean are taken chunk by chunk and put together (Chan, Golub & LeVeque
    1983), so that nothing cancels. A value that does not vary has no scale of its own: it takes the
    smallest of the others, 1 if there is none, so that what is drawn for it is off by less than any
    other value is, in whatever units.

    Args:
        values: [N, D] float32.
    """
    num_records, num_values = values.shape
    count, mean, squares = (np.zeros(num_values) for _ in range(3))
    lowest, highest = np.full(num_values, np.inf), np.full(num_values, -np.inf)
    rows = max(1, _CHUNK_VALUES // num_values)
    for first in range(0, num_records, rows):
        part = values[first : first + rows].astype(np.float64)
        known = np.isfinite(part)
        lowest = np.minimum(lowest, part.min(axis=0, where=known, initial=np.inf))
        highest = np.maximum(highest, part.max(axis=0, where=known, initial=-np.inf))
        num = known.sum(axis=0)
        own = part.sum(axis=0, where=known) / np.maximum(num, 1)
        change, total = own - mean, np.maximum(count + num, 1)
        squares += np.square(part - own, where=known, out=np.zeros_like(part)).sum(axis=0)
        squares += np.square(change) * count * num / total
        mean += change * num / total
        count += num
    # By what it is, not by its variance: the mean of equal values is rounded
    varies = lowest < highest
    scale = np.sqrt(squares / np.maximum(count, 1))
    smallest = scale[varies].min() if varies.any() else 1.0
    return Standardization(
        np.where(varies | (count == 0), mean, lowest), np.where(varies, scale, smallest)
    )
