"""Imputed records as a `tf.train.Example`, and back. Knows neither Beam nor a file."""

import math
import zlib

import numpy as np
import numpy.typing as npt

from vaefill.records.record import (
    DIAGNOSTICS,
    ImputedRecord,
    MaskedRecord,
    Reason,
    RecordError,
    Schema,
    carried_of,
    carried_values,
    names_absent,
    parse_example,
    scalar,
    serialize,
    with_truth,
)

_ZLIB_LEVEL = 1  # of mostly incompressible draws and means: higher levels cost time and save 2 %


def encode_imputed(record: ImputedRecord, schema: Schema) -> bytes:
    """Serialises an imputed record as `imputed_features` declares it."""
    masked = record.masked
    truth = np.zeros(schema.shape, schema.dtype) if masked.truth is None else masked.truth
    diagnostics = {
        name: (float if dtype is np.float32 else int)(record.diagnostics[name])
        for name, dtype in DIAGNOSTICS.items()
    }
    return serialize(
        {
            "id": masked.id,
            "image": _zlib(np.where(masked.observed, masked.image, 0).astype(schema.dtype)),
            "observed": _zlib(masked.observed),
            "truth": _zlib(truth),
            "truth_observed": _zlib(masked.truth_known),
            "has_truth": int(masked.truth is not None),
            "imputations": _zlib(record.imputations),
            "mean": _zlib(record.mean),
            "stddev": _zlib(record.stddev),
            "extra": masked.extra,
            **diagnostics,
            **carried_values(schema, masked.carried),
        },
        absent=names_absent(schema, masked.carried),
    )


def decode_imputed(payload: bytes, schema: Schema) -> ImputedRecord:
    """The inverse of `encode_imputed`.

    Raises:
        RecordError: not an imputed record of this schema.
    """
    features = parse_example(payload)

    def array(name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> np.ndarray:
        expected = math.prod(shape) * np.dtype(dtype).itemsize
        try:  # one byte more than expected is enough to see that there are too many
            content = zlib.decompressobj().decompress(
                scalar(features, name, "bytes") or b"", expected + 1
            )
        except zlib.error as error:
            raise RecordError(Reason.BAD_TYPE, f"feature {name!r}: {error}") from None
        if len(content) != expected:
            raise RecordError(Reason.BAD_TYPE, f"feature {name!r} does not hold {expected} bytes")
        return np.frombuffer(content, dtype).reshape(shape)

    shape = schema.shape
    masked = MaskedRecord(
        id=scalar(features, "id", "bytes"),
        image=array("image", shape, schema.dtype),
        observed=array("observed", shape, np.bool_),
        carried=carried_of(features, schema),
        extra=scalar(features, "extra", "bytes"),
    )
    truth, known = array("truth", shape, schema.dtype), array("truth_observed", shape, np.bool_)
    if scalar(features, "has_truth", "int64"):
        masked = with_truth(masked, truth, known)
    return ImputedRecord(
        masked,
        array("imputations", (schema.num_imputations, *shape), schema.dtype),
        array("mean", shape, np.float32),
        array("stddev", shape, np.float32),
        {
            name: dtype(scalar(features, name, "float32" if dtype is np.float32 else "int64"))
            for name, dtype in DIAGNOSTICS.items()
        },
    )


def _zlib(array: np.ndarray) -> bytes:
    return zlib.compress(np.ascontiguousarray(array).tobytes(), _ZLIB_LEVEL)
