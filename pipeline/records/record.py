"""Masked and imputed records and their `tf.train.Example` codecs. Knows neither Beam nor a file.

Field by field, docs/formats.md has the two formats. Examples are untrusted: types and sizes are
checked before anything is allocated, and whatever is wrong is a `RecordError` with a reason from
`Reason`.
"""

import dataclasses
import enum
import hashlib
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_datasets as tfds
from google.protobuf.message import DecodeError

from vaefill.model.fields import FIELDS, Field
from vaefill.model.gaps import without
from vaefill.records.codecs import (
    decode_mask,
    decode_with_gaps,
    encode_values,
    finite_where,
    is_picture,
    mask_shapes,
)

Scalar = int | float | bytes  # a value of a feature
HASH_SIZE = 16  # bytes of a content hash
_ZLIB_LEVEL = 1  # of mostly incompressible draws and means: higher levels cost time and save 2 %


class Reason(enum.StrEnum):
    """Why a record became a dead letter."""

    NOT_AN_EXAMPLE = "not_an_example"
    NO_ID = "no_id"
    BAD_TYPE = "bad_type"
    BAD_IMAGE = "bad_image"
    BAD_OBSERVED = "bad_observed"
    BAD_TRUTH = "bad_truth"
    DUPLICATE_ID = "duplicate_id"
    NOT_IMPUTED = "not_imputed"
    BAD_DATA_CRC = "bad_data_crc"
    UNREADABLE_REST = "unreadable_rest"
    TOO_LARGE = "too_large"


class RecordError(ValueError):
    """A record that cannot be used.

    Attributes:
        reason: the kind of error.
        record_id: the id, empty if it is not known.
    """

    def __init__(self, reason: Reason, message: str, record_id: bytes = b""):
        super().__init__(message)
        self.reason, self.record_id = reason, record_id


_DEFAULTS: dict[str, Scalar] = {"int64": -1, "float32": math.nan, "bytes": b""}


@dataclasses.dataclass(frozen=True)
class CarriedFeature:
    """A scalar that is handed on under its own name."""

    kind: str  # int64, float32 or bytes

    @property
    def default(self) -> Scalar:
        """What stands for an absent value."""
        return _DEFAULTS[self.kind]

    @property
    def tfds_feature(self) -> tfds.features.FeatureConnector:
        """How the value is declared in features.json."""
        if self.kind == "bytes":
            return tfds.features.Text()
        return tfds.features.Scalar(dtype=np.dtype(self.kind))


@dataclasses.dataclass(frozen=True)
class Schema:
    """What a job's records look like."""

    shape: tuple[int, int, int]  # [H, W, C]
    carried: Mapping[str, CarriedFeature]
    num_imputations: int = 0
    dtype: np.dtype = np.dtype(np.uint8)  # of the values: uint8, or float32 for real ones
    mask_means: str = "observed"  # what a 1 of a mask says in a file: observed or missing
    missing: str | float = "none"  # what stands for a missing value: nan, a number, or nothing


@dataclasses.dataclass(frozen=True)
class MaskedRecord:
    """A record to impute."""

    id: bytes
    image: np.ndarray  # [H, W, C] of the schema's dtype; any finite value where missing
    observed: np.ndarray  # [H, W, C] bool, True = observed
    truth: np.ndarray | None = None  # [H, W, C], like image; NaN where nobody knows it
    carried: Mapping[str, Scalar] = dataclasses.field(default_factory=dict)
    extra: bytes = b""  # a serialised tf.train.Features of everything else
    content_hash: bytes = b""  # of the record as it was read, see `with_content_hash`


@dataclasses.dataclass(frozen=True)
class ImputedRecord:
    """A record with its imputations and diagnostics; see `vaefill.model.imputer.Imputed` for their
    meaning.
    """

    masked: MaskedRecord
    imputations: np.ndarray  # [num_imputations, H, W, C] of the schema's dtype
    mean: np.ndarray  # [H, W, C] float32
    stddev: np.ndarray  # [H, W, C] float32
    diagnostics: Mapping[str, Any]  # a number for every name in DIAGNOSTICS


DIAGNOSTICS = {field.name: field.dtype for field in FIELDS}
# Of a record, in records.parquet alone
ROW_ALONE = ("content_hash", "input_hash", "missing_fraction", "nll", "brier", "f1")
_OF_RECORD = (
    "id",
    "image",
    "observed",
    "truth",
    "has_truth",
    "imputations",
    "mean",
    "stddev",
    "extra",
)
# Names of carried features for which a default stands: tfds reads no Example that lacks a feature
_ABSENT = "absent_carried"
OWN_FEATURES = frozenset((*_OF_RECORD, _ABSENT, *DIAGNOSTICS, *ROW_ALONE))


# --- tf.train.Example, field by field


_TYPES = {"int64": int, "float32": float, "bytes": bytes}
_FIELDS = {"int64": "int64_list", "float32": "float_list", "bytes": "bytes_list"}
_NUMBERS = {"int64_list": np.int64, "float_list": np.float32}
_FIELD_OF_TYPE = {_TYPES[kind]: field for kind, field in _FIELDS.items()}


def _zlib(array: np.ndarray) -> bytes:
    return zlib.compress(np.ascontiguousarray(array).tobytes(), _ZLIB_LEVEL)


def _carried_values(schema: Schema, carried: Mapping[str, Scalar]) -> dict[str, Scalar]:
    return {
        name: _TYPES[feature.kind](carried.get(name, feature.default))
        for name, feature in schema.carried.items()
    }


def _names_absent(schema: Schema, carried: Mapping[str, Scalar]) -> list[bytes]:
    return [name.encode() for name in sorted(schema.carried) if name not in carried]


def _carried(
    features: Mapping[str, tf.train.Feature], schema: Schema, record_id: bytes = b""
) -> dict[str, Scalar]:
    """The carried values that are there: no default that stands for one that is not."""
    absent = set(features[_ABSENT].bytes_list.value) if _ABSENT in features else set()
    found = {
        name: _scalar(features, name, feature.kind, record_id)
        for name, feature in schema.carried.items()
        if name.encode() not in absent
    }
    return {name: value for name, value in found.items() if value is not None}


def _serialize(
    values: Mapping[str, Scalar], others: bytes = b"", absent: Sequence[bytes] = ()
) -> bytes:
    """An Example with a feature for every value, beside those of a serialised tf.train.Features."""
    features = tf.train.Features.FromString(others)
    for name, value in values.items():
        getattr(features.feature[name], _FIELD_OF_TYPE[type(value)]).value[:] = (value,)
    if absent:
        features.feature[_ABSENT].bytes_list.value[:] = absent
    # By default the order of a protobuf map differs from process to process.
    return tf.train.Example(features=features).SerializeToString(deterministic=True)


def _scalar(
    features: Mapping[str, tf.train.Feature], name: str, kind: str, record_id: bytes = b""
) -> Any:
    """The one value of a feature, None if it is absent, or an empty list.

    Raises:
        RecordError: another type, or not one value.
    """
    feature = features.get(name)
    found = None if feature is None else feature.WhichOneof("kind")
    if found is None or not (values := getattr(feature, found).value):
        return None
    if found != _FIELDS[kind] or len(values) != 1:
        raise RecordError(Reason.BAD_TYPE, f"feature {name!r} must be one {kind} value", record_id)
    return values[0]


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
        return _scalar(features, name, "bytes", record_id)
    values, sizes = getattr(feature, found).value, [math.prod(shape) for shape in shapes]
    if len(values) not in (0, *sizes):
        message = f"feature {name!r} must be bytes, or a list of {sizes[0]} numbers, not"
        raise RecordError(Reason.BAD_TYPE, f"{message} {len(values)}", record_id)
    return np.fromiter(values, _NUMBERS[found], len(values)) if values else None


# --- masked records


def decode_masked(payload: bytes, schema: Schema) -> MaskedRecord:
    """Reads and validates the `tf.train.Example` of a masked record.

    Returns:
        The record, with its content hash.

    Raises:
        RecordError: anything is not as declared.
    """
    features = _parse(payload)
    record_id = _scalar(features, "id", "bytes")
    if not record_id:
        raise RecordError(Reason.NO_ID, "a record needs a non-empty feature 'id' of bytes")

    def checked(name: str, reason: Reason, check: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return check(*arguments)
        except ValueError as error:
            raise RecordError(reason, f"feature {name!r}: {error}", record_id) from None

    def decode(name: str, reason: Reason, decoder: Callable[..., Any], *kind: Any) -> Any:
        shapes = mask_shapes(schema.shape) if name == "observed" else [schema.shape]
        content = _array(features, name, shapes, record_id)
        return None if content is None else checked(name, reason, decoder, content, *kind)

    of_values = (decode_with_gaps, schema.shape, schema.dtype, schema.missing)
    found = decode("image", Reason.BAD_IMAGE, *of_values)
    if found is None:
        raise RecordError(Reason.BAD_IMAGE, "a record needs a feature 'image'", record_id)
    image, gaps = found
    observed = decode("observed", Reason.BAD_OBSERVED, decode_mask, schema.shape)
    observed = ~gaps if observed is None else _either_way(observed, schema) & ~gaps
    truth = decode("truth", Reason.BAD_TRUTH, *of_values)
    record = MaskedRecord(
        id=record_id,
        image=checked("image", Reason.BAD_IMAGE, finite_where, observed, image),
        observed=observed,
        truth=None if truth is None else checked("truth", Reason.BAD_TRUTH, _truth, *truth),
        carried=_carried(features, schema, record_id),
        extra=_extra(features, schema),
    )
    return with_content_hash(record, schema)


def _truth(values: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    """A truth [H, W, C] with NaN where it is missing.

    Raises:
        ValueError: a value is infinite, or missing where there is no NaN.
    """
    if gaps.any() and values.dtype.kind != "f":
        raise ValueError(f"{np.count_nonzero(gaps)} values are missing; {values.dtype} has no NaN")
    return without(finite_where(~gaps, values), gaps, math.nan)


def decode_observed(payload: bytes, schema: Schema) -> tuple[bytes, np.ndarray]:
    """Reads the Example of a mask: `observed` as in a masked record, and `id` unless it is for
    every record.

    Returns:
        (id, empty if there is none; [H, W, C] bool).

    Raises:
        RecordError: anything is not as declared.
    """
    features = _parse(payload)
    record_id = _scalar(features, "id", "bytes") or b""
    content = _array(features, "observed", mask_shapes(schema.shape), record_id)
    if content is None:
        raise RecordError(Reason.BAD_OBSERVED, "a mask needs a feature 'observed'", record_id)
    try:
        return record_id, _either_way(decode_mask(content, schema.shape), schema)
    except ValueError as error:
        raise RecordError(Reason.BAD_OBSERVED, f"feature 'observed': {error}", record_id) from None


def _parse(payload: bytes) -> Mapping[str, tf.train.Feature]:
    try:  # an Example is a SequenceExample without lists, byte for byte
        example = tf.train.SequenceExample.FromString(payload)
    except DecodeError:
        raise RecordError(Reason.NOT_AN_EXAMPLE, "not a tf.train.Example") from None
    if lists := sorted(example.feature_lists.feature_list):
        names = ", ".join(map(repr, lists[:3])) + (", ..." if len(lists) > 3 else "")
        message = f"a SequenceExample, whose feature lists {names} would be lost"
        raise RecordError(Reason.NOT_AN_EXAMPLE, f"{message}; write a tf.train.Example")
    return example.context.feature


def _either_way(mask: np.ndarray, schema: Schema) -> np.ndarray:
    """What is observed, by a mask as files have it, and the other way round."""
    return mask if schema.mask_means == "observed" else ~mask


def _extra(features: Mapping[str, tf.train.Feature], schema: Schema) -> bytes:
    known = {"id", "image", "observed", "truth", _ABSENT, *schema.carried}
    rest = {name: feature for name, feature in features.items() if name not in known}
    return tf.train.Features(feature=rest).SerializeToString(deterministic=True) if rest else b""


def encode_masked(record: MaskedRecord, schema: Schema) -> bytes:
    """The inverse of `decode_masked`; a record to be imputed, as `masked_features` declares it."""
    values = {
        "id": record.id,
        "image": encode_values(record.image),
        "observed": _either_way(record.observed, schema).astype(np.uint8).tobytes(),
        **_carried_values(schema, record.carried),
    }
    if record.truth is not None:
        values["truth"] = encode_values(record.truth)
    return _serialize(values, record.extra, _names_absent(schema, record.carried))


def masked_features(schema: Schema) -> tfds.features.FeaturesDict:
    """features.json of a data set of masked records with truth."""
    if is_picture(schema.shape[-1], schema.dtype):
        values = tfds.features.Image(shape=schema.shape, encoding_format="png")
    else:
        values = tfds.features.Tensor(shape=schema.shape, dtype=schema.dtype.type, encoding="bytes")
    return tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            "image": values,
            "observed": tfds.features.Tensor(shape=schema.shape, dtype=np.bool_, encoding="bytes"),
            "truth": values,
            **{name: feature.tfds_feature for name, feature in schema.carried.items()},
        }
    )


def content_hash(record: MaskedRecord, schema: Schema) -> bytes:
    """16 bytes that stand for all that a record's result can depend on, or hand on.

    However the record was encoded: a masked record and the imputed one made of it have the same.

    Args:
        record: its own `content_hash` is ignored.
        schema: of the record.
    """
    digest = hashlib.blake2b(digest_size=HASH_SIZE, person=b"vaefill.content")
    for part in (
        record.id,
        np.packbits(record.observed).tobytes(),
        np.where(record.observed, record.image, 0).astype(schema.dtype).tobytes(),
        b"" if record.truth is None else record.truth.astype(schema.dtype).tobytes(),
        _serialize(_carried_values(schema, record.carried)),
        record.extra,
    ):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def input_hash(record: MaskedRecord, schema: Schema) -> bytes:
    """The content hash that a record would have without surplus features, which no result depends
    on.

    Args:
        record: with its content hash.
        schema: of the record.
    """
    if not record.extra:
        return record.content_hash
    return content_hash(dataclasses.replace(record, extra=b""), schema)


def with_content_hash(record: MaskedRecord, schema: Schema) -> MaskedRecord:
    """The record with the hash of its content, which whatever is made of it keeps.

    It is what tells records apart from here on: what has been imputed before, what an earlier
    result holds, and which of several records with one id stays.

    Args:
        record: as it was read.
        schema: of the record.
    """
    return dataclasses.replace(record, content_hash=content_hash(record, schema))


# --- imputed records


def encode_imputed(record: ImputedRecord, schema: Schema) -> bytes:
    """Serialises an imputed record as `imputed_features` declares it."""
    masked = record.masked
    truth = np.zeros(schema.shape, schema.dtype) if masked.truth is None else masked.truth
    diagnostics = {
        name: (float if dtype is np.float32 else int)(record.diagnostics[name])
        for name, dtype in DIAGNOSTICS.items()
    }
    return _serialize(
        {
            "id": masked.id,
            "image": _zlib(np.where(masked.observed, masked.image, 0).astype(schema.dtype)),
            "observed": _zlib(masked.observed),
            "truth": _zlib(truth),
            "has_truth": int(masked.truth is not None),
            "imputations": _zlib(record.imputations),
            "mean": _zlib(record.mean),
            "stddev": _zlib(record.stddev),
            "extra": masked.extra,
            **diagnostics,
            **_carried_values(schema, masked.carried),
        },
        absent=_names_absent(schema, masked.carried),
    )


def decode_imputed(payload: bytes, schema: Schema) -> ImputedRecord:
    """The inverse of `encode_imputed`.

    Raises:
        RecordError: not an imputed record of this schema.
    """
    features = _parse(payload)

    def array(name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> np.ndarray:
        expected = math.prod(shape) * np.dtype(dtype).itemsize
        try:  # one byte more than expected is enough to see that there are too many
            content = zlib.decompressobj().decompress(
                _scalar(features, name, "bytes") or b"", expected + 1
            )
        except zlib.error as error:
            raise RecordError(Reason.BAD_TYPE, f"feature {name!r}: {error}") from None
        if len(content) != expected:
            raise RecordError(Reason.BAD_TYPE, f"feature {name!r} does not hold {expected} bytes")
        return np.frombuffer(content, dtype).reshape(shape)

    shape = schema.shape
    masked = MaskedRecord(
        id=_scalar(features, "id", "bytes"),
        image=array("image", shape, schema.dtype),
        observed=array("observed", shape, np.bool_),
        truth=array("truth", shape, schema.dtype)
        if _scalar(features, "has_truth", "int64")
        else None,
        carried=_carried(features, schema),
        extra=_scalar(features, "extra", "bytes"),
    )
    return ImputedRecord(
        masked,
        array("imputations", (schema.num_imputations, *shape), schema.dtype),
        array("mean", shape, np.float32),
        array("stddev", shape, np.float32),
        {
            name: dtype(_scalar(features, name, "float32" if dtype is np.float32 else "int64"))
            for name, dtype in DIAGNOSTICS.items()
        },
    )


def _diagnostic_feature(field: Field) -> tfds.features.Scalar:
    return tfds.features.Scalar(dtype=field.dtype, doc=field.description)


def imputed_features(schema: Schema) -> tfds.features.FeaturesDict:
    """features.json of the imputed data set."""

    def tensor(shape: tuple[int, ...], dtype: npt.DTypeLike) -> tfds.features.Tensor:
        return tfds.features.Tensor(shape=shape, dtype=dtype, encoding="zlib")

    shape, dtype = schema.shape, schema.dtype.type
    return tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            "image": tensor(shape, dtype),
            "observed": tensor(shape, np.bool_),
            "truth": tensor(shape, dtype),
            "has_truth": tfds.features.Scalar(dtype=np.bool_),
            "imputations": tensor((schema.num_imputations, *shape), dtype),
            "mean": tensor(shape, np.float32),
            "stddev": tensor(shape, np.float32),
            "extra": tfds.features.Text(),
            **{field.name: _diagnostic_feature(field) for field in FIELDS},
            **{name: feature.tfds_feature for name, feature in schema.carried.items()},
        }
    )
