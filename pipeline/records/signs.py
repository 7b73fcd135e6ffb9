"""What a record shows by which a run that went wrong unnoticed can be told. Knows no Beam.

Signs are names, and are counted over a run; `vaefill.results.findings` says what the counts mean.
"""

import io
from collections.abc import Iterator

import numpy as np
import PIL.Image
import tensorflow as tf

from vaefill.model.preprocessing import looks_grey
from vaefill.records.record import MaskedRecord

DECODED = "decoded"  # a record
COMPLETE = "complete"  # that lacks no value
WITH_TRUTH = "with_truth"  # that says something of observed values
CONTRADICTED = "contradicted"  # whose truth is another than what is observed
UPRIGHT = "upright"  # whose mask is the right way round, as far as can be seen
INVERTED = "inverted"  # whose mask seems not to be
GREY = "grey"  # of whose observed values many are neither black nor white
LIKE_MASK = "like_mask/"  # and the name of a surplus feature, of a record that lacks no value

_PNG = b"\x89PNG\r\n\x1a\n"
_CLOSE = 1e-5  # relative: real values that were rounded to fewer digits are the same ones
_LONGEST_NAME = 100  # characters of a feature's name
_LISTS = ("int64_list", "float_list")


def of_record(record: MaskedRecord) -> Iterator[str]:
    """The signs of a record as it was read, with the values that stood where it is missing."""
    yield DECODED
    observed = record.observed
    if observed.all():
        yield COMPLETE
        for name in _like_masks(record):
            yield LIKE_MASK + name
    if (agrees := _agrees(record, observed)) is not None:
        yield WITH_TRUTH
        if not agrees:
            yield CONTRADICTED
    given = record.image[observed]
    if given.dtype == np.uint8 and given.size and (given != given[0]).any() and looks_grey(given):
        yield GREY
    direction = _direction(record)
    if direction:
        yield direction


def _direction(record: MaskedRecord) -> str | None:
    """Whether the mask seems inverted; None where nothing tells.

    What is missing is filled with one value more often than not, and what is observed is not. A
    truth that agrees with the one and not with the other decides it.
    """
    given, filler = record.image[record.observed], record.image[~record.observed]
    if given.size < 2 or filler.size < 2:
        return None
    if _agrees(record, record.observed):
        return UPRIGHT
    told = record.image[~record.observed & record.truth_known]
    if _is_varied(told) and _agrees(record, ~record.observed):
        return INVERTED
    if _is_varied(given):
        return UPRIGHT
    return INVERTED if _is_varied(filler) else None


def _is_varied(values: np.ndarray) -> bool:
    return bool((values != values[:1]).any())


def _agrees(record: MaskedRecord, chosen: np.ndarray) -> bool | None:
    """Whether chosen values are the true ones; None where the truth is not known of any."""
    known = chosen & record.truth_known
    if record.truth is None or not known.any():
        return None
    values, truth = record.image[known], record.truth[known]
    if values.dtype.kind != "f":
        return bool((values == truth).all())
    return bool(np.isclose(values, truth, rtol=_CLOSE, atol=0).all())


def _like_masks(record: MaskedRecord) -> Iterator[str]:
    """The surplus features of a record that look like masks: of its size, with two values."""
    if not record.extra:
        return
    height, width, channels = record.observed.shape
    sizes = {height * width, height * width * channels}
    for name, feature in tf.train.Features.FromString(record.extra).feature.items():
        if len(name) <= _LONGEST_NAME and _is_like_mask(feature, sizes, (width, height)):
            yield name


def _is_like_mask(feature: tf.train.Feature, sizes: set[int], of_picture: tuple[int, int]) -> bool:
    kind = feature.WhichOneof("kind")
    values = [] if kind is None else getattr(feature, kind).value
    if kind in _LISTS:
        return len(values) in sizes and len(set(values)) == 2
    if len(values) != 1:
        return False
    content = values[0]
    if content.startswith(_PNG):
        return _is_of_two_values(content, of_picture)
    if len(content) not in sizes:
        return False
    return bool(np.count_nonzero(np.bincount(np.frombuffer(content, np.uint8))) == 2)


def _is_of_two_values(png: bytes, size: tuple[int, int]) -> bool:
    """Whether a picture is of a size, which its header says, and of two colours."""
    try:
        with PIL.Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            return image.size == size and len(image.getcolors(2) or ()) == 2
    except Exception:  # a broken file makes the decoder raise nearly anything
        return False
