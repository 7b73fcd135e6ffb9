"""What a record is, masked or imputed, and what a `tf.train.Example` of either holds. Knows neither
Beam nor a file.

Field by field, docs/formats.md has the two formats.
"""

import dataclasses
import enum
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from google.protobuf.message import DecodeError

from vaefill.model.fields import FIELDS
from vaefill.model.gaps import without

Scalar = int | float | bytes  # a value of a feature
HASH_SIZE = 16  # bytes of a content hash


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
    truth: np.ndarray | None = None  # like image; NaN, or 0 of uint8, where nobody knows it
    carried: Mapping[str, Scalar] = dataclasses.field(default_factory=dict)
    extra: bytes = b""  # a serialised tf.train.Features of everything else
    content_hash: bytes = b""  # of the record as it was read, see `with_content_hash`
    # [H, W, C] bool, True = the truth is known; None: everywhere, if there is one
    truth_observed: np.ndarray | None = None

    @property
    def truth_known(self) -> np.ndarray:
        """Where the truth is known, nowhere if there is none: [H, W, C] bool."""
        if self.truth is not None and self.truth_observed is not None:
            return self.truth_observed
        return np.full(self.observed.shape, self.truth is not None)


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
    "truth_observed",
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
_FIELD_OF_TYPE = {_TYPES[kind]: field for kind, field in _FIELDS.items()}


def parse_example(payload: bytes) -> Mapping[str, tf.train.Feature]:
    """The features of a serialised tf.train.Example.

    Raises:
        RecordError: it is none, or has feature lists.
    """
    try:  # an Example is a SequenceExample without lists, byte for byte
        example = tf.train.SequenceExample.FromString(payload)
    except DecodeError:
        raise RecordError(Reason.NOT_AN_EXAMPLE, "not a tf.train.Example") from None
    if lists := sorted(example.feature_lists.feature_list):
        names = ", ".join(map(repr, lists[:3])) + (", ..." if len(lists) > 3 else "")
        message = f"a SequenceExample, whose feature lists {names} would be lost"
        raise RecordError(Reason.NOT_AN_EXAMPLE, f"{message}; write a tf.train.Example")
    return example.context.feature


def carried_values(schema: Schema, carried: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Carried values as they are written, a default for one that is not there."""
    return {
        name: _TYPES[feature.kind](carried.get(name, feature.default))
        for name, feature in schema.carried.items()
    }


def names_absent(schema: Schema, carried: Mapping[str, Scalar]) -> list[bytes]:
    """The carried features of which a default is written, for `serialize`."""
    return [name.encode() for name in sorted(schema.carried) if name not in carried]


def carried_of(
    features: Mapping[str, tf.train.Feature], schema: Schema, record_id: bytes = b""
) -> dict[str, Scalar]:
    """The carried values that are there: no default that stands for one that is not."""
    absent = set(features[_ABSENT].bytes_list.value) if _ABSENT in features else set()
    found = {
        name: scalar(features, name, feature.kind, record_id)
        for name, feature in schema.carried.items()
        if name.encode() not in absent
    }
    return {name: value for name, value in found.items() if value is not None}


def extra_of(features: Mapping[str, tf.train.Feature], schema: Schema) -> bytes:
    """What a record hands on untouched: the features that are not its own, serialised."""
    known = {"id", "image", "observed", "truth", "truth_observed", _ABSENT, *schema.carried}
    rest = {name: feature for name, feature in features.items() if name not in known}
    return tf.train.Features(feature=rest).SerializeToString(deterministic=True) if rest else b""


def serialize(
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


def scalar(
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


# --- what is made of a record


def with_truth(record: MaskedRecord, truth: np.ndarray, known: np.ndarray) -> MaskedRecord:
    """The record with a truth, whose values count where they are known alone.

    Args:
        record: its content hash stays as it is.
        truth: [H, W, C], like its image.
        known: [H, W, C] bool.
    """
    filler = math.nan if truth.dtype.kind == "f" else 0
    return dataclasses.replace(
        record,
        truth=without(truth, ~known, filler),
        truth_observed=None if known.all() else known,
    )


def content_hash(record: MaskedRecord, schema: Schema) -> bytes:
    """16 bytes that stand for all that a record's result can depend on, or hand on.

    However the record was encoded: a masked record and the imputed one made of it have the same.

    Args:
        record: its own `content_hash` is ignored.
        schema: of the record.
    """
    digest = hashlib.blake2b(digest_size=HASH_SIZE, person=b"vaefill.content")
    parts = [
        record.id,
        np.packbits(record.observed).tobytes(),
        np.where(record.observed, record.image, 0).astype(schema.dtype).tobytes(),
        b"" if record.truth is None else record.truth.astype(schema.dtype).tobytes(),
        serialize(carried_values(schema, record.carried)),
        record.extra,
    ]
    if record.truth_observed is not None and schema.dtype.kind != "f":  # where no NaN says it
        parts.append(np.packbits(record.truth_observed).tobytes())
    for part in parts:
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
