"""Bands: halves and quarters of an image that may hold all that is observed of a record.

A sampler that needs p(x_obs | z) alone need not compute what the decoder says of values that are
not observed. Which values are is each record's own business, and a product has one shape for all
rows; but of a record whose observed values lie in one half or quarter of the image, such as of one
whose top three quarters are missing, the rest can be left out. Such records have device programs of
their own. A record's band depends on its own mask alone, and so do its bits.
"""

import numpy as np

WHOLE = 0  # the band of records whose observed values no other band holds
# Of images so small all products are cheap, and one program is better than several
_FEWEST_VALUES = 256
_PARTS = (4, 2)


class Bands:
    """The bands of images [H, W, C], numbered from `WHOLE` on, the smallest first."""

    def __init__(self, data_shape: tuple[int, int, int]):
        values = np.arange(np.prod(data_shape)).reshape(data_shape)
        self._values = [values.ravel()]
        if values.size >= _FEWEST_VALUES:
            for parts in _PARTS:
                for axis in (0, 1):
                    self._values += _parts(values, axis, parts)

    def values(self, band: int) -> np.ndarray:
        """The values [S] of a band, indices among all of them."""
        return self._values[band]

    def find(self, observed: np.ndarray) -> np.ndarray:
        """The smallest band of every record: [N] int64.

        Args:
            observed: [N, D] bool, True = observed.
        """
        found = np.full(len(observed), WHOLE)
        num_observed = observed.sum(axis=1)
        for band in range(len(self._values) - 1, WHOLE, -1):
            found[
                (observed[:, self._values[band]].sum(axis=1) == num_observed) & (num_observed > 0)
            ] = band
        return found


def _parts(values: np.ndarray, axis: int, parts: int) -> list[np.ndarray]:
    """Equal parts of an image along an axis, rounded outwards."""
    size = values.shape[axis]
    if size < parts:
        return []
    edges = [(part * size // parts, -(-(part + 1) * size // parts)) for part in range(parts)]
    return [np.take(values, range(first, last), axis).ravel() for first, last in edges]
