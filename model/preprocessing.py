"""What the model sees of data: one object for the likelihood, the rule of `record.binarize` and the
run's seed.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from vaefill.model import counter_random, evaluation
from vaefill.model.counter_random import Purpose, Streams
from vaefill.model.likelihoods import Likelihood

_DARK, _BRIGHT = 64, 192  # between them a byte is nearer to the middle than to black and white
_GREY_SHARE = 0.2
GREY_UNDER_A_THRESHOLD = (
    "%s are grey, and record.binarize threshold leaves black and white of them: for grey values "
    "set model.likelihood to discretized_logistic_mixture and record.binarize to none"
)


def looks_grey(values: np.ndarray) -> bool:
    """Whether more is lost of images by a threshold than the smoothness of their edges.

    A drawing, a digit or a scan is black and white but for its edges, which are few: of MNIST 5 %
    of all values are mid-grey, 64 to 191, and of no one digit more than 12.4 %. Of photographs 39 %
    and more were, and of values by chance half are. How many are strictly between 0 and 255 would
    not tell: with the noise of a camera or a JPEG of a drawing almost all are.

    Args:
        values: uint8, of one image or of many.
    """
    if not values.size:
        return False
    middle = np.count_nonzero((values >= _DARK) & (values < _BRIGHT))
    return bool(middle > _GREY_SHARE * values.size)


@dataclasses.dataclass(frozen=True)
class Preprocessor:
    """Data -> the model's scale, and scores of what comes out.

    Attributes:
        likelihood: of the model, which knows the scale.
        binarize: `threshold`, `sample` or `none`: see `record.binarize`.
        seed: of the run, from which the keys of its records are derived.
    """

    likelihood: Likelihood
    binarize: str = "threshold"
    seed: int = 0

    def keys(self, ids: Sequence[bytes]) -> np.ndarray:
        """The keys of N records, all that their random numbers depend on: [N, 2] uint32."""
        keys = [counter_random.record_key(self.seed, record_id) for record_id in ids]
        return np.array(keys, np.uint32).reshape(-1, 2)

    def to_model(self, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
        """What the model sees of N records: [N, D] float32.

        Under `sample` a grey value becomes 1 with its own probability, by a draw that depends on
        the record's key alone: the same for a record and its truth.

        Args:
            keys: [N, 2] uint32, see `keys`.
            values: [N, ...] of the likelihood's data type.

        Example:
            >>> preprocessor = Preprocessor(Bernoulli())
            >>> preprocessor.to_model(preprocessor.keys([b"a"]), np.uint8([[0, 127, 128, 255]]))
            array([[0., 0., 1., 1.]], dtype=float32)
        """
        flat = values.reshape(len(values), math.prod(values.shape[1:]))
        if self.binarize != "sample":
            return self.likelihood.from_data(flat, None)
        streams = Streams(tf.constant(keys), tf.zeros([len(keys)], tf.uint32))
        uniform = counter_random.uniform(streams, tf.constant(0), Purpose.BINARIZE, flat.shape[1])
        return self.likelihood.from_data(flat, uniform.numpy())

    def calibration(self, values: np.ndarray) -> np.ndarray:
        """What the model sees of calibration records [M, ...], the same for every seed: [M, D]
        float32.
        """
        unseeded = dataclasses.replace(self, seed=0)
        return unseeded.to_model(
            unseeded.keys([b"calibration %d" % index for index in range(len(values))]), values
        )

    def truth(self, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
        """What `mean` of N records is scored against: [N, D] float32, as `to_model`, but real
        values in their own units.

        Args:
            keys: [N, 2] uint32, see `keys`.
            values: [N, ...] of the likelihood's data type.
        """
        if self.likelihood.standardization is None:
            return self.to_model(keys, values)
        return values.reshape(len(values), math.prod(values.shape[1:])).astype(np.float32)

    def score(self, mean: np.ndarray, truth: np.ndarray, missing: np.ndarray) -> evaluation.Scores:
        """Scores of conditional means, by all that is defined for the likelihood's values.

        Args:
            mean: [N, D] float, as the output has it: bytes / 255, real values in their own units.
            truth: [N, D], likewise; see `truth`. What is NaN is not scored.
            missing: [N, D] bool, the values to score.
        """
        score = evaluation.score if self.likelihood.binary else evaluation.score_real
        return score(mean, truth, missing & ~np.isnan(truth))
