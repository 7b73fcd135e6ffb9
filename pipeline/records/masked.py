"""Masked records as a `tf.train.Example`, and back. Knows neither Beam nor a file.

Examples are untrusted: types and sizes are checked before anything is allocated, and whatever is
wrong is a `RecordError` with a reason from `Reason`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from vaefill.records.codecs import (
    decode_mask,
    decode_with_gaps,
    encode_values,
    finite_where,
    mask_shapes,
)
from vaefill.records.record import (
    MaskedRecord,
    Reason,
    RecordError,
    Schema,
    carried_of,
    carried_values,
    extra_of,
    names_absent,
    parse_example,
    scalar,
    serialize,
    with_content_hash,
    with_truth,
)

_NUMBERS = {"int64_list": np.int64, "float_list": np.float32}


def decode_masked(payload: bytes, schema: Schema) -> MaskedRecord:
    """Reads and validates the `tf.train.Example` of a masked record.

    Returns:
        The record, with its content hash.

    Raises:
        RecordError: anything is not as declared.
    """
    features = parse_example(payload)
    record_id = scalar(features, "id", "bytes")
    if not record_id:
        raise RecordError(Reason.NO_ID, "a record needs a non-empty feature 'id' of bytes")

    arrays = _Arrays(features, schema, record_id)
    found = arrays.known("image", Reason.BAD_IMAGE, "observed", Reason.BAD_OBSERVED)
    if found is None:
        raise RecordError(Reason.BAD_IMAGE, "a record needs a feature 'image'", record_id)
    truth = arrays.known("truth", Reason.BAD_TRUTH, "truth_observed", Reason.BAD_TRUTH)
    record = MaskedRecord(
        id=record_id,
        image=found[0],
        observed=found[1],
        carried=carried_of(features, schema, record_id),
        extra=extra_of(features, schema),
    )
    return with_content_hash(record if truth is None else with_truth(record, *truth), schema)


def decode_observed(payload: bytes, schema: Schema) -> tuple[bytes, np.ndarray]:
    """Reads the Example of a mask: `observed` as in a masked record, and `id` unless it is for
    every record.

    Returns:
        (id, empty if there is none; [H, W, C] bool).

    Raises:
        RecordError: anything is not as declared.
    """
    features = parse_example(payload)
    record_id = scalar(features, "id", "bytes") or b""
    observed = _Arrays(features, schema, record_id).mask("observed", Reason.BAD_OBSERVED)
    if observed is None:
        raise RecordError(Reason.BAD_OBSERVED, "a mask needs a feature 'observed'", record_id)
    return record_id, observed


def encode_masked(record: MaskedRecord, schema: Schema) -> bytes:
    """The inverse of `decode_masked`; a record to be imputed, as `masked_features` declares it."""

    def mask(known: np.ndarray) -> bytes:
        return _either_way(known, schema).astype(np.uint8).tobytes()

    values = {
        "id": record.id,
        "image": encode_values(record.image),
        "observed": mask(record.observed),
        **carried_values(schema, record.carried),
    }
    if record.truth is not None:
        values |= {
            "truth": encode_values(record.truth),
            "truth_observed": mask(record.truth_known),
        }
    return serialize(values, record.extra, names_absent(schema, record.carried))


class _Arrays:
    """The values and masks of an Example; an error names the feature.

    Args:
        features, record_id: of the Example.
        schema: what it is to be.
    """

    def __init__(self, features: Mapping[str, tf.train.Feature], schema: Schema, record_id: bytes):
        self._features, self._schema, self._id = features, schema, record_id

    def known(
        self, name: str, reason: Reason, mask: str, reason_of_mask: Reason
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """The values of a feature, and by a mask and what stands for a missing value where they are
        known: [H, W, C] each; None if there are none.

        Raises:
            RecordError: a feature is not as declared, or a known value is not finite.
        """
        schema = self._schema
        of_values = (schema.shape, schema.dtype, schema.missing)
        found = self._decoded(name, [schema.shape], reason, decode_with_gaps, *of_values)
        if found is None:
            return None
        values, gaps = found
        said = self.mask(mask, reason_of_mask)
        known = ~gaps if said is None else said & ~gaps
        # What is neither known nor finite becomes 0
        return self._checked(name, reason, finite_where, known, values), known

    def mask(self, name: str, reason: Reason) -> np.ndarray | None:
        """A mask [H, W, C] bool, True = observed, None if it is absent.

        Raises:
            RecordError: it is not as declared.
        """
        shape = self._schema.shape
        found = self._decoded(name, mask_shapes(shape), reason, decode_mask, shape)
        return None if found is None else _either_way(found, self._schema)

    def _decoded(
        self,
        name: str,
        shapes: Sequence[tuple[int, int, int]],
        reason: Reason,
        decoder: Callable[..., Any],
        *given: Any,
    ) -> Any:
        content = _array(self._features, name, shapes, self._id)
        return None if content is None else self._checked(name, reason, decoder, content, *given)

    def _checked(self, name: str, reason: Reason, check: Callable[..., Any], *given: Any) -> Any:
        try:
            return check(*given)
        except ValueError as error:
            raise RecordError(reason, f"feature {name!r}: {error}", self._id) from None


def _array(
    features: Mapping[str, tf.train.Feature],
    name: str,
    shapes: Sequence[tuple[int, int, int]],
    record_id: bytes,
) -> bytes | np.ndarray | None:
    """What a feature of an array holds: bytes, or the numbers of a list, flat; None if it is
    absent, or an empty list.

    Raises:
        RecordError: several bytes, or not as many numbers as one of the shapes has.
    """
    feature = features.get(name)
    found = None if feature is None else feature.WhichOneof("kind")
    if found not in _NUMBERS:
        return scalar(features, name, "bytes", record_id)
    values, sizes = getattr(feature, found).value, [math.prod(shape) for shape in shapes]
    if len(values) not in (0, *sizes):
        message = f"feature {name!r} must be bytes, or a list of {sizes[0]} numbers, not"
        raise RecordError(Reason.BAD_TYPE, f"{message} {len(values)}", record_id)
    return np.fromiter(values, _NUMBERS[found], len(values)) if values else None


def _either_way(mask: np.ndarray, schema: Schema) -> np.ndarray:
    """What is observed, by a mask as files have it, and the other way round."""
    return mask if schema.mask_means == "observed" else ~mask
